//! SPEC 9, format 003: the documented file does what its document says.

use crate::older::endpoint;
use crate::older::manager;
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
use serde_json::json;

#[test]
fn a_003_file_renames_rotates_its_keys_and_fails_over_across_keys_and_backends() {
    let upstreams = two();
    let program = start(&manager(&upstreams));
    let name = "general-model-name-for-client";
    let second = "/v1beta/chat/completions";
    upstreams[1].always(second, Script::json("{\"from\":2}"));
    // S003-07..10, S003-13: in order, renamed, the keys in turn; S003-20: the client's key stays here.
    for key in ["key1_for_provider1", "key2_for_provider1", "key1_for_provider1"] {
        let answer = program.asked(post_with(CHAT, "Authorization: Bearer mine\r\n", chat(name)));
        assert_eq!((answer.status(), endpoint(&answer)), (200, "Backend-Provider-1"));
        let received = upstreams[0].take(CHAT);
        assert_eq!(received.all("authorization"), [format!("Bearer {key}")]);
        assert_eq!(received.text(), chat("provider1-specific-model-name"));
    }
    assert_eq!(upstreams[1].count(second), 0);
    // S003-14, W003-3: the other key first; W003-5: then the other backend, also after a 401.
    upstreams[0].on(CHAT, Script::error(429, "slow down"));
    assert_eq!(endpoint(&program.asked(post(CHAT, chat(name)))), "Backend-Provider-1");
    upstreams[0].take(CHAT);
    upstreams[0].take(CHAT);
    (0..2).for_each(|_| upstreams[0].on(CHAT, Script::error(401, "wrong key")));
    let answer = program.asked(post(CHAT, chat(name)));
    assert_eq!(
        (answer.status(), endpoint(&answer), answer.json()),
        (200, "Backend-Provider-2-Backup", json!({"from":2}))
    );
    let received = upstreams[1].take(second);
    assert_eq!(
        (received.field("authorization"), received.text()),
        (Some("Bearer key_for_provider2"), &*chat(name)),
        "S003-09"
    );
    // S003-16, S003-19: errors stay hidden while another can serve; W003-2: any spelling of `stream`.
    upstreams[0].on(CHAT, Script::error(500, "broken"));
    upstreams[1].on(second, Script::sse().chunk(event("one")).chunk("data: [DONE]\n\n").end());
    let answer = program.asked(post(CHAT, stream(name)));
    assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
}

#[test]
fn a_003_file_lists_and_serves_only_the_names_it_gives() {
    let upstreams = two();
    let program = start(&manager(&upstreams));
    let list = program.asked(get("/v1/models")).json();
    let names: Vec<_> = list["data"].as_array().expect("a list").iter().map(|one| one["id"].clone()).collect();
    assert_eq!(names, ["general-model-name-for-client"], "S003-22");
    assert!(list["data"][0]["owned_by"].is_string());
    // W003-5: 404 and not 503; W003-6: 400 and not 500.
    for unknown in ["provider1-specific-model-name", "other"] {
        assert_eq!(program.asked(post(CHAT, chat(unknown))).status(), 404, "{unknown}");
    }
    assert_eq!([r#"{"model":1}"#, "[]", "{"].map(|body| program.asked(post(CHAT, body)).status()), [400, 400, 400]); // S003-18
    // A request without a model gets what there is, under the name the backend knows.
    assert_eq!(program.asked(post(CHAT, r#"{"messages":[]}"#)).status(), 200);
    assert_eq!(model(&upstreams[0], CHAT), "provider1-specific-model-name");
    // S003-17: all down is 503 with what happened; S003-23
    let [mut first, mut second] = upstreams;
    first.kill();
    second.kill();
    let answer = program.asked(post(CHAT, chat("general-model-name-for-client")));
    assert!([502, 503].contains(&answer.status()), "{}", answer.text());
    assert_eq!(program.asked(get("/health")).status(), 200);
    // Nobody probes them, and yet they come back.
    first.revive();
    assert_eq!(program.asked(post(CHAT, chat("general-model-name-for-client"))).status(), 200);
}

#[test]
fn a_003_file_goes_round_or_by_weight() {
    let upstreams = two();
    let text = manager(&upstreams).replace("v1beta", "v1").replace("null", "\"other\"");
    let served = |text: &str, n: usize| {
        let program = start(text);
        let name = chat("general-model-name-for-client");
        (0..n).filter(|_| endpoint(&program.asked(post(CHAT, &name))) == "Backend-Provider-1").count()
    };
    assert_eq!(served(&text.replace("\"Failover\"", "0"), 10), 5, "S003-11");
    let weighted = text.replace("\"Failover\"", "\"Weighted\"").replacen("\"Weight\": 1", "\"Weight\": 3", 1);
    let first = served(&weighted, 200);
    assert!((115..=185).contains(&first), "S003-12: {first}");
}
