//! FAULTS B: bodies that are not quite what the API takes. Refused in words, and the connection lives on.

use crate::support::client::Answer;
use crate::support::program::{Program, yaml};
use crate::support::proxy::{CHAT, Proxy, Setup, chat, post};
use crate::support::script::Script;
use crate::support::upstream::Upstream;

fn untouched() -> (Upstream, Proxy) {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    (upstream, proxy)
}

/// Asks, checks that it is a 400 in OpenAI's form, and that the connection is still good.
fn refused(proxy: &Proxy, body: impl AsRef<[u8]>) -> Answer {
    let mut client = proxy.sent(post(CHAT, body.as_ref()));
    let answer = client.answer();
    let start = String::from_utf8_lossy(&body.as_ref()[..body.as_ref().len().min(60)]).into_owned();
    assert_eq!(answer.status(), 400, "{start:?}");
    assert_eq!(answer.field("content-type"), Some("application/json"));
    let json = answer.json();
    assert_eq!(json["error"]["type"], "invalid_request_error", "{start:?}");
    assert!(json["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{json}");
    client.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.answer().status(), 200, "the connection stays usable after {start:?}");
    answer
}

fn message(answer: &Answer) -> String {
    answer.json()["error"]["message"].as_str().expect("a message").to_owned()
}

/// What is sent to a proxy with one upstream arrives there as it is.
fn passes(body: impl AsRef<[u8]>) {
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    let answer = proxy.post(CHAT, body.as_ref());
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert!(upstream.take(CHAT).body == body.as_ref(), "byte for byte");
}

#[test]
fn what_is_not_one_json_object_is_refused() {
    // W001-6
    // B1, S000-25 (SPEC: OpenAI's error shape)
    let (_upstream, proxy) = untouched();
    let whole = chat("m");
    for body in [
        "",
        " ",
        "hello",
        "{",
        r#"{"model":"m""#,
        r#"{"model":"m",}"#,
        r#"{"model":"m"} x"#,
        r#"{"model":"m"}{"model":"m"}"#,
        r#"{model:"m"}"#,
        r#"{'model':'m'}"#,
        r#"{"model":"m","a":01}"#,
        r#"{"model":"m","a":.5}"#,
        r#"{"model":"m","a":NaN}"#,
        r#"{"model":"m","a":"\x"}"#,
        "{\"model\":\"m\",\"a\":\"\n\"}",
        "null",
        "1",
        "\"m\"",
        &whole[1..],
    ] {
        refused(&proxy, body);
    }
}

#[test]
fn white_space_around_the_object_is_fine() {
    passes(format!(" \r\n\t{}\n ", chat("m")));
}

#[test]
fn a_repeated_model_is_named_and_never_routed() {
    // B2
    let (_upstream, proxy) = untouched();
    for body in [
        r#"{"model":"m","model":"m"}"#,
        r#"{"model":"m","messages":[],"mod\u0065l":"n"}"#,
        r#"{"\u006d\u006f\u0064\u0065\u006c":"m","model":"m"}"#,
        r#"{"model":"m","model":null}"#,
    ] {
        let answer = refused(&proxy, body);
        assert!(message(&answer).contains("model"), "{}", message(&answer));
        assert_eq!(answer.json()["error"]["param"], "model");
    }
}

#[test]
fn an_inner_model_is_none_of_our_business() {
    // B2: only the top level counts.
    passes(r#"{"a":{"model":"x","model":"y"},"model":"m","b":[{"model":1}]}"#);
}

#[test]
fn a_model_spelled_with_escapes_is_that_model() {
    passes(r#"{"mod\u0065l":"\u006d"}"#);
}

#[test]
fn a_model_that_is_not_text_is_refused() {
    // W003-6
    // B3
    let (_upstream, proxy) = untouched();
    for model in ["1", "null", "true", "[\"m\"]", "{\"id\":\"m\"}", "1.5e3"] {
        let answer = refused(&proxy, format!(r#"{{"model":{model},"messages":[]}}"#));
        assert_eq!(answer.json()["error"]["param"], "model");
    }
}

#[test]
fn a_missing_model_is_refused_when_nothing_can_stand_in() {
    // B3, S000-25: no endpoint lists anything.
    let upstream = Upstream::start();
    let proxy = Setup::over(&[&upstream]).with(|c| c.endpoints[0].probe = llmproxy::config::Probe::Never).start();
    let answer = proxy.post(CHAT, r#"{"messages":[]}"#);
    assert_eq!(answer.status(), 400, "{}", answer.text());
    assert_eq!(answer.json()["error"]["param"], "model");
}

#[test]
fn a_top_level_array_is_refused() {
    // B4
    let (_upstream, proxy) = untouched();
    for body in [r#"["m",true]"#, "[]", r#" [{"model":"m"}]"#] {
        refused(&proxy, body);
    }
}

#[test]
fn depth_is_bounded_without_a_deep_stack() {
    // B5
    let (_upstream, proxy) = untouched();
    let deep =
        |n: usize, open: &str, close: &str| format!(r#"{{"model":"m","a":{}1{}}}"#, open.repeat(n), close.repeat(n));
    refused(&proxy, deep(1_000_000, "[", "]"));
    refused(&proxy, deep(300_000, r#"{"a":"#, "}"));
    refused(&proxy, deep(128, "[", "]"));
    refused(&proxy, "[".repeat(1_000_000));
    passes(deep(127, "[", "]"));
    passes(format!(r#"{{"model":"m","a":"{}"}}"#, "[".repeat(5000)));
}

#[test]
fn a_body_at_the_limit_is_served_and_one_byte_more_is_413() {
    // W001-9
    // B6
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).with(|c| c.server.max_body = 100_000).start();
    let padded = |n: usize| {
        let start = r#"{"model":"m","a":""#;
        format!("{start}{}\"}}", "x".repeat(n - start.len() - 2))
    };
    assert_eq!(proxy.post(CHAT, padded(100_000)).status(), 200);
    assert_eq!(upstream.take(CHAT).body.len(), 100_000);
    let answer = proxy.post(CHAT, padded(100_001));
    assert_eq!((answer.status(), answer.json()["error"]["type"].as_str()), (413, Some("invalid_request_error")));
    proxy.still_serves();
}

#[test]
fn a_large_body_is_held_once() {
    // B6
    const SIZE: usize = 32 << 20;
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json("{}"));
    let program = Program::start(&yaml(&[&upstream], ""));
    let before = program.peak();
    let start = r#"{"model":"m","a":""#;
    let body = format!("{start}{}\"}}", "x".repeat(SIZE - start.len() - 2));
    let mut client = program.client();
    client.send(post(CHAT, body));
    assert_eq!(client.answer().status(), 200);
    let grown = program.peak() - before;
    assert!(grown < (SIZE >> 10) as u64 * 3 / 2, "{grown} KiB for a body of {} KiB", SIZE >> 10);
    let mut client = program.client();
    client.send(format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\n\r\n"));
    assert_eq!(client.answer().status(), 413);
}

#[test]
fn bodies_together_stay_within_their_budget() {
    // B6
    let upstream = Upstream::serving(&["m"]);
    let setup = Setup::over(&[&upstream]);
    let proxy = setup.with(|c| (c.server.max_body, c.server.body_memory) = (100_000, 150_000)).start();
    let whole = post(CHAT, format!(r#"{{"model":"m","a":"{}"}}"#, "x".repeat(90_000)));
    let first = proxy.sent(&whole[..whole.len() - 1]);
    proxy.still_serves();
    let mut second = proxy.client();
    drop(second.try_send(&whole));
    let answer = second.answer();
    assert_eq!((answer.status(), answer.code().as_str()), (503, "overloaded"));
    assert!(answer.field("retry-after").is_some());
    drop(first);
    // Once the first is gone its share is free again; that is heard at some time, so ask until it is.
    upstream.on(CHAT, Script::json("{}"));
    let served = (0..1000).any(|_| proxy.ask(&whole).status() == 200);
    assert!(served, "the budget leaks");
}

#[test]
fn text_that_is_not_utf_8_is_refused() {
    // B7
    let (_upstream, proxy) = untouched();
    for bytes in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"] {
        refused(&proxy, [b"{\"model\":\"m\",\"a\":\"", bytes, b"\"}"].concat());
        refused(&proxy, [b"{\"model\":\"m", bytes, b"\"}"].concat());
    }
}

#[test]
fn a_lone_surrogate_is_refused_in_model_and_passed_on_elsewhere() {
    // B7
    let (_upstream, proxy) = untouched();
    refused(&proxy, r#"{"model":"\ud800"}"#);
    refused(&proxy, r#"{"model":"m\udc00m"}"#);
    passes(r#"{"model":"m","a":"\ud800","\udfff":1}"#);
}

#[test]
fn a_byte_order_mark_is_named() {
    // B8
    let (_upstream, proxy) = untouched();
    let answer = refused(&proxy, format!("\u{feff}{}", chat("m")));
    assert!(message(&answer).to_lowercase().contains("byte order mark"), "{}", message(&answer));
}

#[test]
fn a_strange_model_name_is_not_found_and_shown_cut() {
    // B9
    let (_upstream, proxy) = untouched();
    let long = "y".repeat(10 << 10);
    for model in ["a\\r\\nX-Evil: 1", "a\\u0000b", "../../etc/passwd", "<script>", "\\u001b[31m", &long] {
        let answer = proxy.post(CHAT, format!(r#"{{"model":"{model}","messages":[]}}"#));
        assert_eq!((answer.status(), answer.code().as_str()), (404, "model_not_found"), "{model}");
        assert_eq!(answer.head.all("x-evil").len(), 0);
        let text = message(&answer);
        assert!(!text.contains(['\r', '\n', '\0', '\u{1b}']), "{text:?}");
        assert!(text.matches('y').count() <= 128 + 10, "the name is cut to 128: {} long", text.len());
        assert!(answer.head.lines.iter().all(|line| line.len() < 1000), "no long header of it");
    }
}

#[test]
fn many_unknown_names_leave_nothing_behind() {
    // B10 (its metrics label comes with the metrics)
    let upstream = Upstream::serving(&["m"]);
    let program = Program::start(&yaml(&[&upstream], ""));
    let mut client = program.client();
    let mut ask = |n: usize| {
        client.send(post(CHAT, chat(&format!("none-{n}-{}", "x".repeat(200)))));
        assert_eq!(client.answer().status(), 404);
    };
    (0..500).for_each(&mut ask);
    let before = program.rss();
    (500..5000).for_each(&mut ask);
    assert!(program.rss() < before + 2048, "{before} KiB, then {} KiB", program.rss());
    let mut client = program.client();
    client.send("GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.answer().json()["data"].as_array().map(Vec::len), Some(1));
}
