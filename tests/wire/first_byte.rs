//! SPEC 4: the line of no return is the first byte of the body; comments before it are no event.

use crate::support::client::{Client, Ended};
use crate::support::fact::{DEADLINE, Latch, ms};
use crate::support::program::{Program, yaml};
use crate::support::proxy::CHAT;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::post;
use crate::support::proxy::post_with;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use llmproxy::config::SsePing;
use std::net::SocketAddr;

const FRAMED: [&[(&str, &str)]; 3] = [
    &[("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")],
    &[("Content-Type", "text/event-stream"), ("Content-Length", "1000")],
    &[("Content-Type", "text/event-stream"), ("Connection", "close")],
];

fn pinging(upstreams: &[&Upstream]) -> Setup {
    let ping = Some(SsePing { after: ms(60), every: ms(60) });
    Setup::over(upstreams).with(|c| c.server.sse_ping = ping)
}

fn next_no_ping(client: &mut Client) -> Option<String> {
    std::iter::from_fn(|| client.event()).find(|event| !event.starts_with(": ping"))
}

fn pings(client: &mut Client, n: usize) {
    for _ in 0..n {
        assert_eq!(client.event().as_deref(), Some(": ping\n\n"));
    }
}

#[test]
fn an_event_may_come_as_late_as_the_first_byte_long_after_its_head() {
    // R04: `idle` bounds what follows the first byte, nothing before it.
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    let fields = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")];
    upstream.on(CHAT, Script::sse().latch(&latch).chunk(event("one")).end());
    upstream.on(CHAT, Script::head(200, &fields).latch(&latch).chunk("{}").end());
    let proxy = pinging(&[&upstream]).timeouts(|t| (t.idle, t.first_byte) = (Some(ms(50)), Some(DEADLINE))).start();
    let mut streamed = proxy.sent(post(CHAT, stream("m")));
    streamed.head();
    pings(&mut streamed, 4);
    let mut whole = proxy.sent(post(CHAT, chat("m")));
    upstream.wait_count(CHAT, 2);
    assert!(!whole.hears_within(ms(200)), "the head waits for its body");
    latch.open();
    assert_eq!(next_no_ping(&mut streamed), Some(event("one")));
    let whole = whole.answer();
    assert_eq!((whole.status(), whole.text()), (200, "{}"));
}

#[test]
fn a_first_byte_that_does_not_come_after_a_head_moves_on_and_is_named() {
    // R04
    for fields in FRAMED {
        let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
        first.always(CHAT, Script::head(200, fields).stall());
        second.on(CHAT, Script::sse().chunk(event("one")).end());
        let setup = Setup::over(&[&first, &second]).timeouts(|t| t.first_byte = Some(ms(150)));
        let answer = setup.start().post(CHAT, stream("m"));
        assert_eq!((answer.field("x-llmproxy-endpoint"), answer.text()), (Some("b"), &*event("one")));
        let alone = Setup::over(&[&first]).timeouts(|t| t.first_byte = Some(ms(150))).start();
        let answer = alone.post(CHAT, stream("m"));
        assert_eq!(answer.status(), 504);
        assert!(answer.text().contains("timeouts.firstByte"), "{}", answer.text());
    }
}

#[test]
fn a_server_that_dies_in_its_prompt_is_replaced_unseen() {
    // L4: its 200 head is out.
    for fields in FRAMED {
        for end in [Script::new().cut(), Script::new().reset()] {
            let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
            let script = Script::head(200, fields).then(end);
            first.always(CHAT, script);
            second.on(CHAT, Script::sse().chunk(event("one")).end());
            let answer = Setup::over(&[&first, &second]).start().post(CHAT, stream("m"));
            assert_eq!((answer.status(), answer.text(), answer.ended), (200, &*event("one"), Ended::Complete));
            let told = (answer.field("x-llmproxy-endpoint"), answer.field("x-llmproxy-attempts"));
            assert_eq!(told, (Some("b"), Some("2")), "{fields:?}");
            let answer = Setup::over(&[&first]).start().post(CHAT, stream("m"));
            assert_eq!((answer.status(), answer.ended), (502, Ended::Complete), "alone, a clean status: {fields:?}");
        }
    }
}

#[test]
fn behind_pings_it_is_replaced_in_the_same_stream() {
    // L4
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    let latch = Latch::new();
    first.on(CHAT, Script::sse().latch(&latch).cut());
    second.on(CHAT, Script::sse().chunk(event("one")).chunk("data: [DONE]\n\n").end());
    let proxy = pinging(&[&first, &second]).start();
    let mut client = proxy.sent(post(CHAT, stream("m")));
    let head = client.head();
    // Friction: what is known when the head leaves.
    assert_eq!((head.field("x-llmproxy-endpoint"), head.field("x-llmproxy-model")), (Some("a"), Some("m")));
    assert_eq!(head.field("x-llmproxy-attempts"), Some("1"));
    pings(&mut client, 2);
    latch.open();
    assert_eq!(next_no_ping(&mut client), Some(event("one")));
    assert_eq!(client.event().as_deref(), Some("data: [DONE]\n\n"));
    assert_eq!((client.event(), client.ended()), (None, Ended::Complete));
}

#[test]
fn comments_of_an_upstream_pass_and_our_pings_go_on() {
    // L8
    let upstream = Upstream::serving(&["m"]);
    let latches = [Latch::new(), Latch::new()];
    let comments = Script::sse().chunk(":\n\n").latch(&latches[0]).chunk(": still here\n\n").latch(&latches[1]);
    upstream.on(CHAT, comments.chunk(event("one")).end());
    let proxy = pinging(&[&upstream]).start();
    let mut client = proxy.sent(post(CHAT, stream("m")));
    let head = client.head();
    assert_eq!((head.status, head.field("x-llmproxy-endpoint")), (200, Some("a")));
    assert_eq!(client.event().as_deref(), Some(":\n\n"));
    pings(&mut client, 3);
    latches[0].open();
    assert_eq!(next_no_ping(&mut client).as_deref(), Some(": still here\n\n"));
    pings(&mut client, 3);
    latches[1].open();
    assert_eq!(next_no_ping(&mut client), Some(event("one")));
    assert_eq!((client.event(), client.ended()), (None, Ended::Complete));
}

#[test]
fn a_server_that_sent_nothing_but_comments_is_still_replaced() {
    // L8
    for end in
        [Script::new().cut(), Script::new().bytes("5\r\n: hal").cut(), Script::new().reset(), Script::new().stall()]
    {
        let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
        let latch = Latch::new();
        first.on(CHAT, Script::sse().chunk(": working\n\n").latch(&latch).then(end));
        second.on(CHAT, Script::sse().chunk(event("one")).end());
        let setup = Setup::over(&[&first, &second]).timeouts(|t| t.first_byte = Some(ms(400)));
        let proxy = setup.start();
        let mut client = proxy.sent(post(CHAT, stream("m")));
        client.head();
        assert_eq!(client.event().as_deref(), Some(": working\n\n"));
        latch.open();
        assert_eq!(client.event(), Some(event("one")));
        assert_eq!((client.event(), client.ended()), (None, Ended::Complete));
    }
}

#[test]
fn a_comment_is_no_first_byte_in_the_log() {
    // L8
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::sse().chunk(": early\n\n").latch(&latch).chunk(event("one")).end());
    let program = Program::start(&yaml(&[&upstream], "  ssePing: {after: 100ms, every: 100ms}\n"));
    let mut client = program.client();
    client.send(post(CHAT, stream("m")));
    client.head();
    assert_eq!(client.event().as_deref(), Some(": early\n\n"));
    pings(&mut client, 4);
    latch.open();
    client.body();
    let line = program.logged(&["POST /v1/chat/completions 200"]);
    let millis = line.split("first_byte_ms=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
    assert!(millis.is_some_and(|millis| millis >= 250), "{line}");
}

#[test]
fn a_compressed_stream_is_never_mixed_with_pings() {
    // R01
    let packed =
        [("Content-Type", "text/event-stream"), ("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked")];
    let bytes = b"\x1f\x8b\x08\x00packed";
    let upstream = Upstream::serving(&["m", "n"]);
    let (late, held) = (Latch::new(), Latch::new());
    upstream.on(CHAT, Script::new().latch(&late).then(Script::head(200, &packed)).chunk(bytes).end());
    upstream.on(CHAT, Script::head(200, &packed).latch(&held).chunk(bytes).end());
    let proxy = pinging(&[&upstream]).start();
    let asks = |body: String| post_with(CHAT, "Accept-Encoding: gzip, br\r\n", body);

    let mut client = proxy.sent(asks(stream("m")));
    assert_eq!(upstream.take(CHAT).field("accept-encoding"), None, "what may be pinged must be readable");
    client.head();
    pings(&mut client, 1);
    late.open();
    let error = next_no_ping(&mut client).expect("an error event");
    assert!(error.starts_with("data: {\"error\":") && error.contains("compressed"), "{error}");
    assert_eq!((client.event(), client.ended()), (None, Ended::Cut));

    // A model of which nothing is known yet.
    let mut client = proxy.sent(asks(stream("n")));
    upstream.take(CHAT);
    assert!(!client.hears_within(ms(300)), "no ping of ours between a compressed head and its body");
    held.open();
    let answer = client.answer();
    assert_eq!((answer.field("content-encoding"), &answer.body[..]), (Some("gzip"), &bytes[..]));

    upstream.on(CHAT, Script::json("{}"));
    proxy.ask(asks(chat("m")));
    assert_eq!(upstream.take(CHAT).field("accept-encoding"), Some("gzip, br"), "others may be compressed");
}

#[test]
fn who_once_ignored_that_a_stream_was_asked_for_is_never_pinged_again() {
    // R02
    let upstream = Upstream::serving(&["m", "n"]);
    let proxy = pinging(&[&upstream]).start();
    let late = |upstream: &Upstream| {
        let latch = Latch::new();
        upstream.on(CHAT, Script::new().latch(&latch).then(Script::json(r#"{"whole":1}"#)));
        latch
    };
    let latch = late(&upstream);
    let mut client = proxy.sent(post(CHAT, stream("m")));
    client.head();
    pings(&mut client, 1);
    latch.open();
    let error = next_no_ping(&mut client).expect("an error event");
    assert!(error.contains("\"error\"") && error.contains("stream"), "{error}");
    assert_eq!((client.event(), client.ended()), (None, Ended::Cut));

    let latch = late(&upstream);
    let mut client = proxy.sent(post(CHAT, stream("m")));
    upstream.wait_count(CHAT, 2);
    assert!(!client.hears_within(ms(300)));
    latch.open();
    let answer = client.answer();
    assert_eq!((answer.status(), answer.text()), (200, r#"{"whole":1}"#));

    // Another model there may well stream.
    let latch = late(&upstream);
    let mut client = proxy.sent(post(CHAT, stream("n")));
    client.head();
    pings(&mut client, 1);
    latch.open();
    client.body();
}

#[test]
fn what_is_no_stream_of_events_in_a_known_api_is_never_pinged() {
    // R02
    for path in ["/v1/audio/speech", "/v1/images/generations", "/v1/embeddings", "/v1/something/new"] {
        let upstream = Upstream::serving(&["m"]);
        let latch = Latch::new();
        let audio = Script::answer(200, &[("Content-Type", "audio/mpeg")], "sound");
        upstream.on(path, Script::new().latch(&latch).then(audio));
        let proxy = pinging(&[&upstream]).start();
        let mut client = proxy.sent(post(path, stream("m")));
        upstream.take(path);
        assert!(!client.hears_within(ms(200)), "{path}");
        latch.open();
        let answer = client.answer();
        assert_eq!((answer.field("content-type"), answer.text()), (Some("audio/mpeg"), "sound"), "{path}");
    }
}

#[test]
fn a_raw_listener_pings_only_streams_of_events_in_a_known_api() {
    // R03
    let upstream = Upstream::serving(&["m"]);
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|taken| taken.local_addr());
    let port = free.expect("a free port").port();
    let text = yaml(&[&upstream], "  ssePing: {after: 100ms, every: 100ms}\n");
    let program = Program::start(&format!(
        "{text}groups: [{{name: g, endpoints: [{{name: a}}]}}]\nlisteners: [{{name: raw, port: {port}, group: g, mode: raw}}]\n"
    ));
    let lines = "{\"message\":{\"content\":\"one\"}}\n{\"done\":true}\n";
    let (slow, pinged) = (Latch::new(), Latch::new());
    let fields = [("Content-Type", "application/x-ndjson"), ("Transfer-Encoding", "chunked")];
    upstream.on("/api/chat", Script::new().latch(&slow).then(Script::head(200, &fields)).chunk(lines).end());
    upstream.on(CHAT, Script::new().latch(&pinged).then(Script::sse()).chunk(event("one")).end());
    let raw = SocketAddr::from(([127, 0, 0, 1], port));
    let mut client = Client::connect(raw);
    client.send(post("/api/chat", stream("m")));
    upstream.take("/api/chat");
    assert!(!client.hears_within(ms(300)));
    slow.open();
    let answer = client.answer();
    assert_eq!((answer.field("content-type"), answer.text()), (Some("application/x-ndjson"), lines));

    let mut client = Client::connect(raw);
    client.send(post(CHAT, stream("m")));
    client.head();
    pings(&mut client, 1);
    pinged.open();
    assert_eq!(next_no_ping(&mut client), Some(event("one")));
    drop(program);
}

#[test]
fn a_server_that_is_shutting_down_is_not_waited_for_while_another_is_there() {
    // L5: it refuses new connections, and what it was asked before it never answers.
    for head in [Script::new(), Script::sse()] {
        let (mut first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
        first.on(CHAT, head.stall());
        second.on(CHAT, Script::json("{}"));
        let proxy = Setup::over(&[&first, &second]).with(|c| c.health_check.interval = ms(100)).start();
        let mut client = proxy.sent(post(CHAT, stream("m")));
        let asked = first.take(CHAT);
        first.refuse();
        let answer = client.answer();
        assert_eq!((answer.status(), answer.field("x-llmproxy-endpoint")), (200, Some("b")));
        asked.closed.wait("the proxy to give it up");
    }
}

#[test]
fn a_server_that_is_shutting_down_is_waited_for_where_it_is_the_only_one() {
    // L5
    let mut upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    let proxy = Setup::over(&[&upstream]).with(|c| c.health_check.interval = ms(100)).start();
    let mut client = proxy.sent(post(CHAT, chat("m")));
    upstream.take(CHAT);
    upstream.refuse();
    proxy.until(|health| health["endpoints"]["a"]["healthy"] == false);
    assert!(!client.hears_within(ms(1500)), "longer than any tick");
    latch.open();
    assert_eq!(client.answer().status(), 200);
}
