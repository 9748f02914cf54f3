//! L1: llama-server works on for a client that has left before its first token. Its slot is not free for others.

use crate::support::fact::{Latch, ms, timed};
use crate::support::proxy::CHAT;
use crate::support::proxy::Proxy;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;

/// A llama-server with two slots, of which so many work.
fn llama() -> Upstream {
    let upstream = Upstream::serving(&["m"]);
    upstream.always("/props", Script::raw(include_bytes!("../data/props.raw")));
    working(&upstream, 0);
    upstream
}

fn working(upstream: &Upstream, slots: usize) {
    let slot = |n| format!(r#"{{"id":{n},"n_ctx":16384,"is_processing":{}}}"#, n < slots);
    upstream.always("/slots", Script::json(format!("[{},{}]", slot(0), slot(1))).closing());
}

fn start(upstreams: &[&Upstream]) -> Proxy {
    let proxy = Setup::over(upstreams).with(|c| c.health_check.path = "/health".into()).start();
    proxy.until(|health| health["endpoints"]["a"]["slots"] == 2);
    proxy
}

fn endpoint_of(proxy: &Proxy) -> String {
    let answer = proxy.chat("m");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.field("x-llmproxy-endpoint").expect("told").to_owned()
}

#[test]
fn nobody_is_sent_to_wait_behind_a_client_that_left() {
    // L1: not streamed, and a stream whose head is out and whose prompt is not through.
    for (body, script) in [(chat("m"), Script::new().stall()), (stream("m"), Script::sse().stall())] {
        let (first, second) = (llama(), Upstream::serving(&["m"]));
        second.always(CHAT, Script::json("{}"));
        let proxy = start(&[&first, &second]);
        let latch = Latch::new();
        first.on(CHAT, Script::sse().chunk(event("one")).latch(&latch).chunk(event("two")).end());
        let mut streaming = proxy.sent(post(CHAT, stream("m")));
        streaming.head();
        assert_eq!(streaming.event(), Some(event("one")));
        first.on(CHAT, script);
        let leaver = proxy.sent(post(CHAT, body));
        first.wait_count(CHAT, 2);
        working(&first, 2);
        let request = (first.take(CHAT), first.take(CHAT)).1;
        drop(leaver);
        request.closed.wait("the proxy to hang up");
        for _ in 0..5 {
            assert_eq!(endpoint_of(&proxy), "b");
        }
        assert_eq!(proxy.health()["endpoints"]["a"]["inFlight"], 1, "the request has ended, only its slot is taken");
        // Asked, and still working: the slot stays taken.
        let asked = first.count("/slots");
        first.wait_count("/slots", asked + 2);
        assert_eq!(endpoint_of(&proxy), "b");
        first.always(CHAT, Script::json("{}"));
        working(&first, 1);
        let asked = first.count("/slots");
        first.wait_count("/slots", asked + 1);
        assert!((0..1000).any(|_| endpoint_of(&proxy) == "a"), "its slot is free");
        latch.open();
        assert_eq!(streaming.event(), Some(event("two")));
        assert_eq!(streaming.event(), None);
        proxy.idle();
        assert!(first.count("/slots") < 20, "at most every two seconds");
    }
}

#[test]
fn a_request_waits_for_the_slot_of_a_client_that_left_until_the_server_shows_it_free() {
    // L1
    let upstream = llama();
    let proxy = start(&[&upstream]);
    upstream.on(CHAT, Script::new().stall());
    upstream.on(CHAT, Script::new().stall());
    working(&upstream, 2);
    let leavers = [proxy.sent(post(CHAT, chat("m"))), proxy.sent(post(CHAT, chat("m")))];
    upstream.wait_count(CHAT, 2);
    drop(leavers);
    let mut waiting = proxy.sent(post(CHAT, chat("m")));
    upstream.wait_count("/slots", 1);
    assert_eq!(upstream.count(CHAT), 2, "it waits here, not there");
    upstream.always(CHAT, Script::json("{}"));
    working(&upstream, 0);
    assert_eq!(waiting.answer().status(), 200);
    proxy.idle();
}

#[test]
fn an_attempt_that_the_server_ended_itself_frees_its_slot_at_once() {
    // Other clients of the server keep its slots at work.
    let upstream = llama();
    let proxy = start(&[&upstream]);
    working(&upstream, 2);
    for _ in 0..2 {
        upstream.on(CHAT, Script::new().reset());
        assert_eq!(proxy.chat("m").status(), 502);
    }
    let before = upstream.count(CHAT);
    upstream.always(CHAT, Script::new().stall());
    let two = [proxy.sent(post(CHAT, chat("m"))), proxy.sent(post(CHAT, chat("m")))];
    let (_, took) = timed(|| upstream.wait_count(CHAT, before + 2));
    assert!(took < ms(5000), "{took:?}");
    drop(two);
}

#[test]
fn a_server_that_does_not_tell_its_slots_or_has_restarted_frees_them() {
    // L1
    for case in ["unsupported", "refused key", "restart", "flowing"] {
        let mut upstream = llama();
        let proxy = start(&[&upstream]);
        working(&upstream, 2);
        match case {
            "unsupported" => upstream.always("/slots", Script::error(501, "no slots").closing()),
            "refused key" => upstream.always("/slots", Script::error(401, "no").closing()),
            _ => {}
        }
        let script = if case == "flowing" { Script::sse().chunk(event("one")).stall() } else { Script::new().stall() };
        upstream.on(CHAT, script);
        let mut leaver = proxy.sent(post(CHAT, stream("m")));
        let request = upstream.take(CHAT);
        if case == "flowing" {
            leaver.head();
            leaver.event();
        }
        drop(leaver);
        request.closed.wait("the proxy to hang up");
        if case == "restart" {
            upstream.kill();
            assert_eq!(proxy.chat("m").status(), 502);
            upstream.revive();
            proxy.until(|health| health["endpoints"]["a"]["state"] == "healthy");
        }
        proxy.idle();
        // Both slots are free again.
        let before = upstream.count(CHAT);
        upstream.always(CHAT, Script::new().stall());
        let two = [proxy.sent(post(CHAT, chat("m"))), proxy.sent(post(CHAT, chat("m")))];
        let (_, took) = timed(|| upstream.wait_count(CHAT, before + 2));
        assert!(took < ms(5000), "{case}: {took:?}");
        drop(two);
    }
}
