//! SPEC 4: which header fields pass, which are ours, and whose keys go where.

use crate::support::program::Program;
use crate::support::proxy::CHAT;
use crate::support::proxy::Proxy;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::endpoint;
use crate::support::proxy::get;
use crate::support::proxy::post;
use crate::support::proxy::post_with;
use crate::support::proxy::with_keys;
use crate::support::received::Received;
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::{Auth, CorsOrigin, HeaderOp, Network, Op};
use llmproxy::util::secret::Secret;
use std::net::IpAddr;

fn one() -> (Upstream, Proxy) {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    (upstream, proxy)
}

/// What the upstream gets to see of a chat with these fields.
fn seen(upstream: &Upstream, proxy: &Proxy, fields: &str) -> Received {
    upstream.on(CHAT, Script::json("{}"));
    assert_eq!(proxy.ask(post_with(CHAT, fields, chat("m"))).status(), 200);
    upstream.take(CHAT)
}

#[test]
fn end_to_end_fields_pass_in_order_with_duplicates() {
    // X-08, S000-23 (SPEC: they pass)
    let (upstream, proxy) = one();
    let request = seen(
        &upstream,
        &proxy,
        "X-One: 1\r\nX-Two: a\r\nX-One: 2\r\nAccept: text/event-stream\r\nOpenAI-Beta: x=1\r\n",
    );
    assert_eq!((request.all("x-one"), request.field("x-two")), (vec!["1", "2"], Some("a")));
    assert_eq!((request.field("accept"), request.field("openai-beta")), (Some("text/event-stream"), Some("x=1")));
    assert_eq!(request.field("content-type"), Some("application/json"));
    assert_eq!(request.field("host"), Some(upstream.addr().to_string().as_str()));
    assert_eq!(request.field("content-length"), Some(chat("m").len().to_string().as_str()));
}

#[test]
fn nothing_is_added_that_the_client_did_not_send() {
    let (upstream, proxy) = one();
    let request = seen(&upstream, &proxy, "");
    for name in ["accept-encoding", "user-agent", "authorization", "accept", "x-api-key", "cookie", "te"] {
        assert_eq!(request.all(name).len(), 0, "{name} in {:?}", request.lines);
    }
}

#[test]
fn hop_by_hop_fields_of_a_request_stay_here() {
    //
    let (upstream, proxy) = one();
    let fields = "Connection: keep-alive, X-Named\r\nX-Named: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authorization: Basic eDp5\r\n\
                  Proxy-Connection: keep-alive\r\nTE: trailers\r\nUpgrade: h2c\r\nTrailer: X-T\r\nX-Stays: 1\r\n";
    let request = seen(&upstream, &proxy, fields);
    for name in ["x-named", "keep-alive", "proxy-authorization", "proxy-connection", "te", "upgrade", "trailer"] {
        assert_eq!(request.all(name).len(), 0, "{name} in {:?}", request.lines);
    }
    assert_eq!(request.field("x-stays"), Some("1"));
    assert!(request.field("connection").is_none_or(|value| !value.to_lowercase().contains("x-named")));
}

#[test]
fn connection_cannot_strip_what_routing_and_auth_need() {
    let (upstream, proxy) = one();
    let request =
        seen(&upstream, &proxy, "Connection: content-type, authorization\r\nAuthorization: Bearer client\r\n");
    // Either refused as hop-by-hop or passed: never a request that lost its framing or type halfway.
    assert_eq!(request.text(), chat("m"));
    assert_eq!(request.field("content-length"), Some(chat("m").len().to_string().as_str()));
}

#[test]
fn a_keyless_endpoint_gets_the_clients_authorization() {
    // S003-15: a local server without a key works
    let (upstream, proxy) = one();
    assert_eq!(
        seen(&upstream, &proxy, "Authorization: Bearer client\r\n").field("authorization"),
        Some("Bearer client")
    );
}

#[test]
fn an_endpoints_key_replaces_the_clients() {
    let upstream = Upstream::serving(&["m"]);
    let keyed = with_keys(endpoint("a", upstream.addr()), &["endpoint-key"]);
    let proxy = Setup::over(&[]).endpoint(keyed).start();
    let request = seen(&upstream, &proxy, "Authorization: Bearer client\r\nX-Api-Key: client\r\napi-key: client\r\n");
    assert_eq!(request.field("authorization"), Some("Bearer endpoint-key"));
    assert!(!request.lines.join("\n").contains("client"), "no key of a client: {:?}", request.lines);
    assert_eq!(upstream.take("/v1/models").field("authorization"), Some("Bearer endpoint-key"), "probes too");
}

#[test]
fn credentials_are_sent_as_configured() {
    let upstream = Upstream::serving(&["m"]);
    let mut basic = endpoint("a", upstream.addr());
    basic.auth = Auth::Basic { username: "user".into(), password: Secret::new("pass") };
    let proxy = Setup::over(&[]).endpoint(basic).start();
    assert_eq!(seen(&upstream, &proxy, "").field("authorization"), Some("Basic dXNlcjpwYXNz"));

    let mut header = with_keys(endpoint("a", upstream.addr()), &["k"]);
    header.auth = Auth::Header { name: "x-goog-api-key".into() };
    let proxy = Setup::over(&[]).endpoint(header).start();
    let request = seen(&upstream, &proxy, "X-Goog-Api-Key: client\r\nAuthorization: Bearer client\r\n");
    assert_eq!((request.field("x-goog-api-key"), request.all("authorization").len()), (Some("k"), 0));
}

#[test]
fn configured_changes_apply_in_order() {
    // S002-10: `insert` only if absent
    let upstream = Upstream::serving(&["m"]);
    let change = |op, key: &str, value: &str| HeaderOp { op, key: key.into(), value: Secret::new(value) };
    let mut changed = endpoint("a", upstream.addr());
    changed.headers = vec![
        change(Op::Insert, "x-insert", "ours"),
        change(Op::Replace, "x-replace", "ours"),
        change(Op::Remove, "x-remove", ""),
        change(Op::Insert, "x-new", "ours"),
    ];
    changed.user_agent = Some("agent/1".into());
    let proxy = Setup::over(&[]).endpoint(changed).start();
    let request = seen(&upstream, &proxy, "X-Insert: theirs\r\nX-Replace: theirs\r\nX-Remove: a\r\nX-Remove: b\r\n");
    assert_eq!((request.field("x-insert"), request.field("x-replace")), (Some("theirs"), Some("ours")));
    assert_eq!((request.all("x-remove").len(), request.field("x-new")), (0, Some("ours")));
    assert_eq!(request.field("user-agent"), Some("agent/1"));
    assert_eq!(seen(&upstream, &proxy, "User-Agent: theirs\r\n").field("user-agent"), Some("theirs"));
}

#[test]
fn forwarded_fields_name_the_peer_and_a_foreign_one_is_overwritten() {
    let (upstream, proxy) = one();
    let forged = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\nForwarded: for=6.6.6.6\r\n";
    let request = seen(&upstream, &proxy, forged);
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    assert_eq!(request.field("x-forwarded-host"), Some("localhost"));
    assert!(!request.lines.join("\n").contains("6.6.6.6"), "{:?}", request.lines);
}

#[test]
fn a_trusted_proxys_word_is_believed() {
    let upstream = Upstream::serving(&["m"]);
    let loopback = Network { address: IpAddr::from([127, 0, 0, 0]), prefix: 8 };
    let proxy = Setup::over(&[&upstream]).with(|c| c.server.trusted_proxies = vec![loopback]).start();
    let request = seen(&upstream, &proxy, "X-Forwarded-For: 10.0.0.9\r\nX-Forwarded-Proto: https\r\n");
    assert_eq!(request.field("x-forwarded-for"), Some("10.0.0.9, 127.0.0.1"));
    assert_eq!(request.field("x-forwarded-proto"), Some("https"));
}

#[test]
fn the_priority_field_is_for_us_alone() {
    let (upstream, proxy) = one();
    let request = seen(&upstream, &proxy, "X-LLMProxy-Priority: background\r\n");
    assert_eq!(request.all("x-llmproxy-priority").len(), 0);
}

#[test]
fn an_answers_fields_pass_with_duplicates_and_hop_by_hop_ones_stay() {
    // X-08, S000-22
    let (upstream, proxy) = one();
    let fields = [
        ("X-Twice", "a=1"),
        ("Connection", "keep-alive, X-Named"),
        ("X-Twice", "b=2; Path=/"),
        ("X-Named", "1"),
        ("Keep-Alive", "timeout=5, max=100"),
        ("Proxy-Authenticate", "Basic"),
        ("Trailer", "X-T"),
        ("Upgrade", "h2c"),
        ("Retry-After", "7"),
        ("Server", "llama.cpp"),
        ("X-Beyond", "\u{fc}"),
    ];
    upstream.on(CHAT, Script::answer(418, &fields, "{}"));
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.text()), (418, "{}"));
    assert_eq!(answer.head.all("x-twice"), ["a=1", "b=2; Path=/"]);
    assert_eq!((answer.field("retry-after"), answer.field("server")), (Some("7"), Some("llama.cpp")));
    let bytes: String = "\u{fc}".bytes().map(char::from).collect();
    assert_eq!(answer.field("x-beyond"), Some(bytes.as_str()));
    for name in ["x-named", "keep-alive", "proxy-authenticate", "trailer", "upgrade"] {
        assert_eq!(answer.head.all(name).len(), 0, "{name} in {:?}", answer.head);
    }
}

#[test]
fn every_proxied_answer_says_who_served_it() {
    let (upstream, proxy) = one();
    upstream.on(CHAT, Script::json("{}"));
    let answer = proxy.chat("m");
    assert_eq!((answer.field("x-llmproxy-endpoint"), answer.field("x-llmproxy-model")), (Some("a"), Some("m")));
    assert_eq!(answer.field("x-llmproxy-attempts"), Some("1"));
    assert!(answer.field("x-llmproxy-reason").is_some_and(|word| !word.is_empty()));
}

#[test]
fn a_request_id_is_taken_over_when_safe_and_made_otherwise() {
    let (upstream, proxy) = one();
    let id = |fields: &str| {
        upstream.on(CHAT, Script::json("{}"));
        let answer = proxy.ask(post_with(CHAT, fields, chat("m")));
        answer.field("x-request-id").expect("always one").to_owned()
    };
    assert_eq!(id("X-Request-Id: abc-123_x.y\r\n"), "abc-123_x.y");
    let (one, two) = (id(""), id(""));
    assert!(!one.is_empty() && one.len() <= 64 && one != two);
    for unsafe_one in ["a b", "x\u{7f}y", &"x".repeat(65), "a\"b", "<x>"] {
        let fields = format!("X-Request-Id: {}\r\n", unsafe_one.replace('\u{7f}', "\u{e9}"));
        assert_ne!(id(&fields), unsafe_one, "{unsafe_one:?}");
    }
    assert!(proxy.get("/nothing").field("x-request-id").is_some());
}

#[test]
fn no_key_is_ever_logged_or_told() {
    // SPEC 4: keys of endpoints and of clients, whatever goes wrong
    let upstream = Upstream::serving(&["m"]);
    let port = upstream.addr().port();
    let text = format!(
        "server: {{port: 0}}\nlog: {{level: debug}}\nendpoints:\n  - {{name: a, address: 127.0.0.1, port: {port}, apiKey: sk-canary-endpoint}}\n"
    );
    let program = Program::start(&text);
    let mut told = String::new();
    let scripts = [
        Script::json("{}").closing(),
        Script::error(401, "no").closing(),
        Script::new().cut(),
        Script::sse().chunk("x").cut(),
    ];
    for (n, script) in scripts.into_iter().enumerate() {
        upstream.on(CHAT, script);
        let mut client = program.client();
        let fields = format!("X-Request-Id: fault-{n}\r\nAuthorization: Bearer sk-canary-client\r\n");
        client.send(post_with(CHAT, &fields, chat("m")));
        let answer = client.answer();
        told += &format!("{:?}{}", answer.head, answer.text());
        program.logged(&[&format!("fault-{n}"), CHAT]);
    }
    assert_eq!(upstream.take(CHAT).field("authorization"), Some("Bearer sk-canary-endpoint"));
    for path in ["/health", "/v1/models", "/nothing?key=sk-canary-query"] {
        let mut client = program.client();
        client.send(get(path));
        told += client.answer().text();
    }
    let log = program.log().join("\n");
    assert!(!log.contains("canary") && !told.contains("canary"), "{log}\n{told}");
}

const PREFLIGHT: &str =
    "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization, x-custom\r\n";

fn preflight(proxy: &Proxy, origin: &str) -> crate::support::client::Answer {
    proxy.ask(format!("OPTIONS {CHAT} HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n{PREFLIGHT}\r\n"))
}

#[test]
fn a_local_page_may_call_and_a_foreign_one_may_not() {
    // S000-33 (SPEC: CORS)
    let (upstream, proxy) = one();
    for origin in ["http://localhost:3000", "http://127.0.0.1", "https://localhost", "http://[::1]:5173"] {
        let answer = preflight(&proxy, origin);
        assert_eq!((answer.status(), answer.field("access-control-allow-origin")), (204, Some(origin)));
        assert!(answer.field("access-control-allow-methods").is_some_and(|methods| methods.contains("POST")));
        assert!(answer.field("access-control-allow-headers").is_some_and(|names| names.contains("x-custom")));
        assert!(answer.field("access-control-max-age").is_some());
    }
    for origin in ["https://evil.example", "http://localhost.evil.example", "null", "http://127.0.0.1.nip.io"] {
        let answer = preflight(&proxy, origin);
        assert_eq!(answer.status(), 403, "{origin}");
        assert!(!answer.head.lines.join("\n").to_lowercase().contains("access-control-allow"), "{:?}", answer.head);
    }
    assert_eq!(upstream.count(CHAT), 0, "no preflight goes upstream");
}

#[test]
fn cors_fields_of_an_upstream_are_replaced_by_ours() {
    let (upstream, proxy) = one();
    let ask = |origin: &str| {
        upstream.on(CHAT, Script::raw(include_bytes!("../data/chat.raw")));
        proxy.ask(post_with(CHAT, &format!("Origin: {origin}\r\n"), chat("m")))
    };
    let allowed = ask("http://localhost:3000");
    assert_eq!(allowed.field("access-control-allow-origin"), Some("http://localhost:3000"));
    assert!(allowed.head.all("vary").join(",").to_lowercase().contains("origin"));
    let exposed = allowed.field("access-control-expose-headers").expect("ours are readable").to_lowercase();
    assert!(exposed.contains("x-request-id") && exposed.contains("x-llmproxy-endpoint"), "{exposed}");
    // U05: a page that is not listed does not even reach the endpoint.
    let foreign = proxy.ask(post_with(CHAT, "Origin: https://evil.example\r\n", chat("m")));
    assert_eq!((foreign.status(), foreign.head.all("access-control-allow-origin").len()), (403, 0));
    upstream.on(CHAT, Script::raw(include_bytes!("../data/chat.raw")));
    assert_eq!(proxy.ask(post(CHAT, chat("m"))).head.all("access-control-allow-origin").len(), 0);
}

#[test]
fn any_origin_may_be_allowed_and_one_by_name() {
    let upstream = Upstream::serving(&["m"]);
    let any = Setup::over(&[&upstream]).with(|c| c.server.cors = vec![CorsOrigin::Any]).start();
    let answer = preflight(&any, "https://anywhere.example");
    assert_eq!((answer.status(), answer.field("access-control-allow-origin")), (204, Some("*")));
    assert_eq!(answer.head.all("access-control-allow-credentials").len(), 0);
    let named = vec![CorsOrigin::Origin("https://app.example".into())];
    let named = Setup::over(&[&upstream]).with(|c| c.server.cors = named).start();
    assert_eq!(preflight(&named, "https://app.example").status(), 204);
    assert_eq!(preflight(&named, "http://app.example").status(), 403);
    assert_eq!(preflight(&named, "http://localhost").status(), 403);
}
