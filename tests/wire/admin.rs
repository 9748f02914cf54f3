//! SPEC 10: the page's API. What the page itself does with it is tried in a browser (scripts/e2e).

use crate::gateway::ports;
use crate::jobs::{Folder, ended, submit, until};
use crate::support::client::{Answer, Client, Ended};
use crate::support::program::Program;
use crate::support::proxy::CHAT;
use crate::support::proxy::Proxy;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::get;
use crate::support::proxy::post;
use crate::support::proxy::post_with;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use llmproxy::config::{Config, OnClientGone};
use llmproxy::util::secret::Secret;
use serde_json::{Value, json};
use std::path::PathBuf;

pub fn file(folder: &Folder) -> PathBuf {
    folder.0.join("dynamic_routing.json")
}

pub fn start(folder: &Folder, upstreams: &[&Upstream], edit: impl FnOnce(&mut Config)) -> Proxy {
    let setup = Setup::over(upstreams).with(|config| {
        config.admin.enabled = true;
        config.admin.open = true;
        config.admin.routes_file = file(folder);
    });
    setup.with(edit).start()
}

pub fn ask(proxy: &Proxy, method: &str, path: &str, fields: &str, body: &str) -> Answer {
    proxy.ask(format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

pub const JSON: &str = "Content-Type: application/json\r\n";

pub fn put(proxy: &Proxy, model: &str, body: &Value) -> Answer {
    ask(proxy, "POST", &format!("/admin/config/{model}"), JSON, &body.to_string())
}

fn backend(upstream: &Upstream, keys: &[&str], name: Option<&str>) -> Value {
    json!({"Name": "n", "BaseUrl": format!("http://{}/v1", upstream.addr()), "ApiKeys": keys, "BackendModelName": name})
}

pub fn on_disk(folder: &Folder) -> Value {
    serde_json::from_slice(&std::fs::read(file(folder)).expect("the file is there")).expect("JSON")
}

#[test]
fn a_model_is_added_edited_and_deleted_at_once_and_survives_a_restart() {
    // S003-04, S003-27..29
    let (folder, upstream, other) = (Folder::new(), Upstream::serving(&["m"]), Upstream::start());
    other.always(CHAT, Script::json("{\"from\":\"page\"}"));
    let proxy = start(&folder, &[&upstream], |_| ());
    assert_eq!(proxy.chat("new").status(), 404);
    let answer = put(
        &proxy,
        "new",
        &json!({"strategy": "failover", "backends": [backend(&other, &["canary-1"], Some("theirs"))]}),
    );
    assert_eq!((answer.status(), answer.json()), (200, json!({"message": "Configuration for model 'new' updated."})));
    assert_eq!(proxy.chat("new").json(), json!({"from": "page"}));
    let received = other.take(CHAT);
    assert_eq!((received.text(), received.field("authorization")), (&*chat("theirs"), Some("Bearer canary-1")));
    assert!(proxy.models().contains(&"new".to_owned()));
    // Written as documented, whatever the case it came in.
    let written = &on_disk(&folder)["Models"]["new"];
    assert_eq!(
        (&written["Strategy"], &written["Backends"][0]["ApiKeys"], &written["Backends"][0]["Enabled"]),
        (&json!("Failover"), &json!(["canary-1"]), &json!(true))
    );
    drop(proxy);
    let proxy = start(&folder, &[&upstream], |_| ());
    assert_eq!(proxy.chat("new").json(), json!({"from": "page"}));
    // A route to an endpoint of the configuration, by its name; a name with a slash, decoded once.
    let body = json!({"Strategy": 1, "Backends": [{"Endpoint": "a", "BackendModelName": "m"}]});
    upstream.always(CHAT, Script::json("{\"from\":\"a\"}"));
    assert_eq!(put(&proxy, "org%2Fname%252b", &body).status(), 200);
    assert_eq!(proxy.chat("org/name%2b").json(), json!({"from": "a"}), "W003-9");
    let delete = |model: &str| ask(&proxy, "DELETE", &format!("/admin/config/{model}"), "", "");
    let cancel = delete("new");
    assert_eq!((cancel.status(), cancel.json()), (200, json!({"message": "Configuration for model 'new' deleted."})));
    assert_eq!((delete("new").status(), proxy.chat("new").status()), (404, 404), "S003-28");
    // W003-7: deleting the last ones brings nothing back.
    for model in on_disk(&folder)["Models"].as_object().expect("models").keys() {
        assert_eq!(delete(&model.replace('%', "%25").replace('/', "%2F")).status(), 200);
    }
    drop(proxy);
    let proxy = start(&folder, &[&upstream], |_| ());
    assert_eq!(proxy.get("/admin/config").json(), json!({"Models": {}}));
}

#[test]
fn a_missing_or_empty_file_is_made_without_any_route() {
    // L9, S003-26
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let proxy = start(&folder, &[&upstream], |_| ());
    assert_eq!(proxy.get("/admin/config").json(), json!({"Models": {}}));
    assert_eq!(on_disk(&folder), json!({"Models": {}}));
    assert_eq!(put(&proxy, "one", &json!({"Backends": [{"Endpoint": "a"}]})).status(), 200);
    assert_eq!(on_disk(&folder), proxy.get("/admin/config").json());
    drop(proxy);
    std::fs::write(file(&folder), " \n").expect("our own file");
    let proxy = start(&folder, &[&upstream], |_| ());
    assert_eq!(proxy.get("/admin/config").json(), json!({"Models": {}}));
}

#[test]
fn what_was_written_by_hand_stays_beside_the_file_with_its_comments() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let by_hand = "// mine\n{\"Models\": {}} // all\n";
    std::fs::create_dir(&folder.0).and_then(|()| std::fs::write(file(&folder), by_hand)).expect("our own folder");
    let proxy = start(&folder, &[&upstream], |_| ());
    for model in ["one", "two"] {
        assert_eq!(put(&proxy, model, &json!({"Backends": [{"Endpoint": "a"}]})).status(), 200);
    }
    let beside = std::fs::read_to_string(folder.0.join("dynamic_routing.json.bak"));
    assert_eq!(beside.expect("the text by hand"), by_hand);
    assert_eq!(on_disk(&folder)["Models"].as_object().map(|models| models.len()), Some(2));
}

#[test]
fn what_cannot_be_used_is_told_field_by_field_and_nothing_changes() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let proxy = start(&folder, &[&upstream], |_| ());
    let before = std::fs::read(file(&folder)).expect("the file is there");
    let wrong = json!({"Strategy": "Fastest", "Backends": [{"BaseUrl": "nonsense"}, {"Endpoint": "aa"}, {"Name": "x"}, {"BaseUrl": "http://h:1", "ApiKeys": ["***00000000"]}]});
    let answer = put(
        &proxy,
        "m.x",
        &json!({"Strategy": "Fastest", "Backends": wrong["Backends"].as_array().expect("a list")[..3]}),
    );
    let details = answer.json()["error"]["details"].clone();
    let paths: Vec<_> =
        details.as_array().expect("a list").iter().map(|one| one["path"].as_str().expect("text").to_owned()).collect();
    assert_eq!(answer.status(), 400);
    assert_eq!(paths, ["strategy", "backends[0].baseUrl", "backends[1].endpoint", "backends[2]"], "{details}");
    assert_eq!(put(&proxy, "m", &wrong).status(), 400, "the mask of no key");
    for body in ["", "{", "null", "[]", "3"] {
        assert_eq!(ask(&proxy, "POST", "/admin/config/m", JSON, body).status(), 400, "{body}");
    }
    assert_eq!(std::fs::read(file(&folder)).expect("the file is there"), before);
}

#[test]
fn keys_are_masked_and_a_mask_that_comes_back_keeps_the_key() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let proxy = start(&folder, &[&upstream], |config| config.admin.token = Some(Secret::new("canary-token")));
    let token = "Authorization: Bearer canary-token\r\n";
    let with = |method: &str, path: &str, body: &str| ask(&proxy, method, path, &format!("{token}{JSON}"), body);
    let model = json!({"Backends": [backend(&upstream, &["canary-1", "canary-2"], None)]}).to_string();
    assert_eq!(with("POST", "/admin/config/x", &model).status(), 200);
    let shown = with("GET", "/admin/config", "");
    assert!(!shown.text().contains("canary"), "{}", shown.text());
    let mut model = shown.json()["Models"]["x"].clone();
    model["Backends"][0]["ApiKeys"].as_array_mut().expect("a list").swap(0, 1);
    assert_eq!(with("POST", "/admin/config/x", &model.to_string()).status(), 200);
    assert_eq!(on_disk(&folder)["Models"]["x"]["Backends"][0]["ApiKeys"], json!(["canary-2", "canary-1"]));
    let revealed = with("GET", "/admin/config?reveal=1", "").json();
    assert_eq!(revealed["Models"]["x"]["Backends"][0]["ApiKeys"], json!(["canary-2", "canary-1"]));
    for path in ["/admin/status", "/admin/config"] {
        assert!(!with("GET", path, "").text().contains("canary"), "{path}");
    }
    drop(proxy);
    let proxy = start(&folder, &[&upstream], |_| ());
    assert_eq!(proxy.get("/admin/config?reveal=1").status(), 403, "in clear only with the token");
}

#[test]
fn a_file_that_was_edited_or_broken_by_hand_is_not_overwritten() {
    // D9
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let proxy = start(&folder, &[&upstream], |_| ());
    let tag = proxy.get("/admin/config").field("etag").expect("a tag").to_owned();
    let body = json!({"Backends": [{"Endpoint": "a"}]});
    let by_hand = json!({"Models": {"hand": {"Strategy": "Failover", "Backends": []}}});
    std::fs::write(file(&folder), by_hand.to_string()).expect("our own file");
    let matching =
        |tag: &str| ask(&proxy, "POST", "/admin/config/x", &format!("{JSON}If-Match: {tag}\r\n"), &body.to_string());
    assert_eq!((matching(&tag).status(), on_disk(&folder)), (412, by_hand));
    // Without a condition, what was written by hand is kept beside it.
    assert_eq!(put(&proxy, "x", &body).status(), 200);
    let names: Vec<_> = on_disk(&folder)["Models"].as_object().expect("models").keys().cloned().collect();
    assert_eq!(names, ["hand", "x"]);
    let tag = proxy.get("/admin/config").field("etag").expect("a tag").to_owned();
    assert_eq!(matching(&tag).status(), 200);
    std::fs::write(file(&folder), "{ half").expect("our own file");
    assert_eq!(put(&proxy, "x", &body).status(), 500);
    assert_eq!(std::fs::read(file(&folder)).expect("the file is there"), b"{ half");
    assert_eq!(proxy.chat("zz").status(), 404, "it serves on");
    drop(proxy);
    // It does not start over a file that it cannot read, and leaves it as it is.
    let setup = Setup::over(&[&upstream]).with(|config| {
        config.admin.enabled = true;
        config.admin.routes_file = file(&folder);
    });
    assert!(llmproxy::app::start(setup.config).is_err());
    assert_eq!(std::fs::read(file(&folder)).expect("the file is there"), b"{ half");
}

#[test]
fn the_documented_file_is_served_and_edited_in_its_place() {
    // S003-01..04, W003-1
    let (folder, upstream) = (Folder::new(), Upstream::start());
    upstream.always(CHAT, Script::json("{}"));
    let text = include_str!("../../config/old/003-dynamic_routing.json");
    let text = text.replace("https://api.provider1.com/v1", &format!("http://{}/v1", upstream.addr()));
    let program = Program::start_with(&text, &[("PORT", "0")]);
    let ask = |request: String| {
        let mut client = Client::connect(program.addr);
        client.send(request);
        client.answer()
    };
    let name = "general-model-name-for-client";
    let config = ask(get("/admin/config")).json();
    assert_eq!(config["Models"][name]["Strategy"], "Failover");
    assert_eq!(ask(String::from_utf8(post(CHAT, chat(name))).expect("text")).status(), 200);
    let body = json!({"Strategy": "RoundRobin", "Backends": [{"Name": "x", "BaseUrl": format!("http://{}/v1", upstream.addr())}]}).to_string();
    let put = format!(
        "POST /admin/config/more HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(ask(put).status(), 200);
    assert_eq!(ask(String::from_utf8(post(CHAT, chat("more"))).expect("text")).status(), 200);
    program.signal("HUP");
    program.logged(&["reloaded"]);
    assert_eq!(ask(get("/v1/models/more")).status(), 200);
    assert_eq!(upstream.count("/v1/models"), 0, "nobody probes");
    drop(folder);
}

#[test]
fn the_page_shows_what_is_going_on_and_stops_it() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.on(CHAT, Script::sse().chunk(event("one")).chunk(event("two")).stall());
    let proxy = start(&folder, &[&upstream], |_| ());
    let mut client = proxy.sent(post(CHAT, stream("m")));
    client.head();
    assert_eq!((client.event(), client.event()), (Some(event("one")), Some(event("two"))));
    let status = || proxy.get("/admin/status").json();
    proxy.until(|_| status()["running"][0]["tokens"] == 2);
    let running = status()["running"][0].clone();
    assert_eq!((&running["model"], &running["endpoint"], &running["tokens"]), (&json!("m"), &json!("a"), &json!(2)));
    assert!(running["first_byte_ms"].is_u64() && running["age_ms"].is_u64());
    let id = running["id"].as_str().expect("an id");
    let stop = |id: &str| ask(&proxy, "POST", &format!("/admin/requests/{id}/cancel"), JSON, "{}");
    assert_eq!(stop("made-up").status(), 404);
    assert_eq!(stop(id).status(), 200);
    // Who waits is told, in a way that no client tries again.
    let (rest, ended) = client.body();
    assert!(String::from_utf8_lossy(&rest).contains("request_stopped") && ended == Ended::Cut);
    proxy.idle();
    proxy.until(|_| status()["running"] == json!([]));
    let now = status();
    let last = now["recent"].as_array().expect("a list").last().cloned().expect("one");
    assert_eq!((&last["id"], &last["end"], &last["status"]), (&json!(id), &json!("stopped"), &json!(200)));
    assert!(!proxy.get("/metrics").text().contains("llmproxy_client_gone_total{"), "its client was there");
    let endpoint = &now["endpoints"][0];
    assert_eq!(
        (&endpoint["name"], &endpoint["state"], &endpoint["generated"]),
        (&json!("a"), &json!("healthy"), &json!(2))
    );
    let model = now["models"].as_array().expect("a list").iter().find(|model| model["id"] == "m").cloned();
    assert_eq!(model, Some(json!({"id": "m", "source": "endpoints", "strategy": "failover", "endpoints": ["a"]})));
}

#[test]
fn a_stop_ends_what_would_be_finished_without_its_client() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.on(CHAT, Script::sse().chunk(event("one")).stall());
    let proxy = start(&folder, &[&upstream], |config| config.endpoints[0].on_client_gone = OnClientGone::Finish);
    let mut client = proxy.sent(post(CHAT, stream("m")));
    client.head();
    assert_eq!(client.event(), Some(event("one")));
    let received = upstream.take(CHAT);
    let id = proxy.get("/admin/status").json()["running"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(ask(&proxy, "POST", &format!("/admin/requests/{id}/cancel"), JSON, "{}").status(), 200);
    received.closed.wait("the upstream's cancel");
    let (rest, ended) = client.body();
    assert!(String::from_utf8_lossy(&rest).contains("request_stopped") && ended == Ended::Cut);
}

#[test]
fn a_stop_ends_the_conversation_at_the_endpoint_too() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.on(CHAT, Script::sse().chunk(event("one")).stall());
    upstream.always("/v1/stream", Script::json("{}"));
    let proxy = start(&folder, &[&upstream], |config| config.endpoints[0].on_client_gone = OnClientGone::Finish);
    let mut client = proxy.sent(post_with(CHAT, "X-Conversation-Id: talk-1\r\n", stream("m")));
    client.head();
    assert_eq!(client.event(), Some(event("one")));
    let id = proxy.get("/admin/status").json()["running"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(ask(&proxy, "POST", &format!("/admin/requests/{id}/cancel"), JSON, "{}").status(), 200);
    assert_eq!(upstream.take("/v1/stream").target(), "/v1/stream?conv_id=talk-1");
}

#[test]
fn what_has_no_answer_yet_is_stopped_with_one() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::new().stall());
    let proxy = start(&folder, &[&upstream], |config| {
        config.jobs.enabled = true;
        config.jobs.dir = folder.0.join("jobs");
    });
    let stop = || {
        let running = proxy.get("/admin/status").json()["running"].clone();
        let id = running[0]["id"].as_str().expect("one in progress").to_owned();
        assert_eq!(ask(&proxy, "POST", &format!("/admin/requests/{id}/cancel"), JSON, "{}").status(), 200);
    };
    let mut client = proxy.sent(post(CHAT, chat("m")));
    let received = upstream.take(CHAT);
    stop();
    let answer = client.answer();
    assert_eq!((answer.status(), answer.code().as_str()), (403, "request_stopped"));
    received.closed.wait("the upstream's cancel");
    // A job that is stopped does not begin anew.
    let id = submit(&proxy, chat("m"));
    upstream.take(CHAT);
    stop();
    let job = until(&proxy, &id, ended);
    assert_eq!((&job["status"], &job["error"]["type"]), (&json!("error"), &json!("permission_error")));
    assert_eq!(upstream.count(CHAT), 2);
}

#[test]
fn an_endpoint_is_switched_off_and_on() {
    let (folder, first, second) = (Folder::new(), Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    [&first, &second].iter().for_each(|one| one.always(CHAT, Script::json("{}")));
    let proxy = start(&folder, &[&first, &second], |_| ());
    let switch =
        |name: &str, how: &str| ask(&proxy, "POST", &format!("/admin/endpoints/{name}/{how}"), JSON, "{}").status();
    let by = || proxy.chat("m").field("x-llmproxy-endpoint").map(str::to_owned);
    assert_eq!(by().as_deref(), Some("a"));
    assert_eq!((switch("a", "disable"), by().as_deref()), (200, Some("b")));
    // It stays so over a change of routes.
    assert_eq!(put(&proxy, "x", &json!({"Backends": [{"Endpoint": "a"}]})).status(), 200);
    assert_eq!(by().as_deref(), Some("b"));
    assert_eq!((switch("a", "enable"), switch("zz", "disable")), (200, 404));
    proxy.until(|_| by().as_deref() == Some("a"));
}

#[test]
fn the_page_has_an_address_of_its_own_where_that_is_wanted() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let yaml = format!(
        "server: {{port: 0}}\nendpoints: [{{name: a, address: 127.0.0.1, port: {}}}]\nadmin: {{enabled: true, open: true, port: 0, routesFile: {:?}}}\n",
        upstream.addr().port(),
        file(&folder).display().to_string()
    );
    let program = Program::start(&yaml);
    let status = |path: &str| {
        let mut client = program.client();
        client.send(get(path));
        client.answer().status()
    };
    assert_eq!(
        [status("/admin/"), status("/admin/status"), status("/metrics"), status("/health")],
        [404, 404, 404, 200]
    );
    drop(program);
    let port = ports(1)[0];
    let program = Program::start(&yaml.replace("port: 0, routes", &format!("port: {port}, routes")));
    let status = |path: &str| {
        let mut client = Client::connect(([127, 0, 0, 1], port).into());
        client.send(get(path));
        client.answer().status()
    };
    assert_eq!([status("/admin/"), status("/admin/status"), status("/metrics"), status("/v1/models")], [200; 4]);
    drop(program);
}

#[test]
fn the_page_reads_the_configuration_again() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::json("{}"));
    let yaml = |more: &str| {
        format!(
            "server: {{port: 0}}\nendpoints: [{{name: a, address: 127.0.0.1, port: {}}}]\nadmin: {{enabled: true, open: true, routesFile: {:?}}}\n{more}",
            upstream.addr().port(),
            file(&folder).display().to_string()
        )
    };
    let program = Program::start(&yaml(""));
    let reload = || {
        let mut client = program.client();
        client.send(format!("POST /admin/reload HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: 2\r\n\r\n{{}}"));
        client.answer()
    };
    program.rewrite(&yaml("models: {fast: {backends: [{endpoint: a, model: m}]}}\n"));
    assert_eq!(reload().status(), 200);
    let mut client = program.client();
    client.send(post(CHAT, chat("fast")));
    assert_eq!(client.answer().status(), 200);
    program.rewrite(&yaml("models: {fast: {backends: [{endpoint: b}]}}\n"));
    let refused = reload();
    assert_eq!(
        (refused.status(), refused.text().contains("no endpoint of this file")),
        (400, true),
        "{}",
        refused.text()
    );
    client.send(get("/metrics"));
    assert!(client.answer().text().contains("llmproxy_reload_success 0"));
    client.send(post(CHAT, chat("fast")));
    assert_eq!(client.answer().status(), 200);
}

#[test]
fn the_page_and_the_file_change_it_at_once_and_nothing_is_lost_or_stuck() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    let proxy = start(&folder, &[&upstream], |_| ());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..40 {
                assert_eq!(put(&proxy, &format!("page-{n}"), &json!({"Backends": [{"Endpoint": "a"}]})).status(), 200);
            }
        });
        scope.spawn(|| {
            for n in 0..40 {
                proxy.reload(|config| config.queue.length = n);
            }
        });
    });
    let models = proxy.models();
    assert_eq!(models.iter().filter(|name| name.starts_with("page-")).count(), 40, "{models:?}");
    assert_eq!(proxy.reload(|_| ()), Vec::<&str>::new());
}
