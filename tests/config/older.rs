//! The files of the earlier proxies: each documented example means what its document says, and converts.

use crate::effective::{put_in, secrets};
use crate::{good, parse, wrong};
use llmproxy::config::Auth;
use llmproxy::config::Config;
use llmproxy::config::CorsOrigin;
use llmproxy::config::Endpoint;
use llmproxy::config::HeaderOp;
use llmproxy::config::KeysFor;
use llmproxy::config::Mode;
use llmproxy::config::Op;
use llmproxy::config::Probe;
use llmproxy::config::RateLimit;
use llmproxy::config::Strategy;
use llmproxy::config::UnknownModel;
use llmproxy::config::load;
use llmproxy::config::print;
use std::time::Duration;

const GO: &str = include_str!("../../config/old/001-config.yaml");
const RUST: &str = include_str!("../../config/old/002-config.yaml");
const MANAGER: &str = include_str!("../../config/old/003-dynamic_routing.json");

fn sec(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn warnings(text: &str) -> Vec<String> {
    load::parse("f.yml", text, &crate::variable, &crate::file).unwrap_or_else(|found| panic!("{found:?}")).warnings
}

fn keys(endpoint: &Endpoint) -> Vec<&str> {
    endpoint.api_keys.iter().map(|key| key.reveal()).collect()
}

/// The fields of a URL as the user gave them.
fn urls(config: &Config) -> Vec<String> {
    let url = |one: &Endpoint| format!("{}{}", one.base.host, one.base.api);
    config.endpoints.iter().map(url).collect()
}

fn only(text: &str) -> String {
    let lines = wrong(text);
    assert_eq!(lines.len(), 1, "{}", lines.join("\n"));
    lines[0].clone()
}

#[test]
fn seed_001s_documented_file_means_what_its_document_says() {
    let config = good(GO);
    assert_eq!((config.server.host.as_str(), config.server.port), ("0.0.0.0", 8080)); // S001-02
    assert_eq!(config.server.cors, [CorsOrigin::Any]); // S001-19
    assert_eq!(config.retry.attempts, Some(3)); // S001-04
    assert_eq!(config.routing.strategy, Strategy::Random); // S001-05
    assert_eq!(config.routing.unknown_model, UnknownModel::Default); // S001-10
    let [deepseek, poe] = &config.endpoints[..] else { panic!("two") };
    assert_eq!((deepseek.name.as_str(), poe.name.as_str()), ("deepseek", "poe")); // S001-06
    assert_eq!((keys(deepseek), keys(poe)), (vec!["your-api-key-here"], vec!["your-poe-key"]));
    assert_eq!((deepseek.weight, poe.weight), (5, 5));
    assert_eq!(deepseek.default_model.as_deref(), Some("deepseek-chat"));
    assert_eq!(deepseek.models, ["deepseek-chat", "deepseek-reasoner"]);
    assert_eq!(poe.models, ["glm-4.7", "gpt-5.2-instant", "claude-opus-4.5"]);
    // S001-07; SPEC 4 makes it exactly one /v1.
    assert_eq!(urls(&config), ["api.deepseek.com/v1", "api.poe.com/v1"]);
    for one in &config.endpoints {
        assert_eq!((one.timeouts.first_byte, one.timeouts.total), (Some(sec(180)), Some(sec(180)))); // S001-03
        assert_eq!((&one.probe, &one.auth), (&Probe::Never, &Auth::Bearer)); // S001-22, S001-14
    }
}

#[test]
fn what_a_001_file_leaves_out_is_as_documented() {
    let config = good("backends: [{url: 'http://h:1', models: [m, n]}, {url: 'http://h:2/api/coding/v3', weight: -4}]");
    assert_eq!((config.server.port, config.retry.attempts), (8080, Some(3)));
    assert_eq!(config.routing.strategy, Strategy::Random);
    let [first, second] = &config.endpoints[..] else { panic!("two") };
    assert_eq!((first.weight, second.weight), (1, 1), "S001-06: not above zero counts as 1");
    assert_eq!(first.timeouts.first_byte, Some(sec(180)));
    assert_ne!(first.name, second.name);
    assert_eq!(urls(&config), ["h/v1", "h/api/coding/v3"]);
    // The client's key goes nowhere, also where the backend has none.
    let removed: Vec<&str> = first.headers.iter().map(|change| change.key.as_str()).collect();
    assert_eq!((&first.auth, removed), (&Auth::None, vec!["authorization"]));
}

#[test]
fn a_001_mode_is_read_in_every_spelling_that_was_documented() {
    // S001-05
    let mode = |mode: &str| good(&format!("mode: {mode}\nbackends: [{{url: 'http://h:1'}}]")).routing.strategy;
    for text in ["round-robin", "round\u{2011}robin"] {
        assert_eq!(mode(text), Strategy::RoundRobin);
    }
    for text in ["random", "\"\"", "fastest"] {
        assert_eq!(mode(text), Strategy::Random);
    }
    assert!(warnings("mode: fastest\nbackends: [{url: 'http://h:1'}]")[0].contains("random is used"));
}

#[test]
fn a_001_time_needs_its_unit_and_retry_is_a_total() {
    // S001-03, S001-04
    let with = |line: &str| format!("{line}\nbackends: [{{url: 'http://h:1'}}]");
    for (text, time) in [("3m", sec(180)), ("500ms", Duration::from_millis(500)), ("1h30m", sec(5400))] {
        assert_eq!(good(&with(&format!("timeout: {text}"))).endpoints[0].timeouts.total, Some(time));
    }
    for text in ["180", "'180'"] {
        let line = only(&with(&format!("timeout: {text}")));
        assert!(line.starts_with("f.yml:1:10: timeout: ") && line.contains("180s"), "{line}");
    }
    for (retry, attempts) in [(0, 3), (1, 1), (7, 7)] {
        assert_eq!(good(&with(&format!("retry: {retry}"))).retry.attempts, Some(attempts));
    }
    assert!(only(&with("retry: -1")).contains("retry"));
}

#[test]
fn a_001_file_without_a_backend_that_can_be_used_is_wrong() {
    // S001-01
    for text in ["backends: []", "backends: [{name: a}]", "backends: 3"] {
        assert!(wrong(text)[0].contains("backends"), "{text}");
    }
}

#[test]
fn a_001_default_model_outside_the_list_is_served_too() {
    let config = good("backends: [{url: 'http://h:1', models: [m], default_model: d}]");
    assert_eq!(
        (config.endpoints[0].models.clone(), config.endpoints[0].default_model.as_deref()),
        (vec!["m".into(), "d".into()], Some("d"))
    );
}

#[test]
fn seed_002s_documented_file_means_what_its_document_says() {
    let config = good(RUST);
    // S002-05, S002-06
    assert_eq!((config.server.host.as_str(), config.server.port, config.policy.mode), ("0.0.0.0", 9000, Mode::Status));
    assert_eq!(config.server.head_timeout, sec(10)); // S002-04
    let [forward] = &config.listeners[..] else { panic!("one") };
    assert_eq!((forward.name.as_str(), forward.host.as_str(), forward.port), ("to_mixgroup", "0.0.0.0", 3000)); // S002-01
    assert_eq!((forward.policy.group.as_deref(), forward.policy.mode), (Some("mixgroup"), Mode::Raw)); // S002-07, S002-11
    assert_eq!(forward.policy.rate_limit, Some(RateLimit { per_second: 100.0, burst: 200 })); // S002-02
    assert_eq!(forward.policy.keys, KeysFor::Inherit);
    let [openai, anthropic] = &config.endpoints[..] else { panic!("two") };
    assert_eq!(urls(&config), ["api.openai.com/v1", "api.anthropic.com/v1"]); // S002-08
    assert_eq!((&openai.auth, keys(openai)), (&Auth::Bearer, vec!["YOUR_API_KEY"])); // S002-09
    let change = |one: &Endpoint| one.headers.iter().map(|h| (h.op, h.key.clone())).collect::<Vec<_>>();
    assert_eq!(change(openai), [(Op::Insert, "x-custom-header".into())]); // S002-10
    assert_eq!(change(anthropic), [(Op::Insert, "x-api-key".into())]);
    assert_eq!(openai.headers[0].value.reveal(), "MyProxyValue");
    let [group] = &config.groups[..] else { panic!("one") };
    assert_eq!(group.name, "mixgroup"); // S002-13
    let members: Vec<_> = group.endpoints.iter().map(|m| (m.endpoint.as_str(), m.weight)).collect();
    assert_eq!(members, [("openai_primary", Some(8)), ("anthropic_primary", Some(2))]);
    assert_eq!(group.strategy, Some(Strategy::WeightedRoundRobin)); // S002-14
    assert_eq!(group.user_agent.as_deref(), Some("LLMProxy/1.0")); // S002-15
    assert_eq!((group.keep_alive, group.stream), (sec(60), true)); // S002-16, S002-17
    let times = group.timeouts; // S002-18
    assert_eq!((times.connect, times.first_byte, times.total), (Some(sec(10)), Some(sec(300)), Some(sec(300))));
    let retry = group.retry.as_ref().unwrap(); // S002-19: extra tries
    assert_eq!((retry.attempts, retry.initial_delay, retry.max_delay), (Some(4), Duration::from_millis(500), sec(120)));
    assert_eq!(group.proxy, None, "S002-20: not enabled");
}

/// A 002 file of one forward, one upstream and one group.
fn small(forward: &str, upstream: &str, group: &str) -> String {
    format!(
        "http_server: {{forwards: [{{name: f, port: 3001, upstream_group: g{forward}}}]}}\n\
         upstreams: [{{name: u, url: 'http://localhost:11434'{upstream}}}]\n\
         upstream_groups: [{{name: g, upstreams: [{{name: u}}]{group}}}]\n"
    )
}

#[test]
fn what_a_002_file_leaves_out_is_as_documented() {
    let config = good(&small("", "", ""));
    // Without an admin listener the first forward is the main one.
    assert_eq!((config.server.port, config.policy.mode, config.listeners.len()), (3001, Mode::Raw, 0));
    assert_eq!((config.policy.group.as_deref(), config.policy.rate_limit), (Some("g"), None));
    let (endpoint, group) = (&config.endpoints[0], &config.groups[0]);
    // S002-09, S002-11: everything that the client sends goes along.
    assert_eq!((&endpoint.auth, endpoint.headers.len()), (&Auth::None, 0));
    assert_eq!((group.strategy, group.endpoints[0].weight), (Some(Strategy::RoundRobin), None));
    assert_eq!(group.user_agent.as_deref(), Some("LLMProxy/1.0"));
    assert_eq!((group.keep_alive, group.stream), (sec(60), true), "W002-7: the document's defaults");
    assert_eq!((group.timeouts.connect, group.timeouts.total), (Some(sec(10)), Some(sec(300))));
    assert_eq!(group.retry.as_ref().unwrap().attempts, Some(1), "S002-19: not enabled");
    let limited = good(&small(", ratelimit: {enabled: true}", "", ""));
    assert_eq!(limited.policy.rate_limit, Some(RateLimit { per_second: 100.0, burst: 200 }));
}

#[test]
fn every_part_of_a_002_file_is_read() {
    let basic = good(&small("", ", auth: {type: basic, username: u, password: p}", "")).endpoints.remove(0);
    assert!(matches!(basic.auth, Auth::Basic { username, password } if username == "u" && password.reveal() == "p")); // S002-09
    let changes = ", headers: [{op: replace, key: a, value: b}, {op: remove, key: c}]";
    let headers = good(&small("", changes, "")).endpoints.remove(0).headers;
    assert!(matches!(&headers[..], [HeaderOp { op: Op::Replace, .. }, HeaderOp { op: Op::Remove, .. }]));
    let group = |client: &str| good(&small("", "", &format!(", http_client: {{{client}}}"))).groups.remove(0);
    for key in ["stream", "stream_mode"] {
        assert!(!group(&format!("{key}: false")).stream, "S002-17: {key}");
    }
    assert_eq!(group("keepalive: 0").keep_alive, Duration::ZERO, "S002-16, W002-7: 0 turns it off");
    assert_eq!(group("retry: {enabled: true, attempts: 100}").retry.unwrap().attempts, Some(101));
    let proxy = group("proxy: {enabled: true, url: 'http://user:pass@proxy:8080'}").proxy;
    assert_eq!(proxy.unwrap().reveal(), "http://user:pass@proxy:8080"); // S002-20
    let random = good(&small("", "", ", balance: {strategy: random}")).groups.remove(0);
    assert_eq!((random.strategy, random.endpoints[0].weight), (Some(Strategy::Random), Some(1))); // S002-14
}

#[test]
fn what_must_not_start_in_format_002_does_not() {
    let client = |text: &str| small("", "", &format!(", http_client: {{{text}}}"));
    let limit = |text: &str| small(&format!(", ratelimit: {{enabled: true, {text}}}"), "", "");
    let cases = [
        (small("", ", auth: {type: bearer}", ""), "`token` is missing"),
        (small("", ", auth: {type: bearer, token: ''}", ""), "`token` is missing"),
        (small("", ", auth: {type: basic, username: u}", ""), "`password` is missing"),
        (small("", ", auth: {type: digest}", ""), "digest"),
        (small("", ", headers: [{op: insert, key: a}]", ""), "value"),
        (small("", ", headers: [{op: add, key: a, value: b}]", ""), "add"),
        (client("proxy: {enabled: true}"), "`url` is missing"),
        (client("proxy: {enabled: true, url: nonsense}"), "`url`"),
        (client("keepalive: 601"), "600"),
        (client("timeout: {connect: 121}"), "120"),
        (client("timeout: {request: 0}"), "1200"),
        (client("timeout: {idle: 1801}"), "1800"),
        (client("retry: {attempts: 0}"), "100"),
        (client("retry: {initial: 99}"), "100"),
        (limit("per_second: 0"), "10000"),
        (limit("burst: 20001"), "20000"),
        (limit("per_second: 10, burst: 9"), "`burst` is less than `per_second`"), // W002-7
        (small(", timeout: {connect: 0}", "", ""), "120"),
        (small("", "", "").replace("{name: u}]}", "{name: other}]}"), "is no upstream"),
        (small("", "", "").replace("upstream_group: g", "upstream_group: x"), "is no group"),
        (small("", "", "").replace("upstreams: [{name: u}]}", "upstreams: []}"), "upstreams"),
        (small("", "", "").replace("{name: u}]}", "{name: u, weight: 0}]}"), "65535"),
        (RUST.replace("anthropic_primary", "openai_primary"), "openai_primary"), // S002-31
    ];
    for (text, part) in cases {
        let lines = wrong(&text).join("\n");
        assert!(lines.contains(part), "{part}:\n{text}{lines}");
    }
    let twice =
        RUST.replace("    # Admin", "        - {name: to_mixgroup, port: 3002, upstream_group: mixgroup}\n    # Admin");
    assert!(only(&twice).contains("to_mixgroup"), "S002-31");
}

#[test]
fn seed_003s_documented_file_means_what_its_document_says() {
    let config = good(MANAGER);
    assert_eq!((config.server.host.as_str(), config.server.port), ("0.0.0.0", 1852)); // S003-06
    assert_eq!(config.server.cors, [CorsOrigin::Any]); // S003-24
    let [route] = &config.models[..] else { panic!("one") };
    assert_eq!((route.name.as_str(), route.strategy), ("general-model-name-for-client", Some(Strategy::Failover))); // S003-01
    let backends: Vec<_> =
        route.backends.iter().map(|b| (b.endpoint.as_str(), b.model.as_deref(), b.weight, b.enabled)).collect();
    assert_eq!(
        backends,
        [
            ("Backend-Provider-1", Some("provider1-specific-model-name"), Some(1), true), // S003-03
            ("Backend-Provider-2-Backup", None, Some(1), true),
        ]
    );
    assert_eq!(urls(&config), ["api.provider1.com/v1", "api.provider2.com/v1beta"]);
    assert_eq!(keys(&config.endpoints[0]), ["key1_for_provider1", "key2_for_provider1"]); // S003-13
    assert!(config.endpoints.iter().all(|one| one.timeouts.first_byte == Some(sec(180)))); // S003-21
    assert_eq!(route_names(&config), ["general-model-name-for-client"]);
}

fn route_names(config: &Config) -> Vec<&str> {
    config.endpoints[0].models.iter().map(String::as_str).collect()
}

/// A 003 file of one model with these settings.
fn model(settings: &str, backends: &str) -> String {
    format!("{{\"Models\": {{\"m\": {{{settings}\"Backends\": [{backends}]}}}}}}")
}

const LOCAL: &str = "{\"Name\": \"n\", \"BaseUrl\": \"http://10.0.0.2:1234/v1\"}";

#[test]
fn a_003_strategy_is_a_word_or_the_number_that_the_original_writes() {
    // S003-02, W003-1
    let cases = [
        ("\"Strategy\": \"Failover\", ", Strategy::Failover),
        ("\"Strategy\": \"RoundRobin\", ", Strategy::RoundRobin),
        ("\"Strategy\": \"Weighted\", ", Strategy::Random),
        ("\"strategy\": \"weighted\", ", Strategy::Random),
        ("\"Strategy\": 0, ", Strategy::RoundRobin),
        ("\"Strategy\": 1, ", Strategy::Failover),
        ("\"Strategy\": 2, ", Strategy::Random),
        ("", Strategy::RoundRobin),
    ];
    for (text, strategy) in cases {
        assert_eq!(good(&model(text, LOCAL)).models[0].strategy, Some(strategy), "{text}");
    }
    for text in ["\"Strategy\": 3, ", "\"Strategy\": \"Fastest\", "] {
        assert!(only(&model(text, LOCAL)).contains("trategy"), "{text}");
    }
}

#[test]
fn a_003_file_is_read_in_any_case_and_names_stay_as_they_are() {
    let text = r#"{"models": {"Models": {"STRATEGY": "Failover", "backends": [
        {"name": "x", "baseURL": "http://h:1/v1", "apikeys": [], "backendmodelname": "y", "weight": 0, "enabled": false},
        {"NAME": "", "BaseUrl": "http://h:2/v1", "ApiKeys": [""]}]}}}"#
        .replacen("\"models\"", "\"Models\"", 1);
    let config = good(&text);
    let [first, second] = &config.models[0].backends[..] else { panic!("two") };
    assert_eq!((config.models[0].name.as_str(), first.model.as_deref()), ("Models", Some("y")));
    assert_eq!((first.weight, first.enabled), (Some(1), false));
    // S003-15: a keyless local backend, and the client's key does not go there.
    assert!(!second.endpoint.is_empty() && config.endpoints[1].api_keys.is_empty());
}

#[test]
fn backends_of_one_name_stay_apart_and_the_same_one_under_two_models_is_one() {
    // W003-9
    let other = LOCAL.replace("10.0.0.2", "10.0.0.3");
    let config = good(&model("", &format!("{LOCAL}, {other}")));
    let names: Vec<_> = config.models[0].backends.iter().map(|b| b.endpoint.as_str()).collect();
    assert_eq!(names, ["n", "n (2)"]);
    let two = format!("{{\"Models\": {{\"a\": {{\"Backends\": [{LOCAL}]}}, \"b\": {{\"Backends\": [{LOCAL}]}}}}}}");
    let config = good(&two);
    assert_eq!((config.endpoints.len(), config.endpoints[0].models.len()), (1, 2));
}

#[test]
fn comments_of_a_json_file_are_no_part_of_it_and_places_stay_right() {
    let text = format!(
        "// first\n{{\"Models\": {{ // \"x\": 1\n\"m\": {{\"Strategy\": 9, // nine\n\"Backends\": [{LOCAL}]}}}}}}"
    );
    assert!(only(&text).starts_with("f.yml:3:"), "{}", only(&text));
}

#[test]
fn every_documented_file_converts_to_one_that_means_the_same() {
    let small = small(", ratelimit: {enabled: true}", ", auth: {type: basic, username: u, password: p}", "");
    for text in [GO, RUST, MANAGER, &small, &model("\"Strategy\": 2, ", LOCAL)] {
        let config = good(text);
        let printed = print::yaml(&config);
        assert!(printed.contains("endpoints:"), "{printed}");
        let text = if secrets(&config).is_empty() { printed.clone() } else { put_in(&printed, &secrets(&config)) };
        assert_eq!(good(&text), config, "{printed}");
    }
}

#[test]
fn unknown_keys_of_an_older_file_warn_and_those_of_ours_do_not_mix() {
    for (text, key) in [
        (format!("{GO}\nlog_level: debug\n"), "log_level"),
        (GO.replace("weight: 5", "wait: 5"), "backends[0].wait"),
        (small("", ", region: eu", ""), "upstreams[0].region"),
        (model("\"Comment\": 1, ", LOCAL), "Comment"),
    ] {
        let said = warnings(&text).join("\n");
        assert!(said.contains(key) && said.contains("ignored"), "{key}: {said}");
    }
    for mixed in [
        format!("{GO}\nendpoints: [{{name: a, address: h, port: 1}}]\n"),
        format!("{GO}\nhttp_server: {{}}\n"),
        format!("endpoints: []\n{RUST}"),
        "{\"Models\": {}, \"endpoints\": []}".to_owned(),
    ] {
        let line = only(&mixed);
        assert!(line.contains("keep to one of them"), "{line}");
    }
    // `models` in camelCase is a section of ours.
    assert!(parse("endpoints: [{name: a, address: h, port: 1}]\nmodels: {}").is_ok());
}
