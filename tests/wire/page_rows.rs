//! SPEC 10: what the page's rows and numbers say.

use crate::admin::start;
use crate::jobs::Folder;
use crate::support::fact::Latch;
use crate::support::packets::Packets;
use crate::support::proxy::CHAT;
use crate::support::proxy::Proxy;
use crate::support::proxy::get;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use llmproxy::config::MaxConcurrent;
use serde_json::{Value, json};

fn status(proxy: &Proxy) -> Value {
    proxy.get("/admin/status").json()
}

#[test]
fn requests_that_wait_are_told_from_those_that_run() {
    // L9
    let (folder, upstream, latch) = (Folder::new(), Upstream::serving(&["m"]), Latch::new());
    for _ in 0..3 {
        upstream.on(CHAT, Script::sse().chunk(event("one")).latch(&latch).end());
    }
    let proxy = start(&folder, &[&upstream], |config| config.endpoints[0].max_concurrent = MaxConcurrent::Most(2));
    let clients: Vec<_> = (0..3).map(|_| proxy.sent(post(CHAT, stream("m")))).collect();
    proxy.until(|_| {
        let now = status(&proxy);
        let running = now["running"].as_array().map_or(0, Vec::len);
        let waiting = now["running"].as_array().into_iter().flatten().filter(|one| one["endpoint"].is_null()).count();
        (running, waiting, &now["queue"]) == (3, 1, &json!(1))
    });
    latch.open();
    for mut client in clients {
        assert_eq!(client.answer().status(), 200);
    }
}

#[test]
fn a_stream_has_a_speed_while_it_runs_and_its_endpoint_too() {
    // L9
    let (folder, upstream, latch) = (Folder::new(), Upstream::serving(&["m"]), Latch::new());
    upstream.on(CHAT, Script::sse().chunk(event("one")).chunk(event("two")).chunk(event("three")).latch(&latch).end());
    let proxy = start(&folder, &[&upstream], |_| ());
    let mut client = proxy.sent(post(CHAT, stream("m")));
    client.head();
    proxy.until(|_| {
        let now = status(&proxy);
        let of = |value: &Value| value["tokens_per_second"].as_f64().unwrap_or_default();
        of(&now["running"][0]) > 0.0 && of(&now["endpoints"][0]) > 0.0
    });
    latch.open();
    client.body();
    proxy.until(|_| status(&proxy)["endpoints"][0]["tokens_per_second"] == json!(0.0));
    assert!(!proxy.get("/admin/status").text().contains("-0.0"), "nothing is negative");
}

#[test]
fn a_refused_request_is_listed_with_its_model_and_polls_of_jobs_are_not_listed() {
    // L9
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let proxy = start(&folder, &[&upstream], |config| {
        config.jobs.enabled = true;
        config.jobs.dir = folder.0.join("jobs");
    });
    for path in ["/v1/chat/completions/no-such-job", "/v1/jobs", "/v1/models", "/health"] {
        proxy.sent(get(path)).answer();
    }
    assert_eq!(proxy.chat("nobody-has-it").status(), 404);
    proxy.until(|_| status(&proxy)["recent"].as_array().is_some_and(|all| !all.is_empty()));
    let rows = status(&proxy)["recent"].take();
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
    assert_eq!((&rows[0]["model"], &rows[0]["status"]), (&json!("nobody-has-it"), &json!(404)));
}

// Issue 14, section 3
#[test]
fn a_machine_that_sleeps_or_wakes_is_shown_with_a_word_of_why_and_what_waits_for_it() {
    let (folder, mut upstream, packets) = (Folder::new(), Upstream::serving(&["m"]), Packets::new());
    upstream.on(CHAT, Script::json("{}"));
    let proxy = start(&folder, &[&upstream], |config| config.endpoints[0].wake = Some(crate::wake::wake(&packets)));
    crate::wake::sleeps(&proxy, &mut upstream);
    let shown = || status(&proxy)["endpoints"][0].clone();
    assert_eq!((shown()["state"].clone(), status(&proxy)["healthy"].clone()), (json!("asleep"), json!(true)));
    assert_eq!(shown()["why"], "the next chat request wakes it");
    let mut held = proxy.sent(post(CHAT, stream("m")));
    packets.wait(1);
    proxy.until(|_| shown()["state"] == "waking");
    assert_eq!(shown()["why"], "requests are waiting for it (connection refused)");
    assert_eq!(status(&proxy)["running"][0]["endpoint"], "a");
    upstream.revive();
    assert_eq!(held.answer().status(), 200);
    proxy.until(|_| shown()["state"] == "healthy" && shown()["why"].is_null());
}

#[test]
fn the_cached_share_of_an_endpoint_is_of_the_prompts_whose_share_it_tells() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let usage = |usage: Value| Script::json(json!({"usage": usage}).to_string());
    upstream.on(CHAT, usage(json!({"prompt_tokens": 300})));
    upstream.on(CHAT, usage(json!({"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 40}})));
    let proxy = start(&folder, &[&upstream], |_| ());
    let seen = |prompt: u64| {
        assert_eq!(proxy.chat("m").status(), 200);
        proxy.until(|_| status(&proxy)["endpoints"][0]["prompt"] == prompt);
        status(&proxy)["endpoints"][0]["cached_share"].clone()
    };
    assert_eq!((seen(300), seen(400)), (Value::Null, json!(40.0)));
}
