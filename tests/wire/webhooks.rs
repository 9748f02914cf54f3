//! SPEC 7, webhooks: who asked for it is told, signed, again if need be, and never inside of this house unless allowed.

use crate::jobs::{Folder, LATER, ended, look, start, until};
use crate::support::program::{Program, yaml};
use crate::support::proxy::{CHAT, Proxy, chat, get, post_with};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::Config;
use llmproxy::util::secret::Secret;
use serde_json::{Value, json};

const HOOK: &str = "/done";

fn with_hook(url: &str) -> String {
    chat("m").replacen('{', &format!("{{\"webhookUrl\":{},", json!(url)), 1)
}

fn url(receiver: &Upstream) -> String {
    format!("http://{}{HOOK}?a=1", receiver.addr())
}

fn allowed(config: &mut Config) {
    config.jobs.webhooks.allow = vec!["127.0.0.1".into()];
}

fn submit(proxy: &Proxy, url: &str) -> String {
    // A webhook alone makes it a job.
    let answer = proxy.post(CHAT, with_hook(url));
    assert_eq!(answer.status(), 202, "{}", answer.text());
    answer.json()["request_id"].as_str().expect("an id").to_owned()
}

fn told(job: &Value) -> bool {
    ended(job) && job["webhook"]["status"] != "pending"
}

#[test]
fn who_asked_is_told_once_after_two_refusals_and_the_delivery_is_signed() {
    // S004-16, W004-6
    let (folder, upstream, receiver) = (Folder::new(), Upstream::serving(&["m"]), Upstream::start());
    upstream.on(CHAT, Script::json("{\"b\": 1.0, \"a\":12345678901234567890}"));
    receiver.on(HOOK, Script::error(500, "not yet"));
    receiver.on(HOOK, Script::new().cut());
    receiver.on(HOOK, Script::json("{}"));
    let proxy = start(&folder, &upstream, |config| {
        allowed(config);
        config.jobs.webhooks.secret = Some(Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
    });
    let id = submit(&proxy, &url(&receiver));
    let job = until(&proxy, &id, told);
    assert_eq!((&job["webhook"]["status"], &job["webhook"]["attempts"]), (&json!("delivered"), &json!(3)));
    assert_eq!(job["request"].get("webhookUrl"), None, "S004-06: it is not forwarded");
    assert!(!upstream.take(CHAT).text().contains("webhookUrl"));
    let deliveries = [(); 3].map(|()| receiver.take(HOOK));
    let [first, _, last] = &deliveries;
    assert_eq!(last.target(), "/done?a=1");
    let body = format!(
        "{{\"request_id\":\"{id}\",\"status\":\"completed\",\"response\":{{\"b\": 1.0, \"a\":12345678901234567890}}}}"
    );
    assert_eq!((last.text(), last.field("content-type")), (body.as_str(), Some("application/json")));
    let message = format!("msg_{id}");
    assert!(
        deliveries.iter().all(|delivery| delivery.field("webhook-id") == Some(&message)),
        "the receiver can tell a repetition"
    );
    assert!(last.field("webhook-timestamp").is_some_and(|time| time.parse::<u64>().is_ok()));
    assert!(first.field("webhook-signature").is_some_and(|text| text.starts_with("v1,") && text.len() == 47));
    assert_eq!((receiver.count(HOOK), first.field("authorization")), (3, None));
}

#[test]
fn an_error_is_told_too_and_a_receiver_that_never_answers_well_is_given_up() {
    let (folder, upstream, receiver) = (Folder::new(), Upstream::serving(&["m"]), Upstream::start());
    upstream.on(CHAT, Script::error(400, "too warm"));
    upstream.always(CHAT, Script::json("{}"));
    receiver.on(HOOK, Script::json("{}"));
    let proxy = start(&folder, &upstream, |config| {
        allowed(config);
        config.jobs.webhooks.attempts = 1;
    });
    let job = until(&proxy, &submit(&proxy, &url(&receiver)), told);
    assert_eq!(job["webhook"]["status"], "delivered");
    let delivery: Value = serde_json::from_str(receiver.take(HOOK).text()).expect("JSON");
    assert_eq!(
        (&delivery["status"], &delivery["error"]["message"], &delivery["error"]["attempts"]),
        (&json!("error"), &json!("too warm"), &json!(1))
    );
    // C15: a redirect is an answer like any other, and leads nowhere.
    let elsewhere = Upstream::start();
    receiver.on(HOOK, Script::answer(302, &[("Location", &format!("http://{}/", elsewhere.addr()))], ""));
    let job = until(&proxy, &submit(&proxy, &url(&receiver)), told);
    assert_eq!((&job["webhook"]["status"], &job["webhook"]["error"]), (&json!("failed"), &json!("it answered 302")));
    assert_eq!(job["status"], "completed");
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn no_webhook_goes_inside_unless_it_is_allowed() {
    // F10
    let (folder, upstream, receiver) = (Folder::new(), Upstream::serving(&["m"]), Upstream::start());
    upstream.always(CHAT, Script::json("{}"));
    let port = receiver.addr().port();
    let proxy = start(&folder, &upstream, |_| ());
    for host in
        ["127.0.0.1", "127.1", "0x7f.1", "2130706433", "localhost", "[::ffff:127.0.0.1]", "169.254.169.254", "[::1]"]
    {
        let answer = proxy.post(CHAT, with_hook(&format!("http://{host}:{port}{HOOK}")));
        assert_eq!(answer.status(), 400, "{host}");
        assert_eq!(answer.json()["error"]["details"][0]["path"], json!(["webhookUrl"]));
    }
    assert_eq!((receiver.connections(), folder.files().len()), (0, 0));
}

#[test]
fn what_is_owed_at_a_stop_is_told_after_the_next_start() {
    let (folder, upstream, receiver) = (Folder::new(), Upstream::serving(&["m"]), Upstream::start());
    upstream.always(CHAT, Script::json("{}"));
    receiver.on(HOOK, Script::new().stall());
    let jobs = format!(
        "jobs: {{enabled: true, dir: {:?}, webhooks: {{allow: [127.0.0.1]}}}}\n",
        folder.0.display().to_string()
    );
    let config = yaml(&[&upstream], "") + &jobs;
    let first = Program::start(&config);
    let mut client = first.client();
    client.send(post_with(CHAT, LATER, with_hook(&url(&receiver))));
    let id = client.answer().json()["request_id"].as_str().expect("an id").to_owned();
    receiver.take(HOOK);
    drop(first);
    assert!(folder.files()[0].ends_with(".owed"), "{:?}", folder.files());
    receiver.on(HOOK, Script::json("{}"));
    let second = Program::start(&config);
    receiver.take(HOOK);
    let mut client = second.client();
    loop {
        client.send(get(&format!("{CHAT}/{id}")));
        let job = client.answer().json();
        if job["webhook"]["status"] == "delivered" {
            break;
        }
        assert_eq!(job["webhook"]["status"], "pending");
    }
    assert!(!folder.files()[0].ends_with(".owed"));
}

#[test]
fn a_slow_receiver_holds_no_slot() {
    // S004-16: the original's slot was held until the receiver answered.
    let (folder, upstream, receiver) = (Folder::new(), Upstream::serving(&["m"]), Upstream::start());
    upstream.always(CHAT, Script::json("{}"));
    receiver.on(HOOK, Script::new().stall());
    let proxy = start(&folder, &upstream, |config| {
        allowed(config);
        config.jobs.max_concurrent = 1;
    });
    let first = submit(&proxy, &url(&receiver));
    receiver.take(HOOK);
    let answer = proxy.ask(post_with(CHAT, LATER, chat("m")));
    let second = answer.json()["request_id"].as_str().expect("an id").to_owned();
    assert_eq!(until(&proxy, &second, ended)["status"], "completed");
    assert_eq!(look(&proxy, &first).json()["webhook"]["status"], "pending");
}
