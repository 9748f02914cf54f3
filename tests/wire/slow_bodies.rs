//! SPEC 2, `bodyTimeout`: a body that comes too slowly is ended, in every framing and whatever came before.

use crate::support::client::Client;
use crate::support::fact::{DEADLINE, ms};
use crate::support::program::{Program, yaml};
use crate::support::proxy::{CHAT, Proxy, Setup, chat, post};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::util::time;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

const BODY_TIMEOUT: Duration = ms(2000);

/// How a body begins, and the byte that is then sent again and again.
struct Shape {
    fields: &'static str,
    start: String,
    drip: u8,
}

/// Content-Length, chunks, extensions and trailers; from the beginning, and after much that came at once.
fn shapes() -> Vec<Shape> {
    let chunked = "Transfer-Encoding: chunked\r\n";
    let much = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    vec![
        Shape { fields: "Content-Length: 90000\r\n", start: String::new(), drip: b'x' },
        Shape { fields: "Content-Length: 90000\r\n", start: "x".repeat(80_000), drip: b'x' },
        Shape { fields: chunked, start: "10000\r\n".into(), drip: b'x' },
        Shape { fields: chunked, start: much.clone() + "10000\r\n", drip: b'x' },
        Shape { fields: chunked, start: "5;".into(), drip: b'e' },
        Shape { fields: chunked, start: much.clone() + "5;", drip: b'e' },
        Shape { fields: chunked, start: "0\r\nX-A: ".into(), drip: b't' },
        Shape { fields: chunked, start: much + "0\r\nX-A: ", drip: b't' },
    ]
}

struct Slow {
    client: Client,
    began: Instant,
    drip: u8,
    shape: usize,
}

fn begin(connect: impl Fn() -> Client, shape: usize, shapes: &[Shape]) -> Slow {
    let Shape { fields, start, drip } = &shapes[shape];
    let mut client = connect();
    client.send(format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{start}"));
    Slow { client, began: time::now(), drip: *drip, shape }
}

/// Sends to all of them, slowly, until each is answered or late, with good requests meanwhile; their sockets.
fn drip(mut slow: Vec<Slow>, mut good: impl FnMut()) -> Vec<TcpStream> {
    let mut ended = Vec::new();
    while !slow.is_empty() {
        good();
        slow.retain_mut(|one| {
            let took = time::now() - one.began;
            assert!(took < 2 * BODY_TIMEOUT, "shape {} goes on after {took:?}", one.shape);
            if one.client.try_send([one.drip]).is_ok() && !one.client.hears_within(ms(1)) {
                return true;
            }
            let answer = one.client.answer();
            assert_eq!((answer.status(), answer.field("connection")), (408, Some("close")), "{}", answer.text());
            one.client.expect_close(DEADLINE);
            ended.push(one.client.writer());
            false
        });
    }
    ended
}

#[test]
fn two_hundred_slow_bodies_of_all_framings_are_ended_in_time_and_harm_nobody() {
    // U38, A18
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let server = "  workers: 2\n  perClient: 400\n  bodyTimeout: 2s\n  bodyMemory: 64MiB\n";
    let program = Program::start(&yaml(&[&upstream], server));
    let shapes = shapes();
    let slow = (0..200).map(|n| begin(|| program.client(), n % shapes.len(), &shapes)).collect();
    let mut ended = drip(slow, || {
        let mut client = program.client();
        client.send(post(CHAT, chat("m")));
        assert_eq!(client.answer().status(), 200);
    });
    program.logged_times("reason=request_timeout", 200);
    // They are not lingered for as long again.
    let (mut quiet, start) = (program.client(), time::now());
    while !ended.is_empty() {
        ended.retain_mut(|socket| socket.write_all(b"x").is_ok());
        assert!(time::now() - start < BODY_TIMEOUT, "{} are still open", ended.len());
        assert!(!quiet.hears_within(ms(20)));
    }
}

fn short(upstream: &Upstream) -> Proxy {
    Setup::over(&[upstream]).with(|c| c.server.body_timeout = ms(400)).start()
}

#[test]
fn a_body_that_is_fast_enough_may_take_its_time() {
    // A18: three times as long as `bodyTimeout`.
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json("{}"));
    let proxy = short(&upstream);
    let body = chat("m") + &" ".repeat(6000);
    let whole = post(CHAT, &body);
    let (head, body) = whole.split_at(whole.len() - body.len());
    let mut client = proxy.sent(head);
    for chunk in body.chunks(200) {
        // Nothing to hear, but time.
        assert!(!client.hears_within(ms(40)), "refused in its midst");
        client.send(chunk);
    }
    assert_eq!(client.answer().status(), 200);
}

#[test]
fn bodies_of_one_address_are_at_most_a_quarter_of_what_is_held() {
    // U38: three slow bodies must not hold all of `bodyMemory`.
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let setup = Setup::over(&[&upstream]);
    let proxy = setup.with(|c| (c.server.max_body, c.server.body_memory) = (4 << 20, 8 << 20)).start();
    let large = format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000000\r\n\r\n");
    let mut first = proxy.sent(&large);
    first.send("x".repeat(3_000_000));
    proxy.still_serves();
    let mut second = proxy.sent(&large);
    // The first may not be read to the end yet, so either of them may be the one that is over.
    drop(second.try_send("x".repeat(3_000_000)));
    let refused = second.hears_within(DEADLINE);
    assert!(refused, "one address holds 6 MB of 8 MiB");
    let answer = second.answer();
    assert_eq!((answer.status(), answer.code().as_str()), (503, "overloaded"));
    assert!(answer.field("retry-after").is_some());
}
