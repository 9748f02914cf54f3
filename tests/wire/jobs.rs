//! SPEC 7: submit now, read later.

use crate::support::client::Answer;
use crate::support::fact::{DEADLINE, Latch};
use crate::support::program::{Program, yaml};
use crate::support::proxy::{CHAT, Proxy, Setup, chat, get, post_with};
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use llmproxy::config::{ClientKey, Config, KeyText};
use llmproxy::util::secret::Secret;
use llmproxy::util::time;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A folder of its own for each test, gone with it.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("jobs-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    /// Names of the files of jobs.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).expect("the folder is there").map_while(Result::ok);
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name != "lock");
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

pub fn start(folder: &Folder, upstream: &Upstream, edit: impl FnOnce(&mut Config)) -> Proxy {
    let setup = Setup::over(&[upstream]).with(|config| {
        config.jobs.enabled = true;
        config.jobs.dir.clone_from(&folder.0);
    });
    setup.with(edit).start()
}

pub const LATER: &str = "Prefer: respond-async\r\n";

pub fn submit(proxy: &Proxy, body: impl AsRef<[u8]>) -> String {
    let answer = proxy.ask(post_with(CHAT, LATER, body));
    assert_eq!(answer.status(), 202, "{}", answer.text());
    answer.json()["request_id"].as_str().expect("an id").to_owned()
}

pub fn look(proxy: &Proxy, id: &str) -> Answer {
    proxy.get(&format!("{CHAT}/{id}"))
}

/// Waits until a job says so; what it says.
pub fn until(proxy: &Proxy, id: &str, so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let seen = std::cell::RefCell::new(&mut last);
    proxy.until(|_| {
        let job = look(proxy, id).json();
        let found = so(&job);
        **seen.borrow_mut() = job;
        found
    });
    last
}

pub fn ended(job: &Value) -> bool {
    job["status"] == "completed" || job["status"] == "error"
}

fn cancel(proxy: &Proxy, id: &str) -> Answer {
    proxy.ask(format!("DELETE {CHAT}/{id} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

#[test]
fn a_request_is_accepted_at_once_and_its_answer_read_later() {
    // S004-04, S004-09, W004-1
    let (folder, upstream, latch) = (Folder::new(), Upstream::serving(&["m"]), Latch::new());
    let reply = include_bytes!("../data/chat.raw");
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::raw(reply)));
    let proxy = start(&folder, &upstream, |_| ());
    let body =
        r#"{"model": "m", "seed": 12345678901234567890, "tools": [], "messages": [{"role":"tool","content":[]}]}"#;
    let answer = proxy.ask(post_with(CHAT, LATER, body));
    assert_eq!((answer.status(), answer.field("preference-applied")), (202, Some("respond-async")));
    let told = answer.json();
    assert_eq!(
        (&told["status"], &told["queue_position"], &told["active_requests"]),
        (&json!("pending"), &json!(0), &json!(1))
    );
    let place = answer.field("location").expect("a place").to_owned();
    assert_eq!(place, format!("{CHAT}/{}", told["request_id"].as_str().expect("an id")));
    let id = told["request_id"].as_str().expect("an id");
    // W004-3: nothing is dropped or added on the way.
    assert_eq!(upstream.take(CHAT).text(), body);
    let running = until(&proxy, id, |job| job["status"] == "processing");
    assert_eq!((&running["active_requests"], running.get("response")), (&json!(1), None));
    assert!(running["timestamp"].as_u64().is_some_and(|at| at > 1_600_000_000_000));
    latch.open();
    let job = until(&proxy, id, ended);
    assert_eq!((&job["status"], &job["request"]["model"]), (&json!("completed"), &json!("m")));
    assert!(job["response"]["choices"][0]["message"]["content"].is_string(), "{job}");
    assert_eq!(proxy.get(&place).status(), 200);
    assert!(proxy.get("/metrics").text().contains("llmproxy_jobs{status=\"completed\"} 1"));
}

#[test]
fn jobs_run_in_order_and_their_positions_are_true() {
    // S004-12, W004-6, W004-7
    let (folder, upstream, latch) = (Folder::new(), Upstream::serving(&["m"]), Latch::new());
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    upstream.always(CHAT, Script::json("{}"));
    let proxy = start(&folder, &upstream, |config| config.jobs.max_concurrent = 1);
    let submit = |n: usize| submit(&proxy, chat("m").replace("Hello!", &format!("number {n}")));
    let ids: Vec<_> = (0..4).map(submit).collect();
    until(&proxy, &ids[0], |job| job["status"] == "processing");
    let position = |id: &String| look(&proxy, id).json()["queue_position"].clone();
    assert_eq!(ids.iter().map(position).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let list = proxy.get("/v1/jobs").json();
    assert_eq!(list["counts"], json!({"pending": 3, "processing": 1, "completed": 0, "error": 0}));
    latch.open();
    ids.iter().for_each(|id| drop(until(&proxy, id, ended)));
    for n in 0..4 {
        assert!(upstream.take(CHAT).text().contains(&format!("number {n}")));
    }
    let list = proxy.get("/v1/jobs").json();
    let listed: Vec<_> = list["data"].as_array().expect("a list").iter().map(|job| job["request_id"].clone()).collect();
    assert_eq!(listed, ids.iter().rev().map(|id| json!(id)).collect::<Vec<_>>(), "the newest first");
}

#[test]
fn what_cannot_run_is_refused_with_every_detail() {
    // S004-05..08, W004-2
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::json("{}"));
    let proxy = start(&folder, &upstream, |_| ());
    let ask = |body: &str| proxy.ask(post_with(CHAT, LATER, body));
    let wrong = ask(r#"{"model":"m","messages":[],"temperature":3,"webhookUrl":"http://127.0.0.1/x"}"#);
    let error = wrong.json()["error"].clone();
    assert_eq!(
        (wrong.status(), &error["message"], &error["type"]),
        (400, &json!("Invalid request body"), &json!("validation_error"))
    );
    let paths: Vec<_> = error["details"].as_array().expect("details").iter().map(|one| one["path"].clone()).collect();
    assert_eq!(paths, [json!(["messages"]), json!(["temperature"]), json!(["webhookUrl"])]);
    for body in ["{", "[]", "null", "", r#"{"model":"m","model":"m"}"#] {
        let answer = ask(body);
        assert_eq!((answer.status(), answer.json()["error"]["message"].is_string()), (400, true), "{body}");
    }
    let large = chat("m").replace("Hello!", &"x".repeat(200_000));
    assert_eq!(ask(&large).status(), 202, "W004-2: prompts are long");
    proxy.until(|_| folder.files().len() == 1);
}

#[test]
fn nobody_else_sees_a_job() {
    // S004-02, S004-11
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::json("{}"));
    let key = |name: &str| ClientKey::plain(name, KeyText::Plain(Secret::new(format!("key-{name}"))));
    let only_x = ClientKey { models: vec!["x".into()], ..key("c") };
    let proxy = start(&folder, &upstream, |config| config.keys = vec![key("a"), key("b"), only_x]);
    let with = |name: &str| format!("X-API-Key: key-{name}\r\n");
    let get = |path: &str, name: &str| proxy.ask(format!("GET {path} HTTP/1.1\r\nHost: h\r\n{}\r\n", with(name)));
    let answer = proxy.ask(post_with(CHAT, &(with("a") + LATER), chat("m")));
    let path = answer.field("location").expect("a place").to_owned();
    assert_eq!(["a", "b"].map(|name| get(&path, name).status()), [200, 404]);
    let missing = get(&path, "b").json();
    assert_eq!(missing["error"]["type"], "request_not_found");
    assert_eq!(missing["error"]["message"], "Request not found");
    let listed = |name: &str| get("/v1/jobs", name).json()["data"].as_array().expect("a list").len();
    assert_eq!([listed("a"), listed("b")], [1, 0]);
    let delete = format!("DELETE {path} HTTP/1.1\r\nHost: h\r\n{}\r\n", with("b"));
    assert_eq!(proxy.ask(delete).status(), 404);
    assert_eq!(proxy.get(&path).status(), 401);
    assert_eq!(proxy.ask(post_with(CHAT, &(with("c") + LATER), chat("m"))).code(), "model_not_found");
    proxy.until(|_| get(&path, "a").json()["status"] == "completed");
    assert_eq!(upstream.take(CHAT).field("x-api-key"), None);
}

#[test]
fn a_stream_is_collected_into_one_answer() {
    // S004-19, W004-5
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.on(CHAT, Script::raw(include_bytes!("../data/chat_stream_usage.raw")));
    upstream.always(CHAT, Script::sse().chunk(event("one")).end());
    let proxy = start(&folder, &upstream, |config| config.jobs.attempts = 1);
    let body = chat("m").replace("\"messages\"", "\"stream\":true,\"messages\"");
    let job = until(&proxy, &submit(&proxy, &body), ended);
    assert_eq!(job["response"]["object"], "chat.completion", "{job}");
    assert!(job["response"]["choices"][0]["message"]["content"].as_str().is_some_and(|text| !text.is_empty()), "{job}");
    assert!(job["response"]["usage"]["prompt_tokens"].is_u64(), "{job}");
    let job = until(&proxy, &submit(&proxy, &body), ended);
    assert_eq!(
        (&job["status"], &job["error"]["type"]),
        (&json!("error"), &json!("upstream_error")),
        "a cut stream is no answer"
    );
}

#[test]
fn a_failed_try_is_repeated_only_where_that_can_help() {
    // S004-15, W004-4
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.on(CHAT, Script::error(500, "once"));
    upstream.on(CHAT, Script::json("{\"ok\":1}"));
    let proxy = start(&folder, &upstream, |config| config.jobs.max_concurrent = 1);
    let job = until(&proxy, &submit(&proxy, chat("m")), ended);
    assert_eq!((&job["status"], &job["response"]), (&json!("completed"), &json!({"ok": 1})));
    assert_eq!(upstream.count(CHAT), 2);
    upstream.on(CHAT, Script::answer(401, &[], r#"{"error":{"message":"bad key","type":"invalid_api_key"}}"#));
    let id = submit(&proxy, chat("m"));
    let job = until(&proxy, &id, ended);
    assert_eq!(job["error"], json!({"message": "bad key", "type": "invalid_api_key", "attempts": 1}));
    assert_eq!((upstream.count(CHAT), look(&proxy, &id).status()), (3, 200), "S004-10");
}

#[test]
fn a_cancelled_job_ends_its_upstream_and_is_told_so() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.on(CHAT, Script::sse().chunk(event("one")).stall());
    let proxy = start(&folder, &upstream, |config| config.jobs.max_concurrent = 1);
    let (running, waiting) = (submit(&proxy, chat("m")), submit(&proxy, chat("m")));
    until(&proxy, &running, |job| job["status"] == "processing");
    upstream.take(CHAT);
    for id in [&waiting, &running] {
        assert_eq!(cancel(&proxy, id).json()["status"], "cancelled");
        let job = until(&proxy, id, ended);
        assert_eq!((&job["status"], &job["error"]["type"]), (&json!("error"), &json!("cancelled")));
    }
    proxy.idle();
    assert_eq!(upstream.count(CHAT), 1, "the one that waited was never sent");
    // A finished one is dropped.
    assert_eq!((cancel(&proxy, &running).status(), look(&proxy, &running).status()), (200, 404));
    assert_eq!([cancel(&proxy, &running).status(), cancel(&proxy, "made-up").status()], [404, 404]);
    assert_eq!(folder.files().len(), 1);
}

#[test]
fn all_requests_are_jobs_where_that_is_wanted_and_a_client_can_still_wait() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::json("{\"now\":1}"));
    upstream.always("/v1/rerank", Script::json("{}"));
    let proxy = start(&folder, &upstream, |config| config.jobs.always = true);
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.field("preference-applied")), (202, None));
    let now = proxy.ask(post_with(CHAT, "Prefer: wait=60\r\n", chat("m")));
    assert_eq!((now.status(), now.json()), (200, json!({"now": 1})));
    assert_eq!(proxy.post("/v1/rerank", r#"{"model":"m"}"#).status(), 200);
}

#[test]
fn no_more_wait_than_may_and_one_that_takes_too_long_ends() {
    // S004-14
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::new().stall());
    let proxy = start(&folder, &upstream, |config| {
        (config.jobs.max_concurrent, config.jobs.max_queued) = (1, 2);
        config.jobs.timeout = Duration::from_millis(1500);
    });
    let first = submit(&proxy, chat("m"));
    until(&proxy, &first, |job| job["status"] == "processing");
    let waiting = [submit(&proxy, chat("m")), submit(&proxy, chat("m"))];
    let refused = proxy.ask(post_with(CHAT, LATER, chat("m")));
    assert_eq!((refused.status(), refused.field("retry-after").is_some()), (503, true));
    let job = until(&proxy, &first, ended);
    assert_eq!((&job["status"], &job["error"]["type"]), (&json!("error"), &json!("timeout")));
    waiting.iter().for_each(|id| drop(cancel(&proxy, id)));
}

#[test]
fn finished_jobs_are_forgotten_after_their_time() {
    // S004-13
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::json("{}"));
    let proxy = start(&folder, &upstream, |config| config.jobs.retention = Duration::from_secs(1));
    let id = submit(&proxy, chat("m"));
    until(&proxy, &id, ended);
    until(&proxy, &id, |job| job["error"]["type"] == "request_not_found");
    proxy.until(|_| folder.files().is_empty());
}

#[test]
fn an_endpoints_error_text_which_may_quote_the_prompt_is_not_logged() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::error(500, "cannot parse: canary-prompt"));
    let jobs = format!("jobs: {{enabled: true, dir: {:?}}}\n", folder.0.display().to_string());
    let program = Program::start(&(yaml(&[&upstream], "") + &jobs));
    let mut client = program.client();
    client.send(post_with(CHAT, LATER, chat("m")));
    assert_eq!(client.answer().status(), 202);
    let line = program.logged(&["try 1 of"]);
    assert!(line.contains("failed") && !program.log().iter().any(|line| line.contains("canary")), "{line}");
}

#[test]
fn a_killed_proxy_loses_no_job() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.on(CHAT, Script::new().stall());
    let jobs = format!("jobs: {{enabled: true, maxConcurrent: 1, dir: {:?}}}\n", folder.0.display().to_string());
    let config = yaml(&[&upstream], "") + &jobs;
    let ask = |program: &Program, request: &[u8]| {
        let mut client = program.client();
        client.send(request);
        client.answer()
    };
    let submit = |program: &Program| {
        ask(program, &post_with(CHAT, LATER, chat("m"))).json()["request_id"].as_str().expect("an id").to_owned()
    };
    let first = Program::start(&config);
    let ids = [(); 3].map(|()| submit(&first));
    upstream.take(CHAT);
    // kill -9
    drop(first);
    std::fs::write(folder.0.join("tmp-left"), "half a job").expect("the folder is there");
    assert_eq!(folder.files().len(), 4);
    upstream.always(CHAT, Script::json("{\"late\":1}"));
    let second = Program::start(&config);
    for id in &ids {
        let path = get(&format!("{CHAT}/{id}"));
        let mut job = ask(&second, path.as_bytes()).json();
        while job["status"] != "completed" {
            assert!(job["status"] == "pending" || job["status"] == "processing", "{job}");
            job = ask(&second, path.as_bytes()).json();
        }
        assert_eq!(job["response"], json!({"late": 1}));
    }
    assert_eq!(upstream.count(CHAT), 4, "the one that ran ran again once");
    // The last job is completed a moment before the file of its running is removed.
    let (mut files, end) = (folder.files(), time::now() + DEADLINE);
    while files.len() > 3 && time::now() < end {
        ask(&second, get("/health").as_bytes());
        files = folder.files();
    }
    assert!(files.len() == 3 && files.iter().all(|name| name.contains(".completed.")), "{files:?}");
    // A second process keeps its hands off.
    let file = folder.0.join("c.yml");
    std::fs::write(&file, &config).expect("the folder is there");
    let other =
        std::process::Command::new(env!("CARGO_BIN_EXE_llmproxy")).arg("-c").arg(&file).output().expect("it runs");
    assert!(!other.status.success() && String::from_utf8_lossy(&other.stderr).contains("another llmproxy"));
    drop(second);
    let third = Program::start(&config);
    assert_eq!(ask(&third, get(&format!("{CHAT}/{}", ids[0])).as_bytes()).json()["status"], "completed");
}

#[test]
fn a_stop_puts_a_running_job_back_into_the_line() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.on(CHAT, Script::new().stall());
    let proxy = start(&folder, &upstream, |config| config.server.drain_timeout = Duration::from_millis(50));
    let id = submit(&proxy, chat("m"));
    upstream.take(CHAT);
    proxy.stop();
    let [file] = &folder.files()[..] else { panic!("one") };
    assert!(file.ends_with(&format!("{id}.00000000.pending.0")), "the try does not count: {file}");
    upstream.on(CHAT, Script::json("{}"));
    let proxy = start(&folder, &upstream, |_| ());
    assert_eq!(until(&proxy, &id, ended)["status"], "completed");
}

#[test]
fn a_job_waits_for_an_endpoint_that_is_away() {
    let (folder, mut upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::json("{}"));
    let proxy = start(&folder, &upstream, |config| config.health_check.failure_threshold = 1);
    upstream.kill();
    proxy.force_check();
    let id = submit(&proxy, chat("m"));
    until(&proxy, &id, |job| job["status"] == "processing");
    upstream.revive();
    proxy.force_check();
    assert_eq!(until(&proxy, &id, ended)["status"], "completed");
}

#[test]
fn without_jobs_nothing_of_this_is_there() {
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    assert_eq!(proxy.ask(post_with(CHAT, LATER, chat("m"))).status(), 200);
    assert_eq!([proxy.get("/v1/jobs").status(), proxy.get(&format!("{CHAT}/x")).status()], [404, 404]);
    let body = r#"{"model":"m","webhookUrl":"http://h"}"#;
    assert_eq!(proxy.post(CHAT, body).status(), 200);
    upstream.take(CHAT);
    assert_eq!(upstream.take(CHAT).text(), body);
}

#[test]
fn a_file_that_makes_no_sense_is_an_error_and_stops_nobody() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::json("{}"));
    std::fs::create_dir_all(&folder.0).expect("our own folder");
    let broken = folder.0.join("00000193000000aa.broken.00000000.pending.0");
    std::fs::write(&broken, "{ half").expect("our own folder");
    std::fs::write(folder.0.join("notes.txt"), "mine").expect("our own folder");
    let proxy = start(&folder, &upstream, |config| config.jobs.max_concurrent = 1);
    assert_eq!(until(&proxy, &submit(&proxy, chat("m")), ended)["status"], "completed");
    let counts = proxy.get("/v1/jobs").json()["counts"].clone();
    assert_eq!(counts, json!({"pending": 0, "processing": 0, "completed": 1, "error": 1}));
    assert!(folder.files().contains(&"notes.txt".to_owned()), "what is not ours is left alone");
}
