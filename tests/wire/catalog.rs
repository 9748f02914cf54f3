//! The list of models: whose entries, in which order, how fresh, and never at a request's cost.

use crate::support::fact::{ms, timed};
use crate::support::proxy::CHAT;
use crate::support::proxy::Proxy;
use crate::support::proxy::Setup;
use crate::support::proxy::endpoint;
use crate::support::script::Script;
use crate::support::upstream::{Mood, Upstream};
use llmproxy::config::Probe;
use serde_json::Value;

/// Probed at `/health`, so that the list is asked for its own sake alone.
fn listed(upstreams: &[&Upstream]) -> Setup {
    Setup::over(upstreams).with(|c| {
        c.health_check.path = "/health".into();
        c.health_check.timeout = ms(300);
        c.health_check.failure_threshold = 1;
    })
}

fn entries(proxy: &Proxy) -> Vec<Value> {
    let list = proxy.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    list["data"].as_array().expect("a list").clone()
}

#[test]
fn the_list_is_the_union_in_config_order_each_name_once() {
    // S000-12, S000-13, S000-14, W000-4
    let (first, second) = (Upstream::serving(&["ma", "shared"]), Upstream::serving(&["mb", "shared"]));
    let proxy = listed(&[&first, &second]).start();
    assert_eq!(proxy.models(), ["ma", "shared", "mb"]);
    let all = entries(&proxy);
    let shared = &all[1];
    assert_eq!((shared["object"].as_str(), shared["provider"].as_str()), (Some("model"), Some("a")));
    assert_eq!(shared["endpoint"], first.addr().to_string());
    assert_eq!(shared["endpoints"], serde_json::json!(["a", "b"]));
    assert_eq!((all[2]["provider"].as_str(), all[2]["owned_by"].as_str()), (Some("b"), Some("llamacpp")));
    assert_eq!(proxy.get("/models").json(), proxy.get("/v1/models").json());
}

#[test]
fn an_upstreams_own_fields_are_kept() {
    // S000-13
    let upstream = Upstream::start();
    upstream.always("/v1/models", Script::raw(include_bytes!("../data/v1_models.raw")));
    let proxy = listed(&[&upstream]).start();
    let raw = include_str!("../data/v1_models.raw");
    let theirs: Value = serde_json::from_str(raw.split_once("\r\n\r\n").expect("a head").1).expect("JSON");
    let theirs = theirs["data"][0].as_object().expect("an entry").clone();
    let ours = entries(&proxy).remove(0);
    assert!(theirs.len() > 4, "{theirs:?}");
    for (key, value) in theirs {
        assert_eq!(ours[&key], value, "{key}");
    }
}

#[test]
fn a_routers_command_lines_are_not_shown() {
    let upstream = Upstream::start();
    upstream.always("/v1/models", Script::raw(include_bytes!("../data/router_models.raw")));
    let proxy = listed(&[&upstream]).start();
    let text = proxy.get("/v1/models").text().to_owned();
    assert!(include_str!("../data/router_models.raw").contains("args"), "the recording has them");
    assert!(!text.contains("args") && !text.contains("--"), "{text}");
    assert!(entries(&proxy).iter().all(|entry| entry["status"]["value"].is_string()), "{text}");
}

#[test]
fn an_entry_without_id_counts_by_its_name() {
    // S000-14
    let upstream = Upstream::start();
    upstream.always("/v1/models", Script::json(r#"{"data":[{"name":"by-name"},{"id":"by-id"},{"neither":1}]}"#));
    assert_eq!(listed(&[&upstream]).start().models(), ["by-name", "by-id"]);
}

#[test]
fn an_endpoint_that_cannot_list_adds_nothing() {
    // S000-15
    for script in [
        Script::error(500, "x"),
        Script::json("not json"),
        Script::json("[]"),
        Script::json(r#"{"data":{}}"#),
        Script::new().cut(),
        Script::new().stall(),
        Script::answer(200, &[], vec![b'['; 9 << 20]),
    ] {
        let (first, second) = (Upstream::start(), Upstream::serving(&["mb"]));
        first.always("/v1/models", script);
        let proxy = listed(&[&first, &second]).start();
        proxy.force_check();
        assert_eq!(proxy.models(), ["mb"]);
        assert_eq!(proxy.health()["endpoints"]["a"]["healthy"], true);
    }
}

#[test]
fn one_model_can_be_asked_for() {
    let upstream = Upstream::serving(&["m", "org/name:7b"]);
    let proxy = listed(&[&upstream]).start();
    let one = proxy.get("/v1/models/m");
    assert_eq!((one.status(), one.json()), (200, entries(&proxy).remove(0)));
    assert_eq!(proxy.get("/v1/models/org/name:7b").json()["id"], "org/name:7b");
    assert_eq!(proxy.get("/v1/models/org%2Fname%3A7b").json()["id"], "org/name:7b");
    let none = proxy.get("/models/none");
    assert_eq!((none.status(), none.code().as_str()), (404, "model_not_found"));
}

#[test]
fn the_list_comes_from_the_cache_even_when_the_upstream_hangs() {
    // S000-16, W000-7
    let upstream = Upstream::serving(&["m"]);
    let proxy = listed(&[&upstream]).start();
    let asked = upstream.count("/v1/models");
    upstream.set_mood(Mood::HangingHealth);
    let (models, took) = timed(|| (0..50).map(|_| proxy.models()).next_back());
    assert_eq!(models, Some(vec!["m".to_owned()]));
    assert_eq!(upstream.count("/v1/models"), asked);
    assert!(took < ms(5000), "{took:?}");
}

#[test]
fn a_list_that_fails_later_keeps_the_last_one_while_healthy() {
    // W000-7, W000-9
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let proxy = listed(&[&upstream]).start();
    for script in [Script::error(500, "x"), Script::new().cut(), Script::json("oops")] {
        upstream.always("/v1/models", script);
        proxy.force_check();
        assert_eq!(proxy.models(), ["m"]);
        assert_eq!(proxy.chat("m").status(), 200);
    }
}

#[test]
fn models_of_an_unhealthy_endpoint_leave_the_list_and_the_routing() {
    // S000-12, S000-20, W000-1
    let (mut first, second) = (Upstream::serving(&["ma", "shared"]), Upstream::serving(&["shared"]));
    second.always(CHAT, Script::json("{}"));
    let proxy = listed(&[&first, &second]).start();
    first.kill();
    proxy.force_check();
    assert_eq!(proxy.models(), ["shared"]);
    assert_eq!(entries(&proxy)[0]["provider"], "b");
    let answer = proxy.chat("shared");
    assert_eq!((answer.status(), answer.field("x-llmproxy-attempts")), (200, Some("1")));
    assert!(matches!(proxy.chat("ma").status(), 404 | 503));
    first.revive();
    proxy.force_check();
    assert_eq!(proxy.models(), ["ma", "shared"]);
}

#[test]
fn configured_names_need_no_asking() {
    let upstream = Upstream::start();
    let mut fixed = endpoint("a", upstream.addr());
    (fixed.models, fixed.probe) = (vec!["x".into(), "y".into()], Probe::Never);
    let proxy = Setup::over(&[]).endpoint(fixed).start();
    assert_eq!(proxy.models(), ["x", "y"]);
    assert_eq!(upstream.count("/v1/models"), 0);
}

#[test]
fn a_round_reads_the_list_only_when_it_is_old() {
    // S000-08, S000-09
    let rounds = |ttl: Option<u64>, multiplier: Option<f64>| {
        let upstream = Upstream::serving(&["m"]);
        let _proxy = listed(&[&upstream]).with(|c| {
            c.health_check.interval = ms(20);
            (c.cache.ttl, c.cache.ttl_multiplier) = (ttl.map(ms), multiplier);
        });
        let _proxy = _proxy.start();
        upstream.wait_count("/health", 12);
        (upstream.count("/v1/models"), upstream.count("/health"))
    };
    assert_eq!(rounds(Some(3_600_000), None).0, 1, "fresh for an hour");
    let (lists, probes) = rounds(Some(0), None);
    assert!(lists + 2 >= probes, "{lists} of {probes}: 0 is every round");
    let (lists, probes) = rounds(Some(3_600_000), Some(4.0));
    assert!(lists >= 2 && lists <= probes / 2, "{lists} of {probes}: the smaller of both");
}

#[test]
fn a_forced_check_reads_the_list_anew() {
    // S000-31
    let upstream = Upstream::serving(&["old"]);
    upstream.always(CHAT, Script::json("{}"));
    let proxy = listed(&[&upstream]).start();
    upstream.set_models(&["new"]);
    assert_eq!(proxy.models(), ["old"]);
    proxy.force_check();
    assert_eq!(proxy.models(), ["new"]);
    assert_eq!(proxy.chat("new").status(), 200);
}
