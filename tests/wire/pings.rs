//! SPEC 4: a stream that is silent for long gets its head and comment lines, and may still fail in words.

use crate::support::client::{Client, Ended};
use crate::support::fact::{Latch, ms};
use crate::support::proxy::CHAT;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use llmproxy::config::{Config, SsePing};
use serde_json::Value;

fn pinging(upstreams: &[&Upstream]) -> Setup {
    let ping = Some(SsePing { after: ms(100), every: ms(50) });
    Setup::over(upstreams).with(|c| c.server.sse_ping = ping)
}

/// Reads so many pings, each of which is a comment line and nothing else.
fn pings(client: &mut Client, n: usize) {
    for _ in 0..n {
        let line = client.event().expect("the stream goes on");
        assert_eq!(line.trim_end(), ": ping");
    }
}

/// The next event that is no ping.
fn after_pings(client: &mut Client) -> Option<String> {
    loop {
        match client.event() {
            Some(event) if event.starts_with(": ping") => {}
            other => return other,
        }
    }
}

fn error_in(event: &str) -> Value {
    let data = event.lines().find_map(|line| line.strip_prefix("data: ")).expect("a data line");
    serde_json::from_str(data).expect("JSON")
}

#[test]
fn a_silent_stream_gets_its_head_and_pings_then_its_events() {
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream
        .on(CHAT, Script::new().latch(&latch).then(Script::sse().chunk(event("one")).chunk("data: [DONE]\n\n").end()));
    let proxy = pinging(&[&upstream]).start();
    let mut client = proxy.sent(post(CHAT, stream("m")));
    let head = client.head();
    assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")));
    assert_eq!(head.field("cache-control"), Some("no-cache"));
    assert!(head.field("x-request-id").is_some());
    pings(&mut client, 3);
    latch.open();
    assert_eq!(after_pings(&mut client), Some(event("one")));
    assert_eq!(client.event().as_deref(), Some("data: [DONE]\n\n"));
    assert_eq!((client.event(), client.ended()), (None, Ended::Complete));
}

#[test]
fn a_head_without_events_is_silence_too() {
    // llama-server sends its head when the prompt starts and the first event minutes later.
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::sse().latch(&latch).chunk(event("one")).end());
    let proxy = pinging(&[&upstream]).start();
    let mut client = proxy.sent(post(CHAT, stream("m")));
    assert_eq!(client.head().status, 200);
    pings(&mut client, 2);
    latch.open();
    assert_eq!(after_pings(&mut client), Some(event("one")));
}

#[test]
fn pings_stop_at_the_first_event() {
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::sse().chunk(event("one")).latch(&latch).chunk(event("two")).end());
    let proxy = pinging(&[&upstream]).start();
    let mut client = proxy.sent(post(CHAT, stream("m")));
    client.head();
    assert_eq!(client.event(), Some(event("one")));
    assert!(!client.hears_within(ms(300)), "nothing of ours between an upstream's bytes");
    latch.open();
    assert_eq!(client.event(), Some(event("two")));
}

#[test]
fn who_asked_for_no_stream_gets_no_ping() {
    let upstream = Upstream::serving(&["m"]);
    for body in
        [chat("m"), chat("m").replace("\"messages\"", "\"stream\":false,\"messages\""), chat("\\\"stream\\\":true")]
    {
        let latch = Latch::new();
        upstream.set_models(&["m", "\\\"stream\\\":true"]);
        upstream.on(CHAT, Script::new().latch(&latch).then(Script::error(400, "late")));
        let proxy = pinging(&[&upstream]).start();
        let mut client = proxy.sent(post(CHAT, body));
        upstream.take(CHAT);
        assert!(!client.hears_within(ms(300)));
        latch.open();
        assert_eq!(client.answer().status(), 400);
    }
}

#[test]
fn pings_can_be_switched_off() {
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::error(400, "late")));
    let proxy = pinging(&[&upstream]).with(|c| c.server.sse_ping = None).start();
    let mut client = proxy.sent(post(CHAT, stream("m")));
    upstream.take(CHAT);
    assert!(!client.hears_within(ms(300)));
    latch.open();
    assert_eq!(client.answer().status(), 400);
}

#[test]
fn attempts_still_move_on_behind_the_pings() {
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    for script in [Script::new(), Script::error(500, "x")] {
        let latch = Latch::new();
        first.on(CHAT, Script::new().latch(&latch).then(script).cut());
        second.on(CHAT, Script::sse().chunk(event("one")).end());
        let proxy = pinging(&[&first, &second]).start();
        let mut client = proxy.sent(post(CHAT, stream("m")));
        client.head();
        pings(&mut client, 1);
        latch.open();
        assert_eq!(after_pings(&mut client), Some(event("one")));
        assert_eq!((client.event(), client.ended()), (None, Ended::Complete));
    }
}

#[test]
fn a_failure_behind_the_pings_is_an_event_in_each_dialect() {
    for path in [CHAT, "/v1/messages", "/v1/responses"] {
        let upstream = Upstream::serving(&["m"]);
        let latch = Latch::new();
        upstream.on(path, Script::new().latch(&latch).cut());
        let proxy = pinging(&[&upstream]).start();
        let mut client = proxy.sent(post(path, stream("m")));
        client.head();
        pings(&mut client, 1);
        latch.open();
        let last = after_pings(&mut client).expect("an error event");
        let error = error_in(&last);
        match path {
            CHAT => assert_eq!(error["error"]["type"], "upstream_error"),
            "/v1/messages" => {
                assert!(last.starts_with("event: error\n"), "{last}");
                assert_eq!(
                    (error["type"].as_str(), error["error"]["type"].as_str()),
                    (Some("error"), Some("api_error"))
                );
            }
            _ => {
                assert!(last.starts_with("event: error\n"), "{last}");
                assert_eq!((error["type"].as_str(), error["message"].is_string()), (Some("error"), true));
            }
        }
        assert!(!last.contains("[DONE]"));
        assert_eq!(after_pings(&mut client), None);
    }
}

#[test]
fn an_upstreams_own_error_behind_the_pings_keeps_its_words() {
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::raw(include_bytes!("../data/err_context.raw"))));
    let proxy = pinging(&[&upstream]).start();
    let mut client = proxy.sent(post(CHAT, stream("m")));
    client.head();
    pings(&mut client, 1);
    latch.open();
    let last = after_pings(&mut client).expect("an error event");
    assert!(last.contains("exceeds the available context size"), "{last}");
    assert!(error_in(&last)["error"].is_object());
    assert_eq!(after_pings(&mut client), None);
}

#[test]
fn a_client_that_leaves_during_pings_is_noticed() {
    // A22
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::new().stall());
    let proxy = pinging(&[&upstream]).start();
    let mut client = proxy.sent(post(CHAT, stream("m")));
    client.head();
    pings(&mut client, 1);
    let request = upstream.take(CHAT);
    drop(client);
    request.closed.wait("the upstream's connection to close");
}

#[test]
fn the_pause_before_another_round_is_silence_too() {
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::error(503, "not yet"));
    upstream.on(CHAT, Script::sse().chunk(event("one")).chunk("data: [DONE]\n\n").end());
    let retry = |c: &mut Config| {
        (c.retry.attempts, c.retry.initial_delay, c.retry.max_delay) = (Some(2), ms(1500), ms(1500));
    };
    let proxy = pinging(&[&upstream]).with(retry).start();
    let mut client = proxy.sent(post(CHAT, stream("m")));
    assert_eq!(client.head().status, 200);
    pings(&mut client, 3);
    assert_eq!(after_pings(&mut client), Some(event("one")));
}
