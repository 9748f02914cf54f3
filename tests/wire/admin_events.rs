//! SPEC 10, the page's events: all at first, then what is new, a few KB a second.

use crate::admin::start;
use crate::jobs::Folder;
use crate::support::fact::Latch;
use crate::support::proxy::CHAT;
use crate::support::proxy::get;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use serde_json::{Value, json};

#[test]
fn events_tell_all_at_first_and_then_what_is_new() {
    let (folder, upstream) = (Folder::new(), Upstream::serving(&["m"]));
    upstream.always(CHAT, Script::json("{}"));
    let proxy = start(&folder, &[&upstream], |_| ());
    proxy.chat("m");
    proxy.until(|_| proxy.get("/admin/status").json()["recent"].as_array().map(Vec::len) == Some(1));
    let mut page = proxy.sent(get("/admin/events"));
    assert_eq!(page.head().field("content-type"), Some("text/event-stream"));
    let mut next = || -> Value {
        let event = page.event().expect("an event");
        serde_json::from_str(event.trim_start_matches("data: ").trim()).expect("JSON")
    };
    let first = next();
    assert_eq!((first["recent"].as_array().map(Vec::len), first["models"].is_array()), (Some(1), true));
    let second = next();
    assert_eq!((second["recent"].as_array().map(Vec::len), second.get("models")), (Some(0), None));
    proxy.chat("m");
    assert!((0..3).any(|_| next()["recent"].as_array().map(Vec::len) == Some(1)));
    // A few may watch, and none of them holds a worker of the control pool.
    let pages: Vec<_> = (0..7).map(|_| proxy.sent(get("/admin/events"))).collect();
    let mut pages: Vec<_> = pages.into_iter().map(|mut page| (page.head().status, page)).collect();
    assert!(pages.iter().all(|(status, _)| *status == 200));
    assert_eq!(proxy.get("/admin/events").status(), 503);
    proxy.still_serves();
    pages.pop();
    proxy.until(|_| proxy.sent(get("/admin/events")).head().status == 200);
}

#[test]
fn an_event_says_of_a_request_that_is_known_only_what_is_new() {
    let (folder, upstream, latch) = (Folder::new(), Upstream::serving(&["m"]), Latch::new());
    upstream.on(CHAT, Script::sse().chunk(event("one")).latch(&latch).chunk(event("two")).end());
    let proxy = start(&folder, &[&upstream], |_| ());
    let mut client = proxy.sent(post(CHAT, stream("m")));
    client.head();
    assert_eq!(client.event(), Some(event("one")));
    let mut page = proxy.sent(get("/admin/events"));
    page.head();
    let mut next = || -> Value {
        let event = page.event().expect("an event");
        let mut all: Value = serde_json::from_str(event.trim_start_matches("data: ").trim()).expect("JSON");
        all["running"].take()
    };
    let first = next();
    let id = &first[0]["id"];
    assert_eq!(
        (&first[0]["model"], &first[0]["endpoint"], first[0]["age_ms"].is_u64()),
        (&json!("m"), &json!("a"), true)
    );
    // It may have been told of before its first token.
    assert!((0..3).any(|_| next() == json!([{"id": id}])), "nothing has changed");
    latch.open();
    assert!((0..3).any(|_| next() == json!([])));
}
