//! Who is trusted, and by what sign: each cell of the table in `proxy::listener`, listener by key by path, and what a
//! reload leaves open.

use crate::support::client::{Answer, Client};
use crate::support::proxy::{CHAT, Proxy, Setup, chat, get, post, post_with};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::{ClientKey, Config, KeyText, KeysFor, Listener, ListenerPolicy, Mode};
use llmproxy::util::secret::Secret;
use std::path::PathBuf;

const PATHS: [&str; 8] =
    ["/v1/models", "/health", "/metrics", "/admin/status", "/admin/", "/", "/nothing", "/health/force-check"];

fn upstream() -> Upstream {
    let upstream = Upstream::serving(&["m", "x"]);
    for path in PATHS.iter().filter(|path| !["/v1/models", "/health"].contains(*path)).chain([&CHAT]) {
        upstream.always(path, Script::json("{}"));
    }
    upstream
}

fn keys() -> Vec<ClientKey> {
    let key = |name: &str| ClientKey::plain(name, KeyText::Plain(Secret::new(format!("a-key-named-{name}"))));
    let limited = ClientKey { models: vec!["m".into()], ..key("limited") };
    vec![limited, key("full"), ClientKey { admin: true, ..key("boss") }]
}

fn listener(name: &str, mode: Mode, keys: KeysFor) -> Listener {
    let policy = ListenerPolicy { mode, keys, ..ListenerPolicy::default() };
    Listener { name: name.into(), host: "127.0.0.1".into(), port: 0, policy }
}

fn with_page(config: &mut Config) {
    config.admin.enabled = true;
    config.admin.routes_file = PathBuf::new();
    config.admin.token = Some(Secret::new("the-token-of-the-page"));
}

/// What is asked as whom: nobody, a wrong key, and the keys there are.
fn status(proxy: &Proxy, listener: usize, request: &str, who: &str) -> u16 {
    let shown = match who {
        "none" => String::new(),
        "wrong" => "Authorization: Bearer nobody-has-this-one\r\n".into(),
        "token" => "Authorization: Bearer the-token-of-the-page\r\n".into(),
        name => format!("Authorization: Bearer a-key-named-{name}\r\n"),
    };
    let (method, path) = request.split_once(' ').expect("a method and a path");
    let answer = at(
        proxy,
        listener,
        match method {
            "POST" => post_with(path, &shown, chat("m")),
            _ => format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{shown}\r\n").into_bytes(),
        },
    );
    // After many wrong keys of one address.
    if answer.status() == 429 { 401 } else { answer.status() }
}

fn at(proxy: &Proxy, listener: usize, request: impl AsRef<[u8]>) -> Answer {
    let mut client = Client::connect(proxy.addrs()[listener]);
    client.send(request);
    client.answer()
}

fn holds(proxy: &Proxy, who: &[&str], table: &[(usize, &str, &[u16])]) {
    for (listener, request, statuses) in table {
        let seen: Vec<u16> = who.iter().map(|who| status(proxy, *listener, request, who)).collect();
        assert_eq!(&seen, statuses, "{request} at listener {listener} as {who:?}");
    }
}

// U14, U28, S18, S19
#[test]
fn with_keys_each_listener_opens_to_whom_it_should() {
    let upstream = upstream();
    let proxy = Setup::over(&[&upstream])
        .with(|config| {
            with_page(config);
            config.admin.port = Some(0);
            config.keys = keys();
            config.listeners = vec![
                listener("raw", Mode::Raw, KeysFor::Inherit),
                listener("raw-open", Mode::Raw, KeysFor::Nobody),
                listener("status", Mode::Status, KeysFor::Inherit),
                listener("status-open", Mode::Status, KeysFor::Nobody),
                listener("admin", Mode::Models, KeysFor::Nobody),
                listener("one", Mode::Models, KeysFor::Only(vec!["full".into()])),
            ];
        })
        .start();
    let who = ["none", "wrong", "limited", "full", "boss", "token"];
    // First, since after twenty wrong keys of an address even /health answers 429.
    let health: &[(usize, &str, &[u16])] = &[
        (0, "GET /health", &[200; 6]),
        (3, "GET /health", &[200; 6]),
        (4, "GET /health", &[200; 6]),
        (5, "GET /health", &[200; 6]),
        (6, "GET /health", &[200; 6]),
        (7, "GET /health", &[401, 401, 200, 200, 200, 200]),
    ];
    holds(&proxy, &who, health);
    // SPEC 3: with keys configured, details only for key holders.
    let sees = |listener: usize, key: &str| {
        let request = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n\r\n");
        at(&proxy, listener, request).json().get("endpoints").is_some()
    };
    for (listener, key, wanted) in [
        (0, "", false),
        (0, "nobody-has-this-one", false),
        (0, "a-key-named-limited", true),
        (0, "the-token-of-the-page", false),
        (5, "", false),
        (5, "a-key-named-full", true),
        (6, "a-key-named-limited", false),
        (6, "a-key-named-full", true),
        (7, "the-token-of-the-page", true),
    ] {
        assert_eq!(sees(listener, key), wanted, "{key:?} at listener {listener}");
    }
    // Metrics are served where the page is, and at status listeners.
    let main: &[(usize, &str, &[u16])] = &[
        (0, "GET /v1/models", &[401, 401, 200, 200, 200, 401]),
        (0, "POST /v1/chat/completions", &[401, 401, 200, 200, 200, 401]),
        (0, "POST /health/force-check", &[401, 401, 200, 200, 200, 401]),
        (0, "GET /metrics", &[401, 401, 403, 404, 404, 401]),
        (0, "GET /admin/status", &[401, 401, 404, 404, 404, 401]),
        (0, "GET /nothing", &[401, 401, 404, 404, 404, 401]),
    ];
    let raw: &[(usize, &str, &[u16])] = &[
        (1, "GET /v1/models", &[401, 401, 403, 200, 200, 401]),
        (1, "POST /v1/chat/completions", &[401, 401, 200, 200, 200, 401]),
        (1, "GET /health", &[401, 401, 403, 200, 200, 401]),
        (1, "GET /metrics", &[401, 401, 403, 200, 200, 401]),
        (1, "GET /nothing", &[401, 401, 403, 200, 200, 401]),
        (2, "GET /v1/models", &[200; 6]),
        (2, "POST /v1/chat/completions", &[200; 6]),
        (2, "GET /admin/status", &[200; 6]),
    ];
    let state: &[(usize, &str, &[u16])] = &[
        (3, "GET /metrics", &[401, 401, 403, 200, 200, 401]),
        (3, "GET /v1/models", &[401, 401, 404, 404, 404, 401]),
        (4, "GET /metrics", &[200; 6]),
        (4, "POST /v1/chat/completions", &[404; 6]),
    ];
    // The user's own listener called `admin` is one like any other.
    let open: &[(usize, &str, &[u16])] = &[
        (5, "GET /v1/models", &[200; 6]),
        (5, "POST /v1/chat/completions", &[200; 6]),
        (5, "POST /health/force-check", &[401, 401, 200, 200, 200, 401]),
        (5, "GET /metrics", &[401, 401, 403, 404, 404, 401]),
        (5, "GET /admin/status", &[404; 6]),
        (6, "GET /v1/models", &[401, 401, 401, 200, 401, 401]),
        (6, "POST /v1/chat/completions", &[401, 401, 401, 200, 401, 401]),
        (6, "POST /health/force-check", &[401, 401, 401, 200, 401, 401]),
    ];
    let page: &[(usize, &str, &[u16])] = &[
        (7, "GET /v1/models", &[401, 401, 200, 200, 200, 200]),
        (7, "POST /v1/chat/completions", &[401, 401, 200, 200, 200, 200]),
        (7, "POST /health/force-check", &[401, 401, 200, 200, 200, 200]),
        (7, "GET /metrics", &[401, 401, 403, 200, 200, 200]),
        (7, "GET /admin/status", &[401, 401, 401, 401, 200, 200]),
        (7, "GET /admin/", &[200; 6]),
        (7, "GET /nothing", &[401, 401, 404, 404, 404, 404]),
    ];
    [main, raw, state, open, page].into_iter().for_each(|table| holds(&proxy, &who, table));
}

// U04
#[test]
fn without_keys_only_the_page_asks_for_something() {
    let upstream = upstream();
    let who = ["none", "wrong", "token"];
    let apart = Setup::over(&[&upstream]).with(with_page).with(|config| config.admin.port = Some(0)).start();
    holds(
        &apart,
        &who,
        &[
            (0, "GET /v1/models", &[200; 3]),
            (0, "POST /v1/chat/completions", &[200; 3]),
            (0, "GET /metrics", &[404; 3]),
            (0, "GET /admin/status", &[404; 3]),
            (1, "GET /v1/models", &[401, 401, 200]),
            (1, "POST /v1/chat/completions", &[401, 401, 200]),
            (1, "GET /metrics", &[401, 401, 200]),
            (1, "GET /health", &[401, 401, 200]),
            (1, "GET /admin/status", &[401, 401, 200]),
        ],
    );
    let main = Setup::over(&[&upstream]).with(with_page).start();
    holds(
        &main,
        &who,
        &[
            (0, "GET /v1/models", &[200; 3]),
            (0, "GET /metrics", &[200; 3]),
            (0, "GET /health", &[200; 3]),
            (0, "GET /admin/status", &[401, 401, 200]),
            (0, "GET /admin/config", &[401, 401, 200]),
            (0, "GET /admin/", &[200; 3]),
        ],
    );
    let open = |config: &mut Config| (config.admin.port, config.admin.open) = (Some(0), true);
    let open = Setup::over(&[&upstream]).with(with_page).with(open).start();
    holds(&open, &who, &[(1, "GET /v1/models", &[200; 3]), (1, "GET /admin/status", &[200; 3])]);
    // Openness is for the page: with keys the API at its address needs one all the same.
    let both = |config: &mut Config| {
        (config.admin.port, config.admin.open) = (Some(0), true);
        config.keys = keys();
    };
    let both = Setup::over(&[&upstream]).with(with_page).with(both).start();
    holds(
        &both,
        &["none", "limited", "token"],
        &[
            (1, "POST /v1/chat/completions", &[401, 200, 200]),
            (1, "GET /metrics", &[401, 403, 200]),
            (1, "GET /admin/status", &[200; 3]),
        ],
    );
}

// U28
#[test]
fn at_a_raw_listener_a_key_with_models_passes_only_where_its_model_is_read() {
    let upstream = upstream();
    for path in ["/api/chat", "/openai/deployments/x/chat", "/openai/deployments/m/chat", "/v1beta/models/x:generate"] {
        upstream.always(path, Script::json("{}"));
    }
    let proxy = Setup::over(&[&upstream])
        .with(|config| {
            config.keys = keys();
            config.listeners = vec![listener("raw", Mode::Raw, KeysFor::Inherit)];
            config.server.max_body = 4 << 20;
        })
        .start();
    let form =
        |model: &str| format!("--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--b--\r\n");
    let large = |model: &str| format!("{{\"pad\":\"{}\",\"model\":\"{model}\"}}", "x".repeat(2 << 20));
    let multipart = "Content-Type: multipart/form-data; boundary=b\r\n";
    let json = "Content-Type: application/json\r\n";
    for (target, fields, body, wanted) in [
        ("/api/chat", json, chat("m"), 200),
        ("/api/chat", json, chat("x"), 403),
        ("/api/chat", "", large("m"), 200),
        ("/api/chat", "", large("x"), 403),
        ("/api/chat", json, "{\"prompt\":1}".into(), 403),
        ("/api/chat", json, "{\"model\":\"m\",\"model\":\"x\"}".into(), 403),
        ("/api/chat", json, "not JSON".into(), 403),
        ("/api/chat", json, String::new(), 403),
        ("/api/chat?model=m", json, String::new(), 200),
        ("/api/chat?model=x", json, String::new(), 403),
        ("/api/chat?model=x", json, chat("m"), 403),
        ("/api/chat", "Content-Encoding: gzip\r\n", chat("m"), 403),
        ("/api/chat", multipart, form("m"), 200),
        ("/api/chat", multipart, form("x"), 403),
        ("/openai/deployments/m/chat", json, String::new(), 200),
        ("/openai/deployments/x/chat", json, chat("m"), 403),
        ("/v1beta/models/x:generate", json, chat("m"), 403),
    ] {
        let head = format!("POST {target} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: a-key-named-limited\r\n{fields}");
        let answer = at(&proxy, 1, format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()));
        assert_eq!(answer.status(), wanted, "{target} {fields} {}", &body[..body.len().min(80)]);
    }
    assert_eq!(upstream.count("/openai/deployments/x/chat") + upstream.count("/v1beta/models/x:generate"), 0);
}

// S1
#[test]
fn a_listener_that_a_reload_took_away_renamed_or_moved_serves_nothing_until_it_is_back() {
    let upstream = upstream();
    let outside = |name: &str| Listener { host: "0.0.0.0".into(), ..listener(name, Mode::Status, KeysFor::Nobody) };
    let all = vec![outside("watch"), listener("raw", Mode::Raw, KeysFor::Inherit)];
    let proxy = Setup::over(&[&upstream]).with(|config| config.listeners.clone_from(&all)).start();
    let statuses = |listener: usize| {
        let requests = [get("/v1/models"), get("/health"), get("/metrics"), get("/admin/"), get("/")];
        let mut seen: Vec<u16> = requests.iter().map(|request| at(&proxy, listener, request).status()).collect();
        seen.push(at(&proxy, listener, post(CHAT, chat("m"))).status());
        let preflight = "OPTIONS /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nAccess-Control-Request-Method: GET\r\n\r\n";
        seen.push(at(&proxy, listener, preflight).status());
        seen
    };
    let before = [statuses(1), statuses(2)];
    assert_eq!(before[0][..3], [404, 200, 200]);
    let reload =
        |listeners: Vec<Listener>| assert_eq!(proxy.reload(|config| config.listeners = listeners), ["listeners"]);
    reload(vec![]);
    assert_eq!([statuses(1), statuses(2)], [vec![503; 7], vec![503; 7]], "taken away");
    reload(vec![outside("look"), listener("main2", Mode::Raw, KeysFor::Inherit)]);
    assert_eq!([statuses(1), statuses(2)], [vec![503; 7], vec![503; 7]], "renamed");
    // What is meant for this machine only does not open an address of the network.
    reload(vec![listener("watch", Mode::Models, KeysFor::Nobody), all[1].clone()]);
    assert_eq!([statuses(1), statuses(2)], [vec![503; 7], before[1].clone()], "moved");
    reload(all.clone());
    assert_eq!([statuses(1), statuses(2)], before, "back again");
}

// S1
#[test]
fn a_reload_never_leaves_the_old_address_of_the_network_without_keys() {
    let upstream = upstream();
    let setup = Setup::over(&[&upstream]).with(|config| {
        config.server.host = "0.0.0.0".into();
        config.keys = keys();
    });
    let proxy = setup.start();
    let refused = proxy.try_reload(|config| {
        config.server.host = "127.0.0.1".into();
        config.keys.clear();
    });
    assert!(refused.is_err_and(|why| why.contains("server.host")));
    assert_eq!(status(&proxy, 0, "GET /v1/models", "none"), 401);
    assert_eq!(proxy.try_reload(|config| config.server.host = "127.0.0.1".into()), Ok(vec!["server.host"]));
    assert_eq!(status(&proxy, 0, "GET /v1/models", "none"), 401);
}
