//! FAULTS A17 to A21: slow, idle, unread, too many. A connection at most, never a worker.

use crate::support::client::Client;
use crate::support::fact::{DEADLINE, Latch, ms, timed};
use crate::support::program::{Program, yaml};
use crate::support::proxy::CHAT;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::get;
use crate::support::proxy::post;
use crate::support::proxy::post_with;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use llmproxy::config::Network;
use std::net::{IpAddr, TcpListener};
use std::thread;

/// Sends the bytes one by one with a pause until an answer comes; whether one came before they ran out.
fn drip(client: &mut Client, bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| client.try_send([*byte]).is_err() || client.hears_within(ms(20)))
}

#[test]
fn a_head_that_drips_is_408_at_an_absolute_time() {
    // A17
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(|c| c.server.head_timeout = ms(300)).start();
    let slow = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: {}", "x".repeat(400));
    let mut client = proxy.client();
    assert!(drip(&mut client, slow.as_bytes()), "bytes must not buy time");
    let answer = client.answer();
    assert_eq!((answer.status(), answer.field("connection")), (408, Some("close")));
    client.expect_close(DEADLINE);
    let mut lines = proxy.client();
    lines.send("GET /health HTTP/1.1\r\n");
    assert!(drip(&mut lines, "A: b\r\n".repeat(80).as_bytes()));
    assert_eq!(lines.answer().status(), 408);
    proxy.still_serves();
}

#[test]
fn a_body_that_stalls_is_408() {
    // A18, X-09
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(|c| c.server.body_timeout = ms(300)).start();
    let whole = post(CHAT, chat("m"));
    let mut client = proxy.sent(&whole[..whole.len() - 5]);
    let answer = client.answer();
    assert_eq!((answer.status(), answer.field("connection")), (408, Some("close")));
    client.expect_close(DEADLINE);
    let head = format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab");
    assert_eq!(proxy.ask(head).status(), 408);
    proxy.still_serves();
    assert_eq!(upstream.count(CHAT), 0);
}

#[test]
fn slow_bodies_hold_no_worker() {
    // A18, X-09
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).with(|c| c.server.workers = 1).start();
    let whole = post(CHAT, chat("m"));
    let slow: Vec<Client> = (0..20).map(|_| proxy.sent(&whole[..whole.len() - 1])).collect();
    assert_eq!(proxy.chat("m").status(), 200);
    assert_eq!(slow.len(), 20);
}

#[test]
fn an_idle_connection_is_closed_in_silence() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(|c| c.server.keep_alive = ms(200)).start();
    let mut used = proxy.sent(get("/health"));
    assert_eq!(used.answer().status(), 200);
    used.expect_close(DEADLINE);
}

#[test]
fn a_connection_is_kept_for_the_next_request() {
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    let mut client = proxy.client();
    for _ in 0..3 {
        client.send(post(CHAT, chat("m")));
        assert_eq!(client.answer().status(), 200);
        client.send(get("/v1/models"));
        assert_eq!(client.answer().status(), 200);
    }
    client.send("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(client.answer().field("connection"), Some("close"));
    client.expect_close(DEADLINE);
}

#[test]
fn a_reader_that_stops_costs_its_worker_for_the_write_timeout_only() {
    // A19
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::sse().endless(format!("1000\r\n{}\r\n", "x".repeat(0x1000))));
    upstream.on(CHAT, Script::json("{}"));
    let setup = Setup::over(&[&upstream]);
    let proxy = setup.with(|c| (c.server.workers, c.server.write_timeout) = (1, ms(300))).start();
    let mut client = Client::with_small_window(proxy.addr);
    client.send(post(CHAT, stream("m")));
    upstream.take(CHAT).closed.wait("the upstream's cancel");
    assert_eq!(proxy.chat("m").status(), 200, "the only worker is free again");
}

#[test]
fn the_oldest_idle_connection_makes_room() {
    // A20
    let upstream = Upstream::serving(&["m"]);
    let setup = Setup::over(&[&upstream]);
    let proxy = setup.with(|c| (c.server.max_connections, c.server.per_client) = (8, 100)).start();
    let mut idle: Vec<Client> = Vec::new();
    for _ in 0..8 {
        // Served once, so that the order of arrival is certain.
        let mut client = proxy.sent(get("/health"));
        assert_eq!(client.answer().status(), 200);
        idle.push(client);
    }
    for _ in 0..50 {
        let mut client = proxy.sent(get("/health"));
        assert_eq!(client.answer().status(), 200);
        idle.push(client);
    }
    idle[0].expect_close(DEADLINE);
    // One whose worker is just giving it back counts as busy for that moment, so the order is not strict.
    idle[40].expect_close(DEADLINE);
    let last = idle.last_mut().expect("58 of them");
    last.send(get("/health"));
    assert_eq!(last.answer().status(), 200);
}

#[test]
fn a_full_table_closes_what_has_waited_longest_and_not_who_came_last() {
    // U37
    let upstream = Upstream::serving(&["m"]);
    let setup = Setup::over(&[&upstream]);
    let proxy = setup.with(|c| (c.server.max_connections, c.server.per_client) = (16, 100)).start();
    let served = |n: usize| -> Vec<Client> {
        (0..n).map(|_| proxy.sent(get("/health"))).map(|mut client| (client.answer(), client).1).collect()
    };
    let kept = served(12);
    // By now the first of them are parked.
    served(3).iter_mut().for_each(Client::half_close);
    let mut fresh = proxy.client();
    let last = served(8);
    fresh.send(get("/health"));
    assert_eq!(fresh.answer().status(), 200, "the idle ones go first");
    assert_eq!((kept.len(), last.len()), (12, 8));
}

#[test]
fn an_address_that_has_its_share_takes_nobody_elses_place() {
    // U37
    let upstream = Upstream::serving(&["m"]);
    let setup = Setup::over(&[&upstream]);
    let proxy = setup.with(|c| (c.server.max_connections, c.server.per_client) = (4, 3)).start();
    let mut other = Client::from_address([127, 0, 0, 2], proxy.addr);
    other.send(get("/health"));
    assert_eq!(other.answer().status(), 200);
    let greedy: Vec<Client> = (0..3).map(|_| proxy.sent(get("/health"))).map(|mut c| (c.answer(), c).1).collect();
    for _ in 0..10 {
        assert!(proxy.client().turned_away());
    }
    other.send(get("/health"));
    assert_eq!(other.answer().status(), 200);
    assert_eq!(greedy.len(), 3);
}

#[test]
fn a_burst_of_connections_is_accepted_in_turns_and_all_are_served() {
    // S13
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(|c| c.server.per_client = 400).start();
    let mut burst: Vec<Client> = (0..300).map(|_| proxy.sent(get("/v1/models"))).collect();
    assert!(burst.iter_mut().all(|client| client.answer().status() == 200));
}

#[test]
fn a_stream_in_progress_is_never_evicted() {
    // A20
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::sse().chunk(event("one")).latch(&latch).chunk(event("two")).end());
    let setup = Setup::over(&[&upstream]);
    let proxy = setup.with(|c| (c.server.max_connections, c.server.per_client) = (4, 100)).start();
    let mut streaming = proxy.sent(post(CHAT, stream("m")));
    streaming.head();
    assert_eq!(streaming.event(), Some(event("one")));
    let idle: Vec<Client> = (0..20).map(|_| proxy.sent(get("/health"))).map(|mut c| (c.answer(), c).1).collect();
    latch.open();
    assert_eq!(streaming.event(), Some(event("two")));
    assert_eq!(idle.len(), 20);
}

/// Connections from this address that are served, one after the other, up to ten, each kept open.
fn served(setup: Setup) -> usize {
    let proxy = setup.with(|c| c.server.per_client = 4).start();
    let mut open = Vec::new();
    for _ in 0..10 {
        let mut client = proxy.client();
        // A refusal is a close or an answer; either may come before we have sent.
        drop(client.try_send(get("/health")));
        if client.turned_away() {
            break;
        }
        open.push(client);
    }
    open.len()
}

#[test]
fn one_address_gets_its_share_of_connections_and_trusted_proxies_more() {
    // A20
    let upstream = Upstream::serving(&["m"]);
    assert_eq!(served(Setup::over(&[&upstream])), 4);
    let loopback = Network { address: IpAddr::from([127, 0, 0, 1]), prefix: 32 };
    assert_eq!(served(Setup::over(&[&upstream]).with(|c| c.server.trusted_proxies = vec![loopback])), 10);
}

#[test]
fn pipelined_requests_are_answered_one_at_a_time_in_order() {
    // A21
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::json(r#"{"n":1}"#)));
    upstream.on(CHAT, Script::json(r#"{"n":2}"#));
    let proxy = Setup::over(&[&upstream]).start();
    let mut client = proxy.sent([post(CHAT, chat("m")), post(CHAT, chat("m")), get("/v1/models").into()].concat());
    upstream.take(CHAT);
    proxy.still_serves();
    assert_eq!(upstream.count(CHAT), 1, "the second waits for the first");
    latch.open();
    assert_eq!(client.answer().json()["n"], 1);
    assert_eq!(client.answer().json()["n"], 2);
    assert_eq!(client.answer().json()["object"], "list");
}

#[test]
fn a_flood_of_pipelined_requests_is_served_in_order_in_little_memory() {
    // A21
    const MANY: usize = 20_000;
    let upstream = Upstream::serving(&["m"]);
    let program = Program::start(&yaml(&[&upstream], ""));
    let before = program.peak();
    let mut client = program.client();
    let mut flood = client.writer();
    let sending = thread::spawn(move || {
        let mut batch = String::new();
        for n in 0..MANY {
            batch += &format!("GET /v1/models/none HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: n{n}\r\n\r\n");
            if batch.len() > 60_000 || n + 1 == MANY {
                std::io::Write::write_all(&mut flood, batch.as_bytes()).expect("the proxy reads on");
                batch.clear();
            }
        }
    });
    for n in 0..MANY {
        assert_eq!(client.answer().field("x-request-id"), Some(format!("n{n}").as_str()));
    }
    sending.join().expect("all was sent");
    assert!(program.peak() < before + 4096, "{before} KiB, then {} KiB", program.peak());
}

#[test]
fn the_time_of_one_slow_head_is_not_the_time_of_others() {
    // A17: a slow client costs nobody else anything.
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(|c| c.server.head_timeout = DEADLINE).start();
    let slow: Vec<Client> = (0..40).map(|_| proxy.sent("GET /health HTTP/1.1\r\nHo")).collect();
    let (_, took) = timed(|| proxy.still_serves());
    assert!(took < DEADLINE / 2, "{took:?} beside {} slow heads", slow.len());
}

#[test]
fn a_listener_may_be_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        return; // a machine without it
    }
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(|c| c.server.host = "::1".into()).start();
    assert!(proxy.addr.is_ipv6());
    assert_eq!(proxy.get("/v1/models").status(), 200);
}

#[test]
fn http_1_0_gets_what_it_understands() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    upstream.on(CHAT, Script::sse().chunk(event("one")).chunk(event("two")).end());
    let request = String::from_utf8(post_with(CHAT, "", stream("m"))).expect("text").replace("HTTP/1.1", "HTTP/1.0");
    let answer = proxy.ask(request);
    assert_eq!((answer.field("transfer-encoding"), answer.status()), (None, 200));
    assert_eq!(answer.text(), event("one") + &event("two"));
    let mut kept = proxy.sent("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = kept.answer();
    assert_eq!(answer.field("connection").map(str::to_ascii_lowercase).as_deref(), Some("keep-alive"));
    kept.send("GET /health HTTP/1.0\r\n\r\n");
    assert_eq!(kept.answer().status(), 200);
    kept.expect_close(DEADLINE);
}
