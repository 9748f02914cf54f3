//! The values of every section but `endpoints`: units, ranges, words, variables.

use crate::{complaint, with, wrong};
use llmproxy::config::{CorsOrigin, LogFormat, RetryOn, SsePing, UnknownModel};
use log::LevelFilter;
use std::time::Duration;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn a_number_is_milliseconds_and_a_text_has_units() {
    let server = with("server: {headTimeout: 1500, bodyTimeout: 500ms, keepAlive: 5m, drainTimeout: 1h30m}").server;
    assert_eq!((server.head_timeout, server.body_timeout), (ms(1500), ms(500)));
    assert_eq!((server.keep_alive, server.drain_timeout), (ms(300_000), ms(5_400_000)));
    assert_eq!(
        complaint("server: {headTimeout: 5 minutes}"),
        "server.headTimeout: \"5 minutes\" is not a time from 1ms to 1d; write 500ms, 30s, 5m or 1h30m"
    );
    for wrong in ["0", "-1", "1.5", "1e300", "25h", "true", "[]"] {
        let line = complaint(&format!("server: {{headTimeout: {wrong}}}"));
        assert!(line.contains("is not a time from 1ms to 1d"), "{wrong}: {line}");
    }
    assert_eq!(with("server: {drainTimeout: 0}").server.drain_timeout, Duration::ZERO);
}

#[test]
fn a_number_is_bytes_and_a_text_has_units() {
    let server = with("server: {maxBody: 2048, bodyMemory: 10MB}").server;
    assert_eq!((server.max_body, server.body_memory), (2048, 10_000_000));
    assert_eq!(
        complaint("server: {maxBody: 1000}"),
        "server.maxBody: 1000 is not a size from 1KiB to 4GiB; write 32KiB, 64MiB or 10MB"
    );
    for wrong in ["5GiB", "lots", "-1", "1.5", "{}"] {
        assert!(complaint(&format!("server: {{maxBody: {wrong}}}")).contains("is not a size"), "{wrong}");
    }
    assert_eq!(
        complaint("server: {maxBody: 512MiB}"),
        "server: `bodyMemory` is less than `maxBody`: no body of that size would ever be accepted"
    );
}

#[test]
fn numbers_outside_their_range_are_refused() {
    let ranges = [
        ("port", "65536"),
        ("workers", "0"),
        ("workers", "4097"),
        ("backlog", "65537"),
        ("maxConnections", "0"),
        ("maxConnections", "1000001"),
        ("perClient", "0"),
        ("workers", "1.5"),
        ("workers", "-1"),
        ("workers", "many"),
        ("workers", "340282366920938463463374607431768211456"),
    ];
    for (key, value) in ranges {
        let line = complaint(&format!("server: {{{key}: {value}}}"));
        assert!(line.starts_with(&format!("server.{key}: ")) && line.contains(" to "), "{line}");
    }
    let server = with("server: {port: 0, workers: 4096, backlog: 0, maxConnections: 1000000, perClient: 1}").server;
    assert_eq!((server.port, server.workers, server.backlog), (0, 4096, 0));
    for value in [".nan", ".inf", "-.inf"] {
        assert_eq!(complaint(&format!("server: {{workers: {value}}}")), "server.workers: is not a finite number");
    }
    assert!(complaint("healthCheck: {failureThreshold: 0}").contains("1 to"));
    assert!(complaint("healthCheck: {interval: 99ms}").contains("from 100ms"));
    assert!(complaint("cache: {ttlMultiplier: -1}").contains("is not a number"));
}

#[test]
fn the_host_is_an_address_or_a_name() {
    for (text, host) in [("0.0.0.0", "0.0.0.0"), ("\"::\"", "::"), ("\"[::1]\"", "::1"), ("localhost", "localhost")] {
        assert_eq!(with(&format!("server: {{host: {text}}}")).server.host, host);
    }
    assert!(complaint("server: {host: \"*\"}").contains("0.0.0.0 is every IPv4 address"));
    assert!(complaint("server: {host: \"127.0.0.1:80\"}").contains("is not an IP address or a host name"));
    assert_eq!(complaint("server: {host: 12}"), "server.host: 12 is not a text; put it in quotes");
}

#[test]
fn cors_hosts_and_proxies_are_lists_of_checked_texts() {
    let server = with(
        "server: {cors: [local, \"*\", https://A.example], allowedHosts: [My.Box], trustedProxies: [10.1.1.1/8, \"::1\"]}",
    )
    .server;
    let origin = CorsOrigin::Origin("https://a.example".into());
    assert_eq!(server.cors, [CorsOrigin::Local, CorsOrigin::Any, origin]);
    assert_eq!(server.allowed_hosts, ["my.box"]);
    let networks: Vec<_> = server.trusted_proxies.iter().map(|n| (n.address.to_string(), n.prefix)).collect();
    assert_eq!(networks, [("10.0.0.0".to_owned(), 8), ("::1".to_owned(), 128)]);
    assert_eq!(with("server: {cors: []}").server.cors, []);
    assert!(complaint("server: {cors: [example.com]}").starts_with("server.cors[0]: \"example.com\" is not `local`"));
    assert!(complaint("server: {trustedProxies: [10.0.0.0/33]}").contains("block like 10.0.0.0/8"));
    assert!(complaint("server: {cors: local}").contains("is not a list"));
}

#[test]
fn pings_are_a_map_or_off() {
    let ping = |section: &str| with(section).server.sse_ping;
    let both = |after, every| Some(SsePing { after: ms(after), every: ms(every) });
    assert_eq!(ping("server: {ssePing: off}"), None);
    assert_eq!(ping("server: {ssePing: false}"), None);
    assert_eq!(ping("server: {ssePing: {after: 5s}}"), both(5_000, 15_000));
    assert_eq!(ping("server: {ssePing: {}}"), both(15_000, 15_000));
    assert!(complaint("server: {ssePing: on}").contains("is not a map"));
    assert!(complaint("server: {ssePing: {afer: 1s}}").contains("did you mean `after`?"));
}

#[test]
fn a_stage_without_limit_is_zero() {
    let timeouts = with("timeouts: {connect: 0, firstByte: 1s, total: 5m}").timeouts;
    assert_eq!((timeouts.connect, timeouts.first_byte), (None, Some(ms(1000))));
    assert_eq!((timeouts.idle, timeouts.total), (Some(ms(120_000)), Some(ms(300_000))));
}

#[test]
fn the_smaller_of_both_ages_counts_and_the_interval_when_there_is_none() {
    // S000-08, S000-09, S000-10
    let ttl = |section: &str| with(&format!("healthCheck: {{interval: 10s}}\n{section}")).models_ttl();
    assert_eq!(ttl(""), ms(30_000));
    assert_eq!(ttl("cache: {ttlMs: 7000}"), ms(7_000));
    assert_eq!(ttl("cache: {ttlMs: 7000, ttlMultiplier: null}"), ms(7_000));
    assert_eq!(ttl("cache: {ttlMultiplier: 1.5}"), ms(15_000));
    assert_eq!(ttl("cache: {ttlMs: 20s, ttlMultiplier: 1.5}"), ms(15_000));
    assert_eq!(ttl("cache: {ttlMs: 2s, ttlMultiplier: 1.5}"), ms(2_000));
    assert_eq!(ttl("cache: {ttlMs: null, ttlMultiplier: null}"), ms(10_000));
    assert_eq!(ttl("cache: {}"), ms(10_000));
    assert_eq!(ttl("cache: {ttlMs: 0}"), ms(0));
}

#[test]
fn what_happens_to_unknown_models_is_one_of_three() {
    assert_eq!(with("routing: {unknownModel: passthrough}").routing.unknown_model, UnknownModel::Passthrough);
    assert!(complaint("routing: {unknownModel: defualt}").contains("did you mean `default`?"));
}

#[test]
fn retry_has_a_number_or_auto_and_a_list_of_reasons() {
    let retry = with("retry: {attempts: 4, initialDelay: 0, maxDelay: 1s, on: [connect, status]}").retry;
    assert_eq!((retry.attempts, retry.initial_delay, retry.max_delay), (Some(4), ms(0), ms(1000)));
    assert_eq!(retry.on, [RetryOn::Connect, RetryOn::Status]);
    assert_eq!(with("retry: {attempts: auto}").retry.attempts, None);
    assert!(with("retry: {on: []}").retry.on.is_empty());
    assert!(complaint("retry: {attempts: 0}").contains("auto or a number (1 to 101)"));
    assert!(complaint("retry: {attempts: 102}").contains("auto or a number"));
    assert!(complaint("retry: {on: [conect]}").contains("did you mean `connect`?"));
    assert!(complaint("retry: {initialDelay: 11s}").contains("longer than `maxDelay`"));
}

#[test]
fn the_log_has_words_and_a_flag() {
    let log = with("log: {level: debug, format: json, access: false}").log;
    assert_eq!((log.level, log.format, log.access), (LevelFilter::Debug, LogFormat::Json, false));
    assert!(complaint("log: {level: trace}").contains("is not one of error, warn, info, debug"));
    assert_eq!(complaint("log: {access: yes}"), "log.access: \"yes\" is not true or false");
}

#[test]
fn variables_stand_in_for_any_value_and_a_missing_one_is_named() {
    // D6
    let server =
        with("server: {host: \"${HOST}\", port: \"${PORT}\", workers: \"${WORKERS:-8}\", keepAlive: \"${T:-5s}\"}")
            .server;
    assert_eq!((server.host.as_str(), server.port, server.workers, server.keep_alive), ("::1", 9000, 8, ms(5000)));
    assert!(!with("log: {access: \"${ACCESS:-false}\"}").log.access);
    assert_eq!(
        complaint("server: {host: \"${NO_SUCH}\"}"),
        "server.host: the environment variable NO_SUCH is not set, or empty"
    );
    assert!(complaint("server: {host: \"${EMPTY}\"}").contains("EMPTY"));
}

#[test]
fn the_value_of_a_variable_is_never_shown() {
    // D6
    for section in [
        "server: {port: \"${KEY}\"}",
        "server: {host: \"${KEY} \"}",
        "server: {keepAlive: \"${KEY}\"}",
        "server: {maxBody: \"${KEY}\"}",
        "server: {cors: [\"${KEY}\"]}",
        "log: {level: \"${KEY}\"}",
        "log: {access: \"${KEY}\"}",
        "log: \"${KEY}\"",
    ] {
        let line = complaint(section);
        assert!(!line.contains("canary") && line.contains("this value"), "{line}");
    }
}

#[test]
fn a_wrong_type_is_named() {
    // D1
    assert_eq!(complaint("server: 5"), "server: 5 is not a map of `key: value`");
    assert_eq!(
        complaint("server: {allowedHosts: {}}"),
        "server.allowedHosts: a map is not a list; begin each item with `- `, or write [a, b]"
    );
    let long = "x".repeat(500);
    assert!(complaint(&format!("log: {{level: {long}}}")).len() < 200);
    assert_eq!(
        wrong("endpoints: {name: a}")[0],
        "f.yml:1:12: endpoints: a map is not a list; begin each item with `- `, or write [a, b]"
    );
}
