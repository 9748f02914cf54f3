//! Unit tests of `catalog`.

use super::*;
use crate::api::model_list::list_of;
use crate::config::{self, Backend};
use crate::routing::health_status::Observation;
use crate::routing::snapshot::Snapshot;
use serde_json::json;
use std::time::SystemTime;

fn endpoint(name: &str, models: &[&str]) -> Endpoint {
    let mut endpoint = Endpoint::new(config::Endpoint::plain(name, "127.0.0.1", 8001));
    let list: Vec<Value> = models.iter().map(|m| json!({"id": m, "meta": {"n_ctx": 1}})).collect();
    endpoint.models = list_of(json!({"data": list}).to_string().as_bytes()).ok().map(Arc::new);
    endpoint
}

fn served_by(catalog: &Catalog, name: &str) -> Vec<usize> {
    catalog.offers(name).iter().map(|offer| offer.endpoint).collect()
}

fn down(mut endpoint: Endpoint) -> Endpoint {
    endpoint.health = endpoint.health.observe(Observation::Down("x".into()), 1, SystemTime::UNIX_EPOCH);
    endpoint
}

fn listing(endpoints: Vec<Endpoint>) -> (Catalog, Value) {
    let endpoints: Vec<_> = endpoints.into_iter().map(Arc::new).collect();
    let catalog = Catalog::new(&endpoints, &[]);
    let value = serde_json::from_slice(&catalog.listing.text).expect("JSON");
    (catalog, value)
}

// U29
#[test]
fn it_is_built_anew_only_when_something_in_it_changed() {
    let endpoints = ["one", "two"].map(|name| Arc::new(endpoint(name, &["ma"]))).to_vec();
    let first = Snapshot::new(Arc::default(), endpoints);
    let same = first.with("one", |one| (one.health.failures, one.models) = (7, endpoint("one", &["ma"]).models));
    let same = same.with("nobody", |_| ());
    assert!(Arc::ptr_eq(&first.catalog, &same.catalog), "the same list, read again");
    for change in [|one: &mut Endpoint| *one = down(one.clone()), |one: &mut Endpoint| one.models = None] {
        let other = first.with("one", change);
        assert!(!Arc::ptr_eq(&first.catalog, &other.catalog));
        assert_eq!(
            serde_json::from_slice::<Value>(&other.catalog.listing.text).expect("JSON")["data"][0]["provider"],
            "two"
        );
    }
}

#[test]
fn a_name_on_several_endpoints_is_listed_once_with_the_first_as_provider() {
    // S000-13, S000-14
    let (catalog, list) = listing(vec![endpoint("one", &["ma", "shared"]), endpoint("two", &["shared", "mb"])]);
    let ids: Vec<_> = list["data"].as_array().expect("data").iter().map(|m| m["id"].clone()).collect();
    assert_eq!(ids, ["ma", "shared", "mb"]);
    let shared = &list["data"][1];
    assert_eq!((&shared["provider"], &shared["endpoint"]), (&json!("one"), &json!("127.0.0.1:8001")));
    assert_eq!((&shared["endpoints"], &shared["meta"]["n_ctx"]), (&json!(["one", "two"]), &json!(1)));
    assert_eq!(served_by(&catalog, "shared"), [0, 1]);
}

#[test]
fn models_of_a_dead_endpoint_are_not_listed_but_still_known() {
    // S000-12
    let (catalog, list) = listing(vec![down(endpoint("one", &["ma"])), endpoint("two", &["mb"])]);
    assert_eq!(catalog.listing.names().collect::<Vec<_>>(), ["mb"]);
    assert_eq!(list["data"].as_array().expect("data").len(), 1);
    assert_eq!(served_by(&catalog, "ma"), [0]);
}

#[test]
fn aliases_are_known_names_and_entries_count_by_name_without_id() {
    let list = json!({"data": [{"id": "a", "aliases": ["a", "b"]}, {"name": "c"}, {"x": 1}]});
    let mut one = endpoint("one", &[]);
    one.models = list_of(list.to_string().as_bytes()).ok().map(Arc::new);
    let (catalog, _) = listing(vec![one]);
    assert_eq!(catalog.listing.names().collect::<Vec<_>>(), ["a", "c"]);
    let entry = catalog.listing.entry("b").expect("an alias");
    assert!(String::from_utf8_lossy(entry).contains(r#""id":"a""#));
    assert_eq!(served_by(&catalog, "b"), [0]);
}

#[test]
fn a_route_is_listed_as_an_alias_within_the_scope() {
    let endpoints = [Arc::new(endpoint("one", &["ma"])), Arc::new(endpoint("two", &["mb"]))];
    let backend = |endpoint: &str, model: &str| Backend {
        endpoint: endpoint.into(),
        model: Some(model.into()),
        ..Backend::default()
    };
    let backends = vec![backend("one", "ma"), backend("two", "mb"), backend("one", "ma")];
    let routes = [Route { name: "fast".into(), backends, ..Route::default() }];
    let of = |scope: &Scope| {
        let list: Value = serde_json::from_slice(
            &Catalog::new(&endpoints, &routes).listing(&endpoints, &routes, scope, |_| true).text,
        )
        .expect("JSON");
        list["data"].as_array().expect("data").clone()
    };
    let all = of(&Scope::default());
    assert_eq!(all.iter().map(|one| one["id"].clone()).collect::<Vec<_>>(), ["ma", "mb", "fast"]);
    assert_eq!((&all[2]["root"], &all[2]["aliases"]), (&json!("ma"), &json!(["ma", "mb"])));
    assert_eq!((&all[2]["endpoints"], &all[2]["meta"]["n_ctx"]), (&json!(["one", "two"]), &json!(1)));
    let narrow = of(&Scope { models: vec!["f*".into()], endpoints: vec!["two".into()], group: None });
    assert_eq!(narrow.len(), 1);
    assert_eq!((&narrow[0]["provider"], &narrow[0]["endpoints"]), (&json!("two"), &json!(["two"])));
    assert_eq!(narrow[0]["root"], json!("mb"));
}

#[test]
fn variants_are_listed_as_aliases_and_patterns_are_not() {
    // Issue 14, section 2
    let endpoints = [Arc::new(endpoint("one", &["ma"])), Arc::new(endpoint("two", &["ma", "mb"]))];
    let variant = |suffix: &str| crate::config::Variant { suffix: suffix.into(), ..Default::default() };
    let backend = Backend { endpoint: "two".into(), model: Some("mb".into()), ..Backend::default() };
    let patterns = vec!["gpt-*".to_owned()];
    let routes = [
        Route { name: "ma".into(), variants: vec![variant("low"), variant(":x")], patterns, ..Route::default() },
        Route { name: "fast".into(), backends: vec![backend], variants: vec![variant("low")], ..Route::default() },
        Route { name: "nobody".into(), variants: vec![variant("low")], ..Route::default() },
    ];
    let catalog = Catalog::new(&endpoints, &routes);
    let ids = |scope: &Scope| {
        let listing = catalog.listing(&endpoints, &routes, scope, |_| true);
        listing.names().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(ids(&Scope::default()), ["ma", "mb", "ma-low", "ma:x", "fast", "fast-low"]);
    let entry = |id: &str| serde_json::from_slice::<Value>(catalog.listing.entry(id).expect(id)).expect("JSON");
    assert_eq!((&entry("ma-low")["root"], &entry("ma-low")["endpoints"]), (&json!("ma"), &json!(["one", "two"])));
    assert_eq!((&entry("fast-low")["root"], &entry("fast-low")["aliases"]), (&json!("mb"), &json!(["mb"])));
    assert_eq!((&entry("ma")["root"], &entry("ma")["endpoints"]), (&Value::Null, &json!(["one", "two"])));
    let key = |model: &str| Scope { models: vec![model.into()], ..Scope::default() };
    assert_eq!(ids(&key("ma")), ["ma", "ma-low", "ma:x"]);
    assert_eq!(ids(&key("fast-low")), ["fast-low"]);
}

fn asleep(mut endpoint: Endpoint) -> Endpoint {
    endpoint.config = Arc::new(config::Endpoint { wake: Some(config::Wake::default()), ..(*endpoint.config).clone() });
    endpoint.health = endpoint.health.observe(Observation::Unreachable("x".into()), 3, SystemTime::UNIX_EPOCH).asleep();
    endpoint
}

// Issue 14, section 3
#[test]
fn what_only_sleeping_endpoints_serve_is_marked_and_routes_too() {
    let backend =
        |endpoint: &str| config::Backend { endpoint: endpoint.into(), model: Some("mb".into()), ..Backend::default() };
    let route = |name: &str, endpoints: &[&str]| Route {
        name: name.into(),
        backends: endpoints.iter().map(|name| backend(name)).collect(),
        ..Route::default()
    };
    let endpoints =
        [asleep(endpoint("one", &["ma", "mb"])), endpoint("two", &["mb"]), asleep(endpoint("three", &["ma"]))];
    let endpoints = endpoints.map(Arc::new);
    let routes = [route("r", &["one"]), route("s", &["one", "two"])];
    let listing = Catalog::new(&endpoints, &routes).listing;
    let list: Value = serde_json::from_slice(&listing.text).expect("JSON");
    let rows = list["data"].as_array().expect("a list").iter();
    let row = |one: &Value| [&one["id"], &one["endpoints"], &one["status"]["value"]].map(Value::clone);
    let wanted = [
        [json!("ma"), json!(["one", "three"]), json!("sleeping")],
        [json!("mb"), json!(["two"]), Value::Null],
        [json!("r"), json!(["one"]), json!("sleeping")],
        [json!("s"), json!(["two"]), Value::Null],
    ];
    assert!(rows.map(row).eq(wanted), "{list}");
    let before = Snapshot::new(Arc::default(), vec![Arc::new(endpoint("one", &["ma"]))]);
    let after = before.with("one", |one| *one = asleep(one.clone()));
    assert!(!Arc::ptr_eq(&before.catalog, &after.catalog));
    let awake = after.with("one", |one| *one = endpoint("one", &["ma"]));
    assert_eq!(awake.catalog.listing.text, before.catalog.listing.text);
}
