//! Issue 14, section 3: who wakes a machine, and when another endpoint answers instead.

use crate::support::fact::ms;
use crate::support::packets::{MAC, Packets};
use crate::support::proxy::{CHAT, Proxy, Setup, chat, endpoint, post, post_with};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use crate::wake::{sleeps, state, wake};
use llmproxy::config::{
    Backend, Config, Group, Listener, Mac, Member, Mode, Prefer, Route, Strategy, UnknownModel, Wake,
};

fn machine(models: &[&str]) -> Upstream {
    let upstream = Upstream::serving(models);
    for path in [CHAT, "/v1/responses", "/any"] {
        upstream.always(path, Script::json(r#"{"id":"resp_1","choices":[]}"#));
    }
    upstream
}

fn endpoint_of(answer: &crate::support::client::Answer) -> (u16, Option<&str>, Option<&str>) {
    (answer.status(), answer.field("x-llmproxy-endpoint"), answer.field("x-llmproxy-reason"))
}

/// A sleeping machine `a` and one that is awake.
fn two(packets: &Packets, prefer: Prefer, edit: impl FnOnce(&mut Config)) -> (Upstream, Upstream, Proxy) {
    let (mut first, second) = (machine(&["m"]), machine(&["m"]));
    let proxy = Setup::over(&[&first, &second]).with(|config| {
        config.endpoints[0].wake = Some(Wake { prefer, ..wake(packets) });
        edit(config);
    });
    let proxy = proxy.start();
    sleeps(&proxy, &mut first);
    (first, second, proxy)
}

#[test]
fn another_endpoint_that_is_awake_answers() {
    let packets = Packets::new();
    let (_first, mut second, proxy) = two(&packets, Prefer::Awake, |_| {});
    for _ in 0..5 {
        assert_eq!(endpoint_of(&proxy.chat("m")), (200, Some("b"), Some("failover")));
    }
    assert_eq!((packets.count(), state(&proxy.health())), (0, "asleep"));
    // Until that one cannot be connected to either.
    second.kill();
    let mut held = proxy.sent(post(CHAT, chat("m")));
    packets.wait(1);
    second.revive();
    assert_eq!(endpoint_of(&held.answer()), (200, Some("b"), Some("failover")), "whichever is awake first");
}

#[test]
fn a_prompt_that_is_too_long_for_what_is_awake_wakes_a_machine_with_a_larger_context() {
    let packets = Packets::new();
    let (mut large, small) = (machine(&["m"]), machine(&["m"]));
    for (upstream, size) in [(&large, 65_536), (&small, 4096)] {
        let props = format!(r#"{{"total_slots":1,"default_generation_settings":{{"n_ctx":{size}}}}}"#);
        upstream.always("/props", Script::json(&props));
    }
    let too_long = r#"{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_prompt_tokens":5000,"n_ctx":4096}}"#;
    small.always(CHAT, Script::answer(400, &[("Content-Type", "application/json")], too_long));
    let proxy = Setup::over(&[&large, &small]).with(|config| config.endpoints[0].wake = Some(wake(&packets))).start();
    assert_eq!(endpoint_of(&proxy.chat("m")), (200, Some("a"), Some("model")));
    sleeps(&proxy, &mut large);
    let mut held = proxy.sent(post(CHAT, chat("m")));
    packets.wait(1);
    large.revive();
    assert_eq!(endpoint_of(&held.answer()), (200, Some("a"), Some("woken")));
    // Whoever may not wake it gets the refusal, and so does everybody if it does not wake in time.
    sleeps(&proxy, &mut large);
    let background = post_with(CHAT, "x-llmproxy-priority: background\r\n", chat("m"));
    assert_eq!(endpoint_of(&proxy.ask(&background)), (400, Some("b"), Some("failover")));
    assert_eq!(packets.count(), 1);
    proxy.reload(|config| config.retry.attempts = Some(1));
    assert_eq!(endpoint_of(&proxy.chat("m")), (400, Some("b"), Some("failover")), "no second attempt, so no wait");
    let limit = |attempts: Option<u32>, timeout: u64| {
        proxy.reload(|config| {
            config.retry.attempts = attempts;
            config.endpoints[0].wake.iter_mut().for_each(|wake| wake.timeout = ms(timeout));
        });
    };
    for attempts in [None, Some(2)] {
        limit(attempts, 300);
        assert_eq!(endpoint_of(&proxy.chat("m")), (400, Some("b"), Some("failover")));
    }
    limit(Some(2), 60_000);
    let mut held = proxy.sent(post(CHAT, chat("m")));
    proxy.until(|health| state(health) == "waking");
    large.revive();
    assert_eq!(endpoint_of(&held.answer()).1, Some("a"));
}

#[test]
fn with_prefer_wake_the_machine_is_woken_where_the_strategy_would_choose_it() {
    let packets = Packets::new();
    let (mut first, _second, proxy) = two(&packets, Prefer::Wake, |_| {});
    let mut held = proxy.sent(post(CHAT, chat("m")));
    packets.wait(1);
    first.revive();
    assert_eq!(endpoint_of(&held.answer()), (200, Some("a"), Some("woken")));
    assert_eq!(endpoint_of(&proxy.chat("m")), (200, Some("a"), Some("model")));
}

#[test]
fn with_prefer_wake_nothing_is_woken_where_the_strategy_chooses_another() {
    let packets = Packets::new();
    let route = |name: &str| Backend { endpoint: name.into(), ..Backend::default() };
    let (mut first, second, proxy) = two(&packets, Prefer::Wake, |config| {
        config.models = vec![Route { name: "r".into(), backends: vec![route("b"), route("a")], ..Route::default() }];
        config.routing.strategy = Strategy::Failover;
    });
    for _ in 0..3 {
        assert_eq!(endpoint_of(&proxy.chat("r")).1, Some("b"), "the first of the route");
    }
    assert_eq!(packets.count(), 0);
    // In turn: the second chat would be the machine's.
    proxy.reload(|config| config.models[0].strategy = Some(Strategy::RoundRobin));
    second.always(CHAT, Script::json("{}"));
    assert_eq!(endpoint_of(&proxy.chat("r")).1, Some("b"));
    assert_eq!(packets.count(), 0);
    let mut held = proxy.sent(post(CHAT, chat("r")));
    packets.wait(1);
    first.revive();
    assert_eq!(endpoint_of(&held.answer()), (200, Some("a"), Some("woken")));
}

#[test]
fn a_machine_that_does_not_wake_leaves_the_answer_to_the_others() {
    let packets = Packets::new();
    let edit = |config: &mut Config| config.endpoints[0].wake.iter_mut().for_each(|wake| wake.timeout = ms(300));
    let (_first, _second, proxy) = two(&packets, Prefer::Wake, edit);
    assert_eq!(endpoint_of(&proxy.chat("m")).1, Some("b"));
    assert_eq!(packets.count(), 1);
}

#[test]
fn background_requests_wait_without_a_packet() {
    let packets = Packets::new();
    let mut first = machine(&["m"]);
    let proxy = Setup::over(&[&first]).with(|config| {
        config.endpoints[0].wake = Some(wake(&packets));
        config.queue.timeout = ms(300);
    });
    let proxy = proxy.start();
    sleeps(&proxy, &mut first);
    let background = post_with(CHAT, "x-llmproxy-priority: background\r\n", chat("m"));
    let refused = proxy.ask(&background);
    assert_eq!((refused.status(), refused.code().as_str()), (503, "queue_timeout"));
    assert!(refused.field("retry-after").is_some());
    proxy.reload(|config| config.queue.timeout = ms(60_000));
    let mut held = proxy.sent(&background);
    let mut chat = proxy.sent(post(CHAT, chat("m")));
    packets.wait(1);
    first.revive();
    assert_eq!((held.answer().status(), chat.answer().status()), (200, 200), "the chat has woken it for both");
    sleeps(&proxy, &mut first);
    proxy.reload(|config| config.endpoints[0].wake = Some(Wake { background: true, ..wake(&packets) }));
    let mut held = proxy.sent(&background);
    packets.wait(2);
    first.revive();
    assert_eq!(held.answer().status(), 200);
}

#[test]
fn the_default_model_and_a_stand_in_wake_it() {
    let packets = Packets::new();
    let mut first = machine(&["m"]);
    let proxy = Setup::over(&[&first]).with(|config| {
        config.endpoints[0].wake = Some(wake(&packets));
        config.routing.unknown_model = UnknownModel::Default;
    });
    let proxy = proxy.start();
    for (n, request) in [post(CHAT, chat("auto")), post(CHAT, r#"{"messages":[]}"#), post(CHAT, chat("gpt-unknown"))]
        .into_iter()
        .enumerate()
    {
        sleeps(&proxy, &mut first);
        let mut held = proxy.sent(request);
        packets.wait(n + 1);
        first.revive();
        assert_eq!(endpoint_of(&held.answer()), (200, Some("a"), Some("woken")));
    }
}

#[test]
fn the_machine_that_made_a_response_is_woken_for_what_follows_it() {
    let packets = Packets::new();
    let (mut first, _second, proxy) = {
        let (mut first, second) = (machine(&["m"]), machine(&["m"]));
        let proxy =
            Setup::over(&[&first, &second]).with(|config| config.endpoints[0].wake = Some(wake(&packets))).start();
        assert_eq!(proxy.post("/v1/responses", r#"{"model":"m","input":"x"}"#).status(), 200);
        sleeps(&proxy, &mut first);
        (first, second, proxy)
    };
    let follow = r#"{"model":"m","input":"go on","previous_response_id":"resp_1"}"#;
    let mut held = proxy.sent(post("/v1/responses", follow));
    packets.wait(1);
    first.revive();
    assert_eq!(endpoint_of(&held.answer()).1, Some("a"));
}

#[test]
fn an_unknown_model_wakes_nothing() {
    let packets = Packets::new();
    let mut first = machine(&["m"]);
    let proxy = Setup::over(&[&first]).with(|config| config.endpoints[0].wake = Some(wake(&packets))).start();
    sleeps(&proxy, &mut first);
    let refused = proxy.chat("zz");
    assert_eq!((refused.status(), refused.code().as_str()), (404, "model_not_found"), "{}", refused.text());
    assert_eq!(refused.json()["error"]["available_models"][0], "m");
    assert_eq!(packets.count(), 0);
}

#[test]
fn a_listener_with_a_group_wakes_and_sees_it_wake() {
    let packets = Packets::new();
    let (mut first, second) = (machine(&["m"]), machine(&["m"]));
    let member = |name: &str| Member { endpoint: name.into(), ..Member::default() };
    let group = |name: &str| Group { name: name.into(), endpoints: vec![member("a")], ..Group::default() };
    let listener = |name: &str, mode| {
        let mut listener = Listener { name: name.into(), ..Listener::default() };
        (listener.policy.group, listener.policy.mode) = (Some("g".into()), mode);
        listener
    };
    let proxy = Setup::over(&[&first, &second]).with(|config| {
        config.endpoints[0].wake = Some(wake(&packets));
        config.groups = vec![group("g")];
        config.listeners = vec![listener("models", Mode::Models), listener("raw", Mode::Raw)];
    });
    let proxy = proxy.start();
    for (n, (listener, path)) in [(1, CHAT), (2, "/any")].into_iter().enumerate() {
        sleeps(&proxy, &mut first);
        // What any web page may send.
        let mut page = crate::support::client::Client::connect(proxy.addrs()[listener]);
        page.send(format!("OPTIONS {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n"));
        assert_eq!((page.answer_to("OPTIONS").status(), packets.count()), ([403, 503][n], n));
        let mut held = crate::support::client::Client::connect(proxy.addrs()[listener]);
        held.send(post(path, chat("m")));
        packets.wait(n + 1);
        first.revive();
        assert_eq!(endpoint_of(&held.answer()), (200, Some("a"), Some("woken")));
    }
}

#[test]
fn of_two_machines_one_is_woken_and_the_other_only_if_that_fails() {
    let (packets, others) = (Packets::new(), Packets::new());
    let (mut first, mut second) = (machine(&["m"]), machine(&["m"]));
    let proxy = Setup::over(&[&first, &second]).with(|config| {
        config.endpoints[0].wake = Some(Wake { timeout: ms(500), ..wake(&packets) });
        config.endpoints[1].wake = Some(Wake { mac: Mac(MAC), via: others.addr(), ..Wake::default() });
    });
    let proxy = proxy.start();
    first.kill();
    second.kill();
    assert_eq!(proxy.force_check()["endpoints"]["b"]["state"], "asleep");
    let mut held = proxy.sent(post(CHAT, chat("m")));
    packets.wait(1);
    assert_eq!(others.count(), 0, "one after the other");
    others.wait(1);
    second.revive();
    assert_eq!(endpoint_of(&held.answer()), (200, Some("b"), Some("woken")));
}

#[test]
fn a_machine_whose_configured_models_were_never_asked_is_woken_too() {
    let packets = Packets::new();
    let mut first = machine(&["m"]);
    first.kill();
    let one = endpoint("a", first.addr());
    let proxy = Setup::over(&[]).endpoint(one).with(|config| {
        config.endpoints[0].models = vec!["m".into()];
        config.endpoints[0].wake = Some(wake(&packets));
    });
    let proxy = proxy.start();
    assert_eq!(proxy.get("/v1/models").json()["data"][0]["status"]["value"], "sleeping");
    let mut held = proxy.sent(post(CHAT, chat("m")));
    packets.wait(1);
    first.revive();
    assert_eq!(endpoint_of(&held.answer()).0, 200);
}

#[cfg(feature = "jobs")]
#[test]
fn a_job_waits_for_a_sleeping_machine_without_a_try_while_others_run_and_completes_once() {
    // Shows 3
    use crate::jobs::{Folder, ended, submit, until};
    let (packets, folder) = (Packets::new(), Folder::new());
    let (mut first, second) = (machine(&["m"]), machine(&["n"]));
    let proxy = Setup::over(&[&first, &second]).with(|config| {
        config.endpoints[0].wake = Some(wake(&packets));
        (config.jobs.enabled, config.jobs.max_concurrent, config.jobs.attempts) = (true, 1, 1);
        config.jobs.dir.clone_from(&folder.0);
    });
    let proxy = proxy.start();
    sleeps(&proxy, &mut first);
    let waiting: Vec<String> = (0..3).map(|_| submit(&proxy, chat("m"))).collect();
    let other = submit(&proxy, chat("n"));
    assert_eq!(until(&proxy, &other, ended)["status"], "completed", "it has passed the others");
    for id in &waiting {
        until(&proxy, id, |job| job["status"] == "pending" && job["active_requests"] == 0);
    }
    assert_eq!((packets.count(), first.count(CHAT)), (0, 0));
    let mut awake = proxy.sent(post(CHAT, chat("m")));
    packets.wait(1);
    first.revive();
    for id in &waiting {
        let job = until(&proxy, id, ended);
        assert_eq!(job["status"], "completed", "{job}");
    }
    assert_eq!((awake.answer().status(), first.count(CHAT)), (200, 4));
}

#[cfg(feature = "jobs")]
#[test]
fn a_job_wakes_a_machine_that_background_requests_may_wake_also_after_a_reload() {
    use crate::jobs::{Folder, ended, submit, until};
    let (packets, folder) = (Packets::new(), Folder::new());
    let mut first = machine(&["m"]);
    let proxy = Setup::over(&[&first]).with(|config| {
        config.endpoints[0].wake = Some(wake(&packets));
        (config.jobs.enabled, config.jobs.attempts) = (true, 1);
        config.jobs.dir.clone_from(&folder.0);
    });
    let proxy = proxy.start();
    sleeps(&proxy, &mut first);
    let id = submit(&proxy, chat("m"));
    until(&proxy, &id, |job| job["status"] == "pending");
    proxy.reload(|config| config.endpoints[0].wake = Some(Wake { background: true, ..wake(&packets) }));
    packets.wait(1);
    first.revive();
    assert_eq!(until(&proxy, &id, ended)["status"], "completed");
    assert_eq!(first.count(CHAT), 1);
}
