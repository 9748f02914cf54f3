//! SPEC 5 and PEERS' context-aware choice: a prompt too long for one endpoint goes to a larger one, on its own word.

use crate::support::proxy::{CHAT, Proxy, Setup};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use std::time::Duration;

const TOO_LONG: &[u8] = include_bytes!("../data/err_context.raw");

fn sized(context: u64) -> Upstream {
    let upstream = Upstream::serving(&["m"]);
    let props = format!(r#"{{"total_slots":4,"default_generation_settings":{{"n_ctx":{context}}}}}"#);
    upstream.always("/props", Script::json(props));
    upstream
}

fn over(upstreams: &[&Upstream]) -> Proxy {
    let proxy = Setup::over(upstreams).start();
    proxy.until(|health| health["endpoints"].as_object().is_some_and(|all| all.values().all(|one| one["slots"] == 4)));
    proxy
}

#[test]
fn the_next_larger_endpoint_is_tried_and_no_smaller_one() {
    let (small, tiny, large, larger) = (sized(16_384), sized(4096), sized(65_536), sized(32_768));
    small.on(CHAT, Script::raw(TOO_LONG));
    larger.on(CHAT, Script::raw(TOO_LONG));
    large.on(CHAT, Script::json("{}"));
    let proxy = over(&[&small, &tiny, &large, &larger]);
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.field("x-llmproxy-endpoint")), (200, Some("c")));
    assert_eq!((answer.field("x-llmproxy-attempts"), answer.field("x-llmproxy-reason")), (Some("3"), Some("context")));
    assert_eq!([small.count(CHAT), tiny.count(CHAT), larger.count(CHAT)], [1, 0, 1]);
}

#[test]
fn an_endpoint_that_is_too_small_is_not_tried_in_the_next_round_either() {
    let (small, other, large) = (sized(4096), sized(8192), sized(65_536));
    small.on(CHAT, Script::raw(TOO_LONG));
    large.on(CHAT, Script::error(503, "busy"));
    large.on(CHAT, Script::json("{}"));
    let setup = Setup::over(&[&small, &other, &large]).with(|config| {
        (config.retry.attempts, config.retry.initial_delay) = (Some(3), Duration::from_millis(1));
    });
    let proxy = setup.start();
    proxy.until(|health| health["endpoints"].as_object().is_some_and(|all| all.values().all(|one| one["slots"] == 4)));
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.field("x-llmproxy-attempts")), (200, Some("3")));
    assert_eq!([small.count(CHAT), other.count(CHAT), large.count(CHAT)], [1, 0, 2]);
}

#[test]
fn without_a_larger_one_the_endpoints_own_words_reach_the_client() {
    let (large, small) = (sized(8192), sized(4096));
    large.on(CHAT, Script::raw(TOO_LONG));
    let answer = over(&[&large, &small]).chat("m");
    assert_eq!((answer.status(), answer.field("x-llmproxy-attempts")), (400, Some("1")));
    assert_eq!(answer.json()["error"]["type"], "exceed_context_size_error");
    assert_eq!(small.count(CHAT), 0);
}

#[test]
fn any_other_400_passes_at_once() {
    // W001-3
    let (small, large) = (sized(8192), sized(65_536));
    small.on(CHAT, Script::error(400, "the context size is exceeded, says this text"));
    let answer = over(&[&small, &large]).chat("m");
    assert_eq!((answer.status(), answer.field("x-llmproxy-endpoint")), (400, Some("a")));
    assert!(answer.text().contains("says this text"));
    assert_eq!(large.count(CHAT), 0, "nothing is guessed from text");
}

#[test]
fn a_400_that_breaks_off_is_not_judged_by_an_older_answer() {
    let (broken, small, large) = (sized(4096), sized(8192), sized(65_536));
    broken.on(CHAT, Script::error(500, "broken"));
    small.on(CHAT, Script::head(400, &[("Content-Length", "100")]).bytes("{\"error\"").cut());
    large.on(CHAT, Script::json("{}"));
    let answer = over(&[&broken, &small, &large]).chat("m");
    assert_eq!([broken.count(CHAT), small.count(CHAT)], [1, 1]);
    assert_eq!((answer.status(), answer.field("x-llmproxy-endpoint")), (200, Some("c")));
}
