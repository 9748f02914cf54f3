//! Seed 000 as its document has it: its configuration file unchanged but for ports, its requests, its answers; and
//! none of its weak points.

use crate::support::client::{Answer, Client};
use crate::support::program::Program;
use crate::support::proxy::CHAT;
use crate::support::proxy::chat;
use crate::support::proxy::get;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use serde_json::{Value, json};

/// `config/endpoints.yml` of the document, with three ports that are free here.
fn documented(first: &Upstream, second: &Upstream) -> String {
    let text = r"endpoints:
  - name: server1
    address: 127.0.0.1
    port: 8001
    enabled: true
    healthCheckPath: /health  # Optional: override global health check path, for example /health for llama-server
  - name: server2
    address: 127.0.0.1
    port: 8002
    enabled: true

healthCheck:
  interval: 30000              # Check every 30 seconds
  timeout: 5000                # Request timeout in ms
  path: /v1/models
  failureThreshold: 3          # Mark unhealthy after 3 failures

cache:
  ttlMs: 30000                 # Cache TTL in milliseconds (optional)
  ttlMultiplier: null          # Cache TTL as multiplier of healthCheck interval (optional)
                              # If both specified, the smaller value is used

server:
  port: 8080
";
    let port = |upstream: &Upstream| upstream.addr().port().to_string();
    text.replace("8001", &port(first)).replace("8002", &port(second)).replace("8080", "0")
}

fn ask(program: &Program, request: impl AsRef<[u8]>) -> Answer {
    let mut client: Client = program.client();
    client.send(request);
    client.answer()
}

fn force_check(program: &Program) -> Value {
    ask(program, post("/health/force-check", "")).json()
}

#[test]
fn the_documented_file_serves_as_documented() {
    // S000-01 to S000-03, S000-05, S000-06, S000-12, S000-13, S000-17, S000-27, S000-34
    let (first, second) = (Upstream::serving(&["ma", "shared"]), Upstream::serving(&["mb", "shared"]));
    let program = Program::start(&documented(&first, &second));

    let list = ask(&program, get("/v1/models")).json();
    assert_eq!(list["object"], "list");
    let shown: Vec<_> = list["data"].as_array().expect("a list").iter().map(|e| (&e["id"], &e["provider"])).collect();
    assert_eq!(
        shown,
        [(&json!("ma"), &json!("server1")), (&json!("shared"), &json!("server1")), (&json!("mb"), &json!("server2"))]
    );
    assert_eq!(list["data"][2]["endpoint"], second.addr().to_string());

    second.on(CHAT, Script::json(r#"{"object":"chat.completion"}"#));
    let answer = ask(&program, post(CHAT, chat("mb")));
    assert_eq!((answer.status(), answer.text()), (200, r#"{"object":"chat.completion"}"#));
    assert_eq!(second.take(CHAT).text(), chat("mb"));

    let health = ask(&program, get("/health")).json();
    assert_eq!(health["status"], "healthy");
    assert_eq!((&health["healthy_endpoints"], &health["total_endpoints"]), (&json!(2), &json!(2)));
    assert_eq!(health["endpoints"]["server1"]["errorCount"], 0);
    assert!(first.count("/health") > 0 && second.count("/health") == 0, "server1 alone has a path of its own");
}

#[test]
fn the_documented_stream_passes_as_it_comes() {
    // S000-21
    let (first, second) = (Upstream::serving(&["ma"]), Upstream::serving(&["mb"]));
    let program = Program::start(&documented(&first, &second));
    let latch = crate::support::fact::Latch::new();
    first.on(CHAT, Script::sse().chunk(event("one")).latch(&latch).chunk(event("two")).end());
    let mut client = program.client();
    client.send(post(CHAT, stream("ma")));
    client.head();
    assert_eq!(client.event(), Some(event("one")));
    latch.open();
    assert_eq!((client.event(), client.event()), (Some(event("two")), None));
}

#[test]
fn the_documented_threshold_and_failover_hold() {
    // S000-07, S000-19, S000-20, S000-26, S000-28 to S000-31; W000-1, W000-2, W000-4
    let (mut first, second) = (Upstream::serving(&["ma", "shared"]), Upstream::serving(&["mb", "shared"]));
    second.always(CHAT, Script::json("{}"));
    let program = Program::start(&documented(&first, &second));

    // Killed in mid-stream: the client hears of it and sees no end marker.
    first.on(CHAT, Script::sse().chunk(event("one")).stall());
    let mut client = program.client();
    client.send(post(CHAT, stream("shared")));
    client.head();
    assert_eq!(client.event(), Some(event("one")));
    first.kill();
    let rest = client.event().expect("an error event");
    assert!(rest.contains("error") && !rest.contains("[DONE]"), "{rest}");

    // The next request is served by the other one at once.
    let answer = ask(&program, post(CHAT, chat("shared")));
    assert_eq!((answer.status(), answer.field("x-llmproxy-endpoint")), (200, Some("server2")));

    let health = loop {
        let health = force_check(&program);
        let one = &health["endpoints"]["server1"];
        let count = one["errorCount"].as_u64().expect("a number");
        assert_eq!(one["healthy"], json!(count < 3), "{one}");
        assert!(one["lastError"].is_string(), "{one}");
        if count >= 3 {
            break health;
        }
    };
    assert_eq!((&health["status"], &health["healthy_endpoints"]), (&json!("healthy"), &json!(1)));
    assert_eq!(ask(&program, post(CHAT, chat("shared"))).field("x-llmproxy-attempts"), Some("1"));
    let list = ask(&program, get("/v1/models")).json();
    assert!(list["data"].as_array().expect("a list").iter().all(|entry| entry["provider"] == "server2"));

    // Restarted, it comes back by probe.
    first.revive();
    assert_eq!(force_check(&program)["endpoints"]["server1"]["healthy"], true);
    first.on(CHAT, Script::json("{}"));
    assert_eq!(ask(&program, post(CHAT, chat("shared"))).field("x-llmproxy-endpoint"), Some("server1"));
}

#[test]
fn mistakes_are_told_in_openais_form() {
    // S000-25, S000-26 (SPEC: the error's shape, available_models a list)
    let (first, second) = (Upstream::serving(&["ma"]), Upstream::serving(&["mb"]));
    let program = Program::start(&documented(&first, &second));
    for (request, status) in [
        (post(CHAT, "not json"), 400),
        (post(CHAT, "null"), 400),
        (post(CHAT, chat("zz")), 404),
        (get("/nothing").into(), 404),
    ] {
        let answer = ask(&program, request);
        assert_eq!((answer.status(), answer.json()["error"]["message"].is_string()), (status, true));
    }
    let unknown = ask(&program, post(CHAT, chat("zz")));
    assert_eq!(unknown.json()["error"]["available_models"], json!(["ma", "mb"]));
}

#[test]
fn a_file_with_endpoints_alone_is_enough() {
    // S000-04, S000-06, S000-10: left out is enabled, missing sections have defaults
    let upstream = Upstream::serving(&["m"]);
    let port = upstream.addr().port();
    let text = format!("server: {{port: 0}}\nendpoints:\n  - name: one\n    address: 127.0.0.1\n    port: {port}\n");
    let program = Program::start(&text);
    for _ in 0..2 {
        assert_eq!(ask(&program, get("/v1/models")).json()["data"][0]["provider"], "one");
    }
}

#[test]
fn an_endpoint_that_is_down_at_the_start_is_neither_healthy_nor_listed() {
    // W000-9
    let (mut first, second) = (Upstream::serving(&["ma"]), Upstream::serving(&["mb"]));
    first.kill();
    let text = documented(&first, &second).replace("failureThreshold: 3", "failureThreshold: 1");
    let program = Program::start(&text);
    let list = ask(&program, get("/v1/models")).json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(ask(&program, get("/health")).json()["endpoints"]["server1"]["healthy"], false);
    first.revive();
    force_check(&program);
    assert_eq!(ask(&program, get("/v1/models")).json()["data"].as_array().map(Vec::len), Some(2));
}

#[test]
fn each_request_is_one_log_line() {
    // S000-33
    let (first, second) = (Upstream::serving(&["ma"]), Upstream::serving(&["mb"]));
    let program = Program::start(&documented(&first, &second));
    first.on(CHAT, Script::json("{}"));
    let id = "a-request-of-this-test";
    let request = post(CHAT, chat("ma"));
    let request =
        String::from_utf8(request).expect("text").replace("\r\n\r\n", &format!("\r\nX-Request-Id: {id}\r\n\r\n"));
    assert_eq!(ask(&program, request.replace(CHAT, &format!("{CHAT}?secret=s3cr3t"))).status(), 200);
    let line = program.logged(&[id]);
    for part in ["POST", CHAT, "ma", "server1", "200", "127.0.0.1"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert_eq!(program.log().iter().filter(|line| line.contains(id)).count(), 1);
    assert!(!program.log().join("\n").contains("s3cr3t"), "never the query");
}
