//! SPEC 11: lanes, bounds, drain, and everything given back after faults.

use crate::support::client::{Client, Ended};
use crate::support::fact::{DEADLINE, Latch, ms};
use crate::support::program::{Program, yaml};
use crate::support::proxy::CHAT;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::get;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use std::net::TcpStream;
use std::thread;

#[test]
fn control_paths_never_wait_behind_streams() {
    // X-04
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::sse().chunk(event("one")).latch(&latch).end());
    upstream.always(CHAT, Script::json("{}"));
    let setup = Setup::over(&[&upstream]);
    let proxy = setup.with(|c| (c.server.workers, c.server.backlog) = (1, 1)).start();
    let mut streaming = proxy.sent(post(CHAT, stream("m")));
    streaming.head();
    assert_eq!(streaming.event(), Some(event("one")));
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..6).map(|_| scope.spawn(|| proxy.chat("m"))).collect();
        let mut refused = 0;
        for path in ["/health", "/v1/models", "/nothing"] {
            assert!(matches!(proxy.get(path).status(), 200 | 404));
        }
        assert_eq!(proxy.force_check()["status"], "healthy");
        assert_eq!(proxy.ask(format!("OPTIONS {CHAT} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nAccess-Control-Request-Method: POST\r\n\r\n")).status(), 204);
        // Refusals come at once, so all but the one in the backlog are there before the latch opens.
        let (mut left, mut served) = (waiting, 0);
        while left.len() > 1 {
            let done = left.iter().position(thread::ScopedJoinHandle::is_finished);
            let Some(at) = done else {
                proxy.still_serves();
                continue;
            };
            let answer = left.remove(at).join().expect("an answer");
            assert_eq!((answer.status(), answer.code().as_str()), (503, "overloaded"));
            assert!(answer.field("retry-after").is_some());
            refused += 1;
        }
        latch.open();
        for one in left {
            served += usize::from(one.join().expect("an answer").status() == 200);
        }
        assert_eq!((refused, served), (5, 1));
    });
    assert_eq!(streaming.event(), None);
}

#[test]
fn requests_wait_for_a_worker_in_order() {
    // X-04
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    upstream.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).with(|c| c.server.workers = 1).start();
    let mut clients = vec![proxy.sent(post(CHAT, chat("m")))];
    upstream.take(CHAT);
    for n in 0..5 {
        clients.push(proxy.sent(post(CHAT, chat("m").replace("Hello!", &n.to_string()))));
        proxy.still_serves();
    }
    latch.open();
    for client in &mut clients {
        assert_eq!(client.answer().status(), 200);
    }
    for n in 0..5 {
        assert!(upstream.take(CHAT).text().contains(&format!(r#""content":"{n}""#)));
    }
}

#[test]
fn a_stop_finishes_what_is_in_progress() {
    // X-10, S000-33 (SPEC: drain)
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::sse().chunk(event("one")).latch(&latch).chunk(event("two")).end());
    let program = Program::start(&yaml(&[&upstream], ""));
    let mut streaming = program.client();
    streaming.send(post(CHAT, stream("m")));
    streaming.head();
    assert_eq!(streaming.event(), Some(event("one")));
    let mut idle = program.client();
    idle.send(get("/health"));
    assert_eq!(idle.answer().status(), 200);
    program.signal("TERM");
    idle.expect_close(DEADLINE);
    // Connects may still land in the kernel's queue for an instant; then they are refused.
    let refused = (0..100_000).any(|_| TcpStream::connect(program.addr).is_err());
    assert!(refused, "still listening");
    latch.open();
    assert_eq!(streaming.event(), Some(event("two")));
    assert_eq!((streaming.event(), streaming.ended()), (None, Ended::Complete));
    assert_eq!(program.exit_code(), Some(0));
}

#[test]
fn a_stop_waits_no_longer_than_told_and_a_second_signal_ends_it() {
    // X-10
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::sse().chunk(event("one")).stall());
    let program = Program::start(&yaml(&[&upstream], "  drainTimeout: 300ms\n"));
    let mut streaming = program.client();
    streaming.send(post(CHAT, stream("m")));
    streaming.head();
    assert_eq!(streaming.event(), Some(event("one")));
    program.signal("TERM");
    assert_eq!(program.exit_code(), Some(0));
    assert_eq!(streaming.body().1, Ended::Cut);

    upstream.on(CHAT, Script::sse().chunk(event("one")).stall());
    let program = Program::start(&yaml(&[&upstream], "  drainTimeout: 1h\n"));
    let mut streaming = program.client();
    streaming.send(post(CHAT, stream("m")));
    streaming.head();
    let mut idle = program.client();
    idle.send(get("/health"));
    idle.answer();
    program.signal("INT");
    idle.expect_close(DEADLINE);
    program.signal("INT");
    program.exit_code();
}

#[test]
fn a_stop_in_process_joins_everything() {
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::new().stall());
    let proxy = Setup::over(&[&upstream]).start();
    let addr = proxy.addr;
    let mut waiting = proxy.sent(post(CHAT, chat("m")));
    upstream.take(CHAT);
    proxy.stop();
    assert!(TcpStream::connect(addr).is_err());
    assert!(waiting.turned_away());
}

#[test]
fn after_all_these_faults_everything_is_given_back() {
    // FAULTS: descriptors, threads and memory are back at their baseline.
    let upstream = Upstream::serving(&["m"]);
    let program = Program::start(&yaml(&[&upstream], "  workers: 4\n  headTimeout: 300ms\n  bodyTimeout: 300ms\n"));
    let ask = |bytes: &[u8]| {
        let mut client = program.client();
        drop(client.try_send(bytes));
        client
    };
    let faults = |rounds: usize| {
        for _ in 0..rounds {
            drop(ask(b"GET / HTTP/1.1\r\n\r\n").answer());
            drop(ask(b"\x16\x03\x01").answer());
            drop(ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999\r\n\r\n").answer());
            drop(ask(b"GET /health HTTP/1.1\r\nHo"));
            ask(&post(CHAT, chat("m"))[..100]).reset();
            upstream.on(CHAT, Script::sse().chunk(event("one")).cut());
            drop(ask(&post(CHAT, stream("m"))).answer());
            upstream.on(CHAT, Script::new().reset());
            drop(ask(&post(CHAT, chat("m"))).answer());
            upstream.on(CHAT, Script::sse().chunk(event("one")).stall());
            let mut client = ask(&post(CHAT, stream("m")));
            client.head();
            client.reset();
            upstream.on(CHAT, Script::json("{}"));
            assert_eq!(ask(&post(CHAT, chat("m"))).answer().status(), 200);
        }
    };
    // Few workers, so that the first rounds have used each: pools, caches and stacks are warm.
    faults(10);
    let settled = |most: usize| {
        let mut control: Client = program.client();
        (0..200_000).any(|_| {
            control.send(get("/health"));
            control.answer();
            program.descriptors() <= most
        })
    };
    assert!(settled(60), "{} descriptors", program.descriptors());
    let (descriptors, threads, memory) = (program.descriptors(), program.threads(), program.rss());
    faults(40);
    assert!(settled(descriptors + 4), "{descriptors} descriptors, then {}", program.descriptors());
    assert!(program.threads() <= threads + 1, "{threads} threads, then {}", program.threads());
    assert!(program.rss() < memory + 4096, "{memory} KiB, then {} KiB", program.rss());
}

#[test]
fn a_name_in_the_environment_sends_nothing_astray() {
    // X-07
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json("{}"));
    let nowhere = "http://127.0.0.1:1";
    let env = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"].map(|name| (name, nowhere));
    let program = Program::start_with(&yaml(&[&upstream], ""), &env);
    let mut client = program.client();
    client.send(post(CHAT, chat("m")));
    assert_eq!(client.answer().status(), 200);
}

#[test]
fn silence_between_reads_is_bounded() {
    // X-07, S000-24, W000-3
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::head(200, &[("Content-Length", "9")]).bytes("x").stall());
    let proxy = Setup::over(&[&upstream]).timeouts(|t| t.idle = Some(ms(200))).start();
    assert_eq!(proxy.chat("m").ended, Ended::Cut);
    upstream.take(CHAT).closed.wait("the proxy's close");
}

#[test]
fn a_whole_answer_may_be_bounded_and_a_stream_is_not() {
    // SPEC 4: stages; `total` bounds a non-streamed answer
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).timeouts(|t| t.total = Some(ms(300))).start();
    upstream.on(CHAT, Script::new().stall());
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.code().as_str()), (504, "upstream_timeout"));
    assert!(answer.text().contains("total"), "the stage is named: {}", answer.text());
    let latch = Latch::new();
    upstream.on(CHAT, Script::sse().chunk(event("one")).latch(&latch).chunk(event("two")).end());
    let mut client = proxy.sent(post(CHAT, stream("m")));
    client.head();
    assert_eq!(client.event(), Some(event("one")));
    assert!(!client.hears_within(ms(600)), "twice the limit");
    latch.open();
    assert_eq!(client.event(), Some(event("two")));
}
