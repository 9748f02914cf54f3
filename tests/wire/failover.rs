//! SPEC 5: which answers let another key or endpoint try, how long one is left alone, and what a client is told.

use crate::support::fact::Latch;
use crate::support::proxy::CHAT;
use crate::support::proxy::Proxy;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::endpoint;
use crate::support::proxy::post;
use crate::support::proxy::with_keys;
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::MaxConcurrent;

fn pair() -> (Upstream, Upstream, Proxy) {
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    let proxy = Setup::over(&[&first, &second]).start();
    (first, second, proxy)
}

#[test]
fn every_status_that_will_pass_goes_to_the_next_endpoint() {
    // R26
    let (first, second, proxy) = pair();
    second.always(CHAT, Script::json("{}"));
    for status in [401, 402, 403, 404, 408, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 529, 530, 599] {
        first.on(CHAT, Script::error(status, "later"));
        let answer = proxy.chat("m");
        assert_eq!((answer.status(), answer.field("x-llmproxy-endpoint")), (200, Some("b")), "{status}");
    }
    for status in [501, 505] {
        first.on(CHAT, Script::error(status, "never"));
        let answer = proxy.chat("m");
        assert_eq!((answer.status(), answer.field("x-llmproxy-endpoint")), (status, Some("a")));
    }
}

#[test]
fn the_next_key_is_tried_where_one_is_out_of_money() {
    // R26
    for status in [401, 402, 403, 429] {
        let upstream = Upstream::serving(&["m"]);
        upstream.on(CHAT, Script::error(status, "this key"));
        upstream.on(CHAT, Script::json("{}"));
        let setup = Setup::over(&[]).endpoint(with_keys(endpoint("a", upstream.addr()), &["first", "second"]));
        let answer = setup.start().chat("m");
        assert_eq!((answer.status(), answer.field("x-llmproxy-attempts")), (200, Some("2")), "{status}");
        let keys = [upstream.take(CHAT), upstream.take(CHAT)].map(|r| r.field("authorization").map(str::to_owned));
        assert_ne!(keys[0], keys[1]);
    }
}

#[test]
fn an_endpoint_that_asks_for_rest_in_any_form_is_left_alone_while_another_is_there() {
    // R11
    for (name, value) in [
        ("Retry-After", "30"),
        ("Retry-After", "Fri, 31 Dec 2999 23:59:59 GMT"),
        ("Retry-After", "Friday, 31-Dec-49 23:59:59 GMT"),
        ("retry-after-ms", "30000"),
    ] {
        let (first, second, proxy) = pair();
        first.always(CHAT, Script::answer(429, &[(name, value)], "{}"));
        second.always(CHAT, Script::json("{}"));
        for attempts in ["2", "1", "1"] {
            let answer = proxy.chat("m");
            let told = (answer.status(), answer.field("x-llmproxy-endpoint"), answer.field("x-llmproxy-attempts"));
            assert_eq!(told, (200, Some("b"), Some(attempts)), "{name}: {value}");
        }
        assert_eq!(first.count(CHAT), 1);
    }
}

#[test]
fn an_endpoint_that_rests_is_asked_where_it_is_the_only_one() {
    // R11
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::answer(429, &[("retry-after-ms", "30000")], "{}"));
    upstream.on(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    assert_eq!((proxy.chat("m").status(), proxy.chat("m").status()), (429, 200));
}

#[test]
fn who_waits_may_try_an_endpoint_that_came_back_meanwhile_and_then_the_first() {
    // S10
    let (first, mut second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    let latch = Latch::new();
    first.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    first.on(CHAT, Script::json(r#"{"n":2}"#));
    second.on(CHAT, Script::error(500, "x"));
    second.kill();
    let setup = Setup::over(&[&first, &second]).with(|c| {
        c.endpoints.iter_mut().for_each(|endpoint| {
            endpoint.max_concurrent = MaxConcurrent::Most(1);
            endpoint.models = vec!["m".into()];
        });
        c.health_check.failure_threshold = 1;
    });
    let proxy = setup.start();
    proxy.until(|health| health["endpoints"]["b"]["healthy"] == false);
    let mut running = proxy.sent(post(CHAT, chat("m")));
    first.take(CHAT);
    let mut waits = proxy.sent(post(CHAT, chat("m")));
    proxy.until(|health| health["queue"]["waiting"] == 1);
    second.revive();
    proxy.force_check();
    second.wait_count(CHAT, 1);
    latch.open();
    assert_eq!(running.answer().status(), 200);
    let answer = waits.answer();
    assert_eq!((answer.status(), answer.text()), (200, r#"{"n":2}"#));
}

#[test]
fn while_the_only_server_is_away_clients_are_told_to_come_back() {
    let mut upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    upstream.kill();
    for _ in 0..3 {
        let answer = proxy.chat("m");
        assert!(matches!(answer.status(), 502 | 503), "{}", answer.status());
        assert!(answer.field("retry-after").is_some_and(|wait| wait.parse::<u32>().is_ok_and(|wait| wait > 0)));
    }
}

#[test]
fn a_prompt_too_long_for_one_server_goes_to_a_larger_one_in_every_servers_words() {
    // R12
    let sized = |context: u64| {
        let upstream = Upstream::serving(&["m"]);
        let props = format!(r#"{{"total_slots":4,"default_generation_settings":{{"n_ctx":{context}}}}}"#);
        upstream.always("/props", Script::json(props));
        upstream
    };
    for body in [
        r#"{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}"#,
        r#"{"object":"error","message":"This model's maximum context length is 8192 tokens. However, you requested 9000 tokens.","type":"BadRequestError","code":400}"#,
        r#"{"error":{"message":"This model's maximum context length is 8192 tokens. However, your request has 9000 input tokens.","type":"BadRequestError","param":null,"code":400}}"#,
    ] {
        let (small, large) = (sized(8192), sized(32_768));
        small.on(CHAT, Script::answer(400, &[("Content-Type", "application/json")], body));
        large.on(CHAT, Script::json("{}"));
        let proxy = Setup::over(&[&small, &large]).start();
        proxy.until(|health| health["endpoints"].as_object().is_some_and(|all| all.values().all(|e| e["slots"] == 4)));
        let answer = proxy.chat("m");
        let told = (answer.status(), answer.field("x-llmproxy-endpoint"), answer.field("x-llmproxy-reason"));
        assert_eq!(told, (200, Some("b"), Some("context")), "{body}");
    }
}
