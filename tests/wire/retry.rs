//! SPEC 5, failures: what is tried again where, and which answer the client gets in the end.

use crate::support::blackhole::Blackhole;
use crate::support::client::Answer;
use crate::support::fact::{ms, timed};
use crate::support::proxy::CHAT;
use crate::support::proxy::Proxy;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::endpoint;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::proxy::with_keys;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use llmproxy::config::RetryOn;
use std::time::Duration;

fn pair() -> (Upstream, Upstream, Proxy) {
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    let proxy = Setup::over(&[&first, &second]).start();
    (first, second, proxy)
}

/// Status, endpoint and number of attempts.
fn told(answer: &Answer) -> (u16, Option<&str>, Option<&str>) {
    (answer.status(), answer.field("x-llmproxy-endpoint"), answer.field("x-llmproxy-attempts"))
}

#[test]
fn a_status_that_may_pass_elsewhere_is_tried_elsewhere() {
    // W003-5
    for status in [408, 429, 500, 502, 503, 504, 401, 403, 404] {
        let (first, second, proxy) = pair();
        first.on(CHAT, Script::error(status, "not here"));
        second.on(CHAT, Script::json("{}"));
        assert_eq!(told(&proxy.chat("m")), (200, Some("b"), Some("2")), "{status}");
        assert_eq!(second.take(CHAT).text(), chat("m"), "the same bytes");
    }
}

#[test]
fn a_status_that_is_the_clients_fault_passes_at_once() {
    // W001-3
    // S000-22
    for status in [400, 405, 409, 413, 415, 422, 418, 501, 505] {
        let (first, _second, proxy) = pair();
        first.on(CHAT, Script::error(status, "your fault"));
        let answer = proxy.chat("m");
        assert_eq!(told(&answer), (status, Some("a"), Some("1")));
        assert!(answer.text().contains("your fault"));
    }
}

#[test]
fn the_only_endpoints_answer_passes_untouched_whatever_it_is() {
    // W001-9
    // S000-22, X-07
    for status in [401, 403, 404, 408, 429, 500, 502, 503, 504] {
        let upstream = Upstream::serving(&["m"]);
        let proxy = Setup::over(&[&upstream]).start();
        let fields = [("X-Own", "1"), ("Retry-After", "3"), ("Content-Type", "application/json")];
        upstream.on(CHAT, Script::answer(status, &fields, r#"{"error":{"message":"own"}}"#));
        let answer = proxy.chat("m");
        assert_eq!(told(&answer), (status, Some("a"), Some("1")));
        assert_eq!((answer.text(), answer.field("x-own")), (r#"{"error":{"message":"own"}}"#, Some("1")));
        assert_eq!(answer.field("retry-after"), Some("3"));
    }
}

#[test]
fn a_lost_or_late_answer_is_tried_elsewhere() {
    // C3, C5
    for script in
        [Script::new().cut(), Script::new().reset(), Script::raw("garbage\r\n\r\n").cut(), Script::new().stall()]
    {
        let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
        let proxy = Setup::over(&[&first, &second]).timeouts(|t| t.first_byte = Some(ms(300))).start();
        first.on(CHAT, script);
        second.on(CHAT, Script::json("{}"));
        assert_eq!(told(&proxy.chat("m")), (200, Some("b"), Some("2")));
    }
}

#[test]
fn an_http_answer_is_told_rather_than_a_transport_error() {
    for error_first in [true, false] {
        let (first, second, proxy) = pair();
        let (told_by, cut) = if error_first { (&first, &second) } else { (&second, &first) };
        told_by.on(CHAT, Script::error(500, "words"));
        cut.on(CHAT, Script::new().cut());
        let answer = proxy.chat("m");
        assert_eq!((answer.status(), answer.field("x-llmproxy-attempts")), (500, Some("2")));
        assert!(answer.text().contains("words"), "{}", answer.text());
    }
}

#[test]
fn transport_errors_of_mixed_kind_are_503_with_all_attempts() {
    let (hole, second) = (Blackhole::new(), Upstream::serving(&["m"]));
    let mut first = endpoint("a", hole.addr());
    (first.models, first.probe) = (vec!["m".into()], llmproxy::config::Probe::Never);
    second.on(CHAT, Script::new().cut());
    let setup = Setup::over(&[]).endpoint(first).endpoint(endpoint("b", second.addr()));
    let proxy = setup.timeouts(|t| t.connect = Some(ms(200))).start();
    let answer = proxy.chat("m");
    assert_eq!(answer.status(), 503, "{}", answer.text());
    let error = &answer.json()["error"];
    let names: Vec<_> = error["attempts"].as_array().expect("a list").iter().map(|one| &one["endpoint"]).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(answer.field("retry-after").is_some());
}

#[test]
fn every_candidate_is_tried_once_by_default() {
    let (first, second, third) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    let proxy = Setup::over(&[&first, &second, &third]).start();
    for upstream in [&first, &second, &third] {
        upstream.on(CHAT, Script::error(500, "x"));
    }
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.field("x-llmproxy-attempts")), (500, Some("3")));
}

#[test]
fn attempts_bound_the_tries() {
    // S001-04: the total number of tries
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    let proxy = Setup::over(&[&first, &second]).with(|c| c.retry.attempts = Some(1)).start();
    first.on(CHAT, Script::error(500, "x"));
    assert_eq!(told(&proxy.chat("m")), (500, Some("a"), Some("1")));
    assert_eq!(second.count(CHAT), 0);
}

#[test]
fn more_attempts_than_candidates_go_round_again_after_a_delay() {
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    let setup = Setup::over(&[&first, &second]);
    let proxy = setup.with(|c| (c.retry.attempts, c.retry.initial_delay) = (Some(3), ms(400))).start();
    for (upstream, script) in
        [(&first, Script::error(500, "x")), (&second, Script::error(500, "x")), (&first, Script::json("{}"))]
    {
        upstream.on(CHAT, script);
    }
    let (answer, took) = timed(|| proxy.chat("m"));
    assert_eq!(told(&answer), (200, Some("a"), Some("3")));
    assert!(took >= ms(150), "{took:?}: 400 ms, jittered by no more than half");
}

#[test]
fn retry_after_is_honoured_up_to_the_longest_delay() {
    let upstream = Upstream::serving(&["m"]);
    let setup = Setup::over(&[&upstream]).with(|c| {
        (c.retry.attempts, c.retry.initial_delay, c.retry.max_delay) = (Some(2), ms(1), Duration::from_secs(2));
    });
    let proxy = setup.start();
    upstream.on(CHAT, Script::answer(503, &[("Retry-After", "1")], ""));
    upstream.on(CHAT, Script::json("{}"));
    let (answer, took) = timed(|| proxy.chat("m"));
    assert_eq!(told(&answer), (200, Some("a"), Some("2")));
    assert!(took >= ms(900), "{took:?}");
    // Giving up at once or waiting the longest delay: never an hour.
    upstream.on(CHAT, Script::answer(503, &[("Retry-After", "3600")], "later"));
    upstream.always(CHAT, Script::json("{}"));
    let (_, took) = timed(|| proxy.chat("m"));
    assert!(took < ms(8000), "{took:?}");
}

#[test]
fn each_kind_of_retry_can_be_switched_off() {
    for (n, script) in [Script::new().cut(), Script::error(500, "x"), Script::new().stall()].into_iter().enumerate() {
        let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
        let setup = Setup::over(&[&first, &second]).timeouts(|t| t.first_byte = Some(ms(300))).with(|c| match n {
            0 => c.retry.on.retain(|on| *on != RetryOn::Reset),
            1 => c.retry.on.retain(|on| *on != RetryOn::Status),
            _ => c.retry.on.retain(|on| *on != RetryOn::Timeout),
        });
        let proxy = setup.start();
        first.on(CHAT, script);
        let answer = proxy.chat("m");
        assert_eq!(answer.status(), [502, 500, 504][n]);
        assert_eq!(second.count(CHAT), 0);
    }
    let (mut first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    let proxy = Setup::over(&[&first, &second]).with(|c| c.retry.on.retain(|on| *on != RetryOn::Connect)).start();
    first.kill();
    assert_eq!((proxy.chat("m").status(), second.count(CHAT)), (502, 0));
}

#[test]
fn a_stream_moves_on_as_long_as_nothing_was_sent() {
    let (first, second, proxy) = pair();
    first.on(CHAT, Script::error(500, "x"));
    second.on(CHAT, Script::sse().chunk(event("one")).end());
    let answer = proxy.post(CHAT, stream("m"));
    assert_eq!((told(&answer), answer.text()), ((200, Some("b"), Some("2")), event("one").as_str()));
}

#[test]
fn an_answer_that_has_begun_is_never_tried_elsewhere() {
    // W001-1, W003-4
    // W000-2
    let (first, second, proxy) = pair();
    for script in
        [Script::sse().chunk(event("one")).cut(), Script::head(200, &[("Content-Length", "9")]).bytes("x").cut()]
    {
        first.on(CHAT, script);
        assert_eq!(proxy.post(CHAT, stream("m")).status(), 200);
    }
    assert_eq!(second.count(CHAT), 0);
}

#[test]
fn keys_of_an_endpoint_are_used_in_turn() {
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[]).endpoint(with_keys(endpoint("a", upstream.addr()), &["k1", "k2", "k3"])).start();
    let mut used: Vec<String> = (0..6)
        .map(|_| {
            proxy.chat("m");
            upstream.take(CHAT).field("authorization").expect("a key").to_owned()
        })
        .collect();
    assert_eq!(used[..3], used[3..], "the same turn again");
    used.sort();
    assert_eq!(used, ["Bearer k1", "Bearer k1", "Bearer k2", "Bearer k2", "Bearer k3", "Bearer k3"]);
}

#[test]
fn the_next_key_is_tried_before_the_next_endpoint() {
    for status in [429, 401, 403] {
        let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
        let setup = Setup::over(&[]).endpoint(with_keys(endpoint("a", first.addr()), &["k1", "k2"]));
        let proxy = setup.endpoint(endpoint("b", second.addr())).start();
        first.on(CHAT, Script::error(status, "this key"));
        first.on(CHAT, Script::json("{}"));
        assert_eq!(proxy.chat("m").field("x-llmproxy-endpoint"), Some("a"), "{status}");
        let (one, two) = (first.take(CHAT), first.take(CHAT));
        assert_ne!(one.field("authorization"), two.field("authorization"));
        first.on(CHAT, Script::error(status, "this key"));
        first.on(CHAT, Script::error(status, "nor that"));
        second.on(CHAT, Script::json("{}"));
        assert_eq!(proxy.chat("m").field("x-llmproxy-endpoint"), Some("b"), "{status}");
        assert_eq!(second.take(CHAT).all("authorization").len(), 0, "no key of another endpoint");
    }
}

#[test]
fn a_server_error_is_not_the_keys_fault() {
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    let setup = Setup::over(&[]).endpoint(with_keys(endpoint("a", first.addr()), &["k1", "k2"]));
    let proxy = setup.endpoint(endpoint("b", second.addr())).start();
    first.on(CHAT, Script::error(500, "x"));
    second.on(CHAT, Script::json("{}"));
    assert_eq!(told(&proxy.chat("m")), (200, Some("b"), Some("2")));
}

#[test]
fn an_endpoint_told_to_wait_is_left_out_while_another_can_serve() {
    // SPEC 5: cooling down after a 429 with Retry-After
    let (first, second, proxy) = pair();
    second.always(CHAT, Script::json("{}"));
    first.on(CHAT, Script::answer(429, &[("Retry-After", "30")], ""));
    assert_eq!(told(&proxy.chat("m")), (200, Some("b"), Some("2")));
    assert_eq!(told(&proxy.chat("m")), (200, Some("b"), Some("1")));
}

#[test]
fn the_only_endpoint_is_asked_though_told_to_wait() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    upstream.on(CHAT, Script::answer(429, &[("Retry-After", "30")], ""));
    assert_eq!(proxy.chat("m").status(), 429);
    upstream.on(CHAT, Script::json("{}"));
    assert_eq!(proxy.chat("m").status(), 200);
}

#[test]
fn a_failure_names_its_attempts_and_no_address() {
    let (mut first, mut second, proxy) = pair();
    first.kill();
    second.kill();
    let mut client = proxy.sent(post(CHAT, chat("m")));
    let answer = client.answer();
    assert!(matches!(answer.status(), 502 | 503));
    let attempts = answer.json()["error"]["attempts"].clone();
    assert_eq!(attempts.as_array().map(Vec::len), Some(2), "{attempts}");
    for upstream in [&first, &second] {
        assert!(!answer.text().contains(&upstream.addr().port().to_string()), "{}", answer.text());
    }
}

#[test]
fn an_http_error_answer_wins_over_a_failure_that_is_not_retried() {
    // SPEC 5: of several the most useful one, an HTTP answer over a transport error.
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    first.on(CHAT, Script::error(503, "busy here"));
    second.on(CHAT, Script::new().cut());
    let proxy = Setup::over(&[&first, &second]).with(|c| c.retry.on.retain(|on| *on != RetryOn::Reset)).start();
    let answer = proxy.chat("m");
    assert_eq!(told(&answer), (503, Some("a"), Some("2")));
    assert!(answer.text().contains("busy here"), "{}", answer.text());
}
