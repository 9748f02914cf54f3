//! FAULTS group F: who may use the page, from where, and what browsers are told.

use crate::admin::{JSON, ask, file, on_disk, put, start};
use crate::gateway::ports;
use crate::jobs::Folder;
use crate::support::client::Client;
use crate::support::fact::Latch;
use crate::support::program::Program;
use crate::support::proxy::{CHAT, Setup, chat, post};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::{ClientKey, KeyText};
use llmproxy::util::secret::Secret;
use serde_json::json;
use std::process::Command;

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
        config.admin.open = false;
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
    // What the event loop refuses says it too.
    let refused = ask(&proxy, "POST", "/admin/config/x", &format!("{JSON}Origin: http://evil.example\r\n"), &body);
    assert_eq!((refused.status(), refused.field("x-frame-options")), (403, Some("DENY")));
    assert!(refused.field("access-control-allow-origin").is_none());
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
fn admin_open_lets_in_this_machine_but_nobody_whom_a_proxy_on_it_brings() {
    // U04
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let proxy = start(&folder, &[&upstream], |config| config.keys = keys());
    let status = |fields: &str| ask(&proxy, "GET", "/admin/status", fields, "").status();
    assert_eq!(
        [status(""), status("Authorization: Bearer key-boss\r\n"), status("Authorization: Bearer x\r\n")],
        [200; 3]
    );
    for mark in [
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Port: 443",
        "Via: 1.1 caddy",
        "Forwarded: for=10.0.0.9",
        "CF-Connecting-IP: 10.0.0.9",
        "cf-ray: 1",
        "X-Real-IP: 127.0.0.1",
        "True-Client-IP: 127.0.0.1",
    ] {
        assert_eq!(status(&format!("{mark}\r\n")), 401, "{mark}");
        assert_eq!(status(&format!("{mark}\r\nAuthorization: Bearer key-boss\r\n")), 200, "{mark}");
    }
    // nginx before 1.29 by default.
    assert_eq!(proxy.ask("GET /admin/status HTTP/1.0\r\nHost: localhost\r\n\r\n").status(), 401);
    // A page elsewhere cannot make this machine's browser watch or press (U02).
    for fields in [
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Origin: https://evil.example\r\n",
        "Origin: null\r\n",
    ] {
        for path in ["/admin/events", "/admin/status", "/admin/config"] {
            assert_eq!(ask(&proxy, "GET", path, fields, "").status(), 403, "{path} {fields}");
        }
    }
    let off = Setup::over(&[&upstream]).start();
    assert_eq!(["/admin", "/admin/", "/admin/status"].map(|path| off.get(path).status()), [404; 3]);
}

#[test]
fn six_secrets_go_through_all_of_it_and_are_seen_nowhere() {
    // F4, F11: a key of ours, two of endpoints, the token, a password of a proxy, a webhook's secret.
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::error(500, "no"));
    let file = folder.0.join("dynamic_routing.json");
    let yaml = format!(
        "server: {{port: 0}}\nauth: {{keys: [{{name: k, key: canary-1}}]}}\n\
         endpoints:\n  - {{name: a, address: 127.0.0.1, port: {}, apiKeys: [canary-2]}}\n\
         \x20 - {{name: b, address: 127.0.0.1, port: 9, models: [n], apiKey: canary-3, proxy: 'http://u:canary-4@127.0.0.1:9'}}\n\
         admin: {{enabled: true, token: canary-5, routesFile: {:?}}}\n\
         jobs: {{enabled: true, dir: {:?}, webhooks: {{secret: canary-6}}}}\nlog: {{level: debug}}\n",
        upstream.addr().port(),
        file.display().to_string(),
        folder.0.join("jobs").display().to_string()
    );
    let program = Program::start(&yaml);
    let send = |method: &str, path: &str, key: &str, body: &str| {
        let mut client = program.client();
        client.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n{JSON}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        client.answer()
    };
    let model = json!({"Backends": [{"BaseUrl": "http://127.0.0.1:9/v1", "ApiKeys": ["canary-7"]}]}).to_string();
    assert_eq!(send("POST", "/admin/config/x", "canary-5", &model).status(), 200);
    let mut seen = Vec::new();
    for name in ["m", "n", "x", "zz"] {
        seen.push(send("POST", CHAT, "canary-1", &chat(name)).text().to_owned());
    }
    for path in ["/v1/models", "/health", "/metrics", "/v1/jobs"] {
        seen.push(send("GET", path, "canary-1", "").text().to_owned());
    }
    for path in ["/admin/status", "/admin/config", "/admin/nothing"] {
        seen.push(send("GET", path, "canary-5", "").text().to_owned());
    }
    seen.push(send("POST", "/admin/config/y", "canary-5", &model.replace("http:", "nonsense:")).text().to_owned());
    // Wrong keys, and a configuration that is wrong around its secrets.
    seen.push(send("GET", "/admin/status", "canary-8", "").text().to_owned());
    program.rewrite(&yaml.replace("name: b,", "nam: b,"));
    seen.push(send("POST", "/admin/reload", "canary-5", "{}").text().to_owned());
    program.logged(&["not reloaded"]);
    for arguments in [["-t"], ["--print-config"]] {
        let text = folder.0.join("c.yml");
        std::fs::write(&text, &yaml).expect("our own folder");
        let out = Command::new(env!("CARGO_BIN_EXE_llmproxy"))
            .args(arguments)
            .arg("-c")
            .arg(&text)
            .output()
            .expect("it runs");
        seen.push(String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned());
    }
    assert!(program.ps().contains("proxy-0"), "threads have names");
    seen.push(program.ps());
    seen.extend(program.log());
    let told: Vec<_> = seen.iter().filter(|text| text.contains("canary")).collect();
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(upstream.take(CHAT).field("authorization"), Some("Bearer canary-2"));
    let by = |text: &str| std::fs::read_to_string(&file).expect("the file of routes").contains(text);
    assert!(by("canary-7") && !by("canary-5"));
}

#[test]
fn the_address_of_the_page_opens_the_api_to_nobody_else() {
    // F5, F8
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::json("{}"));
    for mode in ["models", "raw"] {
        let port = ports(1)[0];
        let program = Program::start(&format!(
            "server: {{port: 0, mode: {mode}, group: g}}\ngroups: [{{name: g, endpoints: [{{name: a}}]}}]\n\
             endpoints: [{{name: a, address: 127.0.0.1, port: {}}}]\n\
             admin: {{enabled: true, port: {port}, token: secret, routesFile: {:?}}}\n",
            upstream.addr().port(),
            folder.0.join("r.json").display().to_string()
        ));
        let send = |method: &str, path: &str, fields: &str| {
            let mut client = Client::connect(([127, 0, 0, 1], port).into());
            let body = if method == "POST" { chat("m") } else { String::new() };
            let length = body.len();
            client.send(format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{JSON}{fields}Content-Length: {length}\r\n\r\n{body}"
            ));
            client.answer().status()
        };
        for (method, path) in [("GET", "/v1/models"), ("POST", CHAT), ("GET", "/metrics"), ("GET", "/health")] {
            assert_eq!(send(method, path, ""), 401, "{mode} {path}");
            assert_eq!(send(method, path, "Authorization: Bearer secret\r\n"), 200, "{mode} {path}");
        }
        assert_eq!(upstream.take(CHAT).field("authorization"), None, "the token goes no further");
        assert_eq!(send("GET", "/admin/", ""), 200);
        let mut client = program.client();
        client.send(post(CHAT, chat("m")));
        assert_eq!(client.answer().status(), 200, "the main address is as it was");
        upstream.take(CHAT);
    }
}

#[test]
fn a_browser_that_asks_for_the_root_is_sent_to_the_page() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let page = start(&folder, &[&upstream], |config| config.admin.open = false);
    let html = "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\nSec-Fetch-Site: none\r\n";
    let answer = ask(&page, "GET", "/", html, "");
    assert_eq!((answer.status(), answer.field("location")), (302, Some("/admin/")));
    for fields in ["", "Accept: */*\r\n", "Accept: application/json\r\n"] {
        let answer = ask(&page, "GET", "/", fields, "");
        assert_eq!((answer.status(), answer.text().contains("admin")), (404, false), "{fields}");
    }
    let keys = vec![ClientKey::plain("k", KeyText::Plain(Secret::new("canary")))];
    let keyed = start(&folder, &[&upstream], |config| config.keys = keys);
    assert_eq!([ask(&keyed, "GET", "/", html, "").status(), ask(&keyed, "GET", "/", "", "").status()], [302, 401]);
    let off = Setup::over(&[&upstream]).start();
    assert_eq!(ask(&off, "GET", "/", html, "").status(), 404);
    let foreign = page.ask(format!("GET / HTTP/1.1\r\nHost: evil.example\r\n{html}\r\n"));
    assert_eq!((foreign.status(), foreign.text().contains("server.allowedHosts")), (421, true));
}

#[test]
fn what_waits_for_an_endpoint_that_is_switched_off_is_not_sent_there() {
    let (folder, first, second) = (Folder::new(), Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    let latch = Latch::new();
    for upstream in [&first, &second] {
        upstream.always("/props", Script::json(r#"{"total_slots":1}"#));
        upstream.always(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    }
    let proxy = start(&folder, &[&first, &second], |_| ());
    proxy.until(|health| health["endpoints"]["a"]["slots"] == 1 && health["endpoints"]["b"]["slots"] == 1);
    let mut clients = vec![proxy.sent(post(CHAT, chat("m")))];
    first.wait_count(CHAT, 1);
    clients.push(proxy.sent(post(CHAT, chat("m"))));
    second.wait_count(CHAT, 1);
    clients.extend((0..2).map(|_| proxy.sent(post(CHAT, chat("m")))));
    proxy.until(|health| health["queue"]["waiting"] == 2);
    assert_eq!(ask(&proxy, "POST", "/admin/endpoints/a/disable", JSON, "{}").status(), 200);
    assert_eq!(proxy.health()["queue"]["waiting"], 2);
    latch.open();
    assert!(clients.iter_mut().all(|client| client.answer().status() == 200));
}

#[test]
fn what_was_written_by_hand_in_small_letters_is_shown_as_documented_so_that_the_page_keeps_it() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let backend = json!({"name": "n", "endpoint": "a", "apiKeys": [], "backendModelName": "m", "weight": 2, "enabled": true, "under": "4k", "vision": false});
    let model = json!({"strategy": "failover", "backends": [backend], "set": {"Backends": 1}, "default": {"a": 1}, "remove": ["b"],
        "variants": {"x": {"set": {"k": 1}}}, "match": ["gpt-*"], "stabilize": "claude-code"});
    let by_hand = json!({"models": {"one": model}}).to_string();
    std::fs::create_dir(&folder.0).and_then(|()| std::fs::write(file(&folder), by_hand)).expect("our own folder");
    let proxy = start(&folder, &[&upstream], |_| ());
    let shown = proxy.get("/admin/config").json()["Models"]["one"].clone();
    let expected = json!({"Strategy": "Failover", "Backends": [{"Name": "n", "Endpoint": "a", "ApiKeys": [], "BackendModelName": "m", "Weight": 2,
        "Enabled": true, "Under": "4k", "Vision": false}], "Set": {"Backends": 1}, "Default": {"a": 1}, "Remove": ["b"],
        "Variants": {"x": {"set": {"k": 1}}}, "Match": ["gpt-*"], "Stabilize": "claude-code"});
    assert_eq!(shown, expected);
    assert_eq!(put(&proxy, "one", &shown).status(), 200);
    assert_eq!(on_disk(&folder)["models"]["one"], expected);
}
