//! Faults of the older proxies that no other subject covers: each shown not to happen here.

use crate::support::proxy::CHAT;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::SsePing;
use std::time::Duration;

#[test]
fn lines_of_any_length_and_pairs_of_lines_pass_as_they_are() {
    // W001-2
    let upstream = Upstream::serving(&["m"]);
    let long = format!("event: big\ndata: {}\nid: 7\n\n", "x".repeat(300_000));
    let odd = ": a comment\r\nevent: a\r\ndata: 1\r\ndata: 2\r\n\r\n";
    upstream.on(CHAT, Script::sse().chunk(&long).chunk(odd).end());
    let proxy = Setup::over(&[&upstream]).start();
    let answer = proxy.sent(post(CHAT, stream("m"))).answer();
    assert_eq!(answer.text(), long + odd);
}

#[test]
fn an_answer_keeps_its_type_whatever_was_asked_for() {
    // W001-10, W003-2
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::sse().chunk("data: x\n\n").end());
    upstream.on(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    let events = proxy.chat("m");
    assert_eq!((events.field("content-type"), events.text()), (Some("text/event-stream"), "data: x\n\n"));
    let whole = proxy.sent(post(CHAT, stream("m"))).answer();
    assert_eq!((whole.field("content-type"), whole.text()), (Some("application/json"), "{}"));
}

#[test]
fn a_stream_is_what_the_field_says_and_not_what_a_message_says() {
    // W003-2
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let soon = Some(SsePing { after: Duration::from_millis(100), every: Duration::from_millis(100) });
    let proxy = Setup::over(&[&upstream]).with(|config| config.server.sse_ping = soon).start();
    let body = r#"{"model":"m","messages":[{"role":"user","content":"say \"stream\": true"}],"x":{"stream": true}}"#;
    let answer = proxy.post(CHAT, body);
    assert_eq!((answer.field("content-type"), answer.status()), (Some("application/json"), 200));
    let latch = crate::support::fact::Latch::new();
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    let mut client = proxy.sent(post(CHAT, chat("m").replace("{\"model\"", "{\"stream\":true,\"model\"")));
    assert_eq!(client.head().status, 200, "without a space after the colon it is a stream too");
    latch.open();
}
