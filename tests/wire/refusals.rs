//! SPEC 3: a refusal reaches clients that send first and read later, and costs a connection only.

use crate::support::client::Client;
use crate::support::fact::{DEADLINE, Latch, ms};
use crate::support::proxy::{CHAT, Proxy, Setup, chat, post_with};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::{ClientKey, Config, KeyText};
use llmproxy::util::secret::Secret;

/// More than the buffers of both sockets hold.
const LARGE: usize = 40_000_000;

fn one_key(config: &mut Config) {
    config.keys = vec![ClientKey {
        name: "one".into(),
        key: KeyText::Plain(Secret::new("canary-right-key")),
        models: vec![],
        endpoints: vec![],
        max_parallel: None,
        rate_limit: None,
        background: false,
        admin: false,
    }];
}

fn start(upstream: &Upstream) -> Proxy {
    Setup::over(&[upstream]).with(|c| c.server.max_body = 1 << 20).with(one_key).start()
}

/// Sends all of it, then reads.
fn first_all(proxy: &Proxy, fields: &str, key: &str, body: &[u8]) -> (u16, String) {
    let mut client = proxy.client();
    let head = format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n{fields}\r\n");
    client.send(head);
    for chunk in body.chunks(1 << 20) {
        client.send(chunk);
    }
    let answer = client.answer();
    assert_eq!(answer.field("connection"), Some("close"));
    client.expect_close(DEADLINE);
    (answer.status(), answer.code())
}

#[test]
fn a_client_that_sends_first_and_reads_later_gets_its_refusal() {
    // R14
    let upstream = Upstream::serving(&["m"]);
    let proxy = start(&upstream);
    let chunk = [b"100000\r\n".as_slice(), &vec![b'x'; 1 << 20], b"\r\n"].concat();
    let chunked = [chunk.repeat(LARGE >> 20), b"0\r\n\r\n".to_vec()].concat();
    let plain = vec![b'x'; LARGE];
    let sized = format!("Content-Length: {LARGE}\r\n");
    for _ in 0..4 {
        let chunks = "Transfer-Encoding: chunked\r\n";
        assert_eq!(first_all(&proxy, &sized, "canary-right-key", &plain).0, 413);
        assert_eq!(first_all(&proxy, chunks, "canary-right-key", &chunked).0, 413);
        assert_eq!(first_all(&proxy, chunks, "wrong", &chunked).0, 401);
        assert_eq!(first_all(&proxy, "Content-Length: 1000000\r\n", "wrong", &plain[..1_000_000]).0, 401);
        // Framing in doubt, and bytes that are none.
        assert_eq!(first_all(&proxy, chunks, "canary-right-key", &plain).0, 400);
        assert_eq!(first_all(&proxy, "Content-Length: +1\r\n", "canary-right-key", &plain).0, 400);
    }
    assert_eq!(upstream.count(CHAT), 0);
}

#[test]
fn a_client_that_asks_first_is_refused_before_it_sends() {
    // R14
    let upstream = Upstream::serving(&["m"]);
    let proxy = start(&upstream);
    for (key, length, status) in [("wrong", 1000, 401), ("canary-right-key", LARGE, 413)] {
        let head = format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n");
        let answer = proxy.ask(format!("{head}Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n"));
        assert_eq!((answer.status(), answer.head.lines[0].contains("100")), (status, false));
    }
}

/// Sends a byte now and then until that fails. Nothing is to be heard at `quiet`.
fn ends(mut client: Client, mut quiet: Client) -> bool {
    (0..200).any(|_| client.try_send("x").is_err() || quiet.hears_within(ms(20)))
}

#[test]
fn a_refused_client_that_drips_on_is_closed_after_body_timeout() {
    // R14: no more than a connection, and not for ever.
    let upstream = Upstream::serving(&["m"]);
    let setup = Setup::over(&[&upstream]).with(one_key);
    let proxy = setup.with(|c| (c.server.body_timeout, c.server.workers) = (ms(300), 1)).start();
    let mut client = proxy.sent(format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"));
    assert_eq!(client.answer().status(), 401);
    assert!(ends(client, proxy.client()), "still open");
    proxy.still_serves();
}

#[test]
fn refused_clients_that_linger_make_room_for_others() {
    // R14, A20
    let upstream = Upstream::serving(&["m"]);
    let setup = Setup::over(&[&upstream]).with(one_key);
    let proxy = setup.with(|c| (c.server.max_connections, c.server.per_client) = (8, 100)).start();
    let lingering: Vec<Client> = (0..8)
        .map(|_| {
            let head = format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n");
            let mut client = proxy.sent(head);
            assert_eq!(client.answer().status(), 401);
            client
        })
        .collect();
    for _ in 0..20 {
        proxy.still_serves();
    }
    assert_eq!(lingering.len(), 8);
}

#[test]
fn a_worker_never_sees_a_request_without_its_key() {
    // U07
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    let proxy = Setup::over(&[&upstream]).with(one_key).with(|c| (c.server.workers, c.server.backlog) = (1, 1)).start();
    let right = "Authorization: Bearer canary-right-key\r\n";
    let mut busy = proxy.sent(post_with(CHAT, right, chat("m")));
    upstream.take(CHAT);
    for _ in 0..4 {
        for request in
            ["GET /props", "HEAD /slots", "POST /v1/chat/completions", "GET /v1/x?model=m", "DELETE /v1/stream"]
        {
            for fields in ["", "Authorization: Bearer wrong\r\n", "Content-Length: 0\r\n"] {
                let mut client = proxy.sent(format!("{request} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
                let answer = client.answer_to(request.split(' ').next().unwrap_or_default());
                assert!(matches!(answer.status(), 401 | 429), "{} for {request} with {fields:?}", answer.status());
            }
        }
    }
    // The one place in the backlog is free all the same.
    upstream.on(CHAT, Script::json("{}"));
    let mut next = proxy.sent(post_with(CHAT, right, chat("m")));
    latch.open();
    assert_eq!((busy.answer().status(), next.answer().status()), (200, 200));
}
