//! SPEC 9, format 001: the documented file does what its document says.

use crate::older::endpoint;
use crate::older::go;
use crate::older::model;
use crate::older::start;
use crate::older::two;
use crate::support::proxy::CHAT;
use crate::support::proxy::chat;
use crate::support::proxy::get;
use crate::support::proxy::post;
use crate::support::proxy::post_with;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use serde_json::json;

#[test]
fn a_001_file_sends_each_model_to_its_backend_with_the_backends_key() {
    let upstreams = two();
    let program = start(&go(&upstreams));
    let body = r#"{ "model": "deepseek-reasoner", "seed": 12345678901234567890, "messages": ["<b>&"] }"#;
    let answer = program.asked(post_with(CHAT, "Authorization: Bearer client-key\r\n", body));
    assert_eq!((answer.status(), endpoint(&answer)), (200, "deepseek"), "S001-09");
    let received = upstreams[0].take(CHAT);
    assert_eq!(received.all("authorization"), ["Bearer your-api-key-here"], "S001-14");
    assert_eq!(received.text(), body, "S001-13, W001-5");
    assert_eq!(endpoint(&program.asked(post(CHAT, chat("claude-opus-4.5")))), "poe", "S001-09");
    assert_eq!(upstreams[1].take(CHAT).field("authorization"), Some("Bearer your-poe-key"));
}

#[test]
fn a_001_file_lets_a_default_model_stand_in() {
    let upstreams = two();
    let program = start(&go(&upstreams).replace("mode: random", "mode: round-robin"));
    // S001-08, S001-11: strict rotation, each with its own default model.
    for body in [chat("auto"), chat(""), r#"{"messages":[]}"#.to_owned(), chat("auto")] {
        assert_eq!(program.asked(post(CHAT, body)).status(), 200);
    }
    for (upstream, name) in upstreams.iter().zip(["deepseek-chat", "glm-4.7"]) {
        assert_eq!([(); 2].map(|()| model(upstream, CHAT)), [json!(name), json!(name)]);
    }
    // S001-10
    let answer = program.asked(post(CHAT, chat("nobody-has-it")));
    assert_eq!((answer.status(), answer.field("x-llmproxy-reason")), (200, Some("unknown_model_default")));
    // H5
    program.logged(&["WARN", "nobody-has-it", "deepseek-chat at "]);
}

#[test]
fn a_001_file_draws_by_weight() {
    // S001-11
    let upstreams = two();
    let program = start(&go(&upstreams).replacen("weight: 5", "weight: 15", 1));
    let counts = |n: usize| {
        (0..n).for_each(|_| assert_eq!(program.asked(post(CHAT, chat("auto"))).status(), 200));
        upstreams.each_ref().map(|upstream| upstream.count(CHAT))
    };
    let [first, second] = counts(200);
    // 3 to 1; off by more than this once in ten million runs.
    assert!((115..=185).contains(&first) && first + second == 200, "{first} {second}");
}

#[test]
fn a_001_file_tries_another_backend_that_has_the_model_and_no_other() {
    let upstreams = two();
    let text = go(&upstreams).replace("- deepseek-reasoner", "- glm-4.7");
    let program = start(&text);
    // S001-15, W001-8: whoever comes first, the other one serves.
    upstreams[0].always(CHAT, Script::error(500, "broken"));
    for _ in 0..4 {
        let answer = program.asked(post(CHAT, chat("glm-4.7")));
        assert_eq!((answer.status(), endpoint(&answer)), (200, "poe"));
    }
    // W001-4: no silent change of models; W001-9, S001-16, S001-18: the provider's own answer, after three tries in all (S001-04).
    let before = upstreams[0].count(CHAT);
    let answer = program.asked(post(CHAT, chat("deepseek-chat")));
    assert_eq!((answer.status(), answer.json()["error"]["message"].clone()), (500, json!("broken")));
    assert_eq!(upstreams[0].count(CHAT) - before, 3);
    // W001-3
    let before = upstreams[1].count(CHAT);
    upstreams[0].on(CHAT, Script::error(400, "too warm"));
    assert_eq!(program.asked(post(CHAT, chat("deepseek-chat"))).status(), 400);
    assert_eq!(upstreams[1].count(CHAT), before);
}

#[test]
fn a_001_file_streams_and_a_cut_is_not_mended_by_another_backend() {
    let upstreams = two();
    let program = start(&go(&upstreams));
    upstreams[0].on(CHAT, Script::sse().chunk(event("one")).cut());
    let mut client = program.client();
    client.send(post(CHAT, stream("deepseek-chat")));
    let head = client.head();
    assert_eq!(head.field("content-type"), Some("text/event-stream"), "S001-17");
    assert_eq!((head.field("cache-control"), client.event()), (Some("no-cache"), Some(event("one"))));
    // W001-1, W001-7: an error event, no second backend, no clean end.
    assert!(client.event().is_some_and(|event| event.contains("error")));
    assert_eq!(client.event(), None);
    assert_eq!((upstreams[0].count(CHAT), upstreams[1].count(CHAT)), (1, 0));
}

#[test]
fn a_001_file_lists_its_models_and_is_open_to_every_page() {
    let upstreams = two();
    let program = start(&go(&upstreams));
    // S001-23
    program.logged(&["INFO", "endpoint deepseek", "http://", "deepseek-chat, deepseek-reasoner"]);
    let list = program.asked(get("/v1/models")).json();
    let seen: Vec<_> =
        list["data"].as_array().expect("a list").iter().map(|one| (&one["id"], &one["owned_by"])).collect();
    let names = [
        ("deepseek-chat", "deepseek"),
        ("deepseek-reasoner", "deepseek"),
        ("glm-4.7", "poe"),
        ("gpt-5.2-instant", "poe"),
        ("claude-opus-4.5", "poe"),
    ];
    let names = names.map(|(id, owner)| (json!(id), json!(owner)));
    assert_eq!(seen, names.each_ref().map(|(id, owner)| (id, owner)), "S001-21");
    let health = program.asked(get("/health")).json();
    assert_eq!((&health["backends"], &health["mode"]), (&json!(2), &json!("random")), "S001-22");
    assert_eq!(upstreams.each_ref().map(Upstream::connections), [0, 0], "S001-22: no probing");
    // S001-19
    let answer = program.asked(post_with(CHAT, "Origin: https://page.example\r\n", chat("auto")));
    assert_eq!(answer.field("access-control-allow-origin"), Some("*"));
    let preflight = "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: https://page.example\r\n\
                     Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: Content-Type, Authorization\r\n\r\n";
    let mut client = program.client();
    client.send(preflight);
    assert!([200, 204].contains(&client.answer_to("OPTIONS").status()));
    // S001-20, W001-6
    assert_eq!(program.asked(get(CHAT)).status(), 405);
    assert_eq!(["{", "null"].map(|body| program.asked(post(CHAT, body)).status()), [400, 400]);
    assert_eq!(program.asked(get("/nothing")).status(), 404);
}
