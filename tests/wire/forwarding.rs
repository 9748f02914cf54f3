//! SPEC 3 and 4: which paths are served, which bytes go out, where to.

use crate::support::client::Ended;
use crate::support::fact::Latch;
use crate::support::proxy::CHAT;
use crate::support::proxy::Proxy;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::endpoint;
use crate::support::proxy::get;
use crate::support::proxy::post;
use crate::support::proxy::post_with;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;

fn serving(path: &str, script: Script) -> (Upstream, Proxy) {
    let upstream = Upstream::serving(&["m"]);
    upstream.on(path, script);
    let proxy = Setup::over(&[&upstream]).start();
    (upstream, proxy)
}

/// Every path of an API that is the same with and without `/v1`.
const OPENAI: [&str; 14] = [
    "chat/completions",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "messages/count_tokens",
    "rerank",
    "reranking",
    "audio/speech",
    "images/generations",
    "audio/transcriptions",
    "images/edits",
    "images/variations",
    "audio/translations",
];

/// llama-server's own, at its root.
const NATIVE: [&str; 6] = ["completion", "infill", "embedding", "tokenize", "detokenize", "apply-template"];

#[test]
fn every_path_of_the_apis_is_routed_with_and_without_v1() {
    // S003-07
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    for path in OPENAI {
        let full = format!("/v1/{path}");
        for asked in [full.clone(), format!("/{path}")] {
            upstream.on(&full, Script::json("{}"));
            let answer = proxy.post(&asked, chat("m"));
            assert_eq!(answer.status(), 200, "{asked}: {}", answer.text());
            assert_eq!(upstream.take(&full).text(), chat("m"));
        }
    }
    for path in NATIVE {
        let full = format!("/{path}");
        upstream.on(&full, Script::json("{}"));
        let answer = proxy.post(&full, chat("m"));
        assert_eq!(answer.status(), 200, "{full}: {}", answer.text());
        assert_eq!(upstream.take(&full).text(), chat("m"));
    }
}

#[test]
fn any_other_v1_post_that_names_a_model_is_routed() {
    let (upstream, proxy) = serving("/v1/some/thing", Script::json("{}"));
    assert_eq!(proxy.post("/v1/some/thing", chat("m")).status(), 200);
    assert_eq!(upstream.take("/v1/some/thing").text(), chat("m"));
}

#[test]
fn an_unknown_path_is_404_and_a_wrong_method_405() {
    // S000-25 (SPEC: OpenAI's error shape)
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    for path in ["/nothing", "/", "/v2/chat/completions", "/v1x/models", "/v1/models/m/x"] {
        let answer = proxy.get(path);
        assert_eq!(answer.status(), 404, "{path}");
        assert!(answer.json()["error"]["message"].is_string());
    }
    for (request, allow) in [
        (get(CHAT), "POST"),
        (get("/v1/embeddings"), "POST"),
        (get("/health/force-check"), "POST"),
        ("DELETE /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), "GET"),
        ("PUT /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".into(), "GET"),
    ] {
        let answer = proxy.ask(&request);
        assert_eq!(answer.status(), 405, "{request:?}");
        assert!(answer.field("allow").is_some_and(|methods| methods.contains(allow)), "{:?}", answer.head);
    }
}

#[test]
fn disguised_paths_are_decided_like_the_plain_one_or_refused() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    for path in [
        "/v1/../health/force-check",
        "/v1//models",
        "//v1/models",
        "/v1/%2e%2e/health",
        "/v1;x/models",
        "/v1/models%00",
    ] {
        let status = proxy.get(path).status();
        assert!(matches!(status, 400 | 404 | 405) || status == proxy.get("/v1/models").status(), "{status} for {path}");
    }
}

#[test]
fn the_body_goes_out_byte_for_byte() {
    // S000-17
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    for body in [
        r#"{ "b":2 ,"a" : 12345678901234567890, "model":"m", "z":1.0, "y":1e400 }"#,
        "{\"model\":\"m\",\r\n\t\"text\":\"<b>&\\u003c\\/ \u{1F600} \\ud83d\\ude00\"}",
        r#"{"model":"m","a":-0,"a":0.10,"dup":1,"dup":2}"#,
        r#"{"stream":false,"messages":[{"role":"user","content":"\ud800 alone"}],"model":"m"}"#,
    ] {
        upstream.on(CHAT, Script::json("{}"));
        assert_eq!(proxy.post(CHAT, body).status(), 200);
        assert_eq!(upstream.take(CHAT).text(), body);
    }
}

#[test]
fn a_large_body_goes_out_whole() {
    let (upstream, proxy) = serving(CHAT, Script::json("{}"));
    let body = format!(r#"{{"messages":["{}"],"model":"m"}}"#, "0123456789".repeat(1 << 20));
    assert_eq!(proxy.post(CHAT, &body).status(), 200);
    assert!(upstream.take(CHAT).body == body.as_bytes());
}

#[test]
fn a_large_answer_comes_back_whole() {
    let body = "0123456789abcdef".repeat(1 << 20);
    let (_upstream, proxy) = serving(CHAT, Script::answer(200, &[], &body));
    let answer = proxy.chat("m");
    assert_eq!((answer.ended, answer.body == body.as_bytes()), (Ended::Complete, true));
}

#[test]
fn the_query_is_kept() {
    let (upstream, proxy) = serving("/v1/messages", Script::json("{}"));
    proxy.post("/v1/messages?beta=true&x=%20%2F&&y", chat("m"));
    assert_eq!(upstream.take("/v1/messages").target(), "/v1/messages?beta=true&x=%20%2F&&y");
}

#[test]
fn a_get_with_a_model_is_routed_and_one_endpoint_needs_none() {
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["n"]));
    let both = Setup::over(&[&first, &second]).start();
    second.on("/props", Script::json(r#"{"who":"second"}"#));
    assert_eq!(both.get("/props?model=n").json()["who"], "second");
    assert_eq!(both.get("/slots?model=none").status(), 404);
    assert!(matches!(both.get("/slots").status(), 400 | 404), "which of the two?");
    let one = Setup::over(&[&first]).start();
    first.on("/slots", Script::json("[]"));
    assert_eq!(one.get("/slots").text(), "[]");
    first.take("/slots");
    first.on("/slots", Script::json("[]"));
    assert_eq!(one.get("/slots?fail_on_no_slot=1").text(), "[]");
    assert_eq!(first.take("/slots").target(), "/slots?fail_on_no_slot=1");
}

#[test]
fn a_post_may_name_its_model_in_the_query() {
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["n"]));
    second.on("/tokenize", Script::json("{}"));
    let proxy = Setup::over(&[&first, &second]).start();
    let body = r#"{"content":"no model here"}"#;
    assert_eq!(proxy.post("/tokenize?model=n", body).status(), 200);
    let seen = second.take("/tokenize");
    assert_eq!((seen.target(), seen.text()), ("/tokenize?model=n", body));
}

#[test]
fn a_multipart_form_is_routed_by_its_model_field() {
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["n"]));
    let proxy = Setup::over(&[&first, &second]).start();
    let path = "/v1/audio/transcriptions";
    let part =
        |name: &str, value: &str| format!("--BOUND\r\nContent-Disposition: form-data; name={name}\r\n\r\n{value}\r\n");
    let file = "--BOUND\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
                Content-Type: audio/wav\r\n\r\nname=\"model\"\r\n\r\nm\0\u{1}\r\n";
    for (head, tail) in [(String::new(), part("\"model\"", "n")), (part("model", "n"), String::new())] {
        let body = format!("{head}{file}{tail}--BOUND--\r\n");
        second.on(path, Script::json("{}"));
        let request = post_with(path, "", &body);
        let request = String::from_utf8(request).expect("text");
        let request = request.replace("application/json", "multipart/form-data; boundary=BOUND");
        assert_eq!(proxy.ask(request).status(), 200);
        let seen = second.take(path);
        assert_eq!(seen.text(), body);
        assert_eq!(seen.field("content-type"), Some("multipart/form-data; boundary=BOUND"));
    }
}

#[test]
fn an_endpoints_base_path_and_v1_are_joined_once() {
    // S001-07, S003-08
    for (root, api, asked, sent) in [
        ("", "/v1", "/v1/chat/completions", "/v1/chat/completions"),
        ("/api", "/api/v1", "/chat/completions", "/api/v1/chat/completions"),
        ("/api", "/api/v1", "/tokenize", "/api/tokenize"),
        ("/v1beta/openai", "/v1beta/openai", "/v1/chat/completions", "/v1beta/openai/chat/completions"),
    ] {
        let upstream = Upstream::start();
        upstream.on(sent, Script::json("{}"));
        let mut one = endpoint("a", upstream.addr());
        (one.base.root, one.base.api) = (root.into(), api.into());
        (one.models, one.probe) = (vec!["m".into()], llmproxy::config::Probe::Never);
        let proxy = Setup::over(&[]).endpoint(one).start();
        assert_eq!(proxy.post(asked, chat("m")).status(), 200, "{asked}");
        assert_eq!(upstream.take(sent).target(), sent);
    }
}

#[test]
fn a_stream_reaches_the_client_before_the_upstream_ends() {
    // S000-21, X-05
    let latches: Vec<Latch> = (0..5).map(|_| Latch::new()).collect();
    // The head comes with the first byte of the body (R04).
    let mut script = Script::sse().latch(&latches[0]).chunk(event("token"));
    for latch in &latches[1..] {
        script = script.latch(latch).chunk(event("token"));
    }
    let (_upstream, proxy) = serving(CHAT, script.end());
    let mut client = proxy.sent(post(CHAT, stream("m")));
    latches[0].open();
    let head = client.head();
    assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")));
    assert_eq!(head.field("cache-control"), Some("no-cache"));
    assert_eq!(head.field("x-accel-buffering"), Some("no"));
    assert_eq!(client.event(), Some(event("token")));
    for latch in &latches[1..] {
        latch.open();
        assert_eq!(client.event(), Some(event("token")));
    }
    assert_eq!((client.event(), client.ended()), (None, Ended::Complete));
}

#[test]
fn chunks_of_any_type_pass_at_once() {
    // S000-21
    for kind in ["application/json", "application/x-ndjson", "text/plain", "audio/mpeg"] {
        let latch = Latch::new();
        let fields = [("Content-Type", kind), ("Transfer-Encoding", "chunked")];
        let (_upstream, proxy) = serving(CHAT, Script::head(200, &fields).chunk("{").latch(&latch).chunk("}").end());
        let mut client = proxy.sent(post(CHAT, stream("m")));
        client.head();
        assert_eq!(client.read_some().as_deref(), Ok(&b"{"[..]), "{kind}");
        latch.open();
        assert_eq!(client.body(), (b"}".to_vec(), Ended::Complete));
    }
}

#[test]
fn recorded_answers_of_a_real_server_pass_unchanged() {
    let recorded: [(&str, &[u8]); 8] = [
        (CHAT, include_bytes!("../data/chat.raw")),
        (CHAT, include_bytes!("../data/chat_stream.raw")),
        (CHAT, include_bytes!("../data/sse_ping.raw")),
        ("/v1/completions", include_bytes!("../data/completions_stream.raw")),
        ("/completion", include_bytes!("../data/completion_native_stream.raw")),
        ("/v1/messages", include_bytes!("../data/messages_stream.raw")),
        ("/v1/responses", include_bytes!("../data/responses_stream.raw")),
        ("/v1/embeddings", include_bytes!("../data/embeddings.raw")),
    ];
    for (path, raw) in recorded {
        let (upstream, proxy) = serving(path, Script::raw(raw).cut());
        // Read by the same client straight from an upstream: what the bytes mean.
        upstream.on("/direct", Script::raw(raw).cut());
        let mut direct = crate::support::client::Client::connect(upstream.addr());
        direct.send(get("/direct"));
        let (meant, got) = (direct.answer(), proxy.post(path, stream("m")));
        assert_eq!((got.status(), got.ended), (meant.status(), Ended::Complete), "{path}");
        assert_eq!(got.text(), meant.text());
        assert_eq!(got.field("content-type"), meant.field("content-type"));
    }
}

#[test]
fn a_head_request_gets_the_head_alone() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    let mut client = proxy.sent("HEAD /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = client.answer_to("HEAD");
    assert_eq!(answer.status(), 200);
    client.send(get("/v1/models"));
    let whole = client.answer();
    assert_eq!(answer.field("content-length"), Some(whole.body.len().to_string().as_str()));
}

#[test]
fn bodies_without_content_keep_their_framing() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    let mut client = proxy.client();
    for script in [Script::answer(200, &[], ""), Script::head(204, &[]), Script::sse().end()] {
        upstream.on(CHAT, script);
        client.send(post(CHAT, chat("m")));
        let answer = client.answer();
        assert_eq!((answer.body.len(), answer.ended), (0, Ended::Complete), "{:?}", answer.head);
    }
}
