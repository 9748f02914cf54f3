//! `groups`, `listeners`, `rateLimit`: several addresses, each with a part of the endpoints.

use crate::{complaint, good, wrong};
use llmproxy::config::{Config, KeysFor, Mode, RateLimit, Strategy, Timeouts};
use std::time::Duration;

const TWO: &str =
    "endpoints: [{name: a, address: h, port: 1, weight: 3, userAgent: mine}, {name: b, address: h, port: 2}]\n";

fn two(sections: &str) -> Config {
    good(&format!("{TWO}{sections}"))
}

#[test]
fn a_group_sees_its_endpoints_under_its_own_conditions() {
    // S002-13, S002-15..20
    let config = two(
        "groups: [{name: g, endpoints: [{name: b, weight: 8}, {name: a}], strategy: rr, timeouts: {connect: 10s, idle: 0}, \
                      userAgent: LLMProxy/1.0, proxy: \"http://p:1\", keepAlive: 60s, retry: {attempts: 4}}]",
    );
    let group = &config.groups[0];
    assert_eq!(group.strategy, Some(Strategy::RoundRobin));
    assert_eq!(group.retry.as_ref().and_then(|retry| retry.attempts), Some(4));
    let [a, b] = [0, 1].map(|n| group.view(&config.endpoints[n]).expect("a member"));
    assert_eq!((a.weight, b.weight), (3, 8));
    let ten = Some(Duration::from_secs(10));
    assert_eq!(a.timeouts, Timeouts { connect: ten, idle: None, ..Timeouts::default() });
    assert_eq!((a.user_agent.as_deref(), a.keep_alive), (Some("LLMProxy/1.0"), Duration::from_secs(60)));
    assert!(a.stream && a.proxy.is_some() && config.endpoints[0].proxy.is_none());
    assert_eq!(config.endpoints[0].user_agent.as_deref(), Some("mine"), "outside of the group nothing changes");
    let bare = two("groups: [{name: g, endpoints: [{name: a}]}]");
    assert_eq!(bare.groups[0].view(&bare.endpoints[1]), None);
    assert_eq!(bare.groups[0].keep_alive, Duration::from_secs(60));
}

#[test]
fn a_listener_has_an_address_a_group_keys_and_a_limit() {
    // S002-01, S002-02
    let config = two(
        "groups: [{name: g, endpoints: [{name: a}]}]\nauth: {keys: [{name: k, key: x}]}\nrateLimit: {perSecond: 2}\n\
                      listeners: [{name: l, host: 0.0.0.0, port: 3000, group: g, keys: [k], rateLimit: {perSecond: 100, burst: 200}, mode: raw}, \
                      {name: m, port: 3001, keys: none, cors: []}, {name: n, port: 0, keys: []}]",
    );
    let [l, m, n] = &config.listeners[..] else { panic!("three") };
    assert_eq!(
        (l.host.as_str(), l.port, l.policy.group.as_deref(), l.policy.mode),
        ("0.0.0.0", 3000, Some("g"), Mode::Raw)
    );
    assert_eq!(l.policy.keys, KeysFor::Only(vec!["k".into()]));
    assert_eq!(l.policy.rate_limit, Some(RateLimit { per_second: 100.0, burst: 200 }));
    assert_eq!((m.host.as_str(), &m.policy.keys, m.policy.mode), ("127.0.0.1", &KeysFor::Nobody, Mode::Models));
    assert_eq!((&n.policy.keys, &n.policy.group), (&KeysFor::Inherit, &None));
    assert_eq!((&m.policy.cors, &n.policy.cors), (&Some(vec![]), &None));
    assert_eq!(config.policy.rate_limit, Some(RateLimit { per_second: 2.0, burst: 2 }));
}

#[test]
fn wrong_groups_and_listeners_are_told_where() {
    // S002-02, S002-13, S002-31
    let cases = [
        (
            "groups: [{name: g, endpoints: [{name: c}]}]",
            "groups[0].endpoints[0].name: \"c\" is no endpoint of this file; there are a, b",
        ),
        ("groups: [{name: g, endpoints: []}]", "groups[0].endpoints: is missing"),
        ("groups: [{name: g, endpoints: [{name: a}, {name: a}]}]", "\"a\" is in this group already"),
        (
            "groups: [{name: g, endpoints: [{name: a}]}, {name: g, endpoints: [{name: a}]}]",
            "is the name of another group above (number 1); each needs its own",
        ),
        ("groups: [{name: g, endpoints: [{name: a, weight: 0}]}]", "0 is not a weight (1 to 65535)"),
        ("listeners: [{name: l, port: 1, group: g}]", "\"g\" is no group of this file; there are "),
        ("listeners: [{name: main, port: 1}]", "is the name of another listener above (number 1); each needs its own"),
        ("listeners: [{name: l}]", "listeners[0].port: is missing"),
        ("listeners: [{name: l, port: 1, keys: [x]}]", "\"x\" is no key of this file; there are "),
        ("listeners: [{name: l, port: 1, rateLimit: {perSecond: 10, burst: 5}}]", "`burst` is less than `perSecond`"),
        ("listeners: [{name: l, port: 1, mode: rwa}]", "did you mean `raw`?"),
        ("server: {mode: raw}\nadmin: {enabled: true}", "`admin` needs a `port` of its own"),
    ];
    for (section, expected) in cases {
        let lines = wrong(&format!("{TWO}{section}\n"));
        assert!(lines.iter().any(|line| line.contains(expected)), "{section}: {lines:?}");
    }
    assert!(complaint("metrics: {enabled: 5}").starts_with("metrics.enabled: 5 is not true or false"));
}

#[test]
fn no_more_listeners_are_accepted_than_are_served() {
    let listeners = |count: usize| {
        let all: Vec<String> = (1..=count).map(|n| format!("{{name: l{n}, port: {}}}", 3000 + n)).collect();
        format!("{TWO}listeners: [{}]\n", all.join(", "))
    };
    assert_eq!(good(&listeners(62)).listeners.len(), 62);
    assert!(wrong(&listeners(63))[0].contains("listeners: are more than 62"));
}
