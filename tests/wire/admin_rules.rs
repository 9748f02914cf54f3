//! FAULTS group F: who may use the page, from where, and what browsers are told.

use crate::admin::{JSON, ask, on_disk, start};
use crate::jobs::Folder;
use crate::support::proxy::Setup;
use crate::support::upstream::Upstream;
use llmproxy::base::secret::Secret;
use llmproxy::config::{ClientKey, KeyText};
use serde_json::json;

/// A key that may see the page, and one that may not.
fn keys() -> Vec<ClientKey> {
    let key = |name: &str| ClientKey::plain(name, KeyText::Plain(Secret::new(format!("key-{name}"))));
    vec![ClientKey { admin: true, ..key("boss") }, key("other")]
}

#[test]
fn who_may_not_come_in_does_not() {
    // F5..F9, W003-8, S003-31
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let proxy = start(&folder, &[&upstream], |config| {
        config.admin.token = Some(Secret::new("canary-token"));
        config.keys = keys();
        config.server.cors = vec![llmproxy::config::CorsOrigin::Any];
    });
    let status = |fields: &str| ask(&proxy, "GET", "/admin/status", fields, "").status();
    let token = "Authorization: Bearer canary-token\r\n";
    assert_eq!([status(""), status("Authorization: Bearer wrong\r\n"), status(token)], [401, 401, 200]);
    assert_eq!([status("X-API-Key: key-boss\r\n"), status("X-API-Key: key-other\r\n")], [200, 401]);
    assert_eq!(proxy.get("/admin/status?token=canary-token").status(), 401);
    // The shell asks for the token; it holds nothing.
    assert_eq!(["/admin/", "/admin/page.js", "/admin/page.css"].map(|path| proxy.get(path).status()), [200; 3]);
    assert_eq!(proxy.get("/admin").field("location"), Some("/admin/"), "S003-25");
    // F8
    let foreign = proxy.ask(format!("GET /admin/status HTTP/1.1\r\nHost: evil.example\r\n{token}\r\n"));
    assert_eq!(foreign.status(), 421);
    // F7
    let body = json!({"Backends": [{"Endpoint": "a"}]}).to_string();
    let write = |fields: &str| ask(&proxy, "POST", "/admin/config/x", &format!("{token}{fields}"), &body).status();
    for fields in [
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "",
        "Content-Type: application/json\r\nOrigin: null\r\n",
        "Content-Type: application/json\r\nOrigin: http://evil.example\r\n",
        "Content-Type: application/json\r\nOrigin: http://localhost:1\r\n",
        "Content-Type: application/json\r\nSec-Fetch-Site: cross-site\r\n",
        "Content-Type: application/json\r\nSec-Fetch-Site: same-site\r\n",
    ] {
        assert!([403, 415].contains(&write(fields)), "{fields}");
    }
    assert_eq!(on_disk(&folder)["Models"].get("x"), None);
    assert_eq!(write(&format!("{JSON}Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n")), 200);
    // F9: no other page may read it, whatever `cors` says.
    let preflight = "OPTIONS /admin/config HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n";
    for request in [
        preflight.to_owned(),
        format!("GET /admin/status HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n{token}\r\n"),
    ] {
        let answer = proxy.ask(request);
        assert!(answer.field("access-control-allow-origin").is_none());
        assert!(answer.field("content-security-policy").is_some_and(|policy| policy.starts_with("default-src 'none'")));
        assert_eq!(
            (answer.field("x-content-type-options"), answer.field("x-frame-options")),
            (Some("nosniff"), Some("DENY"))
        );
    }
    // F5, F6
    for path in [
        "/admin/%2e%2e/health",
        "/admin/..%2f..%2fetc/passwd",
        "/admin/page.js%00",
        "/admin//",
        "/ADMIN/",
        "/admin/page.html",
        "/admin;x/",
    ] {
        assert!([400, 401, 404].contains(&proxy.get(path).status()), "{path}");
    }
    assert_eq!(proxy.get("/%61dmin/status").status(), 401, "the same decision as the canonical path");
    // The guesses end, the right one goes on (F1).
    let statuses: Vec<u16> = (0..30).map(|_| status("Authorization: Bearer guess\r\n")).collect();
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(status(token), 200);
}

#[test]
fn without_a_token_only_this_machine_gets_in() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let proxy = start(&folder, &[&upstream], |_| ());
    assert_eq!(proxy.get("/admin/status").status(), 200);
    // A proxy on this machine may bring anybody.
    assert_eq!(ask(&proxy, "GET", "/admin/status", "X-Forwarded-For: 10.0.0.9\r\n", "").status(), 403);
    let off = Setup::over(&[&upstream]).start();
    assert_eq!(["/admin", "/admin/", "/admin/status"].map(|path| off.get(path).status()), [404; 3]);
}
