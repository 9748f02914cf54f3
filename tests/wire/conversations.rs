//! SPEC 5, affinity as agents need it: Claude Code's changing system line, its sessions, and responses that one server keeps.

use crate::support::client::Answer;
use crate::support::proxy::{CHAT, Proxy, Setup, get, post, post_with};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::{Config, Strategy};
use serde_json::{Value, json};

const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";

fn two() -> [Upstream; 2] {
    [(), ()].map(|()| {
        let upstream = Upstream::serving(&["m"]);
        for path in [CHAT, MESSAGES] {
            upstream.always(path, Script::json("{}"));
        }
        upstream
    })
}

fn affine(config: &mut Config) {
    config.routing.strategy = Strategy::Affinity;
}

fn by_turns(config: &mut Config) {
    config.routing.strategy = Strategy::RoundRobin;
}

fn endpoint(answer: &Answer) -> String {
    answer.field("x-llmproxy-endpoint").expect("a field").to_owned()
}

fn reason(answer: &Answer) -> String {
    answer.field("x-llmproxy-reason").expect("a field").to_owned()
}

/// Another with every request.
fn billing(session: usize, turn: usize) -> String {
    format!(
        "x-anthropic-billing-header: cc_version=2.1.{session}.0d9; cc_entrypoint=cli; cch={:05x};",
        turn * 7919 + session
    )
}

/// What was said in a session up to a turn.
fn history(session: usize, turn: usize) -> Vec<Value> {
    let said = |n: usize| json!({"role": if n.is_multiple_of(2) { "user" } else { "assistant" }, "content": format!("{session}.{n}")});
    (0..=2 * turn).map(said).collect()
}

/// Later turns that went somewhere else than the turn before, of 8 sessions that take turns on two servers: of how many.
fn moved(target: &str, body: impl Fn(usize, usize) -> Value) -> (usize, usize) {
    let [a, b] = two();
    let proxy = Setup::over(&[&a, &b]).with(affine).start();
    let mut homes = vec![String::new(); 8];
    let (mut moved, mut later) = (0, 0);
    // 8 + 52 turns: the last four sessions end one turn earlier.
    for (turn, session) in (0..8).flat_map(|turn| (0..8).map(move |session| (turn, session))).take(60) {
        let answer = proxy.post(target, body(session, turn).to_string());
        assert_eq!(answer.status(), 200);
        if turn > 0 {
            later += 1;
            moved += usize::from(endpoint(&answer) != homes[session] || reason(&answer) != "affinity");
        }
        homes[session] = endpoint(&answer);
    }
    let both = ["a", "b"].map(|name| homes.iter().filter(|home| *home == name).count());
    assert_eq!(both, [4, 4], "new sessions are spread");
    (moved, later)
}

// D2
#[test]
fn the_system_line_of_claude_code_that_differs_in_every_request_moves_no_session() {
    let identity = "You are Claude Code, Anthropic's official CLI for Claude.";
    let text = |text: &str| json!({"type": "text", "text": text});
    let blocks = |session, turn| {
        let mut own = text(identity);
        own["cache_control"] = json!({"type": "ephemeral"});
        json!([text(&billing(session, turn)), own])
    };
    let as_blocks =
        |session, turn| json!({"model": "m", "system": blocks(session, turn), "messages": history(session, turn)});
    assert_eq!(moved("/v1/messages?beta=true", as_blocks), (0, 52));
    let as_text = |session, turn| {
        let system = format!("{}\n{identity}", billing(session, turn));
        json!({"model": "m", "system": system, "messages": history(session, turn)})
    };
    assert_eq!(moved(MESSAGES, as_text), (0, 52));
}

// D2
#[test]
fn that_line_counts_for_nothing_in_a_system_message_either() {
    let with = |content: Value, session, turn| {
        let mut messages = vec![json!({"role": "system", "content": content})];
        messages.extend(history(session, turn));
        json!({"model": "m", "messages": messages})
    };
    let as_text =
        |session, turn| with(json!(format!("Be brief.\n{}\nBe kind.", billing(session, turn))), session, turn);
    assert_eq!(moved(CHAT, as_text), (0, 52));
    let as_blocks = |session, turn| {
        with(json!([{"type": "text", "text": billing(session, turn)}, {"type": "text", "text": "s"}]), session, turn)
    };
    assert_eq!(moved(CHAT, as_blocks), (0, 52));
}

// D2
#[test]
fn the_user_id_of_claude_code_names_a_session() {
    let [a, b] = two();
    let proxy = Setup::over(&[&a, &b]).with(affine).start();
    let ask = |user_id: &str, text: &str| {
        let body =
            json!({"model": "m", "metadata": {"user_id": user_id}, "messages": [{"role": "user", "content": text}]});
        proxy.post(MESSAGES, body.to_string())
    };
    let first = ask("user_1f0e_account_0b2a-11_session_7c1d-22", "one");
    assert_eq!(reason(&first), "affinity_new");
    assert_ne!(endpoint(&ask("user_1f0e_account_0b2a-11_session_9999-33", "two")), endpoint(&first), "same account");
    let again = ask("user_1f0e_account__session_7c1d-22", "something else");
    assert_eq!((endpoint(&again), reason(&again)), (endpoint(&first), "session".into()));
    let newer = ask(r#"{"device_id":"1f0e","account_uuid":"","session_id":"s-1"}"#, "three");
    let again = ask(r#"{ "session_id": "s-1", "account_uuid": "0b2a-11", "device_id": "1f0e" }"#, "four");
    assert_eq!((endpoint(&again), reason(&again)), (endpoint(&newer), "session".into()));
}

// A sibling of S10: the plan had one candidate when the conversation began.
#[test]
fn conversations_that_began_while_one_server_was_away_stay_when_it_is_back() {
    let [a, mut b] = two();
    let proxy = Setup::over(&[&a, &b]).with(affine).with(|c| c.health_check.failure_threshold = 1).start();
    b.kill();
    proxy.force_check();
    let ask = |session, turn| proxy.post(CHAT, json!({"model": "m", "messages": history(session, turn)}).to_string());
    (0..3).for_each(|session| assert_eq!(endpoint(&ask(session, 0)), "a"));
    b.revive();
    proxy.force_check();
    for session in 0..3 {
        let answer = ask(session, 1);
        assert_eq!((endpoint(&answer), reason(&answer)), ("a".into(), "affinity".into()));
    }
}

/// Two servers that keep the responses they make, each once.
fn keepers() -> [Upstream; 2] {
    let servers = [Upstream::serving(&["m"]), Upstream::serving(&["m"])];
    servers[0].on(RESPONSES, Script::json(r#"{"id":"resp_a1","object":"response","output":[{"id":"msg_1"}]}"#));
    servers[1].on(RESPONSES, Script::json("{\n  \"created_at\": 1,\n  \"error\": null,\n  \"id\": \"resp_b1\"\n}"));
    servers
}

fn respond(proxy: &Proxy, previous: Option<&str>) -> Answer {
    let body = json!({"model": "m", "input": "go on", "previous_response_id": previous});
    proxy.post(RESPONSES, body.to_string())
}

// R23
#[test]
fn a_previous_response_is_continued_where_it_was_made_whatever_the_strategy() {
    for strategy in [by_turns, affine] {
        let [a, b] = keepers();
        let proxy = Setup::over(&[&a, &b]).with(strategy).start();
        let first =
            ["one", "two"].map(|input| proxy.post(RESPONSES, json!({"model": "m", "input": input}).to_string()));
        assert_eq!(first.map(|answer| endpoint(&answer)), ["a", "b"]);
        for (server, name) in [(&a, "a"), (&b, "b")] {
            let mut previous = format!("resp_{name}1");
            for n in 2..6 {
                let next = format!("resp_{name}{n}");
                server.on(RESPONSES, Script::json(format!(r#"{{"id":"{next}"}}"#)));
                let answer = respond(&proxy, Some(&previous));
                assert_eq!((endpoint(&answer), reason(&answer)), (name.to_owned(), "response".to_owned()), "{next}");
                previous = next;
            }
        }
    }
}

// R23
#[test]
fn a_streamed_response_has_a_home_too_however_its_bytes_arrive() {
    let [a, b] = [Upstream::serving(&["m"]), Upstream::serving(&["m"])];
    let proxy = Setup::over(&[&a, &b]).with(by_turns).start();
    let created = r#"{"response":{"created_at":1,"id":"resp_9","object":"response"},"type":"response.created"}"#;
    let (head, rest) = created.split_at(40);
    let done = "event: response.completed\ndata: {\"type\":\"response.completed\"}\n\n";
    let stream = Script::sse().chunk("event: response.created\ndata: ").chunk(head).chunk(format!("{rest}\n\n"));
    a.on(RESPONSES, stream.chunk(done).end());
    let body = r#"{"model":"m","input":"a","stream":true}"#;
    assert_eq!(endpoint(&proxy.post(RESPONSES, body)), "a");
    for _ in 0..3 {
        a.on(RESPONSES, Script::json("{}"));
        assert_eq!(endpoint(&respond(&proxy, Some("resp_9"))), "a");
    }
    assert_eq!(b.count(RESPONSES), 0);
}

// R23
#[test]
fn a_kept_response_is_read_cancelled_and_deleted_where_it_was_made() {
    let [a, b] = keepers();
    let proxy = Setup::over(&[&a, &b]).with(by_turns).start();
    // An id in a compressed answer could not be read.
    let body = r#"{"model":"m","input":"a"}"#;
    (0..2).for_each(|_| drop(proxy.ask(post_with(RESPONSES, "Accept-Encoding: gzip\r\n", body))));
    assert_eq!(a.take(RESPONSES).field("accept-encoding"), None);
    let one = "/v1/responses/resp_b1";
    for (method, path) in [
        ("GET", one.to_owned()),
        ("GET", format!("{one}/input_items")),
        ("POST", format!("{one}/cancel")),
        ("DELETE", one.to_owned()),
    ] {
        b.on(&path, Script::json("{}"));
        let answer =
            proxy.ask(format!("{method} {path}?limit=2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!((answer.status(), endpoint(&answer)), (200, "b".to_owned()), "{method} {path}");
        let got = b.take(&path);
        assert_eq!((got.method(), got.target()), (method, format!("{path}?limit=2").as_str()));
    }
    assert_eq!(a.count(one), 0);
}

// R23
#[test]
fn a_response_made_before_the_proxy_started_is_looked_for_at_every_endpoint() {
    let [a, b] = [Upstream::serving(&["m"]), Upstream::serving(&["m"])];
    let proxy = Setup::over(&[&a, &b]).start();
    a.on("/v1/responses/resp_old", Script::error(404, "no such response"));
    b.on("/v1/responses/resp_old", Script::json("{}"));
    let answer = proxy.ask(get("/v1/responses/resp_old"));
    assert_eq!((answer.status(), endpoint(&answer)), (200, "b".to_owned()));
    let only = Setup::over(&[&a]).start();
    a.on("/v1/responses/x", Script::error(404, "no such response"));
    assert_eq!(only.get("/v1/responses/x").status(), 404);
    a.on("/v1/responses/x/cancel", Script::json("{}"));
    assert_eq!(only.ask(post("/responses/x/cancel", "{}")).status(), 200);
}

// R23
#[test]
fn while_its_home_is_away_a_response_is_asked_of_the_others() {
    let [mut a, b] = [Upstream::serving(&["m"]), Upstream::serving(&["m"])];
    a.on(RESPONSES, Script::json(r#"{"id":"resp_a1"}"#));
    b.on(RESPONSES, Script::error(400, "no such response"));
    let proxy = Setup::over(&[&a, &b]).with(|c| c.health_check.failure_threshold = 1).start();
    assert_eq!(endpoint(&respond(&proxy, None)), "a");
    a.kill();
    proxy.force_check();
    assert_eq!(respond(&proxy, Some("resp_a1")).status(), 400);
}
