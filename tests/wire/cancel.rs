//! FAULTS A22: the client leaves, at any stage. The upstream is let go, nothing more is tried, the worker is free.

use crate::support::blackhole::Blackhole;
use crate::support::client::Client;
use crate::support::fact::{Latch, ms};
use crate::support::program::{Program, yaml};
use crate::support::proxy::CHAT;
use crate::support::proxy::Proxy;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::endpoint;
use crate::support::proxy::get;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::received::Received;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use llmproxy::config::{OnClientGone, Probe};
use llmproxy::util::time;
use std::time::{Duration, Instant};

/// The promise is one second; a busy machine gets another.
const SOON: Duration = Duration::from_secs(2);

/// One worker, so that the next request shows whether it is free.
fn one_worker(upstreams: &[&Upstream]) -> Setup {
    Setup::over(upstreams).with(|c| c.server.workers = 1)
}

fn let_go(request: &Received, left: Instant) {
    let took = request.closed.wait("the upstream's connection to close").saturating_duration_since(left);
    assert!(took < SOON, "{took:?}");
}

fn worker_is_free(upstream: &Upstream, proxy: &Proxy) {
    upstream.on(CHAT, Script::json("{}"));
    assert_eq!(proxy.chat("m").status(), 200);
}

/// Leaves with FIN or RST; when.
fn leave(client: Client, reset: bool) -> Instant {
    let left = time::now();
    if reset {
        client.reset();
    } else {
        drop(client);
    }
    left
}

#[test]
fn a_client_that_leaves_before_the_first_byte_frees_everything() {
    // A22, W000-3
    for (reset, body) in [(false, chat("m")), (true, chat("m")), (false, stream("m")), (true, stream("m"))] {
        let upstream = Upstream::serving(&["m"]);
        upstream.on(CHAT, Script::new().stall());
        let proxy = one_worker(&[&upstream]).start();
        let client = proxy.sent(post(CHAT, body));
        let request = upstream.take(CHAT);
        let_go(&request, leave(client, reset));
        worker_is_free(&upstream, &proxy);
    }
}

#[test]
fn a_client_that_leaves_a_silent_stream_frees_everything() {
    // A22, X-06
    for reset in [false, true] {
        let upstream = Upstream::serving(&["m"]);
        upstream.on(CHAT, Script::sse().chunk(event("one")).stall());
        let proxy = one_worker(&[&upstream]).start();
        let mut client = proxy.sent(post(CHAT, stream("m")));
        client.head();
        assert_eq!(client.event(), Some(event("one")));
        let request = upstream.take(CHAT);
        let_go(&request, leave(client, reset));
        worker_is_free(&upstream, &proxy);
    }
}

#[test]
fn a_client_that_leaves_a_flowing_stream_frees_everything() {
    // W001-7
    // A22, X-06
    let upstream = Upstream::serving(&["m"]);
    let chunk = format!("{:x}\r\n{}\r\n", event("token").len(), event("token"));
    upstream.on(CHAT, Script::sse().endless(chunk));
    let proxy = one_worker(&[&upstream]).start();
    let mut client = proxy.sent(post(CHAT, stream("m")));
    client.head();
    for _ in 0..3 {
        assert_eq!(client.event(), Some(event("token")));
    }
    let request = upstream.take(CHAT);
    let_go(&request, leave(client, false));
    worker_is_free(&upstream, &proxy);
}

#[test]
fn a_client_that_leaves_within_a_whole_answer_frees_everything() {
    // A22
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::head(200, &[("Content-Length", "100")]).bytes("half").stall());
    let proxy = one_worker(&[&upstream]).start();
    let client = proxy.sent(post(CHAT, chat("m")));
    let request = upstream.take(CHAT);
    let_go(&request, leave(client, false));
    worker_is_free(&upstream, &proxy);
}

#[test]
fn a_client_that_leaves_while_connecting_frees_the_worker() {
    // A22
    let (hole, upstream) = (Blackhole::new(), Upstream::serving(&["m"]));
    let mut first = endpoint("a", hole.addr());
    (first.models, first.probe) = (vec!["lost".into()], Probe::Never);
    let setup = Setup::over(&[]).endpoint(first).endpoint(endpoint("b", upstream.addr()));
    let setup = setup.timeouts(|t| t.connect = Some(ms(1500))).with(|c| c.server.workers = 1);
    let proxy = setup.start();
    let client = proxy.sent(post(CHAT, chat("lost")));
    proxy.still_serves();
    leave(client, false);
    worker_is_free(&upstream, &proxy);
}

#[test]
fn nothing_more_is_tried_for_a_client_that_left() {
    // A22: SPEC 4, no further attempt starts
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    first.on(CHAT, Script::new().stall());
    let proxy = one_worker(&[&first, &second]).start();
    let client = proxy.sent(post(CHAT, chat("m")));
    let request = first.take(CHAT);
    let_go(&request, leave(client, true));
    worker_is_free(&first, &proxy);
    assert_eq!(second.count(CHAT), 0);
}

#[test]
fn a_client_that_leaves_between_two_tries_ends_the_wait() {
    // A22
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::error(500, "x"));
    let setup = one_worker(&[&upstream]).with(|c| {
        (c.retry.attempts, c.retry.initial_delay, c.retry.max_delay) =
            (Some(2), Duration::from_secs(60), Duration::from_secs(60));
    });
    let proxy = setup.start();
    let client = proxy.sent(post(CHAT, chat("m")));
    upstream.take(CHAT);
    proxy.still_serves();
    leave(client, false);
    worker_is_free(&upstream, &proxy);
}

#[test]
fn a_client_that_leaves_while_it_waits_for_a_worker_is_never_served() {
    // A22
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    let proxy = one_worker(&[&upstream]).start();
    let mut first = proxy.sent(post(CHAT, chat("m")));
    upstream.take(CHAT);
    let waiting = proxy.sent(post(CHAT, chat("m")));
    proxy.still_serves();
    leave(waiting, false);
    proxy.still_serves();
    latch.open();
    assert_eq!(first.answer().status(), 200);
    worker_is_free(&upstream, &proxy);
    assert_eq!(upstream.count(CHAT), 2, "the one that left was not sent");
}

#[test]
fn a_server_that_dislikes_aborts_is_read_to_its_end() {
    // SPEC 4: onClientGone: finish
    let upstream = Upstream::serving(&["m"]);
    let (latch, more) = (Latch::new(), Latch::new());
    upstream.on(
        CHAT,
        Script::sse().chunk(event("one")).latch(&latch).chunk(event("two")).latch(&more).chunk(event("three")).end(),
    );
    let setup = Setup::over(&[&upstream]).with(|c| c.endpoints[0].on_client_gone = OnClientGone::Finish);
    let proxy = setup.start();
    let mut client = proxy.sent(post(CHAT, stream("m")));
    client.head();
    assert_eq!(client.event(), Some(event("one")));
    let request = upstream.take(CHAT);
    leave(client, true);
    proxy.still_serves();
    latch.open();
    proxy.still_serves();
    more.open();
    // Read to its end, the connection is good for the next request.
    upstream.on(CHAT, Script::json("{}"));
    proxy.idle();
    assert_eq!(proxy.chat("m").status(), 200);
    assert!(!request.closed.happened() || upstream.take(CHAT).connection != request.connection);
}

#[test]
fn a_client_that_left_is_499_in_the_log() {
    // A22
    let upstream = Upstream::serving(&["m"]);
    let program = Program::start(&yaml(&[&upstream], ""));
    for script in [Script::new().stall(), Script::sse().chunk(event("one")).stall()] {
        upstream.on(CHAT, script);
        let mut client = program.client();
        client.send(post(CHAT, stream("m")));
        let request = upstream.take(CHAT);
        drop(client);
        request.closed.wait("the upstream's connection to close");
    }
    program.logged(&["499", CHAT]);
    let both = || program.log().iter().filter(|line| line.contains("499") && line.contains(CHAT)).count();
    program.logged(&["client_gone"]);
    assert!(both() >= 1);
}

#[test]
fn a_client_that_leaves_while_it_waits_for_a_worker_gives_its_place_away() {
    // A22
    let upstream = Upstream::serving(&["m"]);
    let program = Program::start(&yaml(&[&upstream], "  workers: 1\n  backlog: 1\n"));
    let latch = Latch::new();
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    let mut first = program.client();
    first.send(post(CHAT, chat("m")));
    upstream.take(CHAT);
    let mut second = program.client();
    second.send(post(CHAT, chat("m")));
    drop(second);
    program.logged(&[CHAT, " 499 ", "client_gone"]);
    upstream.on(CHAT, Script::json("{}"));
    let mut third = program.client();
    third.send(post(CHAT, chat("m")));
    latch.open();
    assert_eq!((first.answer().status(), third.answer().status()), (200, 200));
}

#[test]
fn a_client_that_has_left_before_its_request_waits_takes_no_place_either() {
    // A22: the request and the end of the connection come together, so no later event tells of it
    let upstream = Upstream::serving(&["m"]);
    let program = Program::start(&yaml(&[&upstream], "  workers: 1\n  backlog: 1\n"));
    let latch = Latch::new();
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    let mut first = program.client();
    first.send(post(CHAT, chat("m")));
    upstream.take(CHAT);
    let mut second = program.client();
    second.send(get("/health"));
    assert_eq!(second.answer().status(), 200);
    program.signal("STOP");
    second.send(post(CHAT, chat("m")));
    second.half_close();
    program.signal("CONT");
    program.logged(&[CHAT, " 499 ", "client_gone"]);
    latch.open();
    assert_eq!(first.answer().status(), 200);
}
