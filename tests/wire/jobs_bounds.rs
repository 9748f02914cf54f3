//! SPEC 7 and 3: what jobs cost is bounded: work, memory, threads, and how far one client is in the way of others.

use crate::jobs::{Folder, LATER, ended, start, submit, until};
use crate::support::program::{Program, yaml};
use crate::support::proxy::{CHAT, Setup, chat, get, post, post_with};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::{ClientKey, KeyText};
use llmproxy::util::secret::Secret;
use serde_json::{Value, json};
use std::process::Command;

/// A body with so many more members.
fn with_members(count: usize) -> String {
    let many: String = (0..count).map(|n| format!("\"member-{n}\":{n},")).collect();
    chat("m").replacen('{', &format!("{{{many}"), 1)
}

#[test]
fn a_body_of_many_members_is_no_work() {
    // U01: 200,000 different members in one object; one pass over all for each would take minutes.
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::json("{}"));
    let proxy = start(&folder, &upstream, |config| config.jobs.always = true);
    let body = with_members(200_000);
    let answer = proxy.post(CHAT, &body);
    assert_eq!(answer.status(), 202, "{}", answer.text());
    assert!(upstream.take(CHAT).body == body.as_bytes(), "byte for byte");
    let hook = body.replacen('{', "{\"webhookUrl\":7,", 1);
    assert_eq!(proxy.post(CHAT, hook).json()["error"]["details"][0]["path"], json!(["webhookUrl"]));
    let messages = chat("m").replace("[{", &format!("[{}{{", "{\"role\":\"user\"},".repeat(100_000)));
    assert_eq!(proxy.post(CHAT, messages).status(), 202);
}

#[test]
fn a_model_said_twice_however_spelled_reaches_nobody() {
    // U27: a server that matches names without case takes the second.
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["cheap", "secret"]));
    let cheap = ClientKey {
        models: vec!["cheap".into()],
        ..ClientKey::plain("k", KeyText::Plain(Secret::new("the-key-of-k")))
    };
    let proxy = start(&folder, &upstream, |config| config.keys = vec![cheap]);
    let key = "X-API-Key: the-key-of-k\r\n";
    for (first, second) in [("model", "Model"), ("MODEL", "model"), ("model", "mod\\u0045l"), ("\\u004dodel", "model")]
    {
        let body = format!("{{\"{first}\":\"cheap\",\"messages\":[{{\"role\":\"user\"}}],\"{second}\":\"secret\"}}");
        for fields in [key.to_owned(), key.to_owned() + LATER] {
            let answer = proxy.ask(post_with(CHAT, &fields, &body));
            assert_eq!((answer.status(), &answer.json()["error"]["param"]), (400, &json!("model")), "{body}");
        }
    }
    let part =
        |name: &str, value: &str| format!("--B\r\nContent-Disposition: form-data; name={name}\r\n\r\n{value}\r\n");
    for names in [["model", "Model"], ["\"MODEL\"", "model"], ["model", "model"]] {
        let form = part(names[0], "cheap") + &part(names[1], "secret") + "--B--\r\n";
        let request = post_with("/v1/audio/transcriptions", key, form);
        let request =
            String::from_utf8(request).expect("text").replace("application/json", "multipart/form-data; boundary=B");
        assert_eq!(proxy.ask(request).status(), 400, "{names:?}");
    }
    for query in ["model=cheap&Model=secret", "MODEL=secret&model=cheap", "model=cheap&m%4fdel=secret"] {
        let request = format!("GET /props?{query} HTTP/1.1\r\nHost: localhost\r\n{key}\r\n");
        assert_eq!(proxy.ask(request).status(), 400, "{query}");
    }
    let both = post_with(&format!("{CHAT}?model=secret"), key, chat("cheap"));
    assert_eq!(proxy.ask(both).status(), 400, "one in the body, another in the query");
    assert_eq!((upstream.count(CHAT), upstream.count("/v1/audio/transcriptions"), folder.files().len()), (0, 0, 0));
}

#[test]
fn a_form_is_read_as_the_rfc_says() {
    // R22
    let upstream = Upstream::serving(&["m"]);
    upstream.always("/v1/audio/transcriptions", Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    let part = "--B \t\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n";
    let file = "--B\r\nContent-Disposition: form-data; name=file; filename=\"a.wav\"; filename*=utf-8''a.wav\r\n\r\n\r\n--\r\n";
    for (before, after) in [("", "\r\n"), ("a preamble\r\n", ""), ("\r\n", "\r\n\r\n"), ("", "\t \r\nan epilogue\r\n")]
    {
        let form = format!("{before}{part}{file}--B--{after}");
        let request = String::from_utf8(post("/v1/audio/transcriptions", &form)).expect("text");
        let answer =
            proxy.ask(request.replace("application/json", "multipart/form-data; charset=utf-8; boundary=\"B\""));
        assert_eq!(answer.status(), 200, "{form:?}: {}", answer.text());
        assert_eq!(upstream.take("/v1/audio/transcriptions").text(), form);
    }
}

#[test]
fn one_silent_target_delays_no_other_webhook() {
    // U19, S15: three jobs whose target accepts and says nothing, then one with another target.
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let (silent, quick) = (Upstream::start(), Upstream::start());
    upstream.always(CHAT, Script::json("{}"));
    silent.always("/done", Script::new().stall());
    quick.always("/done", Script::json("{}"));
    let proxy = start(&folder, &upstream, |config| config.jobs.webhooks.allow = vec!["127.0.0.1".into()]);
    let told = |target: &Upstream| {
        let url = format!("http://{}/done", target.addr());
        submit(&proxy, chat("m").replacen('{', &format!("{{\"webhookUrl\":{},", json!(url)), 1))
    };
    for id in [told(&silent), told(&silent), told(&silent)] {
        until(&proxy, &id, ended);
    }
    silent.wait_count("/done", 1);
    let id = told(&quick);
    let job = until(&proxy, &id, |job| job["webhook"]["status"] != "pending");
    assert_eq!(job["webhook"]["status"], "delivered", "{job}");
    assert_eq!(silent.count("/done"), 1, "one at a time for each target");
}

#[test]
fn a_slow_disk_under_a_job_delays_no_health() {
    // U31: a pipe that nobody writes to stands for a disk that does not answer.
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::json("{}"));
    let proxy = start(&folder, &upstream, |_| ());
    let id = submit(&proxy, chat("m"));
    until(&proxy, &id, ended);
    proxy.until(|_| folder.files().len() == 1);
    let (file, aside) = (folder.0.join(&folder.files()[0]), folder.0.join("aside"));
    std::fs::rename(&file, &aside).expect("our own folder");
    assert!(Command::new("mkfifo").arg(&file).status().is_ok_and(|status| status.success()));
    let mut readers: Vec<_> = (0..16).map(|_| proxy.sent(get(&format!("{CHAT}/{id}")))).collect();
    for _ in 0..20 {
        assert_eq!(proxy.get("/health").status(), 200);
        assert_eq!(proxy.get("/v1/models").status(), 200);
    }
    let pipe = folder.0.join("pipe");
    std::fs::rename(&file, &pipe).and_then(|()| std::fs::rename(&aside, &file)).expect("our own folder");
    drop(std::fs::OpenOptions::new().write(true).open(&pipe).expect("somebody reads it"));
    for reader in &mut readers {
        let answer = reader.answer();
        assert_eq!((answer.status(), &answer.json()["status"]), (200, &json!("completed")));
    }
}

#[test]
fn two_keys_are_two_owners_even_if_their_names_share_a_hash() {
    // S21: the first 4 bytes of the SHA-256 of these names are the same.
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::json("{}"));
    let names = ["key-8337", "key-15029"];
    let key = |name: &str| ClientKey::plain(name, KeyText::Plain(Secret::new(format!("secret of {name}"))));
    let with = |name: &str| format!("X-API-Key: secret of {name}\r\n");
    // A file of the first release names 4 bytes only.
    std::fs::create_dir_all(&folder.0).expect("our own folder");
    let record = json!({"version": 1, "id": "old", "owner": names[0], "group": null, "path": CHAT, "webhook": null,
        "request": {"model": "m", "messages": []}, "response": {"old": 1}});
    let far = "9999999999";
    std::fs::write(folder.0.join(format!("00000193000000aa.old.7152ff1c.completed.{far}")), record.to_string())
        .expect("our own folder");
    let proxy = start(&folder, &upstream, |config| config.keys = names.map(key).to_vec());
    let answer = proxy.ask(post_with(CHAT, &(with(names[0]) + LATER), chat("m")));
    let id = answer.json()["request_id"].as_str().expect("an id").to_owned();
    let ask = |method: &str, path: &str, name: &str| {
        proxy.ask(format!("{method} {path} HTTP/1.1\r\nHost: h\r\n{}\r\n", with(name)))
    };
    for id in [id.as_str(), "old"] {
        let path = format!("{CHAT}/{id}");
        assert_eq!(names.map(|name| ask("GET", &path, name).status()), [200, 404], "{id}");
        assert_eq!(ask("DELETE", &path, names[1]).status(), 404, "{id}");
    }
    let listed = |name: &str| ask("GET", "/v1/jobs", name).json()["data"].as_array().expect("a list").len();
    assert_eq!(names.map(listed), [2, 0]);
}

#[test]
fn a_list_comes_in_pages() {
    // S16
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::new().stall());
    let proxy = start(&folder, &upstream, |config| config.jobs.max_concurrent = 1);
    let ids: Vec<_> = (0..5).map(|_| submit(&proxy, chat("m"))).collect();
    until(&proxy, &ids[0], |job| job["status"] == "processing");
    let page = |query: &str| {
        let list = proxy.get(&format!("/v1/jobs{query}")).json();
        let data = list["data"].as_array().expect("a list").clone();
        let seen = data.iter().map(|job| job["request_id"].as_str().expect("an id").to_owned());
        let places: Vec<_> = data.iter().map(|job| job["queue_position"].clone()).collect();
        (seen.collect::<Vec<_>>(), places, list["has_more"].clone())
    };
    let newest = |range: std::ops::Range<usize>| ids[range].iter().rev().cloned().collect::<Vec<_>>();
    assert_eq!(page("?limit=2"), (newest(3..5), vec![json!(4), json!(3)], json!(true)));
    assert_eq!(page(&format!("?after={}&limit=2", ids[3])), (newest(1..3), vec![json!(2), json!(1)], json!(true)));
    assert_eq!(page(&format!("?limit=2&after={}", ids[1])), (newest(0..1), vec![json!(0)], json!(false)));
    assert_eq!(page("").0, newest(0..5));
    assert_eq!((page("?limit=0").0.len(), page("?limit=x").0.len(), page("?limit=99999").0.len()), (1, 5, 5));
    assert_eq!(proxy.get("/v1/jobs?after=made-up").status(), 404);
}

#[test]
fn submissions_are_not_copied_and_what_is_read_counts_for_its_reader() {
    // U18, U08
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::new().stall());
    let jobs = format!("jobs: {{enabled: true, maxConcurrent: 1, dir: {:?}}}\n", folder.0.display().to_string());
    let program = Program::start(&(yaml(&[&upstream], "  bodyMemory: 32MiB\n  maxBody: 8MiB\n") + &jobs));
    let before = program.peak();
    let content = "x".repeat(6 << 20);
    let body = chat("m").replacen('{', "{\"webhookUrl\":\"https://example.com/\",", 1).replace("Hello!", &content);
    let ask = |request: &[u8]| {
        let mut client = program.client();
        client.send(request);
        client.answer()
    };
    let answer = ask(&post_with(CHAT, "", &body));
    assert_eq!(answer.status(), 202, "{}", answer.text());
    upstream.take(CHAT);
    // The body as it came, and as it is sent while it runs.
    let used = program.peak() - before;
    assert!(used < 28 << 10, "{used} KiB for a job of 6 MiB");
    let path = get(&format!("{CHAT}/{}", answer.json()["request_id"].as_str().expect("an id")));
    let mut silent: Vec<_> = (0..8)
        .map(|_| {
            let mut client = crate::support::client::Client::with_small_window(program.addr);
            client.send(&path);
            client
        })
        .collect();
    let heads: Vec<_> = silent.iter_mut().map(|client| client.head().status).collect();
    assert!(heads.contains(&200) && heads.contains(&503), "{heads:?}");
    let used = program.peak() - before;
    assert!(used < 56 << 10, "{used} KiB while eight do not read");
    drop(silent);
    loop {
        let answer = ask(path.as_bytes());
        if answer.status() == 200 {
            let job: Value = answer.json();
            assert_eq!(job["request"]["messages"][0]["content"].as_str().map(str::len), Some(6 << 20));
            break;
        }
        assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")));
    }
}
