//! SPEC 5, affinity: a conversation goes back to the endpoint that still has it in its cache.

use crate::support::client::Answer;
use crate::support::fact::Latch;
use crate::support::proxy::{CHAT, Proxy, Setup, post, post_with};
use crate::support::script::Script;
use crate::support::upstream::{Mood, Upstream};
use llmproxy::config::{Config, MaxConcurrent, Strategy};

fn two() -> [Upstream; 2] {
    [(), ()].map(|()| {
        let upstream = Upstream::serving(&["m"]);
        for path in [CHAT, "/v1/completions", "/v1/messages"] {
            upstream.always(path, Script::json("{}"));
        }
        upstream
    })
}

fn affine(config: &mut Config) {
    config.routing.strategy = Strategy::Affinity;
}

fn said(texts: &[&str]) -> String {
    let turn = |(n, text): (usize, &&str)| {
        format!(r#"{{"role":"{}","content":"{text}"}}"#, if n % 2 == 0 { "user" } else { "assistant" })
    };
    let turns: Vec<String> = texts.iter().enumerate().map(turn).collect();
    format!(r#"{{"model":"m","messages":[{{"role":"system","content":"the same for all"}},{}]}}"#, turns.join(","))
}

fn told(answer: &Answer) -> (String, String) {
    let field = |name| answer.field(name).expect("a field").to_owned();
    (field("x-llmproxy-endpoint"), field("x-llmproxy-reason"))
}

fn ask(proxy: &Proxy, texts: &[&str]) -> (String, String) {
    told(&proxy.post(CHAT, said(texts)))
}

fn pair(endpoint: &str, reason: &str) -> (String, String) {
    (endpoint.into(), reason.into())
}

#[test]
fn conversations_branches_and_regenerations_go_back_home() {
    let [a, b] = two();
    let proxy = Setup::over(&[&a, &b]).with(affine).start();
    assert_eq!(ask(&proxy, &["one"]), pair("a", "affinity_new"));
    assert_eq!(ask(&proxy, &["two"]), pair("b", "affinity_new"), "the same system prompt is no home");
    for _ in 0..3 {
        assert_eq!(ask(&proxy, &["one", "x", "y"]), pair("a", "affinity"));
        assert_eq!(ask(&proxy, &["two", "x", "y"]), pair("b", "affinity"));
    }
    assert_eq!(ask(&proxy, &["two", "another answer", "z"]), pair("b", "affinity"), "a branch");
    assert_eq!(ask(&proxy, &["one", "x", "y", "z", "on"]), pair("a", "affinity"));
}

#[test]
fn completions_and_messages_have_a_home_too() {
    let [a, b] = two();
    let proxy = Setup::over(&[&a, &b]).with(affine).start();
    let ask = |path: &str, body: &str| told(&proxy.post(path, body)).0;
    let text = "long ".repeat(1000);
    let first = ask("/v1/completions", &format!(r#"{{"model":"m","prompt":"{text}"}}"#));
    let other = ask(
        "/v1/messages",
        r#"{"model":"m","system":"s","messages":[{"role":"user","content":[{"type":"text","text":"hi","cache_control":{"type":"ephemeral"}}]}]}"#,
    );
    assert_ne!(first, other);
    assert_eq!(ask("/v1/completions", &format!(r#"{{"model":"m","prompt":"{text}and more"}}"#)), first);
    let next = r#"{"model":"m","system":"s","messages":[{"role":"user","content":[{"type":"text","text":"hi"}]},{"role":"assistant","content":"yes"},{"role":"user","content":"go on"}]}"#;
    assert_eq!(ask("/v1/messages", next), other);
}

#[test]
fn a_session_that_the_client_names_has_a_home() {
    let [a, b] = two();
    let proxy = Setup::over(&[&a, &b]).with(affine).start();
    for (n, name) in ["x-session-id", "x-session-affinity", "x-conversation-id"].into_iter().enumerate() {
        let with = |session: &str, text: &str| {
            told(&proxy.ask(post_with(CHAT, &format!("{name}: {session}\r\n"), said(&[&format!("{n} {text}")]))))
        };
        let (home, _) = with("s1", "first");
        assert_eq!(with("s1", "something else"), (home, "session".into()), "{name}");
    }
    let by_body = |key: &str, text: &str| {
        told(&proxy.post(
            CHAT,
            format!(r#"{{"model":"m","{key}":"u","messages":[{{"role":"user","content":"{key} {text}"}}]}}"#),
        ))
    };
    for key in ["prompt_cache_key", "user"] {
        let (home, _) = by_body(key, "first");
        assert_eq!(by_body(key, "second"), (home, "session".into()), "{key}");
    }
}

#[test]
fn a_full_home_is_left_for_an_idle_one_and_says_why() {
    let [a, b] = two();
    let latch = Latch::new();
    let proxy = Setup::over(&[&a, &b])
        .with(affine)
        .with(|config| config.endpoints.iter_mut().for_each(|one| one.max_concurrent = MaxConcurrent::Most(1)))
        .start();
    assert_eq!(ask(&proxy, &["one"]).0, "a");
    a.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    let mut busy = proxy.sent(post(CHAT, said(&["one", "x", "y"])));
    a.wait_count(CHAT, 2);
    assert_eq!(ask(&proxy, &["one", "x", "z"]), pair("b", "affinity_full"));
    latch.open();
    busy.answer();
}

#[test]
fn a_home_is_told_while_another_endpoint_is_down() {
    let ([a, b], mut c) = (two(), Upstream::serving(&["m"]));
    let proxy = Setup::over(&[&a, &b, &c]).with(affine).start();
    c.kill();
    proxy.until(|_| proxy.force_check()["endpoints"]["c"]["state"] == "unhealthy");
    let (home, reason) = ask(&proxy, &["one"]);
    assert_eq!(reason, "failover");
    assert_eq!(ask(&proxy, &["one", "x", "y"]), pair(&home, "affinity"));
}

#[test]
fn requests_do_not_pile_up_where_no_limit_is_known() {
    let [a, b] = two();
    let latch = Latch::new();
    let proxy = Setup::over(&[&a, &b]).with(affine).start();
    assert_eq!(ask(&proxy, &["one"]).0, "a");
    let mut busy = vec![];
    for n in 0..4 {
        a.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
        busy.push(proxy.sent(post(CHAT, said(&["one", "x", &n.to_string()]))));
        a.wait_count(CHAT, n + 2);
    }
    assert_eq!(ask(&proxy, &["one", "x", "last"]), pair("b", "affinity_busy"));
    latch.open();
    busy.iter_mut().for_each(|client| drop(client.answer()));
}

#[test]
fn an_endpoint_that_restarted_has_forgotten() {
    let [mut a, b] = two();
    let proxy = Setup::over(&[&a, &b]).with(affine).start();
    assert_eq!(ask(&proxy, &["one"]), pair("a", "affinity_new"));
    a.kill();
    proxy.force_check();
    a.revive();
    proxy.force_check();
    proxy.until(|health| health["endpoints"]["a"]["state"] == "healthy");
    assert_eq!(ask(&proxy, &["one", "x", "y"]).1, "affinity_new");
    // Loading its model anew is a restart too.
    let (home, _) = ask(&proxy, &["two"]);
    let home_is_a = home == "a";
    let upstream = if home_is_a { &a } else { &b };
    upstream.set_mood(Mood::Loading);
    proxy.force_check();
    upstream.set_mood(Mood::Well);
    proxy.until(|_| proxy.force_check()["endpoints"][&home]["state"] == "healthy");
    assert_eq!(ask(&proxy, &["two", "x", "y"]).1, "affinity_new");
}
