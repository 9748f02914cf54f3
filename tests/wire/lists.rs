//! SPEC 3 and 5: what an endpoint's list of models does to ours, and names that are known by another spelling.

use crate::support::proxy::CHAT;
use crate::support::proxy::Proxy;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::endpoint;
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::{Backend, Probe, Route};
use serde_json::{Value, json};

fn listing(list: Value) -> Upstream {
    let upstream = Upstream::start();
    upstream.always("/v1/models", Script::json(list.to_string()));
    upstream.always(CHAT, Script::json("{}"));
    upstream
}

fn entries(proxy: &Proxy) -> Vec<Value> {
    proxy.get("/v1/models").json()["data"].as_array().expect("a list").clone()
}

// R08
#[test]
fn a_name_that_is_not_served_is_tried_with_the_tag_latest() {
    let ollama = listing(json!({"data": [{"id": "llama3.2:latest"}, {"id": "q:latest"}, {"id": "q"}]}));
    let proxy = Setup::over(&[&ollama]).start();
    let answer = proxy.post(CHAT, chat("llama3.2"));
    assert_eq!((answer.status(), answer.field("x-llmproxy-model")), (200, Some("llama3.2:latest")));
    assert_eq!(ollama.take(CHAT).text(), chat("llama3.2:latest"), "the endpoint is asked by the name it knows");
    assert_eq!(proxy.chat("q").field("x-llmproxy-model"), Some("q"), "a name that is served is what it says");
    assert_eq!(proxy.get("/v1/models/llama3.2").json()["id"], "llama3.2:latest");
    assert_eq!(proxy.chat("llama3").status(), 404);
}

// R08
#[test]
fn the_tag_latest_is_found_in_routes_and_within_a_scope() {
    let upstream = Upstream::serving(&["big"]);
    upstream.always(CHAT, Script::json("{}"));
    let backend = Backend { endpoint: "a".into(), model: Some("big".into()), ..Backend::default() };
    let route = Route { name: "fast:latest".into(), backends: vec![backend], ..Route::default() };
    let proxy = Setup::over(&[&upstream]).with(|c| c.models = vec![route]).start();
    assert_eq!(proxy.chat("fast").field("x-llmproxy-model"), Some("big"));
}

// R10, D8
#[test]
fn every_entry_has_the_fields_that_strict_clients_want() {
    let odd = [
        "1.7e9",
        "\"1700000000\"",
        "1700000000.25",
        "null",
        "-3",
        "\"yesterday\"",
        "{}",
        "1e300",
        "18446744073709551615",
    ];
    let entry = |(n, created): (usize, &&str)| {
        format!(r#"{{"id":"m{n}","created":{created},"owned_by":{created},"object":[1],"endpoints":"x"}}"#)
    };
    let list = odd.iter().enumerate().map(entry).collect::<Vec<_>>().join(",");
    let upstream = Upstream::start();
    upstream.always("/v1/models", Script::json(format!(r#"{{"data":[{list},{{"id":"bare"}}]}}"#)));
    let mut fixed = endpoint("fixed", upstream.addr());
    (fixed.models, fixed.probe) = (vec!["configured".into(), "m0".into()], Probe::Never);
    let backend = |model: &str| Backend { endpoint: "a".into(), model: Some(model.into()), ..Backend::default() };
    let route =
        |name: &str, model: &str| Route { name: name.into(), backends: vec![backend(model)], ..Route::default() };
    let routes = vec![route("fast", "m0"), route("other", "nowhere")];
    let proxy = Setup::over(&[&upstream]).endpoint(fixed).with(|c| c.models = routes).start();
    let all = entries(&proxy);
    assert_eq!(all.len(), odd.len() + 4);
    for one in &all {
        assert!(one["created"].is_u64() && one["created"].as_u64() <= Some(1 << 53), "{one}");
        assert_eq!(one["object"], "model");
        assert!(["id", "owned_by", "provider", "endpoint"].iter().all(|key| one[*key].is_string()), "{one}");
        assert!(one["endpoints"].as_array().is_some_and(|all| !all.is_empty() && all.iter().all(Value::is_string)));
        let alone = proxy.get(&format!("/v1/models/{}", one["id"].as_str().expect("an id"))).json();
        assert_eq!(&alone, one);
    }
    for one in &all[..3] {
        assert_eq!(one["created"], 1_700_000_000, "{one}");
    }
    assert_eq!(all[0]["endpoints"], json!(["a", "fixed"]));
    let fast = all.iter().find(|one| one["id"] == "fast").expect("the route");
    assert_eq!(
        (&fast["root"], &fast["aliases"], &fast["created"]),
        (&json!("m0"), &json!(["m0"]), &json!(1_700_000_000))
    );
}

// R10
#[test]
fn nothing_of_a_routers_command_lines_is_listed_wherever_it_stands() {
    let secret = "--api-key sk-secret";
    let upstream = listing(json!({"data": [
        {"id": "x", "status": {"value": "loaded", "args": [secret], "preset": secret}, "command": secret, "tags": ["t"], "meta": {"n_ctx": 5}},
        {"id": "y", "args": secret, "path": secret, "status": "loaded"},
    ]}));
    let proxy = Setup::over(&[&upstream]).start();
    let text = proxy.get("/v1/models").text().to_owned();
    assert!(!text.contains("secret"), "{text}");
    let one = &entries(&proxy)[0];
    assert_eq!(
        (&one["status"], &one["tags"], &one["meta"]),
        (&json!({"value": "loaded"}), &json!(["t"]), &json!({"n_ctx": 5}))
    );
}

// R12
#[test]
fn two_servers_of_one_model_are_told_apart_by_the_context_in_their_lists() {
    let too_long = include_bytes!("../data/err_context.raw");
    for (small, large) in [
        (json!({"max_model_len": 8192}), json!({"max_model_len": 32768})),
        (json!({"context_length": 8192}), json!({"context_length": "32768"})),
        (json!({"context_window": 8192}), json!({"context_window": 32768.0})),
        (json!({"n_ctx": 8192}), json!({"meta": {"n_ctx": 32768}})),
    ] {
        let with = |size: &Value| {
            let mut entry = json!({"id": "m"});
            entry.as_object_mut().expect("an object").extend(size.as_object().expect("an object").clone());
            // Another model of the same server has another size.
            listing(json!({"data": [{"id": "other", "max_model_len": 1_000_000}, entry]}))
        };
        let (a, b, c) = (with(&small), with(&small), with(&large));
        a.on(CHAT, Script::raw(too_long));
        let answer = Setup::over(&[&a, &b, &c]).start().chat("m");
        assert_eq!((answer.status(), answer.field("x-llmproxy-endpoint")), (200, Some("c")), "{large}");
        assert_eq!((answer.field("x-llmproxy-reason"), b.count(CHAT)), (Some("context"), 0));
    }
}

// U29
#[test]
fn of_an_endless_list_two_thousand_models_and_eight_names_each_are_kept() {
    let aliases: Vec<String> = (0..300).map(|n| format!("alias-{n}")).collect();
    let mut list: Vec<Value> = (0..2_500).map(|n| json!({"id": format!("m{n}")})).collect();
    list[0]["aliases"] = json!(aliases);
    list[1]["padding"] = json!(vec![0; 100_000]);
    list[2]["id"] = json!("x".repeat(5_000));
    let upstream = listing(json!({"data": list}));
    let proxy = Setup::over(&[&upstream]).start();
    let all = entries(&proxy);
    assert!((1_999..=2_000).contains(&all.len()), "{}", all.len());
    let named = |id: &str| all.iter().find(|one| one["id"] == id);
    assert_eq!(named("m0").expect("kept")["aliases"].as_array().map(Vec::len), Some(8));
    assert!(named("m1").is_some_and(|one| one["padding"].is_null()));
    assert_eq!(proxy.chat("alias-7").status(), 200);
    assert_eq!(proxy.chat("alias-8").status(), 404);
    let refused = proxy.chat("nobody");
    assert_eq!(refused.json()["error"]["available_models"].as_array().map(Vec::len), Some(50));
    assert!(refused.text().len() < 20_000);
}
