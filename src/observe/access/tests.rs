//! Unit tests of `access`.

use super::*;
use crate::api::paths;
use http::Method;
use std::net::Ipv4Addr;

pub(crate) fn chat() -> AccessRecord {
    AccessRecord {
        request_id: "req-1".into(),
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        key: Some("alice".into()),
        method: "POST".into(),
        path: "/v1/chat/completions".into(),
        row: paths::find(&Method::POST, "/v1/chat/completions"),
        model: Some("qwen3-8b".into()),
        endpoint: Some("server1".into()),
        reason: Some("only"),
        status: 200,
        attempts: 1,
        queue: Some(Duration::ZERO),
        first_byte: Some(Duration::from_millis(41)),
        total: Duration::from_micros(2_300_900),
        bytes: 8123,
        tokens: Tokens {
            prompt: Some(120),
            cached: Some(100),
            completion: Some(96),
            per_second: Some(42.4444),
            prompt_per_second: None,
        },
        recomputed: None,
        end: End::Done,
    }
}

#[test]
fn a_line_says_all_that_is_known_in_a_fixed_order() {
    assert_eq!(
        chat().to_string(),
        "POST /v1/chat/completions 200 request_id=req-1 client=127.0.0.1 key=alice model=qwen3-8b \
             endpoint=server1 reason=only attempts=1 queue_ms=0 first_byte_ms=41 total_ms=2300 bytes=8123 \
             tokens_in=120 tokens_cached=100 cached=83% tokens_out=96 tokens_per_second=42.4 end=done"
    );
}

#[test]
fn what_is_not_known_is_left_out() {
    let line = AccessRecord {
        key: None,
        model: None,
        endpoint: None,
        reason: None,
        status: 404,
        attempts: 0,
        queue: None,
        first_byte: None,
        tokens: Tokens { per_second: Some(f64::INFINITY), ..Tokens::default() },
        recomputed: None,
        end: End::Refused,
        ..chat()
    };
    assert_eq!(
        line.to_string(),
        "POST /v1/chat/completions 404 request_id=req-1 client=127.0.0.1 total_ms=2300 bytes=8123 end=refused"
    );
}

#[test]
fn values_that_would_confuse_a_reader_are_quoted() {
    // F12, F11
    let shown = |model: &str| {
        let line = AccessRecord { model: Some(model.into()), ..chat() }.to_string();
        let (_, rest) = line.split_once("model=").unwrap();
        rest.split_once(" endpoint=").unwrap().0.to_owned()
    };
    assert_eq!(shown("org/name:8b"), "org/name:8b");
    assert_eq!(shown(""), r#""""#);
    assert_eq!(shown("a b"), r#""a b""#);
    assert_eq!(shown("x status=200"), r#""x status=200""#);
    assert_eq!(shown("say \"hi\""), r#""say \"hi\"""#);
    assert_eq!(shown("\u{1b}[2J\r\nPOST"), r#""\u001b[2J\r\nPOST""#);
    assert_eq!(shown("back\\slash"), r#""back\\slash""#);
}

#[test]
fn long_names_are_cut() {
    // B9
    let (path, model) = (format!("/v1/models/{}", "x".repeat(10_000)), Some("漢".repeat(10_000)));
    let line = AccessRecord { model, path, ..chat() }.to_string();
    assert_eq!(line.matches('漢').count(), SHOWN);
    assert_eq!(line.split(' ').nth(1).unwrap().len(), SHOWN);
}

#[test]
fn polled_paths_only_show_at_debug() {
    let level = |method: Method, path: &str| {
        let row = paths::find(&method, path);
        AccessRecord { method: method.to_string(), path: path.into(), row, ..chat() }.level()
    };
    for path in ["/health", "/v1/health", "/v1/models", "/models", "/metrics"] {
        assert_eq!([level(Method::GET, path), level(Method::POST, path)], [Level::Debug; 2], "{path}");
    }
    for path in ["/admin/status", "/admin/events", "/v1/jobs", "/v1/chat/completions/id", "/chat/completions/id"] {
        let levels = [level(Method::GET, path), level(Method::POST, path)];
        assert_eq!(levels, [Level::Debug, Level::Info], "{path}");
    }
    assert_eq!(chat().level(), Level::Info);
    assert_eq!(level(Method::GET, "/v1/models/x"), Level::Info);
}

#[test]
fn each_end_has_its_word() {
    let ends = [End::Done, End::ClientGone, End::UpstreamLost, End::Timeout, End::Refused];
    let words = ends.map(End::as_str);
    assert_eq!(words, ["done", "client_gone", "upstream_lost", "timeout", "refused"]);
}
