//! Issue 14: the page tells why a prompt was computed again.

use crate::admin::start;
use crate::jobs::Folder;
use crate::support::fact::Latch;
use crate::support::proxy::{CHAT, Proxy, post, post_with};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::{Config, MaxConcurrent, Strategy};
use serde_json::{Value, json};

fn affine(config: &mut Config) {
    config.routing.strategy = Strategy::Affinity;
    config.health_check.failure_threshold = 1;
}

fn two() -> [Upstream; 2] {
    let servers = [Upstream::serving(&["m"]), Upstream::serving(&["m"])];
    servers.iter().for_each(|server| server.always(CHAT, found(0, 1000)));
    servers
}

fn found(cached: u64, computed: u64) -> Script {
    Script::json(json!({"timings": {"cache_n": cached, "prompt_n": computed}}).to_string())
}

/// Messages by their texts, a system message first.
fn said(texts: &[String]) -> String {
    let message =
        |(n, text): (usize, &String)| json!({"role": if n % 2 == 0 { "user" } else { "assistant" }, "content": text});
    let mut all = vec![json!({"role": "system", "content": "Be brief."})];
    all.extend(texts.iter().enumerate().map(message));
    json!({"model": "m", "messages": all}).to_string()
}

fn turn(n: usize) -> Vec<String> {
    (0..2 * n + 1).map(|n| format!("text {n}")).collect()
}

/// The reason of the last of so many requests.
fn last(proxy: &Proxy, requests: usize) -> Value {
    let rows = || {
        let recent = proxy.get("/admin/status").json()["recent"].take();
        let rows = recent.as_array().cloned().unwrap_or_default();
        rows.into_iter().filter(|row| row["path"] == CHAT).collect::<Vec<_>>()
    };
    proxy.until(|_| rows().len() == requests);
    rows()[requests - 1]["recomputed"].take()
}

#[test]
fn a_new_conversation_and_one_that_continues() {
    let (folder, [a, b]) = (Folder::new(), two());
    let proxy = start(&folder, &[&a, &b], affine);
    proxy.post(CHAT, said(&turn(0)));
    assert_eq!(last(&proxy, 1), json!("new conversation"));
    a.on(CHAT, found(1000, 50));
    proxy.post(CHAT, said(&turn(1)));
    assert_eq!(last(&proxy, 2), Value::Null, "it was found");
    proxy.post(CHAT, said(&["another".to_owned()]));
    assert_eq!(last(&proxy, 3), json!("new conversation"), "the system prompt alone is none");
}

#[test]
fn a_conversation_that_moved_because_its_endpoint_was_full() {
    let (folder, [a, b], latch) = (Folder::new(), two(), Latch::new());
    let proxy = start(&folder, &[&a, &b], |config| {
        affine(config);
        config.endpoints.iter_mut().for_each(|endpoint| endpoint.max_concurrent = MaxConcurrent::Most(1));
        config.queue.length = 0;
    });
    proxy.post(CHAT, said(&turn(0)));
    a.on(CHAT, Script::new().latch(&latch).then(found(1000, 50)));
    let mut busy = proxy.sent(post(CHAT, said(&turn(1))));
    a.wait_count(CHAT, 2);
    assert_eq!(proxy.post(CHAT, said(&turn(2))).field("x-llmproxy-endpoint"), Some("b"));
    assert_eq!(last(&proxy, 2), json!("moved: endpoint full"));
    latch.open();
    busy.answer();
}

#[test]
fn a_conversation_that_moved_because_its_endpoint_was_down() {
    let (folder, [mut a, b]) = (Folder::new(), two());
    let proxy = start(&folder, &[&a, &b], affine);
    proxy.post(CHAT, said(&turn(0)));
    a.kill();
    // Not known yet: it is tried first.
    assert_eq!(proxy.post(CHAT, said(&turn(1))).field("x-llmproxy-endpoint"), Some("b"));
    assert_eq!(last(&proxy, 2), json!("moved: endpoint down"));
    let (folder, [mut a, b]) = (Folder::new(), two());
    let proxy = start(&folder, &[&a, &b], affine);
    proxy.post(CHAT, said(&turn(0)));
    a.kill();
    proxy.force_check();
    assert_eq!(proxy.post(CHAT, said(&turn(1))).field("x-llmproxy-endpoint"), Some("b"));
    assert_eq!(last(&proxy, 2), json!("moved: endpoint down"));
}

#[test]
fn the_first_message_that_changed() {
    let (folder, [a, b]) = (Folder::new(), two());
    let proxy = start(&folder, &[&a, &b], affine);
    proxy.post(CHAT, said(&turn(18)));
    let mut texts = turn(19);
    texts[1] = "an edited answer".to_owned();
    proxy.post(CHAT, said(&texts));
    assert_eq!(last(&proxy, 2), json!("changed at message 3 of 40"), "the system message is the first");
    // Of the session, though nothing else is the same.
    let of_session = |body: String| proxy.ask(post_with(CHAT, "x-session-id: s\r\n", body));
    let system = |text: &str| said(&turn(1)).replace("Be brief.", text);
    of_session(system("At noon."));
    of_session(system("At one."));
    assert_eq!(last(&proxy, 4), json!("changed at message 1 of 4"));
    of_session(system("At one.").replace("{\"model\"", "{\"tools\":[],\"model\""));
    assert_eq!(last(&proxy, 5), json!("changed in the system prompt or the tools"));
}

#[test]
fn a_prompt_that_its_endpoint_had_not_kept() {
    let (folder, [mut a, b]) = (Folder::new(), two());
    let proxy = start(&folder, &[&a, &b], affine);
    proxy.post(CHAT, said(&turn(0)));
    a.on(CHAT, found(400, 650));
    proxy.post(CHAT, said(&turn(1)));
    assert_eq!(last(&proxy, 2), json!("evicted or restarted"), "less than half of the thousand tokens of before");
    a.on(CHAT, found(600, 4000));
    proxy.post(CHAT, said(&turn(2)));
    assert_eq!(last(&proxy, 3), Value::Null, "more than half of them; the rest is new");
    a.kill();
    proxy.force_check();
    a.revive();
    proxy.force_check();
    proxy.until(|health| health["endpoints"]["a"]["state"] == "healthy");
    proxy.post(CHAT, said(&turn(3)));
    assert_eq!(last(&proxy, 4), json!("evicted or restarted"));
}

#[test]
fn nothing_is_said_where_the_conversation_is_not_known() {
    let (folder, [a, _]) = (Folder::new(), two());
    for path in ["/v1/responses", "/v1/embeddings"] {
        a.always(path, found(0, 1000));
    }
    let proxy = start(&folder, &[&a], |_| ());
    proxy.post("/v1/embeddings", r#"{"model":"m","input":"text"}"#);
    proxy.post("/v1/responses", r#"{"model":"m","input":"go on","previous_response_id":"resp_1"}"#);
    proxy.post(CHAT, r#"{"model":"m"}"#);
    assert_eq!(last(&proxy, 1), Value::Null);
    assert!(!proxy.get("/admin/status").text().contains("new conversation"));
}

#[test]
fn by_any_strategy_and_with_a_single_endpoint() {
    let (folder, [a, b]) = (Folder::new(), two());
    let proxy = start(&folder, &[&a, &b], |config| config.routing.strategy = Strategy::RoundRobin);
    (0..2).for_each(|n| drop(proxy.post(CHAT, said(&turn(n)))));
    assert_eq!(last(&proxy, 2), json!("moved: round_robin"));
    let (folder, [a, _]) = (Folder::new(), two());
    let proxy = start(&folder, &[&a], |_| ());
    proxy.post(CHAT, said(&turn(0)));
    proxy.post(CHAT, said(&turn(1)));
    assert_eq!(last(&proxy, 2), json!("evicted or restarted"));
}
