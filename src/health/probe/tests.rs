//! Unit tests of `probe`.

use super::*;
use crate::config;
use crate::routing::slots::{Capacity, Queue, Wanted};

fn task() -> Task {
    let now = time::now();
    let endpoint = Arc::new(Endpoint::new(config::Endpoint::plain("a", "127.0.0.1", 1)));
    let (timeout, connect) = (Duration::from_secs(5), Duration::from_secs(3));
    let path = Some("/health".into());
    Task { endpoint, path, list: true, props: false, slots: false, ours: 0, started: now, timeout, connect }
}

#[test]
fn a_panic_in_a_probe_is_a_failed_probe() {
    // S7
    let found = guarded(&task(), || panic!("in a probe"));
    assert_eq!(found.seen, Some(Observation::Down("the probe panicked".into())));
    assert!(matches!(found.list, Some(Listing::Failed)));
}

#[test]
fn what_a_probe_got_is_judged() {
    // L2, U15
    let task = task();
    let live = &task.endpoint.live;
    let fault = |kind| Err(UpstreamError { kind, cause: "why".into() });
    let answer = |status: u16, body: &str| Ok((StatusCode::from_u16(status).expect("a status"), body.into()));
    let down = |why: &str| Observation::Down(why.into());
    let unconnected = |why: &str| Observation::Unreachable(why.into());
    let idle = [
        (answer(204, ""), Observation::Up),
        (answer(429, "slower"), Observation::Up),
        (answer(503, "Loading model"), Observation::Loading),
        (answer(503, "x"), down("answered 503")),
        (answer(302, "answered 302 (go to http://b)"), down("answered 302 (go to http://b)")),
        (fault(UpstreamErrorKind::Refused), Observation::Refused("why".into())),
        (fault(UpstreamErrorKind::Connect), unconnected("why")),
        (fault(UpstreamErrorKind::Timeout(Stage::Connect)), unconnected("could not be connected to in time")),
        (fault(UpstreamErrorKind::Timeout(Stage::Total)), down("did not answer in time")),
    ];
    for (got, wanted) in idle {
        assert_eq!(judge(&got, &task.endpoint), wanted);
    }
    live.sent(time::now(), None);
    let wanted = Wanted { lives: vec![Arc::clone(live)], home: None, background: false };
    let line = Queue { route: "", length: 0 };
    let _there = Arc::<Capacity>::default().enter(wanted, &line, time::now(), |_| vec![0]);
    assert_eq!(judge(&fault(UpstreamErrorKind::Timeout(Stage::Total)), &task.endpoint), Observation::Busy);
    for kind in [UpstreamErrorKind::Timeout(Stage::Connect), UpstreamErrorKind::Connect, UpstreamErrorKind::Refused] {
        assert_ne!(judge(&fault(kind), &task.endpoint), Observation::Busy, "{kind:?}");
    }
}

#[test]
fn only_llama_server_tells_which_of_its_slots_work() {
    // L1
    let of = |status: u16, body: &str| match slots(Ok((StatusCode::from_u16(status).expect("a status"), body.into()))) {
        Slots::Working(working) => Some(working),
        Slots::Unknown | Slots::Failed => None,
    };
    let two = r#"[{"id":0,"is_processing":true},{"id":1,"is_processing":false}]"#;
    assert_eq!((of(200, two), of(200, "[]")), (Some(1), Some(0)));
    for (status, body) in [(501, "{}"), (404, ""), (401, two), (200, "{}"), (200, r#"[{"id":0}]"#), (200, "<html>")] {
        assert_eq!(of(status, body), None, "{status} {body}");
    }
}

#[test]
fn what_a_server_says_of_itself_is_read_or_known_to_be_missing() {
    // Issue 14, section 2: answers as documented by Ollama and LM Studio.
    let of = |status: u16, body: &str| {
        let got = Ok((StatusCode::from_u16(status).expect("a status"), body.into()));
        match props(got, "/api/ps") {
            Extra::Known(props) => Some(props.loaded),
            Extra::Unsupported => Some(None),
            Extra::Failed => None,
        }
    };
    let ollama = r#"{"models":[{"name":"gemma3:latest","model":"gemma3:latest","size":1,"size_vram":1}]}"#;
    let studio = r#"{"models":[{"type":"llm","key":"google/gemma","loaded_instances":[{"id":"google/gemma:2"}]},
        {"key":"nomic","loaded_instances":[]},{"key":"x","loaded_instances":null}]}"#;
    let names = |names: &[&str]| Some(Some(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()));
    assert_eq!(of(200, ollama), names(&["gemma3:latest", "gemma3:latest"]));
    assert_eq!(of(200, studio), names(&["google/gemma:2", "google/gemma"]));
    assert_eq!(of(200, r#"{"models":[]}"#), names(&[]));
    for (status, body) in [(404, ollama), (405, ""), (501, ""), (200, "<html>"), (200, "{}"), (200, r#"{"models":1}"#)]
    {
        assert_eq!(of(status, body), Some(None), "{status} {body}");
    }
    assert_eq!([of(500, ollama), of(401, ollama), of(429, "")], [None, None, None]);
    // However much it is.
    let many = |n: usize, one: &str| format!(r#"{{"models":[{}]}}"#, vec![one; n].join(","));
    let count = |answer: &str| of(200, answer).flatten().map(|names| names.len());
    assert_eq!(count(&many(9_000, r#"{"name":"a"}"#)), Some(MAX_MODELS));
    let instances = vec![r#"{"id":"i"}"#; 9_000].join(",");
    assert_eq!(count(&many(1, &format!(r#"{{"key":"k","loaded_instances":[{instances}]}}"#))), Some(MAX_INSTANCES + 1));
    assert_eq!(count(&many(1, &format!(r#"{{"name":"{}"}}"#, "x".repeat(1 << 20)))), Some(0));
    let model = |owner: &str| Model { owned_by: Some(owner.into()), ..Model::default() };
    let paths =
        ["library", "organization_owner", "llamacpp", "x"].map(|owner| props_path(&[model("me"), model(owner)]));
    assert_eq!(paths, ["/api/ps", "/api/v1/models", "/props", "/props"]);
    let told = r#"{"total_slots":2,"modalities":{"vision":true}}"#;
    let known = Props { slots: Some(2), vision: Some(true), ..Props::default() };
    assert_eq!(props(Ok((StatusCode::OK, told.into())), "/props"), Extra::Known(known));
}
