//! What the page must not do: send keys elsewhere, open to who cannot show its token, wait for who does not read, write
//! what it cannot read again.

use crate::admin::JSON;
use crate::admin::ask;
use crate::admin::file;
use crate::admin::on_disk;
use crate::admin::start;
use crate::gateway::ports;
use crate::jobs::Folder;
use crate::support::client::{Client, Ended};
use crate::support::fact::{DEADLINE, ms};
use crate::support::proxy::{CHAT, get};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::util::secret::Secret;
use llmproxy::util::time;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

fn backend(upstream: &Upstream, keys: &[&str]) -> Value {
    json!({"BaseUrl": format!("http://{}/v1", upstream.addr()), "ApiKeys": keys})
}

// U03
#[test]
fn a_masked_key_goes_nowhere_but_where_it_was_stored_for() {
    let (folder, theirs, other) = (Folder::new(), Upstream::serving(&["m"]), Upstream::start());
    theirs.always(CHAT, Script::json("{}"));
    let proxy = start(&folder, &[&theirs], |_| ());
    let save = |name: &str, backends: Value| {
        ask(&proxy, "POST", &format!("/admin/config/{name}"), JSON, &json!({"Backends": backends}).to_string())
    };
    assert_eq!(save("x", json!([backend(&theirs, &["canary-1"])])).status(), 200);
    let shown = proxy.get("/admin/config").json()["Models"]["x"]["Backends"][0].clone();
    let mask = shown["ApiKeys"][0].as_str().expect("a mask");
    let url = |text: &str| json!([{"BaseUrl": text, "ApiKeys": [mask]}]);
    let before = on_disk(&folder);
    for backends in [
        json!([backend(&other, &[mask])]),
        json!([shown, backend(&other, &[mask])]),
        url(&format!("https://{}/v1", theirs.addr())),
        url(&format!("http://{}/v2", theirs.addr())),
        json!([{"Endpoint": "a", "ApiKeys": [mask]}]),
    ] {
        for name in ["x", "y"] {
            let answer = save(name, backends.clone());
            assert_eq!(answer.status(), 400, "{backends}");
            assert!(answer.text().contains("type the key") && !answer.text().contains("canary"), "{}", answer.text());
        }
    }
    let both = save("x", url("nonsense")).json()["error"]["details"].to_string();
    assert!(both.contains("type the key") && both.contains("backends[0].baseUrl"), "all problems at once: {both}");
    assert_eq!(on_disk(&folder), before);
    // With the same address it stays, in another model too.
    assert_eq!([save("x", json!([shown])).status(), save("y", json!([shown])).status()], [200; 2]);
    assert_eq!(proxy.chat("y").status(), 200);
    assert_eq!(theirs.take(CHAT).field("authorization"), Some("Bearer canary-1"));
    assert_eq!(other.count(CHAT), 0);
}

// U40
#[test]
fn nothing_is_written_that_could_not_be_read_again() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let proxy = start(&folder, &[&upstream], |_| ());
    let save = |name: &str, bytes: usize| {
        let body = json!({"Backends": [backend(&upstream, &[&"k".repeat(bytes)])]}).to_string();
        ask(&proxy, "POST", &format!("/admin/config/{name}"), JSON, &body)
    };
    assert_eq!([save("a", 500 << 10).status(), save("b", 400 << 10).status()], [200; 2]);
    let before = std::fs::read(file(&folder)).expect("the file is there");
    for bytes in [200 << 10, 2 << 20] {
        let refused = save("c", bytes);
        assert_eq!((refused.status(), refused.text().contains("1 MiB")), (400, true), "{}", refused.text());
    }
    assert_eq!(std::fs::read(file(&folder)).expect("the file is there"), before);
    assert_eq!(proxy.get("/admin/config").status(), 200);
    drop(proxy);
    let proxy = start(&folder, &[&upstream], |_| ());
    assert_eq!(proxy.get("/v1/models/b").status(), 200, "it starts again");
}

// U02, S2
#[test]
fn who_does_not_read_the_live_view_loses_it() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    // Many names, so that an event is long.
    let models = (0..1500).map(|n| format!("model-{n}-{}", "x".repeat(200))).collect();
    let proxy = start(&folder, &[&upstream], |config| {
        config.server.write_timeout = ms(300);
        config.endpoints[0].models = models;
    });
    let watch = || {
        let mut client = Client::with_small_window(proxy.addr);
        client.send(get("/admin/events"));
        client
    };
    let mut deaf: Vec<_> = (0..8).map(|_| watch()).collect();
    let taken = deaf.iter_mut().map(|view| view.head().status).filter(|status| *status == 200).count();
    assert_eq!(taken, 8);
    // None of them reads on, and each seat becomes free.
    let end = time::now() + DEADLINE;
    while proxy.sent(get("/admin/events")).head().status != 200 {
        assert!(time::now() < end, "no seat became free");
    }
}

// U02
#[test]
fn live_views_are_held_within_the_budget_of_their_client() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let proxy = start(&folder, &[&upstream], |config| {
        config.endpoints[0].models = (0..2000).map(|n| format!("model-{n}-{}", "x".repeat(200))).collect();
        (config.server.max_body, config.server.body_memory) = (1 << 10, 1 << 20);
    });
    let mut view = proxy.sent(get("/admin/events"));
    assert_eq!((view.head().status, view.body().1), (200, Ended::Cut), "2,000 long names are above a quarter of 1 MiB");
    assert_eq!(proxy.get("/nothing").status(), 404, "it serves on");
}

// U31, S14
#[test]
fn a_slow_disk_of_the_routes_holds_up_no_health() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let proxy = start(&folder, &[&upstream], |_| ());
    // A pipe that nobody writes to is the slowest of all disks.
    std::fs::remove_file(file(&folder)).expect("our own file");
    let made = Command::new("mkfifo").arg(file(&folder)).status().expect("mkfifo is there");
    assert!(made.success());
    let body = json!({"Backends": [{"Endpoint": "a"}]}).to_string();
    let mut waiting: Vec<_> = (0..6).map(|_| proxy.sent(get("/admin/config"))).collect();
    let put = format!(
        "POST /admin/config/x HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    waiting.extend((0..6).map(|_| proxy.sent(&put)));
    for _ in 0..20 {
        proxy.still_serves();
        assert_eq!(proxy.get("/admin/status").status(), 200);
        assert_eq!(proxy.get("/v1/models").status(), 200);
    }
    // The disk answers at last: a file stands there, and who waits for the pipe finds it at its end.
    let (pipe, whole) = (folder.0.join("pipe"), folder.0.join("whole"));
    std::fs::hard_link(file(&folder), &pipe).expect("our own folder");
    std::fs::write(&whole, "{\"Models\": {}}").and_then(|()| std::fs::rename(&whole, file(&folder))).expect("our own");
    drop(std::fs::OpenOptions::new().read(true).write(true).open(&pipe).expect("our own pipe"));
    for client in &mut waiting {
        assert_eq!(client.answer().status(), 200);
    }
}

// U04
#[test]
fn a_token_is_made_at_each_start_and_printed_as_a_link_only() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let proxy = start(&folder, &[&upstream], |config| config.admin.open = false);
    let link = proxy.admin_link().expect("a link");
    let token = link.strip_prefix(&format!("http://{}/admin/#token=", proxy.addr)).expect("its address").to_owned();
    assert!(token.len() >= 32);
    let status =
        |token: &str| ask(&proxy, "GET", "/admin/status", &format!("Authorization: Bearer {token}\r\n"), "").status();
    assert_eq!(
        [proxy.get("/admin/status").status(), status("x"), status(&token), status(&token[1..])],
        [401, 401, 200, 401]
    );
    // It lasts over a reload, but never beside a token of the configuration.
    assert_eq!(proxy.reload(|config| config.admin.token = None), Vec::<&str>::new());
    assert_eq!(status(&token), 200);
    proxy.reload(|config| config.admin.token = Some(Secret::new("of the configuration")));
    assert_eq!((status(&token), status("of the configuration"), proxy.admin_link()), (401, 200, None));
    assert_eq!(proxy.reload(|config| config.admin.token = None), ["admin.token"]);
    assert_eq!(status("of the configuration"), 401);
    let again = start(&folder, &[&upstream], |config| config.admin.open = false);
    assert_ne!(again.admin_link(), Some(link));
}

// U04
#[test]
fn the_program_prints_the_link_on_stdout_and_nowhere_else() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    std::fs::create_dir_all(&folder.0).expect("our own folder");
    let port = ports(1)[0];
    let run = |admin: &str| {
        let text = folder.0.join("c.yml");
        let yaml = format!(
            "server: {{port: 0}}\nlog: {{level: debug}}\nendpoints: [{{name: a, address: 127.0.0.1, port: {}}}]\nadmin: {{enabled: true, routesFile: {:?}{admin}}}\n",
            upstream.addr().port(),
            file(&folder).display().to_string()
        );
        std::fs::write(&text, yaml).expect("our own folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_llmproxy"));
        let mut child =
            command.arg("-c").arg(&text).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it was built");
        let lines = BufReader::new(child.stdout.take().expect("piped above")).lines();
        let lines: Vec<String> = lines.take(if admin.is_empty() { 2 } else { 3 }).map_while(Result::ok).collect();
        drop(child.kill());
        let log = child.wait_with_output().expect("our own child").stderr;
        (lines, String::from_utf8_lossy(&log).into_owned())
    };
    let (lines, log) = run("");
    let addr = lines[0].rsplit("http://").next().expect("an address");
    let token = lines[1].split_once(&format!("http://{addr}/admin/#token=")).expect("a link").1;
    assert!(!token.is_empty() && !log.contains(token), "{log}");
    let (lines, _) = run(&format!(", port: {port}"));
    assert!(lines[2].contains(&format!("http://127.0.0.1:{port}/admin/#token=")), "{lines:?}");
    assert!(lines[..2].iter().all(|line| line.contains("listening on http://")), "{lines:?}");
}
