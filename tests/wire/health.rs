//! SPEC 6: who is asked when, and what the answers mean.

use crate::support::fact::{DEADLINE, Latch, ms, timed};
use crate::support::proxy::CHAT;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::{Mood, Upstream};
use llmproxy::config::Probe;
use serde_json::Value;
use std::thread;

/// One upstream probed at `/health`, unhealthy at the n-th failure.
fn probed(upstreams: &[&Upstream], threshold: u32) -> Setup {
    Setup::over(upstreams).with(|c| {
        c.health_check.failure_threshold = threshold;
        c.health_check.timeout = ms(300);
        c.health_check.path = "/health".into();
    })
}

fn of<'a>(health: &'a Value, name: &str) -> &'a Value {
    &health["endpoints"][name]
}

#[test]
fn health_has_the_documented_shape() {
    // S000-02, S000-27, S000-28, S000-29
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["n", "o"]));
    let proxy = probed(&[&first, &second], 3).start();
    let health = proxy.force_check();
    assert_eq!(health["status"], "healthy");
    assert_eq!((health["healthy_endpoints"].as_u64(), health["total_endpoints"].as_u64()), (Some(2), Some(2)));
    for name in ["a", "b"] {
        let one = of(&health, name);
        assert_eq!((one["healthy"].as_bool(), one["errorCount"].as_u64()), (Some(true), Some(0)), "{one}");
        assert!(one["lastError"].is_null() && one.get("lastError").is_some());
        let at = one["lastCheck"].as_str().expect("checked");
        assert!(at.len() == 24 && at.ends_with('Z') && at.as_bytes()[19] == b'.' && at.as_bytes()[10] == b'T', "{at}");
        for key in ["state", "inFlight", "slots", "models"] {
            assert!(one.get(key).is_some(), "{key} in {one}");
        }
    }
    for key in ["backends", "mode", "version"] {
        assert!(health.get(key).is_some(), "{key} in {health}");
    }
    assert_eq!(proxy.get("/v1/health").json()["status"], "healthy");
}

#[test]
fn the_nth_failure_in_a_row_makes_unhealthy_and_one_success_heals() {
    // S000-07, S000-29, S000-30, W000-4
    let upstream = Upstream::serving(&["m"]);
    let proxy = probed(&[&upstream], 3).start();
    upstream.always("/health", Script::error(500, "broken"));
    for n in 1..=5_u64 {
        let health = proxy.force_check();
        let one = of(&health, "a");
        assert_eq!((one["errorCount"].as_u64(), one["healthy"].as_bool()), (Some(n), Some(n < 3)), "{one}");
        assert!(one["lastError"].as_str().is_some_and(|text| text.contains("500")), "{one}");
    }
    upstream.always("/health", Script::json("{}"));
    let health = proxy.force_check();
    let one = of(&health, "a");
    assert_eq!((one["errorCount"].as_u64(), one["healthy"].as_bool()), (Some(0), Some(true)));
    assert!(one["lastError"].is_null());
}

#[test]
fn a_success_between_failures_starts_the_count_anew() {
    // S000-07
    let upstream = Upstream::serving(&["m"]);
    let proxy = probed(&[&upstream], 2).start();
    for script in [Script::error(500, "x"), Script::json("{}"), Script::error(500, "x")] {
        upstream.on("/health", script);
        assert_eq!(of(&proxy.force_check(), "a")["healthy"], true);
    }
}

#[test]
fn health_is_200_even_when_all_are_down_unless_strict() {
    // S000-28, S000-31
    let mut upstream = Upstream::serving(&["m"]);
    let proxy = probed(&[&upstream], 1).start();
    assert_eq!(proxy.get("/health?strict=1").status(), 200);
    upstream.kill();
    let answer = proxy.post("/health/force-check", "");
    assert_eq!((answer.status(), answer.json()["status"].as_str()), (200, Some("unhealthy")));
    assert_eq!(proxy.get("/health").status(), 200);
    assert_eq!(proxy.get("/health?strict=1").status(), 503);
}

#[test]
fn a_disabled_endpoint_is_neither_probed_listed_nor_counted() {
    // S000-04
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["n"]));
    let proxy = probed(&[&first, &second], 3).with(|c| c.endpoints[1].enabled = false).start();
    let health = proxy.force_check();
    assert_eq!((health["total_endpoints"].as_u64(), second.connections()), (Some(1), 0));
    assert!(of(&health, "b").is_null());
    assert_eq!(proxy.models(), ["m"]);
}

#[test]
fn an_endpoint_may_have_its_own_probe_path_or_none() {
    // S000-05
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["n"]));
    first.always("/own", Script::json("{}"));
    let proxy = Setup::over(&[&first, &second]).with(|c| {
        c.endpoints[0].probe = Probe::Path("/own".into());
        c.endpoints[1].probe = Probe::Never;
        c.endpoints[1].models = vec!["n".into()];
    });
    let proxy = proxy.start();
    let before = first.count("/own");
    assert_eq!(of(&proxy.force_check(), "b")["healthy"], true);
    assert_eq!((first.count("/own"), first.count("/health")), (before + 1, 0));
    assert_eq!(second.count("/health"), 0);
    second.on(CHAT, Script::json("{}"));
    assert_eq!(proxy.chat("n").status(), 200);
}

#[test]
fn a_loading_endpoint_has_not_failed_and_is_asked_again_soon() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = probed(&[&upstream], 1).start();
    upstream.set_mood(Mood::Loading);
    let health = proxy.force_check();
    let one = of(&health, "a");
    assert_eq!((one["state"].as_str(), one["errorCount"].as_u64()), (Some("loading"), Some(0)), "{one}");
    assert_eq!(health["status"], "unhealthy", "not available");
    let refusal = proxy.chat("m");
    assert_eq!((refusal.status(), refusal.code().as_str()), (503, "no_endpoint_available"));
    assert!(refusal.field("retry-after").is_some());
    // The interval is a minute; while loading it is a second.
    let asked = upstream.count("/health");
    upstream.wait_count("/health", asked + 2);
    upstream.set_mood(Mood::Well);
    assert_eq!(of(&proxy.force_check(), "a")["healthy"], true);
    upstream.on(CHAT, Script::json("{}"));
    assert_eq!(proxy.chat("m").status(), 200);
}

#[test]
fn a_silent_probe_beside_a_request_in_progress_is_busy_not_dead() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = probed(&[&upstream], 1).start();
    let latch = Latch::new();
    upstream.on(CHAT, Script::sse().latch(&latch).chunk(event("one")).end());
    let mut client = proxy.sent(post(CHAT, stream("m")));
    upstream.take(CHAT);
    upstream.set_mood(Mood::HangingHealth);
    for _ in 0..3 {
        let health = proxy.force_check();
        let one = of(&health, "a");
        assert_eq!((one["healthy"].as_bool(), one["errorCount"].as_u64()), (Some(true), Some(0)), "{one}");
        assert_eq!(one["state"], "busy");
        assert_eq!(one["inFlight"], 1);
    }
    latch.open();
    client.head();
    assert_eq!(client.event(), Some(event("one")));
    assert_eq!(client.event(), None);
    assert_eq!(of(&proxy.force_check(), "a")["healthy"], false, "silent without any work is a failure");
}

#[test]
fn a_refused_request_counts_as_a_failed_probe_and_the_way_back_is_by_probe() {
    // W000-1
    let (mut first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    second.always(CHAT, Script::json("{}"));
    let proxy = probed(&[&first, &second], 1).start();
    first.kill();
    assert_eq!(proxy.chat("m").field("x-llmproxy-attempts"), Some("2"));
    let next = proxy.chat("m");
    assert_eq!((next.field("x-llmproxy-endpoint"), next.field("x-llmproxy-attempts")), (Some("b"), Some("1")));
    assert_eq!(of(&proxy.health(), "a")["healthy"], false);
    first.revive();
    assert_eq!(proxy.chat("m").field("x-llmproxy-endpoint"), Some("b"), "not before a probe");
    assert_eq!(of(&proxy.force_check(), "a")["healthy"], true);
    first.on(CHAT, Script::json("{}"));
    assert_eq!(proxy.chat("m").field("x-llmproxy-endpoint"), Some("a"));
}

#[test]
fn rounds_go_on_by_themselves() {
    // S000-32, C17
    let mut upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let proxy = probed(&[&upstream], 2).with(|c| c.health_check.interval = ms(50)).start();
    for _ in 0..3 {
        upstream.kill();
        proxy.until(|health| of(health, "a")["healthy"] == false);
        let refusal = proxy.chat("m");
        assert_eq!((refusal.status(), refusal.field("retry-after").is_some()), (503, true));
        upstream.revive();
        proxy.until(|health| of(health, "a")["healthy"] == true);
        assert_eq!(proxy.chat("m").status(), 200);
    }
}

#[test]
fn no_request_fails_while_one_endpoint_is_up() {
    // C17
    let (first, second, third) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    let proxy = probed(&[&first, &second, &third], 1).with(|c| c.health_check.interval = ms(20)).start();
    for upstream in [&first, &second, &third] {
        upstream.always(CHAT, Script::json("{}"));
    }
    for n in 0..200 {
        let (good, bad) = (Script::json("{}"), Script::error(500, "flips"));
        first.always("/health", if n % 2 == 0 { good.clone() } else { bad.clone() });
        second.always("/health", if n % 3 == 0 { bad } else { good });
        assert_eq!(proxy.chat("m").status(), 200);
    }
}

#[test]
fn requests_never_probe() {
    //
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let proxy = probed(&[&upstream], 3).start();
    proxy.force_check();
    let before = (upstream.count("/health"), upstream.count("/v1/models"));
    for _ in 0..20 {
        assert_eq!(proxy.chat("m").status(), 200);
        assert_eq!(proxy.models(), ["m"]);
        proxy.health();
    }
    assert_eq!((upstream.count("/health"), upstream.count("/v1/models")), before);
}

#[test]
fn force_checks_at_once_share_their_rounds() {
    // X-01, W000-8
    let upstream = Upstream::serving(&["m"]);
    let proxy = probed(&[&upstream], 3).with(|c| c.health_check.timeout = DEADLINE).start();
    let before = upstream.count("/health");
    let latch = Latch::new();
    upstream.on("/health", Script::new().latch(&latch).then(Script::json("{}")));
    let asking: Vec<_> = (0..10).map(|_| proxy.sent(post("/health/force-check", ""))).collect();
    upstream.wait_count("/health", before + 1);
    // Asked and answered after them, so all ten have been heard.
    (0..10).for_each(|_| proxy.still_serves());
    latch.open();
    for mut one in asking {
        assert_eq!(of(&one.answer().json(), "a")["healthy"], true);
    }
    let rounds = upstream.count("/health") - before;
    assert!(rounds <= 3, "{rounds} rounds for ten at once");
}

#[test]
fn a_slow_endpoint_delays_neither_other_probes_nor_requests() {
    //
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["n"]));
    let proxy = probed(&[&first, &second], 3).with(|c| c.health_check.timeout = DEADLINE).start();
    let latch = Latch::new();
    first.on("/health", Script::new().latch(&latch).then(Script::json("{}")));
    let (a, b) = (first.count("/health"), second.count("/health"));
    thread::scope(|scope| {
        let asking = scope.spawn(|| proxy.force_check());
        first.wait_count("/health", a + 1);
        second.wait_count("/health", b + 1);
        second.on(CHAT, Script::json("{}"));
        assert_eq!(proxy.chat("n").status(), 200);
        assert_eq!((proxy.get("/health").status(), proxy.models()), (200, vec!["m".into(), "n".into()]));
        latch.open();
        assert_eq!(asking.join().expect("an answer")["healthy_endpoints"], 2);
    });
}

#[test]
fn rounds_never_overlap() {
    // W000-6
    let upstream = Upstream::serving(&["m"]);
    let proxy =
        probed(&[&upstream], 3).with(|c| (c.health_check.interval, c.health_check.timeout) = (ms(10), DEADLINE));
    let proxy = proxy.start();
    let latch = Latch::new();
    upstream.on("/health", Script::new().latch(&latch).then(Script::json("{}")));
    let stuck = upstream.count("/health") + 1;
    upstream.wait_count("/health", stuck);
    // Far longer than the interval, without a second probe beside the one that waits.
    assert!(!proxy.client().hears_within(ms(300)));
    assert!(upstream.count("/health") <= stuck + 1, "{} probes", upstream.count("/health"));
    latch.open();
}

#[test]
fn a_hanging_endpoint_does_not_hold_up_the_start() {
    // SPEC 6: never longer than 2 s
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["n"]));
    first.set_mood(Mood::HangingHealth);
    let setup = probed(&[&first, &second], 3).with(|c| c.health_check.timeout = ms(8000));
    let (models, took) = timed(|| {
        let proxy = setup.start();
        let models = proxy.models();
        // Not part of the time: stopping waits for the probe.
        (models, llmproxy::util::time::now(), proxy)
    });
    assert_eq!(models.0, ["n"]);
    assert!(took < ms(6000), "{took:?}");
}

#[test]
fn nothing_to_probe_is_nothing_to_wait_for_at_the_start() {
    let upstream = Upstream::start();
    let setup = Setup::over(&[&upstream]).with(|c| {
        (c.endpoints[0].probe, c.endpoints[0].models) = (Probe::Never, vec!["m".into()]);
    });
    let (proxy, took) = timed(|| setup.start());
    assert_eq!(proxy.models(), ["m"]);
    assert!(took < ms(1500), "{took:?}: the two seconds are for a first round");
}

#[test]
fn slots_come_from_props_and_props_are_optional() {
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["n"]));
    first.always("/props", Script::raw(include_bytes!("../data/props.raw")));
    let proxy = probed(&[&first, &second], 3).start();
    let health = proxy.force_check();
    let raw = include_str!("../data/props.raw");
    let props: Value = serde_json::from_str(raw.split_once("\r\n\r\n").expect("a head").1).expect("JSON");
    assert_eq!(of(&health, "a")["slots"], props["total_slots"]);
    assert_eq!(of(&health, "b")["healthy"], true);
    assert!(of(&health, "b")["slots"].is_null());
}

#[test]
fn a_server_that_never_tells_its_props_is_healthy_at_once() {
    let upstream = Upstream::serving(&["m"]);
    upstream.always("/props", Script::new().stall());
    upstream.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).with(|c| c.health_check.timeout = DEADLINE).start();
    assert_eq!(proxy.chat("m").status(), 200);
}

#[test]
fn requests_in_flight_are_counted_and_never_leak() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = probed(&[&upstream], 3).start();
    let latch = Latch::new();
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    let mut client = proxy.sent(post(CHAT, chat("m")));
    upstream.take(CHAT);
    assert_eq!(of(&proxy.health(), "a")["inFlight"], 1);
    latch.open();
    assert_eq!(client.answer().status(), 200);
    for script in [Script::error(500, "x").cut(), Script::new().cut(), Script::sse().chunk("a").cut()] {
        upstream.always(CHAT, script);
        proxy.chat("m");
    }
    proxy.idle();
}
