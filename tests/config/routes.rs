//! `routing`, `models`, `queue`, `auth`: where models go, how long they wait, who may ask.

use crate::{ONE, complaint, good, with, wrong};
use llmproxy::config::{Backend, ClientKey, KeyText, MaxConcurrent, RateLimit, Strategy};
use std::time::Duration;

#[test]
fn a_strategy_has_many_names() {
    // S001-05, S002-14, S003-02
    let names: [(Strategy, &[&str]); 6] = [
        (Strategy::Failover, &["failover", "Failover", "priority"]),
        (Strategy::RoundRobin, &["round_robin", "round-robin", "round\u{2011}robin", "roundrobin", "RoundRobin", "rr"]),
        (Strategy::WeightedRoundRobin, &["weighted_round_robin", "weighted_roundrobin", "wrr"]),
        (Strategy::Random, &["random", "weighted", "Weighted"]),
        (Strategy::LeastBusy, &["least_busy", "least_connections"]),
        (Strategy::Affinity, &["affinity"]),
    ];
    for (strategy, names) in names {
        for name in names {
            assert_eq!(with(&format!("routing: {{strategy: {name}}}")).routing.strategy, strategy, "{name}");
            let route =
                with(&format!("models: {{m: {{strategy: {name}, backends: [{{endpoint: a}}]}}}}")).models.remove(0);
            assert_eq!(route.strategy, Some(strategy), "{name}");
        }
    }
    assert_eq!(
        complaint("routing: {strategy: round_robbin}"),
        "routing.strategy: \"round_robbin\" is not one of failover, round_robin, weighted_round_robin, random, least_busy, \
         affinity; did you mean `round_robin`?"
    );
}

#[test]
fn a_route_names_its_endpoints_in_order() {
    // S003-01, S003-03
    let text = "endpoints: [{name: a, address: h, port: 1}, {name: b, address: h, port: 2}]
models:
  fast:
    strategy: wrr
    backends:
      - {endpoint: b, model: qwen3-8b, weight: 5}
      - {endpoint: a, enabled: false}
      - {endpoint: b}
  \"org/other: x\": {backends: [{endpoint: a}]}
";
    let routes = good(text).models;
    let backend = |endpoint: &str, model: Option<&str>, weight, enabled| Backend {
        endpoint: endpoint.into(),
        model: model.map(str::to_owned),
        weight,
        enabled,
        ..Backend::default()
    };
    assert_eq!((routes[0].name.as_str(), routes[0].strategy), ("fast", Some(Strategy::WeightedRoundRobin)));
    let expected = [
        backend("b", Some("qwen3-8b"), Some(5), true),
        backend("a", None, None, false),
        backend("b", None, None, true),
    ];
    assert_eq!(routes[0].backends, expected, "one endpoint may stand there twice");
    assert_eq!((routes[1].name.as_str(), routes[1].strategy), ("org/other: x", None));
}

#[test]
fn a_wrong_route_is_told_where_and_how() {
    let cases = [
        (
            "{m: {backends: [{endpoint: aa}]}}",
            "models[m].backends[0].endpoint: \"aa\" is no endpoint of this file; there are a",
        ),
        ("{m: {backends: [{}]}}", "models[m].backends[0].endpoint: is missing"),
        ("{m: {}}", "models[m].backends: is missing"),
        ("{m: {backends: a}}", "models[m].backends: \"a\" is not a list; begin each item with `- `, or write [a, b]"),
        ("{m: {backend: [{endpoint: a}], backends: []}}", "models[m].backend: unknown key; did you mean `backends`?"),
        ("{m: {backends: [{endpoint: a, weight: 0}]}}", "models[m].backends[0].weight: 0 is not a weight (1 to 65535)"),
        ("{m: 5}", "models[m]: 5 is not a map of `key: value`"),
        ("[]", "models: a list is not a map of `name: ...`"),
        ("{\"\": {backends: [{endpoint: a}]}}", "models[]: the name \"\" is empty"),
    ];
    for (models, expected) in cases {
        let lines = wrong(&format!("{ONE}models: {models}\n"));
        assert!(lines.iter().any(|line| line.ends_with(expected)), "{models}: {lines:?}");
    }
    let twice =
        wrong(&format!("{ONE}models:\n  m: {{backends: [{{endpoint: a}}]}}\n  m: {{backends: [{{endpoint: a}}]}}\n"));
    assert!(twice.iter().any(|line| line.contains("twice")), "{twice:?}");
}

#[test]
fn an_endpoint_has_a_weight_and_a_capacity() {
    let one =
        |content: &str| good(&format!("endpoints: [{{name: a, address: h, port: 1, {content}}}]")).endpoints.remove(0);
    assert_eq!((one("weight: 65535").weight, one("enabled: true").weight), (65_535, 1));
    for (content, expected) in [
        ("enabled: true", MaxConcurrent::Auto),
        ("maxConcurrent: auto", MaxConcurrent::Auto),
        ("maxConcurrent: unlimited", MaxConcurrent::Unlimited),
        ("max_concurrent: 4", MaxConcurrent::Most(4)),
    ] {
        assert_eq!(one(content).max_concurrent, expected, "{content}");
    }
    for content in
        ["weight: 0", "weight: 65536", "weight: 1.5", "maxConcurrent: 0", "maxConcurrent: none", "maxConcurrent: -1"]
    {
        assert_eq!(wrong(&format!("endpoints: [{{name: a, address: h, port: 1, {content}}}]")).len(), 1, "{content}");
    }
}

#[test]
fn the_queue_has_a_length_and_a_time() {
    let queue = with("queue: {length: 0, timeout: 30s}").queue;
    assert_eq!((queue.length, queue.timeout), (0, Duration::from_secs(30)));
    assert!(complaint("queue: {timeout: 0}").starts_with("queue.timeout: 0 is not a time"));
}

fn key(content: &str) -> ClientKey {
    with(&format!("auth: {{keys: [{{name: k, {content}}}]}}")).keys.remove(0)
}

#[test]
fn a_client_key_is_text_or_a_hash_with_a_scope_and_limits() {
    let all = key(
        "key: canary, models: [\"qwen*\", x], endpoints: [a], maxParallel: 2, rateLimit: {perSecond: 0.5, burst: 3}, background: true, admin: true",
    );
    assert!(matches!(&all.key, KeyText::Plain(secret) if secret.reveal() == "canary"));
    assert_eq!((all.models.join(" "), all.endpoints.join(" ")), ("qwen* x".into(), "a".into()));
    assert_eq!((all.max_parallel, all.background, all.admin), (Some(2), true, true));
    assert_eq!(all.rate_limit, Some(RateLimit { per_second: 0.5, burst: 3 }));
    let bare = key("key: canary");
    assert!(bare.models.is_empty() && bare.endpoints.is_empty() && !bare.background && !bare.admin);
    assert_eq!((bare.max_parallel, bare.rate_limit), (None, None));
    let hash = key(&format!("key: \"sha256:{}0F\"", "0".repeat(62)));
    assert!(matches!(hash.key, KeyText::Sha256(bytes) if bytes[31] == 15 && bytes[0] == 0));
    assert_eq!(key("key: k, rateLimit: {perSecond: 2.5}").rate_limit, Some(RateLimit { per_second: 2.5, burst: 3 }));
}

#[test]
fn a_wrong_client_key_is_told_without_its_text() {
    let cases = [
        ("{name: k}", "`key` is missing (or `keyFile`)"),
        ("{key: canary}", "auth.keys[0].name: is missing"),
        ("{name: k, key: sha256:canary}", "`key` is neither ASCII text nor `sha256:` with 64 hexadecimal digits"),
        ("{name: k, key: cänary}", "`key` is neither ASCII text nor `sha256:` with 64 hexadecimal digits"),
        (
            "{name: k, key: canary}, {name: k, key: other}",
            "is the name of another key above (number 1); each needs its own",
        ),
        ("{name: k, key: canary}, {name: l, key: canary}", "\"k\" and \"l\" have the same key; each needs its own"),
        ("{name: k, key: canary, endpoints: [zz]}", "\"zz\" is no endpoint of this file; there are a"),
        ("{name: k, key: canary, maxParallel: 0}", "0 is not a number of requests (1 to 65536)"),
        ("{name: k, key: canary, rateLimit: {burst: 1}}", "`perSecond` is missing"),
        ("{name: k, key: canary, rateLimit: {perSecond: 0}}", "0 is not a number (0.001 to 1000000)"),
    ];
    for (keys, expected) in cases {
        let lines = wrong(&format!("{ONE}auth: {{keys: [{keys}]}}\n"));
        assert!(lines.iter().any(|line| line.ends_with(expected)), "{keys}: {lines:?}");
        assert!(!lines.join("\n").contains("canary"), "{lines:?}");
    }
}
