//! Issue 14, section 3: a chat wakes the machine of an endpoint, and is held until it answers.

use crate::support::client::{Client, Ended};
use crate::support::fact::{DEADLINE, ms};
use crate::support::packets::{MAC, Packets};
use crate::support::proxy::{CHAT, Proxy, Setup, chat, get, post, stream};
use crate::support::script::{Script, event};
use crate::support::upstream::{Mood, Upstream};
use crossbeam_channel::after;
use llmproxy::config::{Endpoint, Mac, Prefer, SsePing, Wake};
use llmproxy::util::time;
use std::thread;
use std::time::Duration;

pub fn wake(packets: &Packets) -> Wake {
    Wake { mac: Mac(MAC), via: packets.addr(), ..Wake::default() }
}

/// A machine that answers chats with what is in its name.
pub fn machine(models: &[&str]) -> Upstream {
    let upstream = Upstream::serving(models);
    upstream.always(CHAT, Script::sse().chunk(event("one")).chunk("data: [DONE]\n\n").end());
    upstream
}

/// A proxy in front of these, the first of which can be woken; it was awake once, and sleeps now.
pub fn asleep(upstreams: &mut [&mut Upstream], packets: &Packets, edit: impl FnOnce(&mut Endpoint)) -> Setup {
    let setup = Setup::over(&upstreams.iter().map(|one| &**one).collect::<Vec<_>>());
    setup.with(|config| {
        config.server.sse_ping = Some(SsePing { after: ms(100), every: ms(200) });
        config.endpoints[0].wake = Some(wake(packets));
        edit(&mut config.endpoints[0]);
    })
}

/// Puts the first endpoint to sleep, and waits until that is known.
pub fn sleeps(proxy: &Proxy, upstream: &mut Upstream) {
    upstream.kill();
    assert_eq!(state(&proxy.force_check()), "asleep");
}

pub fn state(health: &serde_json::Value) -> &str {
    health["endpoints"]["a"]["state"].as_str().expect("a state")
}

/// The events of a stream without its pings, once it is over.
pub fn events(client: &mut Client) -> Vec<String> {
    std::iter::from_fn(|| client.event()).filter(|event| !event.starts_with(": ")).collect()
}

#[test]
fn twenty_held_streams_of_a_machine_that_boots_for_8_s_complete_with_two_packets() {
    // Shows 3
    let (packets, mut upstream) = (Packets::new(), machine(&["m"]));
    let proxy = asleep(&mut [&mut upstream], &packets, |_| {}).start();
    sleeps(&proxy, &mut upstream);
    let began = time::now();
    let mut clients: Vec<Client> = (0..20).map(|_| proxy.sent(post(CHAT, stream("m")))).collect();
    packets.wait(1);
    proxy.until(|health| state(health) == "waking" && health["status"] == "healthy");
    let booting = thread::spawn(move || {
        let _ = after(Duration::from_secs(8)).recv();
        upstream.revive();
        upstream
    });
    for client in &mut clients {
        let head = client.head();
        assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")), "a ping sent it");
        assert_eq!(client.event().expect("a ping").trim_end(), ": ping");
        assert_eq!(events(client), [event("one"), "data: [DONE]\n\n".into()]);
        assert_eq!(client.ended(), Ended::Complete);
    }
    assert_eq!(packets.within(Duration::from_secs(8)), 2);
    assert!(time::now() - began < Duration::from_secs(8) + DEADLINE);
    let upstream = booting.join().expect("it boots");
    assert_eq!(upstream.count(CHAT), 20);
    let sent = packets.count();
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.field("x-llmproxy-reason")), (200, Some("model")), "awake as ever");
    assert_eq!((packets.count(), state(&proxy.health())), (sent, "healthy"));
}

#[test]
fn nothing_but_a_chat_sends_a_packet() {
    // Shows 3: what polls once a second for ten minutes.
    let (packets, mut upstream) = (Packets::new(), machine(&["m"]));
    let proxy = asleep(&mut [&mut upstream], &packets, |_| {}).with(|config| {
        config.health_check.interval = ms(100);
        config.admin.enabled = cfg!(feature = "admin");
        config.admin.open = true;
        config.admin.routes_file = std::path::PathBuf::new();
    });
    let proxy = proxy.start();
    sleeps(&proxy, &mut upstream);
    let mut client = proxy.client();
    for n in 0..600 {
        for target in ["/v1/models", "/v1/models/m", "/health", "/metrics", "/admin/status", "/props", "/slots?model=m"]
        {
            client.send(get(target));
            let answer = client.answer();
            assert!(n > 0 || [200, 404, 503].contains(&answer.status()), "{target}: {}", answer.status());
        }
        client.send(post("/tokenize", r#"{"model":"m","content":"x"}"#));
        let refused = client.answer();
        assert_eq!((refused.status(), refused.code().as_str()), (503, "no_endpoint_available"));
        assert!(refused.field("retry-after").is_some() && refused.text().contains("asleep"), "{}", refused.text());
    }
    proxy.force_check();
    assert_eq!((packets.count(), state(&proxy.health())), (0, "asleep"));
    let held = proxy.sent(post(CHAT, chat("m")));
    packets.wait(1);
    drop(held);
}

#[test]
fn a_sleeping_machine_is_listed_and_marked_and_leaves_the_proxy_healthy() {
    let (packets, mut upstream) = (Packets::new(), machine(&["m", "n"]));
    upstream.always("/v1/models", Script::json(r#"{"data":[{"id":"m","status":{"value":"loaded"}},{"id":"n"}]}"#));
    let other = machine(&["n"]);
    let proxy = asleep(&mut [&mut upstream], &packets, |_| {}).with(|config| {
        let mut second = crate::support::proxy::endpoint("b", other.addr());
        second.weight = 1;
        config.endpoints.push(second);
    });
    let proxy = proxy.start();
    let list = |proxy: &Proxy| proxy.get("/v1/models").json()["data"].clone();
    assert_eq!(list(&proxy)[0]["status"]["value"], "loaded");
    sleeps(&proxy, &mut upstream);
    let sleeping = list(&proxy);
    assert_eq!(proxy.models(), ["m", "n"]);
    assert_eq!((&sleeping[0]["id"], &sleeping[0]["status"]["value"]), (&"m".into(), &"sleeping".into()));
    let text = proxy.get("/v1/models/m").text().to_owned();
    assert_eq!(text.matches("\"status\"").count(), 1, "{text}");
    assert_eq!((&sleeping[1]["provider"], sleeping[1].get("status")), (&"b".into(), None), "another serves it");
    let health = proxy.get("/health?strict=1");
    assert_eq!(health.status(), 200);
    let one = &health.json()["endpoints"]["a"];
    assert_eq!((one["healthy"].as_bool(), one["state"].as_str()), (Some(false), Some("asleep")));
    assert!(proxy.get("/metrics").text().contains("llmproxy_endpoint_up{endpoint=\"a\"} 0"));
    drop((proxy, other));
}

#[test]
fn only_a_sleeping_machine_is_health_enough_as_long_as_it_can_be_woken() {
    let (packets, mut upstream) = (Packets::new(), machine(&["m"]));
    let proxy = asleep(&mut [&mut upstream], &packets, |_| {}).start();
    sleeps(&proxy, &mut upstream);
    let health = proxy.get("/health?strict=1");
    assert_eq!((health.status(), health.json()["status"].as_str()), (200, Some("healthy")));
    assert_eq!(health.json()["healthy_endpoints"], 0);
    proxy.reload(|config| config.endpoints[0].wake = None);
    proxy.force_check();
    assert_eq!(proxy.get("/health?strict=1").status(), 503);
    assert_eq!((proxy.chat("m").status(), packets.count()), (503, 0));
}

#[test]
fn a_client_that_leaves_ends_its_wait() {
    let (packets, mut upstream) = (Packets::new(), machine(&["m"]));
    let proxy = asleep(&mut [&mut upstream], &packets, |_| {}).start();
    sleeps(&proxy, &mut upstream);
    let client = proxy.sent(post(CHAT, chat("m")));
    packets.wait(1);
    proxy.until(|health| state(health) == "waking");
    drop(client);
    proxy.until(|health| state(health) == "asleep");
    assert_eq!(upstream.count(CHAT), 0);
}

#[test]
fn a_machine_that_does_not_wake_in_time_is_504_and_an_error_event_after_a_ping() {
    let (packets, mut upstream) = (Packets::new(), machine(&["m"]));
    let edit = |endpoint: &mut Endpoint| endpoint.wake = Some(Wake { timeout: ms(600), ..wake(&packets) });
    let proxy = asleep(&mut [&mut upstream], &packets, edit).start();
    sleeps(&proxy, &mut upstream);
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.code().as_str()), (504, "upstream_timeout"));
    assert!(answer.text().contains("`a` (wake.timeout: 600ms)"), "{}", answer.text());
    let mut client = proxy.sent(post(CHAT, stream("m")));
    assert_eq!(client.head().status, 200);
    let events = events(&mut client);
    assert!(events.len() == 1 && events[0].contains("upstream_timeout"), "{events:?}");
    assert_eq!(client.ended(), Ended::Cut);
    assert_eq!((packets.count(), state(&proxy.health())), (1, "asleep"));
}

#[test]
fn a_machine_that_fell_asleep_since_the_last_probe_is_woken_and_the_attempt_counts() {
    let (packets, mut upstream) = (Packets::new(), machine(&["m"]));
    let proxy = asleep(&mut [&mut upstream], &packets, |_| {});
    // No further round is tried before it is woken.
    let proxy = proxy.with(|config| config.retry.attempts = Some(5)).start();
    assert_eq!(state(&proxy.health()), "healthy");
    upstream.kill();
    let mut client = proxy.sent(post(CHAT, chat("m")));
    packets.wait(1);
    upstream.revive();
    let answer = client.answer();
    let field = |name: &str| answer.field(name).map(str::to_owned);
    assert_eq!((answer.status(), field("x-llmproxy-attempts")), (200, Some("2".into())));
    assert_eq!(field("x-llmproxy-reason"), Some("woken".into()));
    assert_eq!((upstream.count(CHAT), packets.count()), (1, 1));
}

#[test]
fn an_attempt_before_a_wake_that_fails_is_told() {
    let (packets, mut upstream) = (Packets::new(), machine(&["m"]));
    let edit = |endpoint: &mut Endpoint| endpoint.wake = Some(Wake { timeout: ms(600), ..wake(&packets) });
    let proxy = asleep(&mut [&mut upstream], &packets, edit).start();
    upstream.kill();
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.field("x-llmproxy-attempts")), (504, Some("1")));
    assert_eq!(answer.field("x-llmproxy-endpoint"), Some("a"));
}

#[test]
fn a_machine_that_gives_no_sign_of_itself_is_asleep_at_once() {
    let (packets, mut upstream) = (Packets::new(), machine(&["m"]));
    let setup = asleep(&mut [&mut upstream], &packets, |_| {}).timeouts(|timeouts| timeouts.connect = Some(ms(300)));
    let proxy = setup.start();
    let dark = upstream.go_dark();
    let mut held = proxy.sent(post(CHAT, chat("m")));
    packets.wait(1);
    drop(dark);
    upstream.revive();
    let answer = held.answer();
    assert_eq!((answer.status(), answer.field("x-llmproxy-attempts")), (200, Some("2")));
    let dark = upstream.go_dark();
    assert_eq!(state(&proxy.force_check()), "asleep", "by the first probe");
    drop(dark);
}

#[test]
fn a_server_that_loads_its_model_on_the_way_up_is_waited_for() {
    let (packets, mut upstream) = (Packets::new(), machine(&["m"]));
    let proxy = asleep(&mut [&mut upstream], &packets, |_| {}).start();
    sleeps(&proxy, &mut upstream);
    let mut client = proxy.sent(post(CHAT, chat("m")));
    packets.wait(1);
    upstream.set_mood(Mood::Loading);
    upstream.revive();
    proxy.until(|health| health["endpoints"]["a"]["lastError"] == "the model is being loaded");
    assert_eq!(state(&proxy.health()), "waking");
    // What stands before it answers something else than that first.
    upstream.set_mood(Mood::Well);
    upstream.on("/v1/models", Script::error(502, "not yet"));
    assert_eq!(client.answer().status(), 200);
}

#[test]
fn packets_go_to_broadcast_addresses_too() {
    let (packets, mut upstream) = (Packets::new(), machine(&["m"]));
    let edit = |endpoint: &mut Endpoint| {
        endpoint.wake = Some(Wake { via: packets.at([127, 255, 255, 255]), prefer: Prefer::Wake, ..wake(&packets) });
    };
    let proxy = asleep(&mut [&mut upstream], &packets, edit).start();
    sleeps(&proxy, &mut upstream);
    let mut client = proxy.sent(post(CHAT, chat("m")));
    packets.wait(1);
    upstream.revive();
    assert_eq!(client.answer().status(), 200);
}

#[test]
fn a_reload_while_requests_are_held_is_seen_by_them() {
    let (packets, wrong, mut upstream) = (Packets::new(), Packets::new(), machine(&["m"]));
    let proxy = asleep(&mut [&mut upstream], &packets, |_| {}).start();
    sleeps(&proxy, &mut upstream);
    let mut held = proxy.sent(post(CHAT, chat("m")));
    packets.wait(1);
    proxy.reload(|config| config.endpoints[0].wake = Some(wake(&wrong)));
    wrong.wait(1);
    upstream.revive();
    assert_eq!(held.answer().status(), 200);
    sleeps(&proxy, &mut upstream);
    let mut held = proxy.sent(post(CHAT, chat("m")));
    proxy.until(|health| state(health) == "waking");
    proxy.reload(|config| config.endpoints[0].wake = None);
    let refused = held.answer();
    assert_eq!((refused.status(), refused.code().as_str()), (503, "no_endpoint_available"), "nothing wakes it now");
    assert_eq!(packets.count(), 1);
}

#[test]
fn a_drain_ends_the_wait() {
    let (packets, mut upstream) = (Packets::new(), machine(&["m"]));
    let proxy = asleep(&mut [&mut upstream], &packets, |_| {}).start();
    sleeps(&proxy, &mut upstream);
    let mut held = proxy.sent(post(CHAT, chat("m")));
    packets.wait(1);
    let stopping = thread::spawn(|| proxy.stop());
    let refused = held.answer();
    assert_eq!((refused.status(), refused.code().as_str()), (503, "draining"));
    stopping.join().expect("it stops");
}
