//! SPEC 8: a large body at a raw listener goes on while it comes, and one that broke off never looks complete.

use crate::support::client::Client;
use crate::support::fact::{DEADLINE, ms, timed};
use crate::support::program::Program;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

const MIB: usize = 1 << 20;

/// A proxy with a raw listener, and who is behind it.
struct Way {
    program: Program,
    upstreams: Vec<TcpListener>,
}

/// An upstream's end of one connection.
struct Peer {
    lines: Vec<String>,
    from: BufReader<TcpStream>,
}

impl Way {
    fn new(upstreams: usize, server: &str) -> Self {
        let held = (0..upstreams).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let upstreams: Vec<TcpListener> = held.collect();
        let port_of = |listener: &TcpListener| listener.local_addr().expect("bound").port();
        let mut yaml = format!(
            "server: {{port: 0, mode: raw, group: g, {server}}}\n\
             groups: [{{name: g, strategy: rr, endpoints: [{{name: e0}}, {{name: e1}}]}}]\nendpoints:\n"
        );
        for (n, upstream) in upstreams.iter().enumerate() {
            let port = port_of(upstream);
            yaml += &format!("  - {{name: e{n}, address: 127.0.0.1, port: {port}, healthCheck: false, models: [m]}}\n");
        }
        if upstreams.len() == 1 {
            yaml = yaml.replace(", {name: e1}", "");
        }
        Self { program: Program::start(&yaml), upstreams }
    }

    fn client(&self, fields: &str) -> Client {
        let mut client = self.program.client();
        client.send(format!("PUT /files/one?x=1 HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\n"));
        client
    }

    /// The next connection of an upstream, and the head that it brings.
    fn peer(&self, n: usize) -> Peer {
        let stream = self.upstreams[n].accept().expect("a connection").0;
        stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
        let (mut from, mut lines) = (BufReader::new(stream), Vec::new());
        loop {
            let mut line = String::new();
            from.read_line(&mut line).expect("a line");
            match line.trim_end() {
                "" => return Peer { lines, from },
                line => lines.push(line.to_lowercase()),
            }
        }
    }
}

impl Peer {
    fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut all = vec![0; bytes];
        self.from.read_exact(&mut all).expect("so many bytes");
        all
    }

    fn answer(&mut self, bytes: &str) {
        self.from.get_mut().write_all(bytes.as_bytes()).expect("it reads");
    }

    /// What comes until the proxy closes.
    fn rest(&mut self) -> usize {
        let mut rest = Vec::new();
        drop(self.from.read_to_end(&mut rest));
        rest.len()
    }

    fn has(&self, line: &str) -> bool {
        self.lines.iter().any(|one| one == line)
    }
}

/// Bytes that tell where they belong.
fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i % 251) as u8 ^ (i >> 16) as u8).collect()
}

#[test]
fn a_large_body_is_at_the_upstream_before_its_client_has_sent_the_end() {
    // S002-22
    let way = Way::new(1, "maxBody: 16MiB");
    let body = bytes(6 * MIB);
    let mut client = way.client(&format!("Content-Length: {}", body.len()));
    client.send(&body[..5 * MIB]);
    let mut peer = way.peer(0);
    assert!(peer.lines[0].starts_with("put /files/one?x=1 "));
    assert!(peer.has(&format!("content-length: {}", body.len())), "{:?}", peer.lines);
    assert!(peer.read(5 * MIB) == body[..5 * MIB]);
    client.send(&body[5 * MIB..]);
    assert!(peer.read(MIB) == body[5 * MIB..]);
    peer.answer("HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok");
    let answer = client.answer();
    assert_eq!((answer.status(), answer.text(), answer.field("connection")), (201, "ok", Some("close")));
    client.expect_close(ms(2000));
}

#[test]
fn chunks_go_on_as_chunks_without_a_length() {
    let way = Way::new(1, "maxBody: 16MiB");
    let mut client = way.client("Transfer-Encoding: chunked");
    let chunk = [b"100000\r\n".as_slice(), &bytes(MIB), b"\r\n"].concat();
    client.send(&chunk);
    client.send(&chunk);
    let mut peer = way.peer(0);
    assert!(peer.has("transfer-encoding: chunked") && !peer.lines.iter().any(|line| line.contains("content-length")));
    let mut got = Vec::new();
    let chunk = |peer: &mut Peer, got: &mut Vec<u8>| {
        let mut size = String::new();
        peer.from.read_line(&mut size).expect("a size");
        let size = usize::from_str_radix(size.trim(), 16).expect("a size");
        got.extend(peer.read(size));
        peer.read(2);
        size
    };
    while got.len() < 2 * MIB {
        chunk(&mut peer, &mut got);
    }
    client.send("3\r\nend\r\n0\r\n\r\n");
    while chunk(&mut peer, &mut got) > 0 {}
    assert!(got == [bytes(MIB), bytes(MIB), b"end".to_vec()].concat());
    peer.answer("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(client.answer().status(), 204);
}

#[test]
fn a_client_that_leaves_in_its_upload_ends_it_upstream_at_once() {
    let way = Way::new(1, "bodyTimeout: 60s");
    let mut client = way.client("Content-Length: 9000000");
    client.send(bytes(2 * MIB));
    let mut peer = way.peer(0);
    peer.read(2 * MIB);
    client.reset();
    let (rest, took) = timed(|| peer.rest());
    assert_eq!(rest, 0);
    assert!(took < ms(1000), "{took:?}");
    way.program.logged(&["end=client_gone"]);
}

#[test]
fn a_client_that_falls_silent_in_its_upload_is_told_and_the_upstream_gets_no_end() {
    // A18
    let way = Way::new(1, "bodyTimeout: 1s");
    let mut client = way.client("Transfer-Encoding: chunked");
    client.send([b"100000\r\n".as_slice(), &bytes(MIB), b"\r\n"].concat());
    let mut peer = way.peer(0);
    let answer = client.answer();
    assert_eq!((answer.status(), answer.code().as_str()), (408, "request_timeout"));
    let mut all = Vec::new();
    drop(peer.from.read_to_end(&mut all));
    assert!(all.len() >= MIB && !all.ends_with(b"0\r\n\r\n"));
    way.program.logged(&["end=refused"]);
}

#[test]
fn an_upload_that_turns_slow_is_ended_in_time_whatever_came_before() {
    // U38: body bytes, and bytes that only frame the body.
    let way = Way::new(1, "bodyTimeout: 2s, workers: 8");
    for (fields, start, drip) in [
        ("Content-Length: 9000000", bytes(2 * MIB), "x"),
        ("Transfer-Encoding: chunked", [b"200000\r\n".as_slice(), &bytes(2 * MIB), b"\r\n5;"].concat(), "e"),
    ] {
        let mut client = way.client(fields);
        client.send(start);
        let mut peer = way.peer(0);
        let (answer, took) = timed(|| {
            while client.try_send(drip).is_ok() && !client.hears_within(ms(50)) {}
            client.answer()
        });
        assert_eq!(answer.status(), 408, "{}", answer.text());
        assert!(took < ms(4000), "{took:?}");
        peer.rest();
    }
}

#[test]
fn an_upload_that_grows_over_max_body_is_refused_in_its_midst() {
    // B6
    let way = Way::new(1, "maxBody: 2MiB");
    let mut client = way.client("Transfer-Encoding: chunked");
    let chunk = [b"100000\r\n".as_slice(), &bytes(MIB), b"\r\n"].concat();
    client.send(&chunk);
    let mut peer = way.peer(0);
    client.send(&chunk);
    client.send("1\r\n");
    assert_eq!(client.answer().status(), 413);
    let mut all = Vec::new();
    drop(peer.from.read_to_end(&mut all));
    assert!(!all.ends_with(b"0\r\n\r\n"));
}

#[test]
fn an_upload_may_still_choose_another_endpoint_before_it_has_begun_but_not_after() {
    let mut way = Way::new(2, "workers: 8");
    drop(way.upstreams.remove(0));
    for _ in 0..2 {
        let body = bytes(2 * MIB);
        let mut client = way.client(&format!("Content-Length: {}", body.len()));
        client.send(&body);
        let mut peer = way.peer(0);
        assert!(peer.read(2 * MIB) == body);
        peer.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.answer().field("x-llmproxy-endpoint"), Some("e1"));
    }

    let way = Way::new(2, "workers: 8");
    let mut client = way.client(&format!("Content-Length: {}", 2 * MIB));
    client.send(bytes(2 * MIB - 1));
    let mut peer = way.peer(0);
    // More than is collected before it is sent on, so that its rest has begun.
    peer.read(MIB + MIB / 2);
    drop(peer);
    client.send("!");
    assert_eq!(client.answer().status(), 502);
    way.upstreams[1].set_nonblocking(true).expect("a socket");
    assert!(way.upstreams[1].accept().is_err(), "half a body is nobody's");
}

#[test]
fn an_upstream_that_refuses_an_upload_early_is_heard() {
    let way = Way::new(1, "workers: 8");
    let mut client = way.client(&format!("Content-Length: {}", 4 * MIB));
    client.send(bytes(2 * MIB));
    let mut peer = way.peer(0);
    peer.read(MIB);
    peer.answer("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
    let ended = std::thread::spawn(move || peer.rest());
    client.send(bytes(2 * MIB));
    let answer = client.answer();
    assert_eq!((answer.status(), answer.text()), (413, "big"));
    drop(client);
    ended.join().expect("it closed");
}

#[test]
fn uploads_hold_a_quarter_of_the_workers_and_more_are_collected() {
    let way = Way::new(1, "workers: 4, maxBody: 8MiB, bodyMemory: 8MiB");
    let half = |way: &Way| {
        let mut client = way.client("Content-Length: 8000000");
        client.send(bytes(2 * MIB));
        client
    };
    let first = half(&way);
    let mut peer = way.peer(0);
    peer.read(2 * MIB);
    let mut second = half(&way);
    drop(second.try_send(bytes(5 * MIB)));
    assert!(second.turned_away(), "collected, until bodyMemory is over");
    drop(first);
    peer.rest();
    let _third = half(&way);
    assert_eq!(way.peer(0).read(2 * MIB).len(), 2 * MIB, "the place is free again");
}
