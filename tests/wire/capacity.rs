//! SPEC 5, capacity: never more in flight than an endpoint may have, the rest in a bounded line, in order.

use crate::support::client::Client;
use crate::support::fact::{Latch, ms};
use crate::support::program::{Program, yaml};
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
use llmproxy::config::{Config, MaxConcurrent, SsePing};
use llmproxy::util::time;
use std::time::Duration;

/// An upstream whose every chat waits for a latch of its own, in order of arrival.
fn gated(n: usize) -> (Upstream, Vec<Latch>) {
    let upstream = Upstream::serving(&["m"]);
    let latches: Vec<Latch> = (0..n).map(|_| Latch::new()).collect();
    for latch in &latches {
        upstream.on(CHAT, Script::new().latch(latch).then(Script::json("{}")));
    }
    (upstream, latches)
}

fn one_each(config: &mut Config) {
    config.endpoints.iter_mut().for_each(|endpoint| endpoint.max_concurrent = MaxConcurrent::Most(1));
}

fn waiting(proxy: &Proxy, n: usize) {
    proxy.until(|health| health["queue"]["waiting"] == n);
}

/// Clients that ask one after another, each in the line before the next comes. They are told apart by `user`.
fn line(proxy: &Proxy, inside: usize, n: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in 0..n {
        clients.push(proxy.sent(post(CHAT, format!(r#"{{"model":"m","user":"{number}"}}"#))));
        if number >= inside {
            waiting(proxy, number + 1 - inside);
        } else {
            proxy.until(|health| {
                let all = health["endpoints"].as_object().expect("endpoints");
                all.values().map(|one| one["inFlight"].as_u64().expect("a number")).sum::<u64>() == number as u64 + 1
            });
        }
    }
    clients
}

#[test]
fn twenty_clients_at_two_endpoints_of_one_slot_are_served_in_order() {
    let ((first, latches), (second, others)) = (gated(10), gated(10));
    let proxy = Setup::over(&[&first, &second]).with(one_each).start();
    let mut clients = line(&proxy, 2, 20);
    [&first, &second].iter().for_each(|one| one.wait_count(CHAT, 1));
    let mut seen = vec![];
    for n in 0..10 {
        for (upstream, latch) in [(&first, &latches[n]), (&second, &others[n])] {
            let text = upstream.take(CHAT).text().to_owned();
            seen.push(text[text.rfind(':').expect("a member") + 2..text.len() - 2].parse::<usize>().expect("a number"));
            let health = proxy.health();
            assert!(
                ["a", "b"].iter().all(|name| health["endpoints"][name]["inFlight"].as_u64() <= Some(1)),
                "{health}"
            );
            latch.open();
            // The place is taken again before the other one becomes free, so that the order is plain to see.
            upstream.wait_count(CHAT, (n + 2).min(10));
        }
    }
    let statuses: Vec<u16> = clients.iter_mut().map(|client| client.answer().status()).collect();
    assert_eq!(statuses, [200; 20]);
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
    proxy.idle();
}

#[test]
fn one_more_than_the_line_is_long_is_refused_at_once() {
    let (upstream, latches) = gated(1);
    upstream.always(CHAT, Script::json("{}"));
    let long = |config: &mut Config| {
        one_each(config);
        (config.server.workers, config.server.per_client) = (80, 200);
    };
    let proxy = Setup::over(&[&upstream]).with(long).start();
    let mut clients = line(&proxy, 1, 65);
    let began = time::now();
    let refused = proxy.chat("m");
    let took = time::now() - began;
    assert_eq!((refused.status(), refused.code().as_str()), (503, "overloaded"));
    assert!(refused.field("retry-after").is_some());
    assert!(took < ms(50), "{took:?}");
    latches[0].open();
    assert!(clients.iter_mut().all(|client| client.answer().status() == 200), "those in the line are not touched");
}

#[test]
fn waiting_has_an_end() {
    let (upstream, latches) = gated(1);
    let impatient = |config: &mut Config| {
        one_each(config);
        config.queue.timeout = ms(100);
    };
    let proxy = Setup::over(&[&upstream]).with(impatient).start();
    let mut first = proxy.sent(post(CHAT, chat("m")));
    upstream.wait_count(CHAT, 1);
    let late = proxy.chat("m");
    assert_eq!((late.status(), late.code().as_str(), late.field("retry-after")), (503, "queue_timeout", Some("5")));
    latches[0].open();
    assert_eq!(first.answer().status(), 200);
}

#[test]
fn who_leaves_the_line_makes_room_in_it() {
    let (upstream, latches) = gated(2);
    let proxy = Setup::over(&[&upstream]).with(one_each).start();
    let mut clients = line(&proxy, 1, 3);
    drop(clients.remove(1));
    waiting(&proxy, 1);
    latches.iter().for_each(Latch::open);
    assert!(clients.iter_mut().all(|client| client.answer().status() == 200));
    assert_eq!(upstream.count(CHAT), 2, "who left was never sent on");
    proxy.idle();
}

#[test]
fn a_stream_is_kept_alive_in_the_line_and_told_there_when_it_was_in_vain() {
    let (upstream, latches) = gated(1);
    let soon = |config: &mut Config| {
        one_each(config);
        config.queue.timeout = ms(400);
        config.server.sse_ping = Some(SsePing { after: ms(100), every: ms(100) });
    };
    let proxy = Setup::over(&[&upstream]).with(soon).start();
    let mut first = proxy.sent(post(CHAT, chat("m")));
    upstream.wait_count(CHAT, 1);
    let mut client = proxy.sent(post(CHAT, stream("m")));
    assert_eq!(client.head().status, 200);
    assert_eq!(client.read_some().ok().as_deref(), Some(&b": ping\n\n"[..]));
    let (rest, _) = client.body();
    let rest = String::from_utf8_lossy(&rest).into_owned();
    assert!(rest.contains("queue_timeout") && !rest.contains("[DONE]"), "{rest}");
    latches[0].open();
    first.answer();
}

#[test]
fn capacity_is_learnt_from_llama_servers_slots_unless_it_is_said() {
    let props = || Script::json(r#"{"total_slots":3}"#);
    for (said, expected) in [
        (MaxConcurrent::Auto, serde_json::json!(3)),
        (MaxConcurrent::Most(5), serde_json::json!(5)),
        (MaxConcurrent::Unlimited, serde_json::Value::Null),
    ] {
        let upstream = Upstream::serving(&["m"]);
        upstream.always("/props", props());
        let proxy = Setup::over(&[&upstream]).with(|config| config.endpoints[0].max_concurrent = said).start();
        proxy.until(|health| health["endpoints"]["a"]["slots"] == expected);
    }
    let silent = Upstream::serving(&["m"]);
    assert_eq!(Setup::over(&[&silent]).start().health()["endpoints"]["a"]["slots"], serde_json::Value::Null);
}

#[test]
fn what_computes_nothing_takes_no_place() {
    let (upstream, latches) = gated(1);
    for path in ["/props", "/slots", "/tokenize", "/v1/messages/count_tokens"] {
        upstream.always(path, Script::json("{}"));
    }
    let proxy = Setup::over(&[&upstream]).with(one_each).start();
    let mut busy = proxy.sent(post(CHAT, chat("m")));
    upstream.wait_count(CHAT, 1);
    assert_eq!([proxy.get("/props").status(), proxy.get("/slots").status()], [200, 200]);
    assert_eq!(
        [proxy.post("/tokenize", chat("m")).status(), proxy.post("/v1/messages/count_tokens", chat("m")).status()],
        [200, 200]
    );
    latches[0].open();
    assert_eq!(busy.answer().status(), 200);
}

#[test]
fn a_full_endpoint_is_passed_over_and_the_word_says_so() {
    let ((first, latches), second) = (gated(1), Upstream::serving(&["m"]));
    second.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&first, &second]).with(one_each).start();
    let mut busy = proxy.sent(post(CHAT, chat("m")));
    first.wait_count(CHAT, 1);
    let answer = proxy.chat("m");
    assert_eq!((answer.field("x-llmproxy-endpoint"), answer.field("x-llmproxy-reason")), (Some("b"), Some("full")));
    latches[0].open();
    busy.answer();
}

#[test]
fn an_endpoint_that_comes_back_is_used_by_those_who_wait_for_another() {
    let ((first, latches), mut second) = (gated(1), Upstream::serving(&["m"]));
    second.always(CHAT, Script::json("{}"));
    second.kill();
    let proxy = Setup::over(&[&first, &second]).with(one_each).start();
    proxy.force_check();
    proxy.force_check();
    proxy.until(|health| health["endpoints"]["b"]["state"] == "unhealthy");
    let mut clients = line(&proxy, 1, 2);
    second.revive();
    proxy.force_check();
    let answer = clients[1].answer();
    assert_eq!((answer.field("x-llmproxy-endpoint"), answer.field("x-llmproxy-reason")), (Some("b"), Some("queued")));
    assert!(answer.field("x-llmproxy-queue-ms").is_some());
    latches[0].open();
    assert_eq!(clients[0].answer().status(), 200);
}

#[test]
fn the_background_goes_after_the_others() {
    let (upstream, latches) = gated(4);
    let proxy = Setup::over(&[&upstream]).with(one_each).start();
    let background = "x-llmproxy-priority: background\r\n";
    let mut clients = vec![proxy.sent(post(CHAT, chat("m")))];
    upstream.wait_count(CHAT, 1);
    for (n, (fields, user)) in [(background, "last"), ("", "second"), ("", "third")].into_iter().enumerate() {
        clients.push(proxy.sent(post_with(CHAT, fields, format!(r#"{{"model":"m","user":"{user}"}}"#))));
        waiting(&proxy, n + 1);
    }
    latches.iter().for_each(Latch::open);
    assert!(clients.iter_mut().all(|client| client.answer().status() == 200));
    let order: Vec<_> = (0..4).map(|_| upstream.take(CHAT)).collect();
    for (received, user) in order[1..].iter().zip(["second", "third", "last"]) {
        assert!(received.text().contains(user), "{}", received.text());
        assert_eq!(received.field("x-llmproxy-priority"), None, "it is never sent on");
    }
}

#[test]
fn a_stop_sends_away_who_waits_and_lets_the_others_finish() {
    // E5
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::sse().chunk(event("one")).latch(&latch).chunk(event("two")).end());
    let text = yaml(&[&upstream], "").replace("port: ", "maxConcurrent: 1, port: ").replacen(
        "  maxConcurrent: 1, port",
        "  port",
        1,
    );
    let program = Program::start(&text);
    let mut first = program.client();
    first.send(post(CHAT, stream("m")));
    first.head();
    assert_eq!(first.event(), Some(event("one")));
    let mut second = program.client();
    second.send(post(CHAT, chat("m")));
    let mut health = program.client();
    loop {
        health.send(get("/health"));
        if health.answer().json()["queue"]["waiting"] == 1 {
            break;
        }
    }
    program.signal("TERM");
    let refused = second.answer();
    assert_eq!((refused.status(), refused.code().as_str()), (503, "draining"));
    latch.open();
    assert_eq!(first.event(), Some(event("two")));
    assert_eq!(first.event(), None);
    assert_eq!(program.exit_code(), Some(0));
}

#[test]
fn places_come_back_after_every_kind_of_end() {
    let upstream = Upstream::serving(&["m"]);
    // A kept connection that breaks off at once is replaced by a fresh one.
    upstream.always(CHAT, Script::json("{}"));
    let proxy =
        Setup::over(&[&upstream]).with(one_each).timeouts(|t| t.first_byte = Some(Duration::from_millis(100))).start();
    for script in [
        Script::json("{}"),
        Script::error(500, "x"),
        Script::error(400, "x"),
        Script::new().cut(),
        Script::new().reset(),
        Script::new().stall(),
        Script::new().bytes("garbage\r\n\r\n").cut(),
        Script::sse().chunk(event("one")).cut(),
        Script::sse().chunk(event("one")).reset(),
    ] {
        upstream.on(CHAT, script);
        proxy.sent(post(CHAT, stream("m"))).answer();
        proxy.idle();
    }
    upstream.on(CHAT, Script::sse().chunk(event("one")).stall());
    let mut leaver = proxy.sent(post(CHAT, stream("m")));
    leaver.head();
    drop(leaver);
    proxy.idle();
}
