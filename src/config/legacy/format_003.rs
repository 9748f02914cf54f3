//! Format 003: `Models`, each with its strategy and backends. Property names are read in any case.

use super::{UniqueNames, any_name, endpoint, give_keys, key, unless_empty, weight};
use crate::config::address::base;
use crate::config::node::Value;
use crate::config::reader::Field;
use crate::config::routes;
use crate::config::table::*;
use crate::config::text::{name as name_of_model, no_key};
use crate::config::{Backend, Config, Endpoint, Probe, Route, Strategy};
use std::collections::HashSet;
use std::time::Duration;

pub(super) fn keys(config: &mut Config, keys: &mut Keys) {
    // S003-21
    config.timeouts.first_byte = Some(Duration::from_secs(180));
    config.timeouts.total = config.timeouts.first_byte;
    add(config, keys);
    // That format probes no endpoint [S003-21].
    config.endpoints.iter_mut().for_each(|endpoint| endpoint.probe = Probe::Never);
    if config.endpoints.is_empty() {
        keys.read(|root| root.warn("no model has a backend yet; add one on the page, or to a model's `Backends`"));
    }
}

/// Adds routes, and an endpoint for each new address with its keys.
pub(in crate::config) fn add(config: &mut Config, keys: &mut Keys) {
    let mut models = Vec::new();
    keys.key(&mut models, "models", Kind::read_only(|field| Some(field.named().map(model).collect())));
    let replaced: HashSet<_> = models.iter().map(|model| model.route.name.as_str()).collect();
    config.models.retain(|route| !replaced.contains(route.name.as_str()));
    let (own, mut names) = (config.endpoints.len(), UniqueNames::of(&config.endpoints));
    for Model { mut route, backends } in models {
        for one in backends {
            let mut backend = one.backend;
            if backend.endpoint.is_empty() {
                let endpoint = endpoint_for(one.endpoint, config, own, &mut names);
                // An endpoint that no model uses is not even probed.
                endpoint.enabled |= backend.enabled;
                if !endpoint.models.contains(&route.name) {
                    endpoint.models.push(route.name.clone());
                }
                backend.endpoint.clone_from(&endpoint.name);
            }
            route.backends.push(backend);
        }
        config.models.push(route);
    }
    keys.read(|root| routes::check_names(&config.models, &root.get("models")));
}

struct Model {
    route: Route,
    backends: Vec<Served>,
}

/// A backend, and the endpoint that it brings unless it names one.
#[derive(Clone)]
struct Served {
    backend: Backend,
    endpoint: Endpoint,
}

fn model((name, item): (&str, Field)) -> Model {
    if name.is_empty() {
        item.problem("a model needs a name");
    } else if let Err(error) = no_key(name) {
        item.problem(format!("the name {error}"));
    }
    let route = Route { name: name.into(), strategy: Some(Strategy::RoundRobin), ..Route::default() };
    read_section(&item, Model { route, backends: Vec::new() }, |model, keys| {
        keys.key(&mut model.route.strategy, "strategy", optional(strategy()));
        let Route { edits, variants, patterns, stabilize, .. } = &mut model.route;
        edits.keys(keys);
        keys.key(variants, "variants", routes::variants());
        keys.key(patterns, "match", list(text(name_of_model)));
        keys.key(stabilize, "stabilize", optional(word()));
        let backend = Backend { weight: Some(1), ..Backend::default() };
        keys.key(&mut model.backends, "backends", items_as(Served { backend, endpoint: endpoint() }, served));
    })
}

fn served(Served { backend, endpoint }: &mut Served, keys: &mut Keys) {
    keys.key(&mut endpoint.name, "name", any_name());
    keys.key(&mut backend.endpoint, "endpoint", unless_empty(reference("endpoint")));
    keys.key(&mut endpoint.base, "baseUrl", unless_empty(text(base)));
    let mut api_keys = Vec::new();
    keys.key(&mut api_keys, "apiKeys", list(key()));
    give_keys(endpoint, api_keys);
    keys.key(&mut backend.model, "backendModelName", optional(any_name()));
    keys.key(&mut backend.weight, "weight", optional(weight()));
    keys.key(&mut backend.enabled, "enabled", flag());
    keys.key(&mut backend.under, "under", optional(routes::tokens()));
    keys.key(&mut backend.vision, "vision", optional(flag()));
    keys.read(|section| {
        let says = |key: &str| section.gives(key) && !section.get(key).is_word("");
        if !says("endpoint") && !says("baseUrl") {
            section.problem("needs a `BaseUrl`, or an `Endpoint` of the configuration");
        }
    });
}

/// S003-02: a word, or the number that the original writes; missing = 0.
fn strategy() -> Kind<Strategy> {
    const WORDS: [(&str, Strategy); 3] =
        [("RoundRobin", Strategy::RoundRobin), ("Failover", Strategy::Failover), ("Weighted", Strategy::Random)];
    Kind::read_only(|field| match field.value() {
        Some(Value::Number(_)) => field.read(|value| {
            let known = value.whole().and_then(|number| WORDS.get(usize::try_from(number).ok()?));
            known
                .map(|(_, strategy)| *strategy)
                .ok_or_else(|| "is not 0 (RoundRobin), 1 (Failover) or 2 (Weighted)".into())
        }),
        _ => field.parse(|text| {
            let known = WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
            known.map(|(_, strategy)| *strategy).ok_or_else(|| "is not Failover, RoundRobin or Weighted".into())
        }),
    })
}

/// The name of the endpoint with the address and keys of this one: the same backend under several models is one endpoint.
fn endpoint_for<'c>(
    mut one: Endpoint,
    config: &'c mut Config,
    own: usize,
    names: &mut UniqueNames,
) -> &'c mut Endpoint {
    let same = |other: &Endpoint| other.base == one.base && other.api_keys == one.api_keys;
    // The first `own` are the configuration's and stay unchanged.
    let at = config.endpoints[own..].iter().position(same).map(|at| own + at);
    let at = at.unwrap_or_else(|| {
        let number = config.endpoints.len() + 1;
        one.name = names.unique(if one.name.is_empty() { format!("backend-{number}") } else { one.name });
        one.timeouts = config.timeouts;
        one.probe = if config.admin.probe { Probe::Default } else { Probe::Never };
        one.enabled = false;
        config.endpoints.push(one);
        number - 1
    });
    &mut config.endpoints[at]
}
