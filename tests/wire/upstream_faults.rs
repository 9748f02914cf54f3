//! FAULTS C1 to C5 and C9 to C18: an upstream that fails before its answer has begun.

use crate::support::blackhole::Blackhole;
use crate::support::fact::{DEADLINE, Latch, ms, timed};
use crate::support::program::{Program, yaml};
use crate::support::proxy::CHAT;
use crate::support::proxy::Proxy;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::endpoint;
use crate::support::proxy::get;
use crate::support::proxy::post;
use crate::support::proxy::post_with;
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::{Endpoint, Probe};
use std::collections::HashSet;
use std::net::SocketAddr;

/// Counts as available and as serving `m` without ever being asked.
fn unprobed(name: &str, addr: SocketAddr) -> Endpoint {
    Endpoint { probe: Probe::Never, models: vec!["m".into()], ..endpoint(name, addr) }
}

/// The proxy in front of one upstream that plays this for a chat; a second try would have no script.
fn playing(script: Script) -> (Upstream, Proxy) {
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, script);
    let proxy = Setup::over(&[&upstream]).start();
    (upstream, proxy)
}

#[test]
fn a_refused_connection_moves_on_to_the_next_endpoint() {
    // C1, S000-20
    let (mut first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    let proxy = Setup::over(&[&first, &second]).start();
    first.kill();
    second.on(CHAT, Script::json("{}"));
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.field("x-llmproxy-endpoint")), (200, Some("b")));
    assert_eq!(answer.field("x-llmproxy-attempts"), Some("2"));
}

#[test]
fn the_only_endpoint_refusing_is_502() {
    // C1, S000-25
    let mut upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    upstream.kill();
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_error"), "{}", answer.text());
    assert!(
        !answer.text().contains(&upstream.addr().port().to_string()),
        "no address of an upstream: {}",
        answer.text()
    );
}

#[test]
fn a_connection_that_hangs_moves_on_after_the_connect_timeout() {
    // C2
    let (hole, second) = (Blackhole::new(), Upstream::serving(&["m"]));
    second.on(CHAT, Script::json("{}"));
    let setup = Setup::over(&[]).endpoint(unprobed("a", hole.addr())).endpoint(endpoint("b", second.addr()));
    let proxy = setup.timeouts(|t| t.connect = Some(ms(200))).start();
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.field("x-llmproxy-endpoint")), (200, Some("b")));
}

#[test]
fn the_only_endpoint_hanging_is_504_that_names_connect() {
    // C2
    let hole = Blackhole::new();
    let setup = Setup::over(&[]).endpoint(unprobed("a", hole.addr()));
    let proxy = setup.timeouts(|t| t.connect = Some(ms(200))).start();
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.code().as_str()), (504, "upstream_timeout"));
    assert!(answer.text().to_lowercase().contains("connect"), "{}", answer.text());
}

#[test]
fn a_connection_lost_before_the_answer_is_one_try_and_502() {
    // C3
    for script in [Script::new().cut(), Script::new().reset(), Script::raw("HTTP/1.1 200 OK\r\nConte").cut()] {
        let (upstream, proxy) = playing(script);
        let answer = proxy.chat("m");
        assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_error"));
        assert_eq!(upstream.count(CHAT), 1);
    }
}

/// Leaves one connection to the upstream in the pool; the client stays until it is there.
fn pool_one(upstream: &Upstream, proxy: &Proxy) {
    upstream.on(CHAT, Script::json("{}"));
    let mut client = proxy.sent(post(CHAT, chat("m")));
    assert_eq!(client.answer().status(), 200);
    proxy.idle();
}

#[test]
fn a_client_that_leaves_with_its_answer_takes_no_connection_along() {
    // A22, C4: what is back in the pool may already carry somebody else's request.
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    for _ in 0..100 {
        assert_eq!(proxy.chat("m").status(), 200);
        proxy.idle();
    }
    let used: HashSet<usize> = (0..100).map(|_| upstream.take(CHAT).connection).collect();
    assert_eq!(used.len(), 1, "one request after the other needs one connection");
}

#[test]
fn a_pooled_connection_that_died_is_replaced_unseen() {
    // C4
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    pool_one(&upstream, &proxy);
    let first = upstream.take(CHAT);
    upstream.on(CHAT, Script::new().cut());
    upstream.on(CHAT, Script::json("{}"));
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.field("x-llmproxy-attempts")), (200, Some("1")));
    let (dead, fresh) = (upstream.take(CHAT), upstream.take(CHAT));
    assert_eq!(dead.connection, first.connection, "the connection was reused");
    assert_ne!(fresh.connection, first.connection);
    assert_eq!(fresh.text(), chat("m"));
}

#[test]
fn a_fresh_connection_that_dies_is_not_tried_again() {
    // C4
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    pool_one(&upstream, &proxy);
    upstream.on(CHAT, Script::new().cut());
    upstream.on(CHAT, Script::new().cut());
    assert_eq!(proxy.chat("m").status(), 502);
    assert_eq!(upstream.count(CHAT), 3);
}

#[test]
fn an_upstream_that_closes_after_each_answer_is_never_an_error() {
    // C4: llama-server does so after every stream.
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::raw(include_bytes!("../data/chat_stream.raw")).cut());
    let proxy = Setup::over(&[&upstream]).start();
    for _ in 0..100 {
        assert_eq!(proxy.chat("m").status(), 200);
    }
}

#[test]
fn a_first_byte_too_late_is_504_and_closes_the_upstream() {
    // C5
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::new().stall());
    let proxy = Setup::over(&[&upstream]).timeouts(|t| t.first_byte = Some(ms(200))).start();
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.code().as_str()), (504, "upstream_timeout"));
    assert!(answer.text().contains("firstByte"), "the stage is named: {}", answer.text());
    upstream.take(CHAT).closed.wait("the proxy's close");
}

#[test]
fn an_answer_that_is_not_http_is_502() {
    // C9
    let tls = b"\x15\x03\x01\x00\x02\x02\x50";
    for bytes in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
        b"HTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"hello\r\n\r\n",
        tls,
    ] {
        let (_upstream, proxy) = playing(Script::raw(bytes).cut());
        let shown = String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(proxy.chat("m").status(), 502, "{shown:?}");
        proxy.still_serves();
    }
}

#[test]
fn a_head_beyond_all_measure_is_502() {
    // C11
    let many: String = (0..500).map(|n| format!("X-{n}: 1\r\n")).collect();
    for lines in [format!("X-A: {}\r\n", "x".repeat(200 << 10)), many] {
        let (_upstream, proxy) =
            playing(Script::raw(format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\n{{}}")).cut());
        assert_eq!(proxy.chat("m").status(), 502);
    }
}

#[test]
fn early_hints_are_swallowed_and_endless_ones_run_out() {
    // C12
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let (_upstream, proxy) = playing(Script::raw(hint.repeat(1000)).then(Script::json("{}")));
    assert_eq!(proxy.chat("m").status(), 200);
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::new().endless(hint));
    let proxy = Setup::over(&[&upstream]).timeouts(|t| t.first_byte = Some(ms(300))).start();
    assert_eq!(proxy.chat("m").status(), 504);
    upstream.take(CHAT).closed.wait("the proxy's close");
}

#[test]
fn an_unasked_upgrade_is_502() {
    // C13
    let (_upstream, proxy) = playing(Script::head(101, &[("Upgrade", "x"), ("Connection", "upgrade")]).cut());
    assert_eq!(proxy.chat("m").status(), 502);
}

#[test]
fn odd_statuses_pass_and_impossible_ones_are_502() {
    // C14
    let (_upstream, proxy) = playing(Script::answer(999, &[], "{}"));
    assert_eq!(proxy.chat("m").status(), 999);
    for bytes in
        ["HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nX-A: a\rb\r\nContent-Length: 0\r\n\r\n"]
    {
        let (_upstream, proxy) = playing(Script::raw(bytes).cut());
        assert_eq!(proxy.chat("m").status(), 502, "{bytes:?}");
    }
}

#[test]
fn a_redirect_is_passed_on_and_never_followed() {
    // C15, X-07
    let elsewhere = Upstream::start();
    let target = format!("http://{}/x", elsewhere.addr());
    for status in [301, 302, 303, 307, 308] {
        let (_upstream, proxy) = playing(Script::answer(status, &[("Location", &target)], "moved"));
        let answer = proxy.chat("m");
        assert_eq!(
            (answer.status(), answer.field("location"), answer.text()),
            (status, Some(target.as_str()), "moved")
        );
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn a_probe_never_follows_a_redirect() {
    // C15, S000-32 (SPEC 6: success is 2xx)
    let (upstream, elsewhere) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    let target = format!("http://{}/v1/models", elsewhere.addr());
    upstream.always("/health", Script::answer(302, &[("Location", &target)], ""));
    let proxy = Setup::over(&[&upstream]).with(|c| {
        c.health_check.failure_threshold = 1;
        c.endpoints[0].probe = Probe::Path("/health".into());
    });
    let proxy = proxy.start();
    let health = proxy.force_check()["endpoints"]["a"].clone();
    let told = format!("answered 302 (go to http://{})", elsewhere.addr());
    assert_eq!((&health["healthy"], health["lastError"].as_str()), (&false.into(), Some(told.as_str())));
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn a_packed_answer_stays_packed_however_large_it_would_be() {
    // C16
    let upstream = Upstream::serving(&["m"]);
    // Never unpacked, so its bytes need not be a bomb: they need only arrive as they are.
    let packed: Vec<u8> = (0..16 << 20).map(|n: u32| (n * 31 % 251) as u8).collect();
    upstream.on(CHAT, Script::answer(200, &[("Content-Encoding", "gzip")], &packed));
    let program = Program::start(&yaml(&[&upstream], ""));
    let before = program.peak();
    let mut client = program.client();
    client.send(post_with(CHAT, "Accept-Encoding: gzip\r\n", chat("m")));
    let answer = client.answer();
    assert_eq!(answer.field("content-encoding"), Some("gzip"));
    assert!(answer.body == packed, "byte for byte");
    assert!(program.peak() < before + (8 << 10), "{before} KiB, then {} KiB", program.peak());
    assert_eq!(upstream.take(CHAT).field("accept-encoding"), Some("gzip"));
}

#[test]
fn an_early_refusal_of_a_large_body_reaches_the_client() {
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::error(413, "too large for me").early());
    let proxy = Setup::over(&[&upstream]).start();
    let answer = proxy.post(CHAT, format!(r#"{{"model":"m","a":"{}"}}"#, "x".repeat(8 << 20)));
    assert_eq!(answer.status(), 413, "{}", answer.text());
    assert!(answer.text().contains("too large for me"));
}

#[test]
fn a_name_that_does_not_resolve_is_a_transport_error() {
    // C18
    let mut nowhere = unprobed("a", SocketAddr::from(([127, 0, 0, 1], 1)));
    nowhere.base.host = "no-such-host.invalid".into();
    let second = Upstream::serving(&["m"]);
    second.on(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[]).endpoint(nowhere).endpoint(endpoint("b", second.addr())).start();
    assert_eq!(proxy.chat("m").field("x-llmproxy-endpoint"), Some("b"));
}

#[test]
fn a_slow_upstream_delays_nobody_else() {
    // X-03
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    let proxy = Setup::over(&[&upstream]).start();
    let mut slow = proxy.sent(post(CHAT, chat("m")));
    upstream.take(CHAT);
    upstream.on(CHAT, Script::json("{}"));
    let (answer, took) = timed(|| proxy.ask(get("/v1/models")));
    assert_eq!((answer.status(), proxy.chat("m").status()), (200, 200));
    assert!(took < DEADLINE / 2);
    latch.open();
    assert_eq!(slow.answer().status(), 200);
}
