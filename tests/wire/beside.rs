//! SPEC 3: what is asked beside a running stream waits behind nothing; what has no readable model finds its way.

use crate::support::fact::Latch;
use crate::support::program::{Program, yaml};
use crate::support::proxy::CHAT;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::get;
use crate::support::proxy::post;
use crate::support::proxy::post_with;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use llmproxy::config::MaxConcurrent;

#[test]
fn what_steers_or_counts_does_not_wait_behind_a_stream() {
    // D3, D4
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::sse().chunk(event("one")).latch(&latch).end());
    let proxy = Setup::over(&[&upstream])
        .with(|c| c.endpoints.iter_mut().for_each(|one| one.max_concurrent = MaxConcurrent::Most(1)))
        .start();
    let mut running = proxy.sent(post(CHAT, stream("m")));
    running.head();
    for (path, sent) in [
        ("/v1/chat/completions/control", "/v1/chat/completions/control"),
        ("/chat/completions/control", "/v1/chat/completions/control"),
        ("/v1/chat/completions/input_tokens", "/v1/chat/completions/input_tokens"),
        ("/chat/completions/input_tokens", "/v1/chat/completions/input_tokens"),
        ("/responses/input_tokens", "/v1/responses/input_tokens"),
        ("/v1/responses/input_tokens", "/v1/responses/input_tokens"),
        ("/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/tokenize", "/tokenize"),
        ("/v1/detokenize", "/detokenize"),
    ] {
        upstream.on(sent, Script::json(r#"{"beside":1}"#));
        let answer = proxy.post(path, chat("m"));
        assert_eq!((answer.status(), answer.text()), (200, r#"{"beside":1}"#), "{path}");
    }
    latch.open();
    running.body();
}

#[test]
fn voices_are_told_by_the_only_endpoint_or_by_the_one_that_serves_the_model() {
    // R16
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["n"]));
    let path = "/v1/audio/voices";
    first.always(path, Script::json(r#"["a"]"#));
    second.always(path, Script::json(r#"["b"]"#));
    let one = Setup::over(&[&first]).start();
    assert_eq!(one.get(path).text(), r#"["a"]"#);
    assert_eq!(one.get("/audio/voices?x=1").text(), r#"["a"]"#);
    let two = Setup::over(&[&first, &second]).start();
    assert_eq!(two.get("/v1/audio/voices?model=n").text(), r#"["b"]"#);
    assert_eq!(two.get(path).status(), 400);
    let head = two.sent("HEAD /v1/audio/voices?model=n HTTP/1.1\r\nHost: localhost\r\n\r\n").answer_to("HEAD");
    assert_eq!((head.status(), head.field("x-llmproxy-endpoint")), (200, Some("b")));
}

#[test]
fn a_conversation_is_ended_where_it_is() {
    // D11
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["n"]));
    second.on(CHAT, Script::json("{}"));
    second.on("/v1/stream", Script::json(r#"{"ended":1}"#));
    second.on("/v1/chat/completions/control", Script::json(r#"{"steered":1}"#));
    let proxy = Setup::over(&[&first, &second]).start();
    proxy.ask(post_with(CHAT, "X-Conversation-Id: my talk/1\r\n", chat("n")));
    let control = post_with("/v1/chat/completions/control", "X-Conversation-Id: my talk/1\r\n", r#"{"stop":1}"#);
    let steered = proxy.ask(control);
    assert_eq!((steered.text(), steered.field("x-llmproxy-endpoint")), (r#"{"steered":1}"#, Some("b")));
    assert_eq!(second.take("/v1/chat/completions/control").text(), r#"{"stop":1}"#, "byte for byte");
    let end = |id: &str| proxy.ask(format!("DELETE /v1/stream?conv_id={id} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let ended = end("my%20talk%2F1");
    assert_eq!((ended.status(), ended.text()), (200, r#"{"ended":1}"#));
    assert_eq!(second.take("/v1/stream").target(), "/v1/stream?conv_id=my%20talk%2F1");
    assert_eq!(end("never-begun").status(), 400, "nobody knows where that is");
}

#[test]
fn a_compressed_body_passes_where_nothing_of_it_needs_to_be_read() {
    // Friction: Codex compresses.
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["n"]));
    let packed = b"(\xb5/\xfd\x04packed";
    let asks = |path: &str| post_with(path, "Content-Encoding: zstd\r\n", packed);
    second.always("/v1/responses", Script::json("{}"));
    let alone = Setup::over(&[&second]).start();
    assert_eq!(alone.ask(asks("/v1/responses")).status(), 200);
    let seen = second.take("/v1/responses");
    assert_eq!((seen.field("content-encoding"), &seen.body[..]), (Some("zstd"), &packed[..]));

    let both = Setup::over(&[&first, &second]).start();
    assert_eq!(both.ask(asks("/v1/responses?model=n")).field("x-llmproxy-endpoint"), Some("b"));
    let refused = both.ask(asks("/v1/responses"));
    assert_eq!((refused.status(), refused.json()["error"]["type"].as_str()), (415, Some("invalid_request_error")));
    assert!(refused.text().contains("Content-Encoding"), "{}", refused.text());
}

#[test]
fn a_key_that_is_limited_to_models_gets_nothing_unread_through() {
    // U27's kind: what stands in the body is not known.
    let upstream = Upstream::serving(&["cheap", "dear"]);
    let text = yaml(&[&upstream], "") + "auth: {keys: [{name: k, key: limited-key-0123456789, models: [cheap]}]}\n";
    let program = Program::start(&text);
    let fields = "Content-Encoding: gzip\r\nAuthorization: Bearer limited-key-0123456789\r\n";
    for path in [CHAT, "/v1/chat/completions?model=cheap"] {
        let mut client = program.client();
        client.send(post_with(path, fields, "packed"));
        assert_eq!(client.answer().status(), 415, "{path}");
    }
}

#[test]
fn a_body_over_the_limit_names_the_setting() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(|c| c.server.max_body = 1024).start();
    let answer = proxy.post(CHAT, "x".repeat(2000));
    assert_eq!(answer.status(), 413);
    assert!(answer.text().contains("server.maxBody"), "{}", answer.text());
}

#[test]
fn who_leaves_the_line_is_logged_with_how_long_it_waited() {
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    let text =
        yaml(&[&upstream], "").replace("port: ", "maxConcurrent: 1, port: ").replacen("maxConcurrent: 1, ", "", 1);
    let program = Program::start(&text);
    let (mut running, mut waits) = (program.client(), program.client());
    running.send(post(CHAT, chat("m")));
    upstream.take(CHAT);
    waits.send(post_with(CHAT, "X-Request-Id: waiter\r\n", chat("m")));
    let mut health = program.client();
    loop {
        health.send(get("/health"));
        if health.answer().json()["queue"]["waiting"] == 1 {
            break;
        }
    }
    drop(waits);
    let line = program.logged(&["request_id=waiter", "end=client_gone"]);
    assert!(line.contains("queue_ms=") && line.contains(" 499 "), "{line}");
    latch.open();
    running.answer();
}

#[test]
fn a_redirect_is_logged_with_the_server_that_it_names_and_no_more() {
    let upstream = Upstream::serving(&["m"]);
    let to = [("Location", "https://user:pass@models.example:8443/v1/chat/completions?key=secret")];
    upstream.on(CHAT, Script::answer(308, &to, ""));
    let program = Program::start(&yaml(&[&upstream], ""));
    let mut client = program.client();
    client.send(post(CHAT, chat("m")));
    assert_eq!(client.answer().status(), 308);
    program.logged(&["endpoint a answered 308 (go to https://models.example:8443)"]);
    assert!(!program.log().iter().any(|line| line.contains("secret") || line.contains("pass")));
}
