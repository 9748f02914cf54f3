//! SPEC 6, what goes wrong: servers that go dark, come back, list nonsense, or are Too many requests.

use crate::support::blackhole::Blackhole;
use crate::support::fact::{DEADLINE, Latch, ms, timed};
use crate::support::proxy::CHAT;
use crate::support::proxy::Proxy;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::endpoint;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::{Mood, Upstream};
use llmproxy::util::time;
use serde_json::Value;
use std::time::Duration;

fn of(proxy: &Proxy, name: &str) -> Value {
    proxy.health()["endpoints"][name].clone()
}

fn endpoint_of(proxy: &Proxy, model: &str) -> String {
    let answer = proxy.chat(model);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.field("x-llmproxy-endpoint").expect("told").to_owned()
}

/// Default times, but for those of connecting; the probes ask `/health`.
fn setup(upstreams: &[&Upstream]) -> Setup {
    Setup::over(upstreams).with(|c| c.health_check.path = "/health".into()).timeouts(|t| t.connect = Some(ms(300)))
}

#[test]
fn a_host_that_goes_dark_with_a_stream_in_flight_is_out_after_one_request() {
    // L2
    let (mut first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    second.always(CHAT, Script::json("{}"));
    let latch = Latch::new();
    first.on(CHAT, Script::sse().chunk(event("one")).latch(&latch).chunk(event("two")).end());
    let proxy = setup(&[&first, &second]).start();
    let mut client = proxy.sent(post(CHAT, stream("m")));
    client.head();
    assert_eq!(client.event(), Some(event("one")));
    let dark = first.go_dark();
    let (answer, took) = timed(|| proxy.chat("m"));
    assert_eq!((answer.field("x-llmproxy-endpoint"), answer.field("x-llmproxy-attempts")), (Some("b"), Some("2")));
    assert!(took >= ms(250), "{took:?}: it was tried");
    let probes = || of(&proxy, "a")["lastCheck"].clone();
    // However often it is probed, it does not come back as busy, and nobody is sent there.
    for _ in 0..2 {
        let before = probes();
        proxy.until(|health| health["endpoints"]["a"]["lastCheck"] != before);
        let one = of(&proxy, "a");
        assert!(matches!(one["state"].as_str(), Some("failing" | "unhealthy")) && one["inFlight"] == 1, "{one}");
        assert!(one["lastError"].as_str().is_some_and(|why| why.contains("connected")), "{one}");
        let answer = proxy.chat("m");
        assert_eq!((answer.field("x-llmproxy-endpoint"), answer.field("x-llmproxy-attempts")), (Some("b"), Some("1")));
    }
    latch.open();
    assert_eq!(client.event(), Some(event("two")));
    drop(dark);
    first.revive();
    first.always(CHAT, Script::json("{}"));
    proxy.until(|health| health["endpoints"]["a"]["state"] == "healthy");
    assert_eq!(endpoint_of(&proxy, "m"), "a");
}

#[test]
fn a_probe_that_cannot_connect_is_a_failure_whatever_is_in_flight() {
    // L2: the time-out of a probe may be shorter than `connect`.
    let hole = Blackhole::new();
    let mut lost = endpoint("a", hole.addr());
    lost.models = vec!["m".into()];
    let setup = Setup::over(&[]).endpoint(lost).timeouts(|t| t.connect = Some(DEADLINE));
    let proxy = setup.with(|c| (c.health_check.timeout, c.health_check.failure_threshold) = (ms(300), 1)).start();
    let one = of(&proxy, "a");
    assert_eq!((one["state"].as_str(), one["errorCount"].as_u64()), (Some("unhealthy"), Some(1)), "{one}");
    // A request that tries to connect is no sign of life either.
    let setup = Setup::over(&[]).endpoint({
        let mut lost = endpoint("a", hole.addr());
        lost.models = vec!["m".into()];
        lost
    });
    let proxy = setup.timeouts(|t| t.connect = Some(DEADLINE)).with(|c| c.health_check.timeout = ms(300)).start();
    let trying = proxy.sent(post(CHAT, chat("m")));
    proxy.until(|health| health["endpoints"]["a"]["inFlight"] == 1);
    proxy.force_check();
    proxy.until(|health| health["endpoints"]["a"]["errorCount"] == 2);
    drop(trying);
}

#[test]
fn the_only_server_is_back_within_two_seconds_of_its_readiness() {
    // L3: default interval and threshold; with a burst of refused requests before.
    let mut upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let proxy = setup(&[&upstream]).with(|c| c.health_check.interval = Duration::from_secs(30)).start();
    upstream.kill();
    assert_eq!(proxy.chat("m").status(), 502);
    proxy.until(|health| health["endpoints"]["a"]["state"] == "failing");
    for _ in 0..20 {
        let refused = proxy.chat("m");
        assert_eq!((refused.status(), refused.field("retry-after").is_some()), (503, true), "out at once");
    }
    assert!(of(&proxy, "a")["errorCount"].as_u64() <= Some(2), "{}", of(&proxy, "a"));
    // It starts with the loading of its model, as llama-server does.
    upstream.set_mood(Mood::Loading);
    upstream.revive();
    proxy.until(|health| health["endpoints"]["a"]["state"] == "loading");
    upstream.set_mood(Mood::Well);
    let ready = time::now();
    proxy.until(|health| health["endpoints"]["a"]["state"] == "healthy");
    assert_eq!(endpoint_of(&proxy, "m"), "a");
    let took = time::now() - ready;
    // The promise is two seconds; a busy machine gets another.
    assert!(took < ms(3000), "{took:?}");
}

#[test]
fn a_server_that_was_away_at_the_start_is_found_soon_and_its_models_are_not_unknown() {
    // R18, L3
    let (mut first, second) = (Upstream::serving(&["ma"]), Upstream::serving(&["mb"]));
    first.always(CHAT, Script::json("{}"));
    first.kill();
    let proxy = setup(&[&first, &second]).with(|c| c.health_check.interval = Duration::from_secs(30)).start();
    let away = proxy.chat("ma");
    assert_eq!((away.status(), away.code().as_str()), (503, "no_endpoint_available"));
    assert!(away.field("retry-after").is_some());
    assert_eq!(proxy.get("/v1/models/ma").status(), 503);
    first.revive();
    proxy.until(|health| health["endpoints"]["a"]["models"][0] == "ma");
    assert_eq!(endpoint_of(&proxy, "ma"), "a");
    assert_eq!((proxy.chat("zz").status(), proxy.chat("zz").code().as_str()), (404, "model_not_found"));
    // It has told once: away again, what it does not serve is known.
    first.kill();
    proxy.force_check();
    assert_eq!((proxy.chat("zz").status(), proxy.chat("ma").status()), (404, 502));
}

#[test]
fn a_list_is_read_when_it_is_old_though_no_probe_is_due() {
    // L6
    let upstream = Upstream::serving(&["old"]);
    let proxy = setup(&[&upstream]).with(|c| c.cache.ttl = Some(ms(200))).start();
    let probes = upstream.count("/health");
    upstream.set_models(&["new"]);
    proxy.until(|health| health["endpoints"]["a"]["models"][0] == "new");
    let lists = upstream.count("/v1/models");
    upstream.wait_count("/v1/models", lists + 2);
    assert_eq!(upstream.count("/health"), probes, "the interval is a minute");
}

#[test]
fn a_list_that_is_none_is_told() {
    // R09
    let bom = "\u{feff}{\"data\":[{\"id\":\"m\"}]}";
    let table = [
        ("<html>", Some("HTML")),
        (r#"{"error":{"message":"no"}}"#, Some("error")),
        (r#"{"data":["a"]}"#, Some("id")),
        ("nonsense", Some("JSON")),
        (bom, None),
        (r#"{"object":"list","data":[]}"#, None),
    ];
    for (body, wanted) in table {
        let (first, second) = (Upstream::start(), Upstream::start());
        for upstream in [&first, &second] {
            upstream.always("/v1/models", Script::json(body));
        }
        let setup = Setup::over(&[&first, &second]).with(|c| c.endpoints[1].models = vec!["x".into()]);
        let proxy = setup.start();
        for _ in 0..2 {
            let (one, other) = (of(&proxy, "a"), of(&proxy, "b"));
            let told = |of: &Value| match wanted {
                Some(word) => of["lastError"].as_str().is_some_and(|why| why.contains(word)),
                None => of["lastError"].is_null(),
            };
            assert!(told(&one) && told(&other), "{body}: {one} {other}");
            let state = if wanted.is_some() { "failing" } else { "healthy" };
            assert_eq!((one["state"].as_str(), one["healthy"].as_bool()), (Some(state), Some(true)), "{body}");
            assert_eq!(other["state"], "healthy", "its models are configured: {body}");
            proxy.force_check();
        }
    }
}

#[test]
fn force_checks_share_rounds_two_seconds_apart() {
    // U15
    let upstream = Upstream::serving(&["m"]);
    let proxy = setup(&[&upstream]).start();
    let before = upstream.count("/health");
    let (_, took) = timed(|| {
        let asking = (0..60).map(|_| {
            proxy.still_serves();
            proxy.sent(post("/health/force-check", ""))
        });
        let asking: Vec<_> = asking.collect();
        asking.into_iter().for_each(|mut one| assert_eq!(one.answer().json()["status"], "healthy"));
    });
    let (rounds, most) = (upstream.count("/health") - before, 2 + took.as_secs() / 2);
    assert!(rounds as u64 <= most, "{rounds} rounds in {took:?}");
}

#[test]
fn too_many_requests_is_no_failure_of_a_probe() {
    // U15
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let proxy = setup(&[&upstream]).with(|c| c.health_check.failure_threshold = 1).start();
    upstream.always("/health", Script::error(429, "slower"));
    upstream.always("/v1/models", Script::error(429, "slower"));
    let one = proxy.force_check()["endpoints"]["a"].clone();
    assert_eq!((one["healthy"].as_bool(), one["errorCount"].as_u64()), (Some(true), Some(0)), "{one}");
    assert_eq!((proxy.models(), proxy.chat("m").status()), (vec!["m".to_owned()], 200));
}

#[test]
fn requests_for_unknown_models_do_not_wait_for_an_endpoint_that_hangs() {
    // U32
    let (first, second) = (Upstream::serving(&["ma"]), Upstream::serving(&["mb"]));
    let setup = setup(&[&first, &second]).with(|c| c.health_check.timeout = Duration::from_secs(8));
    let proxy = setup.start();
    first.set_mood(Mood::HangingHealth);
    let asked = second.count("/v1/models");
    let (_, took) = timed(|| {
        let asking: Vec<_> = (0..20).map(|_| proxy.sent(post(CHAT, chat("zz")))).collect();
        asking.into_iter().for_each(|mut one| assert_eq!(one.answer().code(), "model_not_found"));
    });
    assert!(took < ms(4000), "{took:?}: two seconds shared by all");
    // Those that come later do not wait for that round again.
    let (_, took) = timed(|| (0..5).for_each(|_| assert_eq!(proxy.chat("zz").status(), 404)));
    assert!(took < ms(1500), "{took:?}");
    assert!(second.count("/v1/models") <= asked + 1, "one refresh for all");
}

#[test]
fn props_are_asked_no_more_of_a_server_that_has_none_until_it_restarts() {
    // Friction
    let (mut none, some) = (Upstream::serving(&["ma"]), Upstream::serving(&["mb"]));
    some.always("/props", Script::raw(include_bytes!("../data/props.raw")));
    let proxy = setup(&[&none, &some]).with(|c| c.health_check.interval = ms(2100)).start();
    none.wait_count("/health", 3);
    some.wait_count("/props", 2);
    assert_eq!(none.count("/props"), 1);
    none.kill();
    assert_eq!(proxy.chat("ma").status(), 502);
    none.always("/props", Script::raw(include_bytes!("../data/props.raw")));
    none.revive();
    proxy.until(|health| health["endpoints"]["a"]["slots"] == 2);
}
