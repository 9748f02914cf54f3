//! SPEC 5: which endpoint and which name for it; what happens to names nobody serves.

use crate::support::fact::Latch;
use crate::support::proxy::{CHAT, Setup, chat, post_with};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::{Probe, UnknownModel};
use serde_json::Value;
use std::thread;

#[test]
fn a_model_goes_to_the_endpoint_that_lists_it() {
    // S000-17, S000-34
    let (first, second) = (Upstream::serving(&["ma"]), Upstream::serving(&["mb"]));
    let proxy = Setup::over(&[&first, &second]).start();
    for (upstream, model, name) in [(&first, "ma", "a"), (&second, "mb", "b")] {
        upstream.on(CHAT, Script::json("{}"));
        assert_eq!(proxy.chat(model).field("x-llmproxy-endpoint"), Some(name));
        assert_eq!(upstream.take(CHAT).text(), chat(model));
    }
}

#[test]
fn several_endpoints_with_a_model_are_used_in_config_order() {
    // S000-19
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    first.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&first, &second]).start();
    for _ in 0..5 {
        assert_eq!(proxy.chat("m").field("x-llmproxy-endpoint"), Some("a"));
    }
    assert_eq!(second.count(CHAT), 0);
}

#[test]
fn names_are_exact() {
    let upstream = Upstream::serving(&["Model"]);
    let proxy = Setup::over(&[&upstream]).start();
    for name in ["model", "Model ", "Mode", "Model/"] {
        assert_eq!(proxy.chat(name).status(), 404, "{name:?}");
    }
}

#[test]
fn an_unknown_model_is_404_with_what_there_is() {
    // W003-5: not 503, on which clients try for ever
    // S000-26 (SPEC: a list)
    let (first, second) = (Upstream::serving(&["ma", "shared"]), Upstream::serving(&["mb"]));
    let proxy = Setup::over(&[&first, &second]).start();
    let answer = proxy.chat("zz");
    let error = answer.json()["error"].clone();
    assert_eq!((answer.status(), error["code"].as_str()), (404, Some("model_not_found")));
    assert_eq!((error["type"].as_str(), error["param"].as_str()), (Some("invalid_request_error"), Some("model")));
    assert_eq!(error["available_models"], serde_json::json!(["ma", "shared", "mb"]));
    assert!(error["message"].as_str().is_some_and(|text| text.contains("zz")));
}

#[test]
fn an_unknown_model_on_messages_is_told_as_that_api_tells_it() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    let body = proxy.post("/v1/messages", chat("zz")).json();
    assert_eq!((body["type"].as_str(), body["error"]["type"].as_str()), (Some("error"), Some("not_found_error")));
}

#[test]
fn a_model_that_appeared_since_is_found_by_one_refresh() {
    // S000-18, X-01
    let upstream = Upstream::serving(&["old"]);
    let proxy = Setup::over(&[&upstream]).start();
    upstream.set_models(&["old", "new"]);
    upstream.on(CHAT, Script::json("{}"));
    assert_eq!(proxy.chat("new").status(), 200);
}

#[test]
fn many_who_ask_for_unknown_models_share_one_refresh() {
    // S000-18, W000-7
    let upstream = Upstream::serving(&["old"]);
    let proxy = Setup::over(&[&upstream]).start();
    let before = upstream.count("/v1/models");
    upstream.set_models(&["old", "new"]);
    upstream.always(CHAT, Script::json("{}"));
    thread::scope(|scope| {
        let asking: Vec<_> = (0..20).map(|_| scope.spawn(|| proxy.chat("new").status())).collect();
        assert!(asking.into_iter().all(|one| one.join().expect("an answer") == 200));
    });
    for _ in 0..20 {
        assert_eq!(proxy.chat("none").status(), 404);
    }
    let refreshes = upstream.count("/v1/models") - before;
    assert!((1..=3).contains(&refreshes), "{refreshes} refreshes; one in 2 s is the limit");
}

/// A body whose model is `written`, in a form that only an edit in place preserves.
fn odd(written: &str) -> String {
    format!(
        r#"{{ "n":12345678901234567890 , "model" : {written}, "x":"\u00e9\/<", "model_":"auto", "y":{{"model":"auto"}} }}"#
    )
}

#[test]
fn auto_or_an_empty_model_is_the_default_model_edited_in_place() {
    // SPEC 5.3
    for written in [r#""auto""#, r#""""#, r#""\u0061uto""#] {
        let (first, second) = (Upstream::serving(&["mb", "mc"]), Upstream::serving(&["ma"]));
        first.on(CHAT, Script::json("{}"));
        let setup = Setup::over(&[&first, &second]);
        let proxy = setup.with(|c| c.endpoints[0].default_model = Some("mc".into())).start();
        let answer = proxy.post(CHAT, odd(written));
        assert_eq!((answer.field("x-llmproxy-endpoint"), answer.field("x-llmproxy-model")), (Some("a"), Some("mc")));
        assert_eq!(first.take(CHAT).text(), odd(r#""mc""#));
    }
}

#[test]
fn a_missing_model_is_added_and_the_rest_left_alone() {
    // SPEC 5.3, B3
    let upstream = Upstream::serving(&["ma", "mb"]);
    let proxy = Setup::over(&[&upstream]).with(|c| c.endpoints[0].default_model = Some("mb".into())).start();
    for body in [r#"{ "n":12345678901234567890,"messages":[] }"#, "{}", "{ }"] {
        upstream.on(CHAT, Script::json("{}"));
        assert_eq!(proxy.post(CHAT, body).status(), 200);
        let seen = upstream.take(CHAT);
        let value: Value = serde_json::from_slice(&seen.body).expect("still JSON");
        assert_eq!(value["model"], "mb");
        let rest = body.trim_start_matches('{').trim_end_matches('}').trim();
        assert!(seen.text().contains(rest), "{}", seen.text());
    }
}

#[test]
fn without_a_default_model_the_first_one_stands_in() {
    // SPEC 5.3
    let upstream = Upstream::serving(&["discovered", "second"]);
    upstream.on(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    assert_eq!(proxy.chat("auto").field("x-llmproxy-model"), Some("discovered"));
    upstream.on(CHAT, Script::json("{}"));
    let fixed = Setup::over(&[&upstream]).with(|c| c.endpoints[0].models = vec!["fixed".into(), "b".into()]).start();
    assert_eq!(fixed.chat("auto").field("x-llmproxy-model"), Some("fixed"));
}

#[test]
fn a_model_that_is_really_called_auto_is_that_model() {
    // SPEC 5.3
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["auto"]));
    second.on(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&first, &second]).start();
    let answer = proxy.chat("auto");
    assert_eq!((answer.field("x-llmproxy-endpoint"), answer.field("x-llmproxy-model")), (Some("b"), Some("auto")));
    assert_eq!(second.take(CHAT).text(), chat("auto"));
}

#[test]
fn unknown_may_mean_default_and_the_answer_says_so() {
    // SPEC 5.4
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).with(|c| c.routing.unknown_model = UnknownModel::Default).start();
    let (known, unknown) = (proxy.chat("m"), proxy.chat("zz"));
    assert_eq!(unknown.field("x-llmproxy-model"), Some("m"));
    assert_ne!(unknown.field("x-llmproxy-reason"), known.field("x-llmproxy-reason"));
    assert_eq!((upstream.take(CHAT).text(), upstream.take(CHAT).text()), (chat("m").as_str(), chat("m").as_str()));
}

#[test]
fn unknown_may_be_passed_through_untouched() {
    // SPEC 5.4
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).with(|c| c.routing.unknown_model = UnknownModel::Passthrough).start();
    assert_eq!(proxy.chat("zz").status(), 200);
    assert_eq!(upstream.take(CHAT).text(), chat("zz"));
}

#[test]
fn a_multipart_models_default_is_edited_in_place_too() {
    let upstream = Upstream::serving(&["whisper"]);
    let path = "/v1/audio/transcriptions";
    upstream.on(path, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    let body = |model: &str| {
        let file = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nauto\0auto\r\n";
        format!("{file}--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--B--\r\n")
    };
    let request = String::from_utf8(post_with(path, "", body("auto"))).expect("text");
    let answer = proxy.ask(request.replace("application/json", "multipart/form-data; boundary=\"B\""));
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(upstream.take(path).text(), body("whisper"));
}

#[test]
fn all_down_is_503_at_once_with_a_time_to_come_back() {
    // C17, S000-26 (SPEC: 503)
    let mut upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(|c| c.health_check.failure_threshold = 1).start();
    upstream.kill();
    proxy.force_check();
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.code().as_str()), (503, "no_endpoint_available"), "{}", answer.text());
    let wait: u64 = answer.field("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
}

#[test]
fn a_request_in_flight_keeps_what_it_began_with() {
    // X-02: one snapshot from start to end.
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    let setup = Setup::over(&[&upstream]).with(|c| c.endpoints[0].probe = Probe::Path("/health".into()));
    let proxy = setup.start();
    let mut client = proxy.sent(post_with(CHAT, "", chat("m")));
    upstream.take(CHAT);
    upstream.set_models(&["other"]);
    proxy.force_check();
    assert_eq!(proxy.models(), ["other"]);
    latch.open();
    assert_eq!(client.answer().status(), 200);
}
