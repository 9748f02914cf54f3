//! FAULTS C6 to C10: an upstream that fails after its answer has begun. What was sent stays, nothing is made up.

use crate::support::client::{Answer, Client, Ended};
use crate::support::fact::{Latch, ms};
use crate::support::program::{Program, yaml};
use crate::support::proxy::CHAT;
use crate::support::proxy::Proxy;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use serde_json::Value;

const RECORDED: &[u8] = include_bytes!("../data/chat_stream.raw");

fn playing(path: &str, script: Script) -> (Upstream, Proxy) {
    let upstream = Upstream::serving(&["m"]);
    upstream.on(path, script);
    let proxy = Setup::over(&[&upstream]).timeouts(|t| t.idle = Some(ms(300))).start();
    (upstream, proxy)
}

/// The payload of the last event, which must be an error; the events before it.
fn last_error(answer: &Answer) -> (String, Value) {
    let text = answer.text();
    let start = text.trim_end().rfind("\n\n").map_or(0, |at| at + 2);
    let (before, last) = text.split_at(start);
    assert!(last.ends_with("\n\n"), "a whole event: {last:?}");
    let data = last.lines().find_map(|line| line.strip_prefix("data: ")).expect("a data line");
    (before.to_owned(), serde_json::from_str(data).unwrap_or_else(|problem| panic!("{problem}: {data:?}")))
}

fn no_end_marker(answer: &Answer) {
    assert!(!answer.text().contains("[DONE]"), "{}", answer.text());
    assert!(!answer.text().contains(r#""finish_reason":"stop""#), "{}", answer.text());
    assert_eq!(answer.ended, Ended::Cut, "no final chunk");
}

#[test]
fn a_stream_that_stalls_ends_with_an_error_event() {
    // C6
    let (upstream, proxy) = playing(CHAT, Script::sse().chunk(event("one")).stall());
    let answer = proxy.post(CHAT, stream("m"));
    let (before, error) = last_error(&answer);
    assert_eq!(before, event("one"));
    assert_eq!(error["error"]["code"], "upstream_timeout");
    no_end_marker(&answer);
    upstream.take(CHAT).closed.wait("the proxy's close");
}

#[test]
fn a_stall_is_named_in_the_log() {
    // C6, C7
    let upstream = Upstream::serving(&["m"]);
    let text = yaml(&[&upstream], "") + "timeouts: {idle: 300ms}\n";
    let program = Program::start(&text);
    for (script, word) in [
        (Script::sse().chunk(event("one")).stall(), "timeout"),
        (Script::sse().chunk(event("one")).cut(), "upstream_lost"),
    ] {
        upstream.on(CHAT, script);
        let mut client = program.client();
        client.send(post(CHAT, stream("m")));
        let answer = client.answer();
        let id = format!("request_id={}", answer.field("x-request-id").expect("an id"));
        program.logged(&["WARN", "endpoint a", &id]);
        program.logged(&[CHAT, word, &id]);
    }
}

#[test]
fn a_lost_stream_ends_with_an_error_event_and_a_cut() {
    // W001-1
    // C7, W000-2
    for ending in [Script::new().cut(), Script::new().reset()] {
        let latch = Latch::new();
        let (upstream, proxy) = playing(CHAT, Script::sse().chunk(event("one")).latch(&latch).then(ending));
        let mut client = proxy.sent(post(CHAT, stream("m")));
        let head = client.head();
        assert_eq!(client.event(), Some(event("one")));
        latch.open();
        let (body, ended) = client.body();
        let answer = Answer { head, body, ended };
        let (before, error) = last_error(&answer);
        assert_eq!(before, "");
        assert!(error["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
        assert_eq!(error["error"]["type"], "upstream_error");
        no_end_marker(&answer);
        assert_eq!(upstream.count(CHAT), 1, "nothing is retried");
    }
}

#[test]
fn a_stream_broken_within_an_event_keeps_its_bytes_and_the_error_stands_apart() {
    // C7
    let (_upstream, proxy) = playing(CHAT, Script::sse().chunk(event("one")).bytes("40\r\ndata: {\"half").cut());
    let answer = proxy.post(CHAT, stream("m"));
    assert!(answer.text().starts_with(&(event("one") + "data: {\"half")), "{}", answer.text());
    let (_, error) = last_error(&answer);
    assert!(error["error"].is_object());
    no_end_marker(&answer);
}

#[test]
fn a_bad_chunk_size_is_a_lost_stream() {
    // C9
    for bad in ["zz\r\nabc\r\n", "-1\r\n\r\n", "ffffffffffffffffff\r\nabc"] {
        let latch = Latch::new();
        let (_upstream, proxy) = playing(CHAT, Script::sse().chunk(event("one")).latch(&latch).bytes(bad).cut());
        let mut client = proxy.sent(post(CHAT, stream("m")));
        let head = client.head();
        assert_eq!(client.event(), Some(event("one")));
        latch.open();
        let (body, ended) = client.body();
        let answer = Answer { head, body, ended };
        let (before, _) = last_error(&answer);
        assert_eq!(before, "", "{bad:?}");
        no_end_marker(&answer);
    }
}

#[test]
fn each_api_hears_of_the_loss_in_its_own_dialect() {
    // C7
    let (_upstream, proxy) = playing("/v1/messages", Script::sse().chunk("event: ping\ndata: {}\n\n").cut());
    let answer = proxy.post("/v1/messages", stream("m"));
    let (_, error) = last_error(&answer);
    assert!(answer.text().contains("\n\nevent: error\ndata: "), "{}", answer.text());
    assert_eq!((error["type"].as_str(), error["error"]["type"].as_str()), (Some("error"), Some("api_error")));
    assert_eq!(answer.ended, Ended::Cut);

    let (_upstream, proxy) = playing("/v1/responses", Script::sse().chunk("event: a\ndata: {}\n\n").cut());
    let answer = proxy.post("/v1/responses", stream("m"));
    let (_, error) = last_error(&answer);
    assert!(answer.text().contains("\n\nevent: error\ndata: "), "{}", answer.text());
    assert_eq!(error["type"], "error");
    assert!(error["message"].is_string() && error["code"].is_string(), "{error}");
    assert_eq!(answer.ended, Ended::Cut);
}

#[test]
fn a_body_that_is_no_stream_is_cut_visibly() {
    // C7
    let sized = [("Content-Type", "application/json"), ("Content-Length", "100")];
    let chunked = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")];
    let scripts = [
        Script::head(200, &sized).bytes(r#"{"half":"#).cut(),
        Script::head(200, &sized).bytes(r#"{"half":"#).stall(),
        Script::head(200, &chunked).chunk(r#"{"half":"#).cut(),
        Script::head(200, &chunked).chunk(r#"{"half":"#).stall(),
    ];
    for script in scripts {
        let (_upstream, proxy) = playing(CHAT, script);
        let answer = proxy.chat("m");
        assert_eq!((answer.status(), answer.ended), (200, Ended::Cut));
        assert_eq!(answer.text(), r#"{"half":"#, "nothing is appended");
    }
}

#[test]
fn a_reset_within_a_body_is_seen_by_the_client() {
    // C7: what was read before it stays, however the body was framed.
    let sized = [("Content-Type", "application/json"), ("Content-Length", "100")];
    let chunked = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")];
    let until_close = [("Content-Type", "application/json")];
    for (script, framing) in [
        (Script::head(200, &sized).bytes("half"), "sized"),
        (Script::head(200, &chunked).chunk("half"), "chunked"),
        (Script::head(200, &until_close).bytes("half"), "until close"),
    ] {
        let latch = Latch::new();
        let (_upstream, proxy) = playing(CHAT, script.latch(&latch).reset());
        let mut client = proxy.sent(post(CHAT, chat("m")));
        client.head();
        assert_eq!(client.read_some().as_deref(), Ok(&b"half"[..]), "{framing}");
        latch.open();
        assert_eq!(client.body(), (Vec::new(), Ended::Cut), "{framing}");
    }
}

#[test]
fn a_recorded_stream_cut_anywhere_gives_its_bytes_and_no_end() {
    // C7, W000-2: nothing is made up, nothing is lost.
    let head = RECORDED.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let whole = body_of(RECORDED);
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    // RFC 9112 8: with the zero-sized chunk (all but the last CR LF) it is complete.
    let offsets: Vec<usize> =
        (head..RECORDED.len()).step_by(61).chain(RECORDED.len() - 16..RECORDED.len() - 2).collect();
    assert!(offsets.len() > 40, "{}", offsets.len());
    for at in offsets {
        upstream.on(CHAT, Script::raw(&RECORDED[..at]).cut());
        let answer = proxy.post(CHAT, stream("m"));
        if body_of(&RECORDED[..at]).is_empty() && answer.status() == 502 {
            // Before the first byte of the body every loss is a clean status.
            assert_eq!(answer.ended, Ended::Complete, "cut at {at}");
            continue;
        }
        assert_eq!((answer.status(), answer.ended), (200, Ended::Cut), "cut at {at}");
        let text = answer.text();
        let sent = text.rfind("data: {\"error\"").expect("an error event");
        let before = text[..sent].trim_end_matches('\n');
        assert!(whole.starts_with(before), "cut at {at}: the bytes before are the upstream's");
        assert!(whole.contains("[DONE]") && (!text.contains("[DONE]") || before.contains("[DONE]")));
        // All that had arrived in whole chunks was passed on.
        assert!(before.len() + 8 >= body_of(&RECORDED[..at]).trim_end().len(), "cut at {at}");
    }
}

/// What a chunked answer holds, as far as it goes in whole chunks.
fn body_of(raw: &[u8]) -> String {
    let text = std::str::from_utf8(raw).expect("recorded text");
    let (_, mut rest) = text.split_once("\r\n\r\n").expect("a head");
    let mut body = String::new();
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        let Some(chunk) = more.get(..size).filter(|_| more.len() >= size + 2) else { break };
        body += chunk;
        rest = &more[size + 2..];
    }
    body
}

#[test]
fn bytes_after_the_body_never_reach_anyone() {
    // C8
    let upstream = Upstream::serving(&["m"]);
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON";
    let whole = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{\"n\":1}";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{\"n\":1}\r\n0\r\n\r\n";
    let proxy = Setup::over(&[&upstream]).start();
    for (first, extra) in [(whole, poison), (whole, "POISON"), (chunked, poison), (chunked, "POISON")] {
        // In one write, so that they are there together.
        upstream.on(CHAT, Script::raw(format!("{first}{extra}")));
        assert_eq!(proxy.chat("m").text(), r#"{"n":1}"#);
        proxy.idle();
        upstream.on(CHAT, Script::json(r#"{"n":2}"#));
        assert_eq!(proxy.chat("m").text(), r#"{"n":2}"#);
        let (first, second) = (upstream.take(CHAT), upstream.take(CHAT));
        assert_ne!(first.connection, second.connection, "that connection is never reused");
    }
}

#[test]
fn chunked_wins_over_a_length_in_an_answer() {
    // C10
    let upstream = Upstream::serving(&["m"]);
    let both = [("Content-Length", "3"), ("Transfer-Encoding", "chunked"), ("Content-Type", "application/json")];
    upstream.on(CHAT, Script::head(200, &both).chunk(r#"{"n":1}"#).end());
    let proxy = Setup::over(&[&upstream]).start();
    let answer = proxy.chat("m");
    assert_eq!((answer.text(), answer.ended), (r#"{"n":1}"#, Ended::Complete));
    assert!(answer.field("content-length").is_none_or(|n| n == "7"), "{:?}", answer.head);
    proxy.idle();
    upstream.on(CHAT, Script::json("{}"));
    proxy.chat("m");
    assert_ne!(upstream.take(CHAT).connection, upstream.take(CHAT).connection, "the connection was closed");
}

#[test]
fn the_next_request_after_a_loss_is_served() {
    // W000-2: the client does not hang, the worker is free.
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(|c| c.server.workers = 1).start();
    for _ in 0..5 {
        upstream.on(CHAT, Script::sse().chunk(event("one")).cut());
        assert_eq!(proxy.post(CHAT, stream("m")).ended, Ended::Cut);
    }
    upstream.on(CHAT, Script::json("{}"));
    let mut client: Client = proxy.sent(post(CHAT, chat("m")));
    assert_eq!(client.answer().status(), 200);
}

#[test]
fn a_compressed_stream_that_is_lost_is_cut_without_a_word() {
    // C7: an event in clear text would be garbage there
    let script = Script::head(
        200,
        &[("Content-Type", "text/event-stream"), ("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked")],
    );
    let (_upstream, proxy) = playing(CHAT, script.chunk("\u{1f}packed").cut());
    let answer = proxy.post(CHAT, stream("m"));
    assert_eq!((answer.text(), answer.ended), ("\u{1f}packed", Ended::Cut));
}

#[test]
fn an_answer_declared_empty_stays_declared_empty() {
    // S000-22
    let (_upstream, proxy) = playing(CHAT, Script::answer(404, &[], ""));
    let answer = proxy.post(CHAT, chat("m"));
    assert_eq!(
        (answer.status(), answer.field("content-length"), answer.field("transfer-encoding")),
        (404, Some("0"), None)
    );
}

#[test]
fn an_answer_in_an_unknown_transfer_coding_is_not_usable() {
    // C9
    let (_upstream, proxy) =
        playing(CHAT, Script::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"));
    assert_eq!(proxy.post(CHAT, chat("m")).status(), 502);
}
