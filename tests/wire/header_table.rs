//! SPEC 4: the table of header rules, in both directions and for both kinds of listener.

use crate::support::proxy::{CHAT, Proxy, Setup, chat, post_with};
use crate::support::received::Received;
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::{ClientKey, KeyText, KeysFor, Mode, Network, RateLimit};
use llmproxy::util::secret::Secret;
use std::net::IpAddr;

fn over(mode: Mode) -> (Upstream, Proxy) {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(|config| config.policy.mode = mode).start();
    (upstream, proxy)
}

fn seen(upstream: &Upstream, proxy: &Proxy, fields: &str) -> Received {
    upstream.on(CHAT, Script::json("{}"));
    assert_eq!(proxy.ask(post_with(CHAT, fields, chat("m"))).status(), 200);
    upstream.take(CHAT)
}

#[test]
fn what_belongs_to_web_pages_ends_here_and_passes_a_raw_listener() {
    // R05, R24
    let fields = "Origin: http://localhost:3000\r\nReferer: http://localhost:3000/x\r\nCookie: session=1\r\n";
    for (mode, passes) in [(Mode::Models, false), (Mode::Raw, true)] {
        let (upstream, proxy) = over(mode);
        let request = seen(&upstream, &proxy, fields);
        for name in ["origin", "referer", "cookie"] {
            assert_eq!(request.field(name).is_some(), passes, "{mode:?} {name}: {:?}", request.lines);
        }
    }
}

#[test]
fn what_an_endpoint_says_to_browsers_ends_here_and_passes_a_raw_listener() {
    let fields = [
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Strict-Transport-Security", "max-age=9"),
        ("Alt-Svc", "h3=\":443\""),
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Headers", "x-custom"),
        ("X-Custom", "1"),
        ("X-Custom", "2"),
    ];
    for (mode, times) in [(Mode::Models, [0, 0, 0, 0, 0]), (Mode::Raw, [2, 1, 1, 1, 1])] {
        let (upstream, proxy) = over(mode);
        upstream.on(CHAT, Script::answer(200, &fields, "{}"));
        let answer = proxy.ask(post_with(CHAT, "", chat("m")));
        let names = [
            "set-cookie",
            "strict-transport-security",
            "alt-svc",
            "access-control-allow-origin",
            "access-control-allow-headers",
        ];
        assert_eq!(names.map(|name| answer.head.all(name).len()), times, "{mode:?} {:?}", answer.head);
        assert_eq!(answer.head.all("x-custom"), ["1", "2"]);
    }
}

#[test]
fn a_preflight_passes_a_raw_listener_and_the_endpoints_answer_comes_back() {
    // R06
    let (upstream, proxy) = over(Mode::Raw);
    let allow = [("Access-Control-Allow-Origin", "https://app.example"), ("Access-Control-Allow-Headers", "x-custom")];
    upstream.on(CHAT, Script::head(204, &allow));
    let asked = "Origin: https://app.example\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-custom\r\n";
    let answer = proxy.ask(format!("OPTIONS {CHAT} HTTP/1.1\r\nHost: localhost\r\n{asked}\r\n"));
    assert_eq!((answer.status(), answer.field("access-control-allow-headers")), (204, Some("x-custom")));
    assert_eq!(answer.field("access-control-allow-origin"), Some("https://app.example"));
    let request = upstream.take(CHAT);
    assert_eq!(request.field("access-control-request-headers"), Some("x-custom"));
    assert_eq!(request.field("origin"), Some("https://app.example"));
}

#[test]
fn who_a_client_claims_to_be_is_believed_of_trusted_peers_alone() {
    // U34
    let claims: String =
        ["X-Real-IP", "CF-Connecting-IP", "True-Client-IP", "X-Client-IP", "X-Cluster-Client-IP", "Fastly-Client-IP"]
            .map(|name| format!("{name}: 6.6.6.6\r\n"))
            .concat();
    for mode in [Mode::Models, Mode::Raw] {
        let (upstream, proxy) = over(mode);
        let request = seen(&upstream, &proxy, &format!("{claims}X-Forwarded-Port: 443\r\nX-Forwarded-Prefix: /x\r\n"));
        assert!(!request.lines.join("\n").contains("6.6.6.6"), "{mode:?}: {:?}", request.lines);
        assert_eq!((request.field("x-forwarded-port"), request.field("x-forwarded-prefix")), (None, None));
    }
    let upstream = Upstream::serving(&["m"]);
    let loopback = Network { address: IpAddr::from([127, 0, 0, 0]), prefix: 8 };
    let proxy = Setup::over(&[&upstream]).with(|config| config.server.trusted_proxies = vec![loopback]).start();
    assert_eq!(seen(&upstream, &proxy, &claims).field("x-real-ip"), Some("6.6.6.6"));
}

#[test]
fn several_lines_of_forwarded_addresses_are_one_list_with_or_without_ports() {
    // U21
    let upstream = Upstream::serving(&["m"]);
    let loopback = Network { address: IpAddr::from([127, 0, 0, 0]), prefix: 8 };
    let limit = RateLimit { per_second: 0.001, burst: 1 };
    let setup = Setup::over(&[&upstream]).with(|config| config.server.trusted_proxies = vec![loopback]);
    let proxy = setup.with(|config| config.policy.rate_limit = Some(limit)).start();
    let ask = |fields: &str| {
        upstream.on(CHAT, Script::json("{}"));
        let answer = proxy.ask(post_with(CHAT, fields, chat("m")));
        if answer.status() == 200 { upstream.take(CHAT).field("x-forwarded-for").map(str::to_owned) } else { None }
    };
    let list = ask("X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 10.0.0.9:1234\r\n");
    assert_eq!(list.as_deref(), Some("6.6.6.6, 10.0.0.9:1234, 127.0.0.1"));
    // The limit counts by the client's address: the last one that is not trusted.
    let refused = |fields: &str| proxy.ask(post_with(CHAT, fields, chat("m"))).status() == 429;
    assert!(refused("X-Forwarded-For: 10.0.0.9\r\n") && refused("X-Forwarded-For: 1.1.1.1, 10.0.0.9:5\r\n"));
    assert!(ask("X-Forwarded-For: [2001:db8::1]:443\r\n").is_some());
    assert!(refused("X-Forwarded-For: 2001:db8::1\r\n"), "the same address without its port");
}

#[test]
fn what_connection_names_stays_here_but_for_credentials() {
    // H2
    for mode in [Mode::Models, Mode::Raw] {
        let (upstream, proxy) = over(mode);
        let fields = "Connection: HTTP2-Settings, X-Mine, Authorization\r\nHTTP2-Settings: AAMAAABk\r\nX-Mine: 1\r\nAuthorization: Bearer x\r\n";
        let request = seen(&upstream, &proxy, fields);
        assert_eq!((request.field("http2-settings"), request.field("x-mine")), (None, None), "{:?}", request.lines);
        assert_eq!(request.field("authorization"), Some("Bearer x"));
        assert_eq!(seen(&upstream, &proxy, "HTTP2-Settings: AAMAAABk\r\n").field("http2-settings"), None);
    }
}

#[test]
fn two_limits_are_never_told_at_once() {
    // R07
    let theirs = [("X-RateLimit-Limit-Requests", "7"), ("X-RateLimit-Remaining-Tokens", "8")];
    let (upstream, proxy) = over(Mode::Models);
    upstream.on(CHAT, Script::answer(200, &theirs, "{}"));
    assert_eq!(proxy.chat("m").field("x-ratelimit-limit-requests"), Some("7"));
    let limit = RateLimit { per_second: 100.0, burst: 100 };
    let proxy = Setup::over(&[&upstream]).with(|config| config.policy.rate_limit = Some(limit)).start();
    upstream.on(CHAT, Script::answer(200, &theirs, "{}"));
    let answer = proxy.chat("m");
    assert_eq!(answer.field("x-ratelimit-limit-requests"), Some("100"));
    assert_eq!(answer.field("x-ratelimit-remaining-tokens"), None);
}

#[test]
fn a_listener_without_keys_passes_no_key_of_ours() {
    // U13
    let upstream = Upstream::serving(&["m"]);
    let key = ClientKey { key: KeyText::Plain(Secret::new("our-own-secret-key")), ..client_key("home") };
    let proxy = Setup::over(&[&upstream])
        .with(|config| {
            config.keys = vec![key];
            config.policy.keys = KeysFor::Nobody;
        })
        .start();
    let basic = "Authorization: Basic eDpvdXItb3duLXNlY3JldC1rZXk=\r\n";
    for fields in [
        "Authorization: Bearer our-own-secret-key\r\n",
        "X-Api-Key: our-own-secret-key\r\n",
        "api-key: our-own-secret-key\r\n",
        basic,
    ] {
        let request = seen(&upstream, &proxy, fields);
        assert_eq!(
            ["authorization", "x-api-key", "api-key"].map(|name| request.all(name).len()),
            [0, 0, 0],
            "{fields}"
        );
    }
    assert_eq!(
        seen(&upstream, &proxy, "Authorization: Bearer theirs\r\n").field("authorization"),
        Some("Bearer theirs")
    );
}

fn client_key(name: &str) -> ClientKey {
    ClientKey {
        name: name.into(),
        key: KeyText::Plain(Secret::new("x")),
        models: Vec::new(),
        endpoints: Vec::new(),
        max_parallel: None,
        rate_limit: None,
        background: false,
        admin: false,
    }
}

#[test]
fn a_request_that_comes_round_is_508() {
    // U16, R25: an endpoint that is the proxy itself, then two in a ring.
    let upstream = Upstream::serving(&["m"]);
    let other = Setup::over(&[&upstream]).start();
    let proxy = Setup::over(&[]).endpoint(crate::support::proxy::endpoint("other", other.addr)).start();
    upstream.on(CHAT, Script::json("{}"));
    let mut request = proxy.chat("m");
    assert_eq!(request.status(), 200, "a chain is no ring");
    let via = upstream.take(CHAT).all("via").join(", ");
    assert_eq!(via.matches("llmproxy-").count(), 2, "{via}");
    other.reload(|config| {
        let mut back = crate::support::proxy::endpoint("back", proxy.addr);
        back.models = vec!["round".into()];
        back.probe = llmproxy::config::Probe::Never;
        config.endpoints.push(back);
    });
    proxy.reload(|config| config.endpoints[0].models = vec!["m".into(), "round".into()]);
    request = proxy.chat("round");
    assert_eq!((request.status(), request.code().as_str()), (508, "loop_detected"), "{}", request.text());
}

#[test]
fn a_probe_that_comes_round_fails() {
    // U16, R25
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    proxy.reload(|config| config.endpoints.push(crate::support::proxy::endpoint("self", proxy.addr)));
    let health = proxy.force_check();
    assert_eq!(health["endpoints"]["self"]["models"], serde_json::json!([]), "{health}");
    assert!(health["endpoints"]["self"]["lastError"].as_str().is_some_and(|error| error.contains("508")), "{health}");
}

#[test]
fn two_proxies_in_a_ring_do_not_keep_the_models_of_a_dead_server_alive() {
    // R25
    let mut upstream = Upstream::serving(&["m"]);
    // One failed probe is enough.
    let quick = |setup: Setup| setup.with(|config| config.health_check.failure_threshold = 1).start();
    let near = quick(Setup::over(&[&upstream]));
    let far = quick(Setup::over(&[]).endpoint(crate::support::proxy::endpoint("near", near.addr)));
    near.reload(|config| config.endpoints.push(crate::support::proxy::endpoint("far", far.addr)));
    near.force_check();
    far.force_check();
    assert_eq!((near.models(), far.models()), (vec!["m".to_owned()], vec!["m".to_owned()]), "a chain is listed");
    upstream.kill();
    near.force_check();
    far.force_check();
    assert_eq!((near.models(), far.models()), (vec![], vec![]));
}
