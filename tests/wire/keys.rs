//! SPEC 3, keys: who may come in, what each may see, and how much of it.

use crate::support::client::Answer;
use crate::support::fact::Latch;
use crate::support::proxy::CHAT;
use crate::support::proxy::Proxy;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::endpoint;
use crate::support::proxy::post_with;
use crate::support::proxy::with_keys;
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::{ClientKey, Config, KeyText, RateLimit};
use llmproxy::util::secret::Secret;

fn key(name: &str, text: &str) -> ClientKey {
    ClientKey {
        name: name.into(),
        key: KeyText::Plain(Secret::new(text)),
        models: vec![],
        endpoints: vec![],
        max_parallel: None,
        rate_limit: None,
        background: false,
        admin: false,
    }
}

/// `all` may do everything, `few` sees models `m*` on endpoint `a` only.
fn two_keys(config: &mut Config) {
    let few = ClientKey { models: vec!["m*".into()], endpoints: vec!["a".into()], ..key("few", "canary-few") };
    config.keys = vec![key("all", "canary-all"), few];
}

fn with_key(proxy: &Proxy, method: &str, path: &str, fields: &str, body: &str) -> Answer {
    proxy.ask(format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

#[test]
fn each_key_reaches_what_it_may_and_nothing_else_exists_for_it() {
    let (a, b) = (Upstream::serving(&["m1", "x"]), Upstream::serving(&["m1", "m2"]));
    for path in [CHAT, "/v1/completions", "/v1/embeddings", "/v1/messages"] {
        a.always(path, Script::json("{}"));
        b.always(path, Script::json("{}"));
    }
    let proxy = Setup::over(&[&a, &b]).with(two_keys).start();
    let (all, few) = (bearer("canary-all"), bearer("canary-few"));
    let mut met = 0;
    for (fields, model, status) in [
        (&all, "m1", 200),
        (&all, "x", 200),
        (&all, "m2", 200),
        (&all, "zz", 404),
        (&few, "m1", 200),
        (&few, "x", 404),
        (&few, "m2", 404),
        (&few, "zz", 404),
        (&bearer("wrong"), "m1", 401),
        (&String::new(), "m1", 401),
    ] {
        for path in [CHAT, "/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/messages"] {
            let answer = with_key(&proxy, "POST", path, fields, &chat(model));
            assert_eq!(answer.status(), status, "{fields} {model} {path}");
            if status == 200 && fields == &few {
                assert_eq!(answer.field("x-llmproxy-endpoint"), Some("a"));
            }
            if status == 404 && !path.contains("messages") {
                let error = answer.json()["error"].clone();
                assert_eq!(error["code"], "model_not_found");
                let names =
                    if fields == &few { serde_json::json!(["m1"]) } else { serde_json::json!(["m1", "x", "m2"]) };
                assert_eq!(error["available_models"], names);
            }
            met += 1;
        }
    }
    assert_eq!(met, 50);
    let refusal = |model: &str| with_key(&proxy, "POST", CHAT, &few, &chat(model)).text().replace(model, "?");
    assert_eq!(refusal("m2"), refusal("m9"), "outside of the scope is as if it did not exist");
}

#[test]
fn lists_and_health_show_a_key_its_scope_only() {
    let (a, b) = (Upstream::serving(&["m1", "x"]), Upstream::serving(&["m1", "m2"]));
    let proxy = Setup::over(&[&a, &b]).with(two_keys).start();
    let (all, few) = (bearer("canary-all"), bearer("canary-few"));
    let get = |path: &str, fields: &str| with_key(&proxy, "GET", path, fields, "");
    let ids = |fields: &str| {
        let list = get("/v1/models", fields).json();
        list["data"].as_array().expect("a list").iter().map(|one| one["id"].to_string()).collect::<String>()
    };
    assert_eq!((ids(&all), ids(&few)), (r#""m1""x""m2""#.into(), r#""m1""#.into()));
    let entry = get("/v1/models/m1", &few).json();
    assert_eq!((&entry["provider"], &entry["endpoints"]), (&serde_json::json!("a"), &serde_json::json!(["a"])));
    for (path, fields, status) in [
        ("/v1/models/x", &all, 200),
        ("/v1/models/x", &few, 404),
        ("/v1/models/m2", &few, 404),
        ("/v1/models", &String::new(), 401),
        ("/v1/models/m1", &bearer("no"), 401),
        ("/nothing", &String::new(), 401),
        ("/props?model=m1", &String::new(), 401),
        ("/health", &String::new(), 200),
    ] {
        assert_eq!(get(path, fields).status(), status, "{path} {fields}");
    }
    let anybody = get("/health", "").json();
    assert_eq!(
        anybody.as_object().expect("an object").keys().collect::<Vec<_>>(),
        ["status", "healthy_endpoints", "total_endpoints", "version"]
    );
    let few = get("/health", &few).json();
    assert_eq!(few["endpoints"].as_object().expect("endpoints").keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(few["endpoints"]["a"]["models"], serde_json::json!(["m1"]));
    assert_eq!(get("/health", &all).json()["endpoints"].as_object().expect("endpoints").len(), 2);
    assert_eq!(with_key(&proxy, "POST", "/health/force-check", "", "").status(), 401);
    assert_eq!(with_key(&proxy, "POST", "/health/force-check", &all, "").status(), 200);
}

#[test]
fn a_key_is_taken_from_wherever_clients_put_one() {
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).with(two_keys).start();
    let status = |fields: &str| with_key(&proxy, "POST", CHAT, fields, &chat("m")).status();
    for good in [
        "Authorization: Bearer canary-all\r\n",
        "authorization: bearer   canary-all\r\n",
        "Authorization: Basic YW55Ym9keTpjYW5hcnktYWxs\r\n",
        "X-API-Key: canary-all\r\n",
        "api-key: canary-all\r\n",
        "Authorization: Bearer canary-all\r\nx-api-key: canary-all\r\n",
        // One right key among several is enough, empty ones do not count: Claude Code sends a stale one too.
        "Authorization: Bearer canary-all\r\nx-api-key: stale\r\n",
        "x-api-key: stale\r\nAuthorization: Bearer canary-all\r\n",
        "Authorization: Bearer \r\nx-api-key: canary-all\r\napi-key: \r\n",
        "Authorization: Bearer canary-all\r\nAuthorization: Bearer canary-all\r\n",
        "Authorization: Bearer canary-all\r\nx-api-key: canary-few\r\n",
    ] {
        assert_eq!(status(good), 200, "{good}");
    }
    // F1, F2
    for bad in [
        "Authorization: Bearer \r\n",
        "Authorization: canary-all\r\n",
        "Authorization: Token canary-all\r\n",
        "Authorization: Basic !!!\r\n",
        "X-API-Key: \r\n",
        "X-API-Key: canary-all, canary-all\r\n",
        "Authorization: Bearer stale\r\nx-api-key: stale\r\n",
        "Cookie: key=canary-all\r\n",
    ] {
        assert_eq!(status(bad), 401, "{bad}");
    }
    assert_eq!(
        with_key(&proxy, "POST", &format!("{CHAT}?api_key=canary-all&key=canary-all"), "", &chat("m")).status(),
        401
    );
}

#[test]
fn a_refusal_says_what_to_do_in_the_dialect_of_the_path() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(two_keys).start();
    let answer = with_key(&proxy, "POST", CHAT, "", &chat("m"));
    assert_eq!(answer.field("www-authenticate"), Some("Bearer realm=\"llmproxy\""));
    let error = answer.json()["error"].clone();
    assert_eq!(
        (error["type"].as_str(), error["code"].as_str()),
        (Some("authentication_error"), Some("invalid_api_key"))
    );
    assert!(error["message"].as_str().is_some_and(|text| text.contains("Authorization: Bearer")));
    let answer = with_key(&proxy, "POST", "/v1/messages", "", &chat("m")).json();
    assert_eq!((&answer["type"], &answer["error"]["type"]), (&"error".into(), &"authentication_error".into()));
}

#[test]
fn nobody_without_a_key_makes_us_hold_a_body() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(two_keys).start();
    let mut client = proxy.sent(format!("POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n"));
    assert_eq!(client.answer().status(), 401, "no byte of the body was waited for");
    let head = format!("POST {CHAT} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(proxy.sent(head).answer().status(), 401, "and none was asked for");
}

#[test]
fn after_twenty_wrong_keys_more_get_429_and_right_ones_still_pass() {
    // F1
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).with(two_keys).start();
    let mut statuses = vec![];
    for n in 0..25 {
        let answer = with_key(&proxy, "POST", CHAT, &bearer(&format!("guess-{n}")), &chat("m"));
        statuses.push(answer.status());
        assert_eq!(answer.field("retry-after").is_some(), answer.status() == 429);
    }
    assert_eq!(statuses[..20], [401; 20]);
    assert_eq!(statuses[21..], [429; 4], "but for the one that a slow machine may have earned meanwhile");
    assert_eq!(with_key(&proxy, "POST", CHAT, &bearer("canary-all"), &chat("m")).status(), 200);
    assert_eq!(with_key(&proxy, "GET", "/health", &bearer("one more"), "").status(), 429, "health is no oracle");
    assert_eq!(with_key(&proxy, "GET", "/v1/models", "", "").status(), 401, "no key is no guess");
}

#[test]
fn a_key_has_only_so_many_requests_in_progress() {
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    upstream.always(CHAT, Script::json("{}"));
    let one = |config: &mut Config| config.keys = vec![ClientKey { max_parallel: Some(1), ..key("k", "x") }];
    let proxy = Setup::over(&[&upstream]).with(one).start();
    let mut first = proxy.sent(post_with(CHAT, &bearer("x"), chat("m")));
    upstream.wait_count(CHAT, 1);
    let refused = proxy.ask(post_with(CHAT, &bearer("x"), chat("m")));
    assert_eq!((refused.status(), refused.field("retry-after")), (429, Some("1")));
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    assert_eq!(with_key(&proxy, "GET", "/v1/models", &bearer("x"), "").status(), 200, "lists cost nothing");
    latch.open();
    assert_eq!(first.answer().status(), 200);
    proxy.until(|_| proxy.ask(post_with(CHAT, &bearer("x"), chat("m"))).status() == 200);
}

#[test]
fn a_key_asks_only_so_often_and_is_told_what_is_left() {
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let limit = Some(RateLimit { per_second: 0.01, burst: 2 });
    let slow =
        |config: &mut Config| config.keys = vec![ClientKey { rate_limit: limit, ..key("k", "x") }, key("free", "y")];
    let proxy = Setup::over(&[&upstream]).with(slow).start();
    let ask = |key: &str| proxy.ask(post_with(CHAT, &bearer(key), chat("m")));
    let told = |answer: &Answer| {
        ["limit", "remaining", "reset"]
            .map(|what| answer.field(&format!("x-ratelimit-{what}-requests")).map(str::to_owned))
    };
    let first = ask("x");
    let [limit, remaining, reset] = told(&first).map(Option::unwrap_or_default);
    assert_eq!((first.status(), limit.as_str(), remaining.as_str()), (200, "2", "1"));
    assert!(reset.starts_with("1m"), "{reset}");
    assert_eq!(ask("x").status(), 200);
    let refused = ask("x");
    assert_eq!((refused.status(), told(&refused)[1].as_deref()), (429, Some("0")));
    let wait: u64 = refused.field("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
    assert!((90..=100).contains(&wait), "{wait}");
    assert_eq!(told(&ask("y")), [None, None, None], "who has no limit is told none");
}

#[test]
fn no_client_key_reaches_an_endpoint_a_log_or_an_answer() {
    // F4
    let (keyless, keyed) = (Upstream::serving(&["m"]), Upstream::serving(&["n"]));
    keyless.always(CHAT, Script::json("{}"));
    keyed.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&keyless])
        .endpoint(with_keys(endpoint("b", keyed.addr()), &["canary-up"]))
        .with(two_keys)
        .start();
    for fields in [bearer("canary-all"), "X-API-Key: canary-all\r\napi-key: canary-all\r\n".into()] {
        for (upstream, model) in [(&keyless, "m"), (&keyed, "n")] {
            let answer = proxy.ask(post_with(CHAT, &fields, chat(model)));
            assert_eq!(answer.status(), 200);
            assert!(!answer.text().contains("canary"));
            let lines = upstream.take(CHAT).lines.join("\n").to_lowercase();
            assert!(!lines.contains("canary-all"), "{lines}");
            assert_eq!(lines.contains("canary-up"), model == "n", "{lines}");
            assert!(model == "n" || !lines.contains("authorization"), "{lines}");
        }
    }
    let all = bearer("canary-all");
    for path in ["/health", "/v1/models", "/v1/models/m", "/nothing", "/v1/models/canary"] {
        let text =
            with_key(&proxy, "GET", path, &all, "").text().replace("/v1/models/canary", "").replace("`canary`", "");
        assert!(!text.contains("canary-"), "{path}: {text}");
    }
}

#[test]
fn with_keys_a_local_listener_may_be_called_by_any_name() {
    // F8 is for listeners without keys
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(two_keys).start();
    let ask = |fields: &str| proxy.ask(format!("GET /v1/models HTTP/1.1\r\nHost: pi.lan\r\n{fields}\r\n")).status();
    assert_eq!((ask(""), ask(&bearer("canary-all"))), (401, 200));
    let preflight = "OPTIONS /v1/models HTTP/1.1\r\nHost: pi.lan\r\nOrigin: http://localhost\r\nAccess-Control-Request-Method: GET\r\n\r\n";
    assert_eq!(proxy.ask(preflight).status(), 204, "a preflight cannot carry a key");
}
