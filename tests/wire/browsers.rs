//! What web pages can make a browser do here: a listener without keys takes requests only from pages that `cors` lists.

use crate::support::client::{Answer, Client};
use crate::support::proxy::{CHAT, Proxy, Setup, chat};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::{ClientKey, CorsOrigin, KeyText, KeysFor, Listener, ListenerPolicy, Mode};
use llmproxy::util::secret::Secret;

fn ask(proxy: &Proxy, listener: usize, method: &str, path: &str, fields: &str) -> Answer {
    let body = if method == "POST" { chat("m") } else { String::new() };
    let mut client = Client::connect(proxy.addrs()[listener]);
    client.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    client.answer()
}

fn upstream() -> Upstream {
    let upstream = Upstream::serving(&["m"]);
    for path in [CHAT, "/props", "/any"] {
        upstream.always(path, Script::answer(200, &[("Access-Control-Allow-Origin", "https://theirs.example")], "{}"));
    }
    upstream
}

fn raw(name: &str, cors: Option<Vec<CorsOrigin>>) -> Listener {
    let policy = ListenerPolicy { mode: Mode::Raw, keys: KeysFor::Inherit, cors, ..ListenerPolicy::default() };
    Listener { name: name.into(), host: "127.0.0.1".into(), port: 0, policy }
}

const PLAIN: &str = "Content-Type: text/plain\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

// U05
#[test]
fn a_page_that_is_not_listed_reaches_nothing_at_a_local_listener_without_keys() {
    let upstream = upstream();
    let proxy = Setup::over(&[&upstream]).start();
    let foreign = [
        "Origin: https://evil.example\r\n",
        "Origin: null\r\n",
        "Origin: http://localhost.evil.example\r\n",
        "Origin: http://192.168.1.2\r\n",
        "Origin: http://localhost:3000\r\nOrigin: https://evil.example\r\n",
        "Origin: https://evil.example\r\nSec-Fetch-Site: same-origin\r\n",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n",
        "sec-fetch-site: Cross-Site\r\n",
    ];
    for fields in foreign {
        for (method, path) in [
            ("POST", CHAT),
            ("GET", "/props"),
            ("GET", "/v1/models"),
            ("GET", "/health"),
            ("POST", "/health/force-check"),
            ("GET", "/metrics"),
        ] {
            for kind in [PLAIN, JSON, "", "Content-Type: application/x-www-form-urlencoded\r\n"] {
                let answer = ask(&proxy, 0, method, path, &format!("{fields}{kind}"));
                assert_eq!(
                    (answer.status(), answer.code().as_str()),
                    (403, "origin_not_allowed"),
                    "{method} {path} {fields}"
                );
                assert!(!answer.head.lines.iter().any(|line| line.to_lowercase().starts_with("access-control-allow")));
            }
        }
    }
    assert_eq!(upstream.count(CHAT), 0);
    // Programs, pages of this machine, and the page of the proxy itself.
    let own = format!("Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n{JSON}");
    for fields in [
        JSON,
        PLAIN,
        &own,
        "Origin: http://localhost:3000\r\nSec-Fetch-Site: same-site\r\n",
        "Origin: http://127.0.0.1:3000\r\nSec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: none\r\n",
        "Sec-Fetch-Site: same-origin\r\n",
        "Sec-Fetch-Site: same-site\r\n",
    ] {
        assert_eq!(ask(&proxy, 0, "POST", CHAT, fields).status(), 200, "{fields}");
        assert_eq!(ask(&proxy, 0, "GET", "/v1/models", fields).status(), 200, "{fields}");
    }
}

// U05
#[test]
fn cors_says_which_pages_may_use_it_and_keys_make_the_question_idle() {
    let upstream = upstream();
    let with = |cors: Vec<CorsOrigin>| Setup::over(&[&upstream]).with(|config| config.server.cors = cors).start();
    let status = |proxy: &Proxy, fields: &str| ask(proxy, 0, "POST", CHAT, fields).status();
    let none = with(vec![]);
    assert_eq!(status(&none, "Origin: http://localhost:3000\r\n"), 403);
    assert_eq!(status(&none, "Sec-Fetch-Site: same-site\r\n"), 403);
    assert_eq!(status(&none, "Origin: http://localhost\r\n"), 200, "its own page");
    let any = with(vec![CorsOrigin::Any]);
    assert_eq!(status(&any, "Origin: null\r\n"), 200);
    assert_eq!(status(&any, "Sec-Fetch-Site: cross-site\r\n"), 200);
    let extension = with(vec![CorsOrigin::Scheme("moz-extension".into())]);
    assert_eq!(status(&extension, "Origin: moz-extension://0a1b2c\r\n"), 200);
    assert_eq!(status(&extension, "Origin: chrome-extension://0a1b2c\r\n"), 403);
    // With keys a page has nothing to show.
    let keyed = Setup::over(&[&upstream])
        .with(|config| config.keys = vec![ClientKey::plain("k", KeyText::Plain(Secret::new("canary")))])
        .start();
    assert_eq!(status(&keyed, "Origin: https://evil.example\r\n"), 401);
    assert_eq!(status(&keyed, "Origin: https://evil.example\r\nAuthorization: Bearer canary\r\n"), 200);
}

// U05, R06
#[test]
fn at_a_raw_listener_cors_is_the_affair_of_the_endpoint_but_for_what_needs_no_preflight() {
    let upstream = upstream();
    let rules = Some(vec![CorsOrigin::Origin("https://app.example".into())]);
    let listeners = vec![raw("theirs", None), raw("ours", rules)];
    let proxy = Setup::over(&[&upstream]).with(|config| config.listeners = listeners).start();
    let evil = "Origin: https://evil.example\r\n";
    for (listener, method, fields, wanted) in [
        (1, "POST", format!("{evil}{PLAIN}"), 403),
        (1, "POST", evil.to_owned(), 403),
        (1, "GET", "Sec-Fetch-Site: cross-site\r\n".into(), 403),
        (1, "POST", format!("{evil}{JSON}"), 200),
        (1, "GET", evil.into(), 200),
        (1, "OPTIONS", format!("{evil}Access-Control-Request-Method: POST\r\n"), 200),
        (2, "POST", format!("{evil}{JSON}"), 403),
        (2, "GET", evil.into(), 403),
        (2, "OPTIONS", format!("{evil}Access-Control-Request-Method: POST\r\n"), 403),
        (2, "OPTIONS", "Origin: https://app.example\r\nAccess-Control-Request-Method: POST\r\n".into(), 204),
        (2, "POST", format!("Origin: https://app.example\r\n{JSON}"), 200),
    ] {
        assert_eq!(ask(&proxy, listener, method, "/any", &fields).status(), wanted, "{listener} {method} {fields}");
    }
}

// D10, SPEC 3
#[test]
fn answers_that_are_true_for_a_moment_are_not_stored() {
    let upstream = upstream();
    let proxy = Setup::over(&[&upstream]).start();
    for path in ["/health", "/v1/health", "/v1/models", "/models", "/v1/models/m", "/metrics"] {
        let answer = ask(&proxy, 0, "GET", path, "Origin: http://localhost:1\r\n");
        assert_eq!(answer.field("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.field("access-control-allow-origin"), Some("http://localhost:1"), "{path}");
        assert_eq!(answer.field("vary"), Some("Origin"), "{path}");
        let exposed = answer.field("access-control-expose-headers").expect("ours are readable");
        for name in [
            "x-request-id",
            "retry-after",
            "x-llmproxy-endpoint",
            "x-llmproxy-model",
            "x-llmproxy-attempts",
            "x-llmproxy-reason",
        ] {
            assert!(exposed.contains(name), "{name}");
        }
    }
    assert_eq!(ask(&proxy, 0, "POST", CHAT, JSON).field("cache-control"), None);
    let any = Setup::over(&[&upstream]).with(|config| config.server.cors = vec![CorsOrigin::Any]).start();
    let answer = ask(&any, 0, "GET", "/health", "Origin: https://x.example\r\n");
    assert_eq!((answer.field("access-control-allow-origin"), answer.field("vary")), (Some("*"), None));
}
