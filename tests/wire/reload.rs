//! SPEC 11: another configuration while requests go on.

use crate::support::fact::Latch;
use crate::support::program::{Program, yaml};
use crate::support::proxy::CHAT;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::endpoint;
use crate::support::proxy::get;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use llmproxy::config::{Backend, Route, Strategy};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const DONE: &str = "the configuration was reloaded";
const REFUSED: &str = "the old one stays in force";

#[test]
fn new_requests_see_the_new_configuration_and_running_ones_keep_the_old() {
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["n"]));
    let latch = Latch::new();
    first.on(CHAT, Script::sse().chunk(event("one")).latch(&latch).chunk(event("two")).end());
    second.always(CHAT, Script::json("{}"));
    let program = Program::start(&yaml(&[&first], ""));
    let mut client = program.client();
    client.send(post(CHAT, stream("m")));
    client.head();
    assert_eq!(client.event(), Some(event("one")));

    let only_second = yaml(&[&second], "").replace("name: a", "name: b");
    program.rewrite(&only_second);
    program.signal("HUP");
    program.logged(&[DONE]);
    let mut other = program.client();
    let served = loop {
        other.send(post(CHAT, chat("n")));
        let answer = other.answer();
        // The first probe of the new endpoint may not be through yet.
        if answer.status() == 200 {
            break answer;
        }
    };
    assert_eq!(served.field("x-llmproxy-endpoint"), Some("b"));
    latch.open();
    assert_eq!(client.event(), Some(event("two")), "a running request is not touched");
    assert_eq!(client.event(), None);
    other.send(post(CHAT, chat("m")));
    assert_eq!(other.answer().status(), 404, "the old endpoint is gone");
}

#[test]
fn a_broken_file_changes_nothing_and_is_told_once() {
    // D7
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let program = Program::start(&yaml(&[&upstream], ""));
    program.rewrite("endpoints: [{name: a, addres: h, port: 1}]");
    program.signal("HUP");
    let line = program.logged(&[REFUSED]);
    assert!(line.contains("did you mean `address`"), "{line}");
    let mut client = program.client();
    client.send(post(CHAT, chat("m")));
    assert_eq!(client.answer().status(), 200);
    assert!(!program.log().iter().any(|line| line.contains(DONE)));
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_applied() {
    // D8
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    let later = proxy.reload(|config| {
        config.server.port = 1;
        config.server.workers = 3;
        config.server.cors = vec![];
        config.server.max_body = 1024;
    });
    assert_eq!(later, ["server.port", "server.workers"]);
    proxy.until(|_| proxy.post(CHAT, "x".repeat(2000)).status() == 413);
    assert_eq!(
        proxy.ask("OPTIONS /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n\r\n").status(),
        403
    );
}

#[test]
fn turns_and_places_survive_a_reload_by_name() {
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    let latch = Latch::new();
    first.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    first.always(CHAT, Script::json("{}"));
    second.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&first, &second]).with(|c| c.routing.strategy = Strategy::RoundRobin).start();
    let waiting = proxy.sent(post(CHAT, chat("m")));
    first.wait_count(CHAT, 1);
    assert_eq!(proxy.reload(|config| config.retry.attempts = Some(1)), Vec::<&str>::new());
    assert_eq!(proxy.chat("m").field("x-llmproxy-endpoint"), Some("b"), "the rotation goes on");
    assert_eq!(proxy.health()["endpoints"]["a"]["inFlight"], 1, "the running request is still counted");
    latch.open();
    drop(waiting);
    proxy.idle();
    assert_eq!(proxy.chat("m").field("x-llmproxy-endpoint"), Some("a"));
}

#[test]
fn an_endpoint_that_moved_is_asked_anew() {
    let (old, new) = (Upstream::serving(&["m"]), Upstream::serving(&["n"]));
    new.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&old]).start();
    assert_eq!(proxy.models(), ["m"]);
    proxy.reload(|config| config.endpoints[0] = endpoint("a", new.addr()));
    proxy.until(|health| health["endpoints"]["a"]["models"] == serde_json::json!(["n"]));
    assert_eq!(proxy.chat("n").status(), 200);
}

#[test]
fn two_hundred_reloads_with_broken_files_between_lose_no_request() {
    // E6
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    first.always(CHAT, Script::json("{}"));
    second.always(CHAT, Script::json("{}"));
    let good = [yaml(&[&first, &second], ""), yaml(&[&first], "")];
    let last = good[0].clone() + "models: {last: {backends: [{endpoint: b, model: m}]}}\n";
    let program = Program::start(&good[0]);
    let over = AtomicBool::new(false);
    let served = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (mut client, mut served) = (program.client(), 0);
                    while !over.load(Ordering::SeqCst) {
                        client.send(post(CHAT, chat("m")));
                        assert_eq!(client.answer().status(), 200);
                        client.send(get("/health"));
                        assert_eq!(client.answer().status(), 200);
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        for n in 0..200 {
            program.rewrite(if n % 3 == 2 { "endpoints: [" } else { &good[n % 2] });
            program.signal("HUP");
        }
        program.rewrite(&last);
        program.signal("HUP");
        let mut client = program.client();
        loop {
            client.send(post(CHAT, chat("last")));
            if client.answer().status() == 200 {
                break;
            }
        }
        over.store(true, Ordering::SeqCst);
        clients.into_iter().map(|client| client.join().expect("no request was lost")).sum::<u32>()
    });
    assert!(served > 100, "{served}");
    program.logged(&[REFUSED]);
}

#[test]
fn a_route_can_be_added_while_it_runs() {
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    assert_eq!(proxy.chat("fast").status(), 404);
    let backend = Backend { endpoint: "a".into(), model: Some("m".into()), ..Backend::default() };
    proxy.reload(|config| {
        config.models = vec![Route { name: "fast".into(), backends: vec![backend], ..Route::default() }];
    });
    assert_eq!(proxy.chat("fast").field("x-llmproxy-model"), Some("m"));
}
