//! Who may be tried, under every circumstance.

use super::*;
use crate::config::{self, Config};
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

fn plan(snapshot: &Snapshot, query: ModelQuery<'_>, scope: &Scope, now: Instant) -> PlanResult {
    View { snapshot, scope }.plan(query, now)
}

fn unknown(snapshot: &Snapshot, query: ModelQuery<'_>, scope: &Scope, now: Instant) -> Result<Plan, Failure> {
    View { snapshot, scope }.unknown(query, now)
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
    assert_eq!(order(plan(&snapshot, ModelQuery::Named("auto"), &Scope::default(), time::now())), [("a".into(), None)]);
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
