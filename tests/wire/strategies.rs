//! SPEC 5: which of several endpoints, through the public port.

use crate::support::fact::Latch;
use crate::support::proxy::{CHAT, Proxy, Setup, chat, post};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::{Backend, Config, Route, Strategy};
use std::collections::HashMap;
use std::thread;

fn serving(n: usize) -> Vec<Upstream> {
    let upstreams: Vec<Upstream> = (0..n).map(|_| Upstream::serving(&["m"])).collect();
    upstreams.iter().for_each(|upstream| upstream.always(CHAT, Script::json("{}")));
    upstreams
}

fn over(upstreams: &[Upstream]) -> Setup {
    Setup::over(&upstreams.iter().collect::<Vec<_>>())
}

/// The endpoints that answer `n` chats one after another, as one word.
fn sequence(proxy: &Proxy, model: &str, n: usize) -> String {
    (0..n).map(|_| proxy.chat(model).field("x-llmproxy-endpoint").expect("an endpoint").to_owned()).collect()
}

fn with(strategy: Strategy, weights: &[u16]) -> impl FnOnce(&mut Config) {
    let weights = weights.to_vec();
    move |config| {
        config.routing.strategy = strategy;
        for (endpoint, weight) in config.endpoints.iter_mut().zip(weights) {
            endpoint.weight = weight;
        }
    }
}

fn backend(endpoint: &str, model: Option<&str>) -> Backend {
    Backend { endpoint: endpoint.into(), model: model.map(str::to_owned), ..Backend::default() }
}

fn route(name: &str, strategy: Option<Strategy>, backends: Vec<Backend>) -> Route {
    Route { name: name.into(), strategy, backends, ..Route::default() }
}

#[test]
fn rotation_is_strict_and_smooth_where_it_goes_by_weight() {
    // S001-05, S001-11, S002-13, S002-14, S003-10, S003-11, W001-8, W003-3
    let upstreams = serving(3);
    for (strategy, weights, expected) in [
        (Strategy::RoundRobin, [5, 1, 1], "abcabcab"),
        (Strategy::WeightedRoundRobin, [5, 1, 1], "aabacaaaabacaa"),
        (Strategy::WeightedRoundRobin, [2, 1, 1], "abcaabca"),
        (Strategy::Failover, [1, 9, 9], "aaaa"),
        (Strategy::LeastBusy, [1, 9, 9], "abcabc"),
    ] {
        let proxy = over(&upstreams).with(with(strategy, &weights)).start();
        assert_eq!(sequence(&proxy, "m", expected.len()), expected, "{strategy:?}");
    }
}

#[test]
fn rotation_is_exact_for_clients_that_ask_at_once() {
    // S001-11, S002-14, W003-3
    let upstreams = serving(3);
    for (strategy, expected) in [(Strategy::RoundRobin, [70, 70, 70]), (Strategy::WeightedRoundRobin, [150, 30, 30])] {
        let proxy = over(&upstreams).with(with(strategy, &[5, 1, 1])).start();
        let mut counts: HashMap<char, usize> = HashMap::new();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..7).map(|_| scope.spawn(|| sequence(&proxy, "m", 30))).collect();
            for client in clients {
                client.join().expect("answers").chars().for_each(|name| *counts.entry(name).or_default() += 1);
            }
        });
        assert_eq!(['a', 'b', 'c'].map(|name| counts[&name]), expected, "{strategy:?}");
    }
}

#[test]
fn chance_goes_by_weight() {
    // S001-05, S001-06, S001-11, S003-12 (the bounds over 10,000 are beside the pure function)
    let upstreams = serving(2);
    let proxy = over(&upstreams).with(with(Strategy::Random, &[5, 1])).start();
    let hits = sequence(&proxy, "m", 600).matches('a').count();
    // 500 expected, sigma 9.1
    assert!((440..=560).contains(&hits), "{hits}");
}

#[test]
fn the_least_busy_is_the_one_with_the_fewest_in_flight_for_its_size() {
    let upstreams = serving(2);
    let latch = Latch::new();
    upstreams[0].on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    let proxy = over(&upstreams).with(with(Strategy::LeastBusy, &[])).start();
    let waiting = proxy.sent(post(CHAT, chat("m")));
    upstreams[0].wait_count(CHAT, 1);
    assert_eq!(sequence(&proxy, "m", 4), "bbbb");
    assert_eq!(proxy.chat("m").field("x-llmproxy-reason"), Some("least_busy"));
    latch.open();
    drop(waiting);
}

#[test]
fn a_route_has_its_own_strategy_endpoints_and_names() {
    // S003-01, S003-03, S003-09
    let upstreams = serving(3);
    let routes = |config: &mut Config| {
        let off = Backend { enabled: false, ..backend("b", None) };
        config.models = vec![
            route(
                "fast",
                Some(Strategy::RoundRobin),
                vec![backend("a", Some("A1")), off, backend("a", Some("A2")), backend("c", None)],
            ),
            route("m", None, vec![backend("c", Some("other"))]),
        ];
    };
    let proxy = over(&upstreams).with(routes).start();
    let seen: Vec<(String, String)> = (0..6)
        .map(|_| {
            let answer = proxy.chat("fast");
            let field = |name| answer.field(name).expect("a field").to_owned();
            (field("x-llmproxy-endpoint"), field("x-llmproxy-model"))
        })
        .collect();
    let expected = [("a", "A1"), ("a", "A2"), ("c", "fast")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(seen[..3], expected, "one endpoint twice with two models is two backends (W003-9)");
    assert_eq!(seen[3..], expected);
    assert!(upstreams[0].take(CHAT).text().contains(r#""model":"A1""#));
    assert_eq!(sequence(&proxy, "m", 2), "cc", "a route goes before discovery");
    assert_eq!(upstreams[1].count(CHAT), 0, "a backend that is switched off is never asked");
    assert_eq!(proxy.models(), ["m", "fast"]);
}

#[test]
fn a_route_moves_on_when_its_first_endpoint_is_down() {
    // S003-10, S003-16, S001-15, W002-8
    let mut upstreams = serving(2);
    let routes = |config: &mut Config| {
        config.models = vec![route("fast", None, vec![backend("a", Some("x")), backend("b", Some("y"))])];
    };
    let proxy = over(&upstreams).with(routes).start();
    upstreams[0].kill();
    let answer = proxy.chat("fast");
    assert_eq!((answer.status(), answer.field("x-llmproxy-model")), (200, Some("y")));
    upstreams[1].kill();
    proxy.force_check();
    let answer = proxy.chat("fast");
    // S003-17
    assert!(matches!(answer.status(), 502 | 503), "{}", answer.status());
}

#[test]
fn a_model_that_is_asked_for_is_never_swapped_on_a_retry() {
    // S001-09, S001-15, W001-4
    let upstreams = serving(2);
    upstreams[0].on(CHAT, Script::error(500, "x"));
    let proxy = over(&upstreams)
        .with(|config| {
            for (endpoint, default) in config.endpoints.iter_mut().zip(["da", "db"]) {
                endpoint.models = vec![default.to_owned(), "m".to_owned()];
                endpoint.default_model = Some(default.to_owned());
            }
        })
        .start();
    assert_eq!(proxy.chat("m").field("x-llmproxy-model"), Some("m"));
    assert_eq!(upstreams[1].take(CHAT).text(), chat("m"));
}

#[test]
fn no_model_and_auto_rotate_over_default_models() {
    // S001-06, S001-08, S001-12
    let upstreams = serving(2);
    let proxy = over(&upstreams)
        .with(|config| {
            config.routing.strategy = Strategy::RoundRobin;
            config.endpoints[0].models = vec!["first".into(), "second".into()];
            config.endpoints[1].default_model = Some("mine".into());
        })
        .start();
    let model = |body: &str| proxy.post(CHAT, body).field("x-llmproxy-model").expect("a model").to_owned();
    let seen = [model(r#"{"messages":[]}"#), model(r#"{"model":""}"#), model(r#"{"model":"auto"}"#), model("{}")];
    assert_eq!(seen, ["first", "mine", "first", "mine"]);
}

#[test]
fn a_route_named_auto_is_a_model_like_any_other() {
    let upstreams = serving(2);
    let routes = |config: &mut Config| config.models = vec![route("auto", None, vec![backend("b", Some("x/y%z"))])];
    let proxy = over(&upstreams).with(routes).start();
    let answer = proxy.chat("auto");
    assert_eq!((answer.field("x-llmproxy-endpoint"), answer.field("x-llmproxy-model")), (Some("b"), Some("x/y%z")));
}

#[test]
fn whose_turn_it_is_outlives_a_new_snapshot() {
    let upstreams = serving(3);
    let proxy = over(&upstreams).with(with(Strategy::RoundRobin, &[])).start();
    assert_eq!(sequence(&proxy, "m", 2), "ab");
    proxy.force_check();
    assert_eq!(sequence(&proxy, "m", 2), "ca");
}

#[test]
fn a_rename_leaves_every_other_byte() {
    // S001-13, S003-09, W001-5
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let routes =
        |config: &mut Config| config.models = vec![route("fast", None, vec![backend("a", Some("real \"name\""))])];
    let proxy = Setup::over(&[&upstream]).with(routes).start();
    let before = "{ \"n\":12345678901234567890123, \"a\":[{\"model\":\"fast\"},\"<b>&\\u003c\\ud800\"],\"f\":1.0e+00 ,\r\n\t\"mod\\u0065l\"  :";
    let after = " , \"z\":{\"model\":{\"model\":\"fast\"}},\"b\":\"\\/\\u00e9é😀\" }\n";
    proxy.post(CHAT, format!("{before}\"fast\"{after}"));
    assert_eq!(upstream.take(CHAT).text(), format!("{before}\"real \\\"name\\\"\"{after}"));
}

#[test]
fn unknown_models_go_by_the_strategy_too() {
    // S001-10: a backend and its default model, with both names told
    let upstreams = serving(2);
    let proxy = over(&upstreams)
        .with(|config| {
            config.routing.strategy = Strategy::RoundRobin;
            config.routing.unknown_model = llmproxy::config::UnknownModel::Default;
        })
        .start();
    let answers = [proxy.chat("zz"), proxy.chat("zz")];
    assert_eq!(answers.each_ref().map(|answer| answer.field("x-llmproxy-endpoint")), [Some("a"), Some("b")]);
    assert!(answers.iter().all(|answer| answer.field("x-llmproxy-reason") == Some("unknown_model_default")));
}

#[test]
fn several_keys_take_turns_and_stand_in_for_each_other() {
    // S003-13, S003-14
    let upstream = Upstream::serving(&["m"]);
    let keyed =
        crate::support::proxy::with_keys(crate::support::proxy::endpoint("a", upstream.addr()), &["k1", "k2", "k3"]);
    let proxy = Setup::over(&[]).endpoint(keyed).start();
    let used = || upstream.take(CHAT).field("authorization").expect("a key").to_owned();
    upstream.always(CHAT, Script::json("{}"));
    for expected in ["k1", "k2", "k3", "k1"] {
        assert_eq!(proxy.chat("m").status(), 200);
        assert_eq!(used(), format!("Bearer {expected}"));
    }
    upstream.on(CHAT, Script::error(429, "busy"));
    upstream.on(CHAT, Script::error(401, "no"));
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.field("x-llmproxy-attempts")), (200, Some("3")));
    assert_eq!([used(), used(), used()], ["Bearer k2", "Bearer k3", "Bearer k1"]);
}
