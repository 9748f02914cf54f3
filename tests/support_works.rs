//! The support itself: a tool that lies makes every other test worthless.

mod support;

use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use support::client::{Client, Ended};
use support::fact::{Latch, ms};
use support::script::{Script, event};
use support::upstream::{Mood, Upstream};

const GET: &str = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn an_upstream_keeps_what_it_received() {
    let upstream = Upstream::start();
    upstream.on("/x", Script::json("{}"));
    upstream.on("/x", Script::json("[]"));
    let mut client = Client::connect(upstream.addr());
    client.send("POST /x?a=b HTTP/1.1\r\nHost: a\r\nTwice: 1\r\ntwice:  2\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(client.answer().text(), "{}");
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    assert_eq!(client.answer().text(), "[]");
    let first = upstream.take("/x");
    assert_eq!((first.method(), first.target(), first.text()), ("POST", "/x?a=b", "abc"));
    assert_eq!(first.all("TWICE"), ["1", "2"]);
    let second = upstream.take("/x");
    assert_eq!((second.text(), second.connection, upstream.connections()), ("hi", 0, 1));
    assert!(!second.closed.happened());
    drop(client);
    second.closed.wait("the client's close");
}

#[test]
fn a_stream_waits_at_its_gate() {
    let upstream = Upstream::start();
    let latch = Latch::new();
    upstream.on("/x", Script::sse().chunk(event("one")).latch(&latch).chunk(event("two")).end());
    let mut client = Client::connect(upstream.addr());
    client.send(GET);
    assert_eq!(client.head().status, 200);
    assert_eq!(client.event().as_deref(), Some(event("one").as_str()));
    assert!(!client.hears_within(ms(20)));
    latch.open();
    assert_eq!(client.event().as_deref(), Some(event("two").as_str()));
    assert_eq!((client.event(), client.ended()), (None, Ended::Complete));
}

#[test]
fn a_cut_is_not_an_end() {
    let upstream = Upstream::start();
    let sized = Script::head(200, &[("Content-Length", "10")]).bytes("abc");
    let scripts = [Script::sse().chunk("abc").cut(), sized.clone().cut(), sized.reset()];
    for script in scripts {
        upstream.on("/x", script);
        let mut client = Client::connect(upstream.addr());
        client.send(GET);
        assert_eq!(client.answer().ended, Ended::Cut);
    }
    upstream.on("/x", Script::head(200, &[]).bytes("abc").cut());
    let mut client = Client::connect(upstream.addr());
    client.send(GET);
    let answer = client.answer();
    assert_eq!((answer.text(), answer.ended), ("abc", Ended::Complete));
    upstream.on("/x", Script::head(200, &[]).bytes("abc").reset());
    let mut client = Client::connect(upstream.addr());
    client.send(GET);
    assert_eq!(client.answer().ended, Ended::Cut, "only a reset can cut a body that ends by close");
}

#[test]
fn a_stall_ends_when_the_peer_leaves_and_a_gate_too() {
    let upstream = Upstream::start();
    upstream.on("/x", Script::new().stall());
    upstream.on("/x", Script::new().latch(&Latch::new()));
    for _ in 0..2 {
        let mut client = Client::connect(upstream.addr());
        client.send(GET);
        let request = upstream.take("/x");
        client.reset();
        request.closed.wait("the reset");
    }
}

#[test]
fn an_early_answer_arrives_though_the_body_was_not_read() {
    let upstream = Upstream::start();
    upstream.on("/x", Script::error(413, "too big").early());
    let mut client = Client::connect(upstream.addr());
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n");
    client.send(vec![b'x'; 4_000_000]);
    assert_eq!(client.answer().status(), 413);
}

#[test]
fn a_dead_upstream_refuses_and_comes_back_on_its_port() {
    let mut upstream = Upstream::serving(&["m"]);
    let mut client = Client::connect(upstream.addr());
    client.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().text(), r#"{"status":"ok"}"#);
    for _ in 0..3 {
        upstream.kill();
        client.expect_close(ms(5000));
        assert!(TcpStream::connect(upstream.addr()).is_err(), "refused");
        upstream.revive();
        client = Client::connect(upstream.addr());
        client.send("GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.answer().json()["data"][0]["id"], "m");
    }
}

#[test]
fn a_loading_upstream_says_so_on_every_path() {
    let upstream = Upstream::serving(&["m"]);
    upstream.set_mood(Mood::Loading);
    for path in ["/health", "/v1/models", "/x"] {
        let mut client = Client::connect(upstream.addr());
        client.send(GET.replace("/x", path));
        let answer = client.answer();
        assert_eq!((answer.status(), answer.json()["error"]["message"].as_str()), (503, Some("Loading model")));
    }
}

#[test]
fn what_a_test_forgot_is_its_fault() {
    let forgotten = |prepare: &dyn Fn(&Upstream)| {
        let upstream = Upstream::start();
        prepare(&upstream);
        catch_unwind(AssertUnwindSafe(|| drop(upstream))).is_err()
    };
    assert!(!forgotten(&|_| ()));
    assert!(forgotten(&|upstream| upstream.on("/never", Script::json("{}"))));
    assert!(forgotten(&|upstream| {
        let mut client = Client::connect(upstream.addr());
        client.send(GET);
        assert_eq!(client.answer().status(), 501);
    }));
}
