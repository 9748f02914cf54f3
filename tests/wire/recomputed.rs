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

/// Asks, and waits until the request is listed, so that the next one is listed behind it.
fn ask(proxy: &Proxy, requests: usize, body: String) -> Value {
    proxy.post(CHAT, body);
    last(proxy, requests)
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
    assert_eq!(ask(&proxy, 1, said(&turn(0))), json!("new conversation"));
    a.on(CHAT, found(1000, 50));
    assert_eq!(ask(&proxy, 2, said(&turn(1))), Value::Null, "it was found");
    assert_eq!(
        ask(&proxy, 3, said(&["another".to_owned()])),
        json!("new conversation"),
        "the system prompt alone is none"
    );
}

#[test]
fn a_conversation_that_moved_because_its_endpoint_was_full() {
    let (folder, [a, b], latch) = (Folder::new(), two(), Latch::new());
    let proxy = start(&folder, &[&a, &b], |config| {
        affine(config);
        config.endpoints.iter_mut().for_each(|endpoint| endpoint.max_concurrent = MaxConcurrent::Most(1));
        config.queue.length = 0;
    });
    ask(&proxy, 1, said(&turn(0)));
    a.on(CHAT, Script::new().latch(&latch).then(found(1000, 50)));
    let mut busy = proxy.sent(post(CHAT, said(&turn(1))));
    a.wait_count(CHAT, 2);
    assert_eq!(ask(&proxy, 2, said(&turn(2))), json!("moved: endpoint full"));
    assert_eq!((a.count(CHAT), b.count(CHAT)), (2, 1));
    latch.open();
    busy.answer();
}

#[test]
fn a_conversation_that_moved_because_its_endpoint_was_down() {
    let (folder, [mut a, b]) = (Folder::new(), two());
    let proxy = start(&folder, &[&a, &b], affine);
    ask(&proxy, 1, said(&turn(0)));
    a.kill();
    // Not known yet: it is tried first.
    assert_eq!(ask(&proxy, 2, said(&turn(1))), json!("moved: endpoint down"));
    assert_eq!(b.count(CHAT), 1);
    let (folder, [mut a, b]) = (Folder::new(), two());
    let proxy = start(&folder, &[&a, &b], affine);
    ask(&proxy, 1, said(&turn(0)));
    a.kill();
    proxy.force_check();
    assert_eq!(ask(&proxy, 2, said(&turn(1))), json!("moved: endpoint down"));
    assert_eq!(b.count(CHAT), 1);
}

#[test]
fn the_first_message_that_changed() {
    let (folder, [a, b]) = (Folder::new(), two());
    let proxy = start(&folder, &[&a, &b], affine);
    ask(&proxy, 1, said(&turn(18)));
    let mut texts = turn(19);
    texts[1] = "an edited answer".to_owned();
    assert_eq!(ask(&proxy, 2, said(&texts)), json!("changed at message 3 of 40"), "the system message is the first");
    // Of the session, though nothing else is the same.
    let of_session = |requests: usize, body: String| {
        proxy.ask(post_with(CHAT, "x-session-id: s\r\n", body));
        last(&proxy, requests)
    };
    let system = |text: &str| said(&turn(1)).replace("Be brief.", text);
    of_session(3, system("At noon."));
    assert_eq!(of_session(4, system("At one.")), json!("changed at message 1 of 4"));
    let with_tools = system("At one.").replace("{\"model\"", "{\"tools\":[],\"model\"");
    assert_eq!(of_session(5, with_tools), json!("changed in the system prompt or the tools"));
}

#[test]
fn a_prompt_that_its_endpoint_had_not_kept() {
    let (folder, [mut a, b]) = (Folder::new(), two());
    let proxy = start(&folder, &[&a, &b], affine);
    ask(&proxy, 1, said(&turn(0)));
    a.on(CHAT, found(400, 650));
    assert_eq!(
        ask(&proxy, 2, said(&turn(1))),
        json!("evicted or restarted"),
        "less than half of the thousand tokens of before"
    );
    a.on(CHAT, found(600, 4000));
    assert_eq!(ask(&proxy, 3, said(&turn(2))), Value::Null, "more than half of them; the rest is new");
    a.kill();
    proxy.force_check();
    a.revive();
    proxy.force_check();
    proxy.until(|health| health["endpoints"]["a"]["state"] == "healthy");
    assert_eq!(ask(&proxy, 4, said(&turn(3))), json!("evicted or restarted"));
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
    assert_eq!(ask(&proxy, 1, r#"{"model":"m"}"#.to_owned()), Value::Null);
    assert!(!proxy.get("/admin/status").text().contains("new conversation"));
}

#[test]
fn by_any_strategy_and_with_a_single_endpoint() {
    let (folder, [a, b]) = (Folder::new(), two());
    let proxy = start(&folder, &[&a, &b], |config| config.routing.strategy = Strategy::RoundRobin);
    ask(&proxy, 1, said(&turn(0)));
    assert_eq!(ask(&proxy, 2, said(&turn(1))), json!("moved: round_robin"));
    let (folder, [a, _]) = (Folder::new(), two());
    let proxy = start(&folder, &[&a], |_| ());
    ask(&proxy, 1, said(&turn(0)));
    assert_eq!(ask(&proxy, 2, said(&turn(1))), json!("evicted or restarted"));
}
