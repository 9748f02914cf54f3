//! Who may be tried, under every circumstance.

use super::*;
use crate::api::model_list::Model;
use crate::config::{self, Config};
use crate::routing::endpoint::Props;
use crate::routing::health_status::Observation;
use crate::util::time;
use std::time::SystemTime;

fn endpoint(name: &str, models: &[&str], up: bool) -> Arc<Endpoint> {
    let mut config = config::Endpoint::plain(name, "127.0.0.1", 1);
    config.models = models.iter().map(|&m| m.to_owned()).collect();
    let mut endpoint = Endpoint::new(config);
    if !up {
        endpoint.health = endpoint.health.observe(Observation::Down("x".into()), 1, SystemTime::UNIX_EPOCH);
    }
    Arc::new(endpoint)
}

fn snapshot(endpoints: Vec<Arc<Endpoint>>, unknown_model: UnknownModel) -> Snapshot {
    let mut config = Config::default();
    config.routing.unknown_model = unknown_model;
    Snapshot::new(Arc::new(config), endpoints)
}

/// Tokens, and whether there is an image.
impl PromptInfo for (u64, bool) {
    fn tokens(&self) -> u64 {
        self.0
    }

    fn has_image(&self) -> bool {
        self.1
    }
}

const SHORT: (u64, bool) = (1, false);

fn plan(snapshot: &Snapshot, query: ModelQuery<'_>, scope: &Scope, now: Instant) -> PlanResult {
    View { snapshot, scope }.plan(query, &SHORT, now)
}

fn unknown(snapshot: &Snapshot, query: ModelQuery<'_>, scope: &Scope, now: Instant) -> Result<Plan, Failure> {
    View { snapshot, scope }.unknown(query, &SHORT, now)
}

fn order(planned: PlanResult) -> Vec<(String, Option<String>)> {
    match planned {
        Ok(plan) => plan.candidates.iter().map(|c| (c.endpoint.name().to_owned(), c.rename.clone())).collect(),
        Err(NoPlan::Unknown) => vec![("unknown".into(), None)],
        Err(NoPlan::Refused(failure)) => vec![(format!("{:?}", failure.kind), None)],
    }
}

#[test]
fn a_model_goes_to_who_serves_it_in_config_order_without_the_dead() {
    // S000-19, S000-20, W000-1
    let all = vec![endpoint("a", &["m"], false), endpoint("b", &["m"], true), endpoint("c", &["m"], true)];
    let snapshot = snapshot(all, UnknownModel::Error);
    assert_eq!(
        order(plan(&snapshot, ModelQuery::Named("m"), &Scope::default(), time::now())),
        [("b".into(), None), ("c".into(), None)]
    );
}

#[test]
fn who_asked_to_be_left_alone_is_left_out_as_long_as_told_and_while_another_is_there() {
    let (a, b) = (endpoint("a", &["m"], true), endpoint("b", &["m"], true));
    let snapshot = snapshot(vec![Arc::clone(&a), Arc::clone(&b)], UnknownModel::Error);
    let (start, second) = (time::now(), Duration::from_secs(1));
    let at = |now| order(plan(&snapshot, ModelQuery::Named("m"), &Scope::default(), now)).len();
    a.live.cool_down(start, 30 * second);
    a.live.cool_down(start, second);
    assert_eq!([at(start + 29 * second), at(start + 31 * second)], [1, 2], "the longest word counts");
    b.live.cool_down(start, 600 * second);
    assert_eq!(at(start + 10 * second), 2, "nobody else is there");
    assert_eq!([at(start + 59 * second), at(start + 61 * second)], [1, 2]);
}

#[test]
fn an_unknown_model_leaves_alone_who_asked_for_it_and_follows_its_response_too() {
    // R23, and the cool-down of SPEC 5
    let (a, b) = (endpoint("a", &["m"], true), endpoint("b", &["m"], true));
    let (start, second) = (time::now(), Duration::from_secs(1));
    let of = |policy, query, now| {
        let snapshot = snapshot(vec![Arc::clone(&a), Arc::clone(&b)], policy);
        let plan = unknown(&snapshot, query, &Scope::default(), now).unwrap_or_else(|f| panic!("{f:?}"));
        assert_eq!(plan.is_named, policy == UnknownModel::Default, "what is passed as it is has no name in metrics");
        order(Ok(plan))
    };
    a.live.responses.put("resp_1", ());
    a.live.cool_down(start, 10 * second);
    for policy in [UnknownModel::Default, UnknownModel::Passthrough] {
        let names = |query, now| of(policy, query, now).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(ModelQuery::Named("zz"), start), ["b"]);
        assert_eq!(names(ModelQuery::Named("zz"), start + 11 * second), ["a", "b"]);
        assert_eq!(names(ModelQuery::Follow("resp_1", Some("zz")), start), ["a"]);
        assert_eq!(names(ModelQuery::Follow("resp_2", Some("zz")), start), ["b"]);
    }
}

// R08
#[test]
fn a_name_without_a_tag_may_mean_latest_and_a_key_that_has_it_too() {
    let snapshot = snapshot(vec![endpoint("a", &["m:latest", "x", "x:latest"], true)], UnknownModel::Error);
    let only = |models: &[&str]| Scope { models: models.iter().map(|&m| m.into()).collect(), ..Scope::default() };
    let of = |name, models: &[&str]| order(plan(&snapshot, ModelQuery::Named(name), &only(models), time::now()));
    let latest = [("a".to_owned(), Some("m:latest".to_owned()))];
    assert_eq!(of("m", &[]), latest);
    assert_eq!(of("m:latest", &[])[0].1, None);
    assert_eq!([of("m", &["m"]), of("m", &["m:latest"])], [latest.to_vec(), latest.to_vec()]);
    assert_eq!(of("m", &["n"])[0].0, "ModelNotFound");
    assert_eq!(of("x", &[])[0].1, None);
    assert_eq!(of("x:latest", &["x"])[0].0, "ModelNotFound", "another model than the key's");
    let listed = |models: &[&str]| snapshot.listing(&only(models)).names().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!([listed(&["m"]), listed(&["x"])], [["m:latest"], ["x"]]);
}

#[test]
fn a_model_whose_endpoints_are_all_down_is_503_and_not_404() {
    let snapshot = snapshot(vec![endpoint("a", &["m"], false), endpoint("b", &["x"], true)], UnknownModel::Error);
    assert_eq!(order(plan(&snapshot, ModelQuery::Named("m"), &Scope::default(), time::now()))[0].0, "NoEndpoint");
    assert_eq!(order(plan(&snapshot, ModelQuery::Named("zz"), &Scope::default(), time::now()))[0].0, "unknown");
}

#[test]
fn auto_and_nothing_get_an_endpoints_own_model() {
    let snapshot = snapshot(vec![endpoint("a", &[], true), endpoint("b", &["m", "n"], true)], UnknownModel::Error);
    for query in [ModelQuery::Any, ModelQuery::Named(""), ModelQuery::Named("auto")] {
        assert_eq!(order(plan(&snapshot, query, &Scope::default(), time::now())), [("b".into(), Some("m".into()))]);
    }
}

#[test]
fn auto_is_a_model_if_one_is_called_that() {
    let snapshot = snapshot(vec![endpoint("a", &["m", "auto"], true)], UnknownModel::Error);
    let auto = |snapshot: &Snapshot| order(plan(snapshot, ModelQuery::Named("auto"), &Scope::default(), time::now()));
    assert_eq!(auto(&snapshot), [("a".into(), None)]);
    let matched = |pattern: &str| auto(&named(vec![route("fast", Some("small"), &[], &[pattern])]));
    assert_eq!(matched("auto"), [("a".into(), Some("small".into()))]);
    assert_ne!(matched("*"), matched("auto"), "a pattern for all names is none for requests without one");
}

#[test]
fn an_unknown_model_is_refused_replaced_or_passed_as_configured() {
    let all = || vec![endpoint("a", &["m"], true)];
    let error = unknown(&snapshot(all(), UnknownModel::Error), ModelQuery::Named("zz"), &Scope::default(), time::now())
        .err()
        .expect("404");
    assert_eq!((error.kind, error.available_models), (Kind::ModelNotFound, Some(vec!["m".to_owned()])));
    let default =
        unknown(&snapshot(all(), UnknownModel::Default), ModelQuery::Named("zz"), &Scope::default(), time::now())
            .unwrap_or_else(|f| panic!("{f:?}"));
    assert_eq!((default.candidates[0].rename.as_deref(), default.reason), (Some("m"), "unknown_model_default"));
    let pass =
        unknown(&snapshot(all(), UnknownModel::Passthrough), ModelQuery::Named("zz"), &Scope::default(), time::now())
            .unwrap_or_else(|f| panic!("{f:?}"));
    assert_eq!((pass.candidates[0].rename.as_deref(), pass.reason), (None, "passthrough"));
}

#[test]
fn a_path_without_a_model_needs_a_single_endpoint() {
    let one = snapshot(vec![endpoint("a", &["m"], true)], UnknownModel::Error);
    assert_eq!(order(plan(&one, ModelQuery::Endpoint, &Scope::default(), time::now())), [("a".into(), None)]);
    let two = snapshot(vec![endpoint("a", &["m"], true), endpoint("b", &[], true)], UnknownModel::Error);
    assert_eq!(order(plan(&two, ModelQuery::Endpoint, &Scope::default(), time::now()))[0].0, "ModelRequired");
}

#[test]
fn an_echoed_name_is_short_and_harmless() {
    // B9
    assert_eq!(shown("a\r\nb"), r"a\r\nb");
    assert_eq!(shown(&"x".repeat(10_000)).len(), 128);
}

/// One model at several endpoints, each with what is known of it there.
fn at_each(known: &[Known]) -> Snapshot {
    let mut config = Config::default();
    let mut endpoints = Vec::new();
    let mut backends = Vec::new();
    for (n, known) in known.iter().enumerate() {
        let name = char::from(b'a' + n as u8).to_string();
        let model = Model { id: "m".into(), vision: known.listed, loaded: known.loaded, ..Model::default() };
        let mut endpoint = Endpoint::clone(&endpoint(&name, &[], !known.down));
        endpoint.models = Some(Arc::new(vec![model]));
        let loaded = known.running.map(|names| names.iter().map(|&name| name.to_owned()).collect());
        endpoint.props = Arc::new(Props { vision: known.props, loaded, ..Props::default() });
        endpoints.push(Arc::new(endpoint));
        let (under, vision) = (known.under, known.configured);
        backends.push(config::Backend { endpoint: name, under, vision, ..config::Backend::default() });
    }
    config.models = vec![Route { name: "m".into(), backends, ..Route::default() }];
    Snapshot::new(Arc::new(config), endpoints)
}

#[derive(Default, Clone, Copy)]
struct Known {
    down: bool,
    configured: Option<bool>,
    listed: Option<bool>,
    props: Option<bool>,
    under: Option<u64>,
    loaded: Option<bool>,
    running: Option<&'static [&'static str]>,
}

/// The first choices as letters, the reason, or the refusal.
fn at(known: &[Known], prompt: (u64, bool)) -> String {
    let (snapshot, scope) = (at_each(known), Scope::default());
    match (View { snapshot: &snapshot, scope: &scope }).plan(ModelQuery::Named("m"), &prompt, time::now()) {
        Ok(plan) => {
            let loads: Vec<_> = plan.candidates.iter().map(Candidate::load).collect();
            let order = crate::routing::strategy::order(
                plan.strategy,
                &loads,
                &mut crate::routing::strategy::Turn::default(),
                &mut || 0.0,
            );
            let names: Vec<&str> = order.iter().map(|&at| plan.candidates[at].endpoint.name()).collect();
            format!("{} {}", names.concat(), plan.reason)
        }
        Err(NoPlan::Refused(failure)) => format!("{:?} {}", failure.kind, failure.message),
        Err(NoPlan::Unknown) => "unknown".into(),
    }
}

#[test]
fn an_image_goes_to_models_that_take_images() {
    // Issue 14, section 2
    let known = Known::default();
    let [yes, no] = [true, false].map(|configured| Known { configured: Some(configured), ..known });
    let listed = |vision| Known { listed: Some(vision), ..known };
    let props = |vision| Known { props: Some(vision), ..known };
    let down = Known { down: true, ..yes };
    let cases: [(&[Known], &str); 12] = [
        (&[known, known], "ab model"),
        (&[no, yes, known], "b vision"),
        (&[yes, no], "a vision"),
        (&[no, known, known], "bc vision"),
        (&[listed(false), listed(true)], "b vision"),
        (&[props(false), props(true), known], "b vision"),
        (&[Known { listed: Some(true), ..props(false) }, known], "a vision"),
        (&[Known { configured: Some(false), ..listed(true) }, known], "b vision"),
        (&[Known { configured: Some(true), ..listed(false) }, known], "a vision"),
        (&[no, down, known], "c vision"),
        (&[no, props(false)], "InvalidBody The model `m` takes no images; and no other model here is known to."),
        (&[no, down], "NoEndpoint Every endpoint that serves the model `m` is unavailable at the moment."),
    ];
    for (known, expected) in cases {
        assert_eq!(at(known, (1, true)), expected);
    }
    assert_eq!(at(&[no, yes], (1, false)), "ab model", "without an image nothing changes");
}

#[test]
fn the_length_of_a_prompt_and_what_is_loaded_decide_before_the_strategy() {
    // Issue 14, shows 2
    let known = Known::default();
    let under = |tokens| Known { under: Some(tokens), ..known };
    let loaded = |is_loaded| Known { loaded: Some(is_loaded), ..known };
    let running = |names| Known { running: Some(names), ..known };
    let cases: [(&[Known], u64, &str); 12] = [
        (&[known, under(4000)], 3999, "ba model"),
        (&[known, under(4000)], 4000, "ab model"),
        (&[under(4000), known], 4000, "ba model"),
        (&[known, under(8000), under(4000)], 100, "cba model"),
        (&[known, under(8000), under(4000)], 5000, "bac model"),
        (&[under(10), under(20)], 30, "ba model"),
        (&[loaded(false), known, loaded(true)], 1, "bca model"),
        (&[loaded(false), loaded(false)], 1, "ab model"),
        (&[running(&["other"]), running(&["m"])], 1, "ba model"),
        (&[running(&[]), running(&["m:latest"])], 1, "ba model"),
        (&[Known { loaded: Some(true), ..running(&[]) }, known], 1, "ab model"),
        (&[Known { under: Some(9), ..loaded(false) }, known], 1, "ab model"),
    ];
    for (known, tokens, expected) in cases {
        assert_eq!(at(known, (tokens, false)), expected, "{tokens}");
    }
}

/// Endpoints `a` with the models `big` and `qwen:latest`, `b` with `big` and `gpt-4`, and these routes.
fn named(routes: Vec<Route>) -> Snapshot {
    let config = Config { models: routes, ..Config::default() };
    let (a, b) = (endpoint("a", &["big", "qwen:latest"], true), endpoint("b", &["big", "gpt-4"], true));
    Snapshot::new(Arc::new(config), vec![a, b])
}

fn route(name: &str, backend: Option<&str>, suffixes: &[&str], patterns: &[&str]) -> Route {
    let backend = backend.map(|model| config::Backend {
        endpoint: "a".into(),
        model: Some(model.into()).filter(|model: &String| !model.is_empty()),
        ..config::Backend::default()
    });
    let variant = |suffix: &&str| config::Variant { suffix: (*suffix).into(), ..config::Variant::default() };
    Route {
        name: name.into(),
        backends: backend.into_iter().collect(),
        variants: suffixes.iter().map(variant).collect(),
        patterns: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
        ..Route::default()
    }
}

#[test]
fn a_name_is_a_route_or_a_variant_or_served_or_matched_in_this_order() {
    // Issue 14, section 2
    let snapshot = named(vec![
        route("fast", Some("big"), &["nothink", ":x"], &["gpt-*"]),
        route("big", None, &["low"], &["*-mini", "gpt-*"]),
        route("qwen", None, &["hot"], &[]),
        route("plain", Some(""), &["v"], &[]),
    ]);
    let sent = |name: &str, scope: &Scope| {
        let list = order(plan(&snapshot, ModelQuery::Named(name), scope, time::now()));
        let text = list.iter().map(|(endpoint, model)| format!("{endpoint}:{}", model.as_deref().unwrap_or("=")));
        text.collect::<Vec<_>>().join(" ")
    };
    let all = Scope::default();
    for (name, expected) in [
        ("fast", "a:big"),
        ("fast-nothink", "a:big"),
        ("fast:x", "a:big"),
        ("fast-:x", "unknown:="),
        ("fastnothink", "unknown:="),
        ("big", "a:= b:="),
        ("big-low", "a:big b:big"),
        ("qwen", "a:qwen:latest"),
        ("qwen:latest", "a:="),
        ("qwen-hot", "a:qwen:latest"),
        ("plain", "a:="),
        ("plain-v", "a:plain"),
        // A served name before patterns, and of these the first in the file.
        ("gpt-4", "b:="),
        ("gpt-5", "a:big"),
        ("gpt-5-mini", "a:big"),
        ("o3-mini", "a:big b:big"),
        ("o3", "unknown:="),
    ] {
        assert_eq!(sent(name, &all), expected, "{name}");
    }
    let key = |models: &[&str]| Scope { models: models.iter().map(|&m| m.to_owned()).collect(), ..Scope::default() };
    for (models, name, allowed) in [
        (&["fast"][..], "fast-nothink", true),
        (&["fast-nothink"], "fast-nothink", true),
        (&["fast-nothink"], "fast", false),
        (&["big"], "fast-nothink", false),
        (&["gpt-5"], "gpt-5", true),
        (&["fast"], "gpt-5", false),
        (&["qwen"], "qwen-hot", true),
    ] {
        assert_eq!(sent(name, &key(models)) != "ModelNotFound:=", allowed, "{name} with {models:?}");
    }
}

#[test]
fn a_default_model_that_is_a_route_is_edited_as_that_and_not_sent_to_a_backend_that_is_off() {
    let mut routes = vec![route("big", Some("real"), &[], &[])];
    routes[0].edits.remove = vec!["x".into()];
    let mut off = routes.clone();
    off[0].backends[0].enabled = false;
    let snapshot = named(off);
    assert_eq!(
        order(plan(&snapshot, ModelQuery::Any, &Scope::default(), time::now())),
        [("b".to_owned(), Some("big".into()))]
    );
    let snapshot = named(routes);
    let plan = plan(&snapshot, ModelQuery::Any, &Scope::default(), time::now()).ok().expect("a plan");
    let edited: Vec<_> = plan.candidates.iter().map(|one| (one.rename.as_deref(), one.edits.len())).collect();
    assert_eq!(edited, [(Some("real"), 1), (Some("big"), 1)]);
}

#[test]
fn a_line_is_made_stable_for_the_route_or_the_endpoint_but_never_at_anthropic() {
    // Issue 14, section 1
    let hosts = ["h", "anthropic.com", "api.Anthropic.com.", "notanthropic.com", "anthropic.com.example"];
    let endpoints = hosts.map(|host| {
        let mut config = config::Endpoint::plain(host, host, 1);
        config.models = vec!["m".into(), "n".into()];
        config.stabilize = (host != "h").then_some(config::Stabilize::ClaudeCode);
        Arc::new(Endpoint::new(config))
    });
    let route = Route { name: "m".into(), stabilize: Some(config::Stabilize::ClaudeCode), ..Route::default() };
    let config = Config { models: vec![route], ..Config::default() };
    let snapshot = Snapshot::new(Arc::new(config), endpoints.into());
    let stable = |name| {
        let plan = plan(&snapshot, ModelQuery::Named(name), &Scope::default(), time::now()).ok().expect("a plan");
        plan.candidates.iter().map(|one| one.stabilize).collect::<Vec<_>>()
    };
    assert_eq!(stable("m"), [true, false, false, true, true]);
    assert_eq!(stable("n"), [false, false, false, true, true]);
}

// Issue 14, section 3
#[test]
fn what_is_asleep_is_planned_apart_and_alone_if_nothing_else_is_there() {
    let asleep = |name: &str, models: &[&str]| {
        let mut one = Endpoint::clone(&endpoint(name, models, true));
        one.config = Arc::new(config::Endpoint { wake: Some(config::Wake::default()), ..(*one.config).clone() });
        one.health = one.health.observe(Observation::Unreachable("x".into()), 3, SystemTime::UNIX_EPOCH).asleep();
        Arc::new(one)
    };
    let (now, all) = (time::now(), Scope::default());
    let names = |list: &[Candidate]| list.iter().map(|one| one.endpoint.name().to_owned()).collect::<Vec<_>>();
    let parts = |snapshot: &Snapshot, query| match plan(snapshot, query, &all, now) {
        Ok(plan) => (names(&plan.candidates), names(&plan.asleep)),
        Err(NoPlan::Unknown) => (vec!["unknown".into()], Vec::new()),
        Err(NoPlan::Refused(failure)) => (vec![format!("{:?}", failure.kind)], Vec::new()),
    };
    let (sleeper, down) = (asleep("a", &["m"]), endpoint("b", &["m"], false));
    sleeper.live.responses.put("resp_1", ());
    let both =
        snapshot(vec![Arc::clone(&sleeper), Arc::clone(&down), endpoint("c", &["m"], true)], UnknownModel::Error);
    let alone = snapshot(vec![Arc::clone(&sleeper), down], UnknownModel::Default);
    let (a, c, none) = (vec!["a".to_owned()], vec!["c".to_owned()], Vec::new());
    for query in [ModelQuery::Named("m"), ModelQuery::Any, ModelQuery::Raw, ModelQuery::Stored("resp_1")] {
        assert_eq!(parts(&both, query), (c.clone(), a.clone()), "{query:?}");
        assert_eq!(parts(&alone, query), (none.clone(), a.clone()), "{query:?}");
    }
    // What follows a response goes nowhere else.
    assert_eq!(parts(&both, ModelQuery::Follow("resp_1", Some("m"))), (none.clone(), a.clone()));
    assert_eq!(parts(&both, ModelQuery::Follow("resp_2", Some("m"))), (c, a.clone()));
    assert_eq!(parts(&alone, ModelQuery::Named("zz")).0, ["unknown"], "not: all are down");
    let stand_in = unknown(&alone, ModelQuery::Named("zz"), &all, now).expect("its default model");
    assert_eq!((names(&stand_in.asleep), stand_in.first().rename.as_deref()), (a, Some("m")));
    assert_eq!(parts(&alone, ModelQuery::Endpoint).0, ["ModelRequired"]);
    assert!(View { snapshot: &alone, scope: &all }.at("a").is_none(), "nothing is known to be there");
}

#[test]
fn an_image_wakes_a_model_that_takes_images_if_no_other_one_can() {
    let of = |known: &[Known], sleepers: &[usize]| {
        let mut snapshot = at_each(known);
        for sleeper in sleepers {
            let one = Arc::make_mut(&mut snapshot.endpoints[*sleeper]);
            one.config = Arc::new(config::Endpoint { wake: Some(config::Wake::default()), ..(*one.config).clone() });
            one.health = one.health.observe(Observation::Unreachable("x".into()), 3, SystemTime::UNIX_EPOCH).asleep();
        }
        let view = View { snapshot: &snapshot, scope: &Scope::default() };
        let plan = view.plan(ModelQuery::Named("m"), &(1, true), time::now()).ok().expect("a plan");
        [&plan.candidates, &plan.asleep].map(|list| list.iter().map(|one| one.endpoint.name()).collect::<String>())
    };
    let known = Known::default();
    let [yes, no] = [true, false].map(|configured| Known { configured: Some(configured), ..known });
    assert_eq!(of(&[no, yes], &[1]), ["", "b"]);
    assert_eq!(of(&[known, yes], &[1]), ["a", "b"], "what is awake may be tried");
    assert_eq!(of(&[yes, no], &[1]), ["a", ""]);
    assert_eq!(of(&[known, yes], &[0, 1]), ["", "b"], "of two that sleep the one that is known to take images");
}
