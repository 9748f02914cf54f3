//! Format 003: `Models`, each with its strategy and backends. Property names are read in any case.

use super::{UniqueNames, endpoint, named, open};
use crate::config::check::address::base;
use crate::config::check::endpoint::no_key;
use crate::config::check::header::can_be_sent;
use crate::config::check::routing::known;
use crate::config::node::{Entry, Node, Value};
use crate::config::reader::{Field, Section};
use crate::config::{Backend, Config, Endpoint, Probe, Route, Strategy, Timeouts};
use crate::util::secret::Secret;
use std::collections::HashSet;
use std::time::Duration;

/// S003-21
const TIMEOUT: Duration = Duration::from_secs(180);

/// The tree with its property names in camelCase; names of models stay as they are.
pub(super) fn spelled(tree: &Node) -> Node {
    each(tree, &|models| {
        names(models, &|model| each(model, &|backends| items(backends, &|one| each(one, &Node::clone))))
    })
}

/// A map with its keys in camelCase and its values changed.
fn each(node: &Node, value: &dyn Fn(&Node) -> Node) -> Node {
    const KEYS: [&str; 10] = [
        "models",
        "strategy",
        "backends",
        "name",
        "endpoint",
        "baseUrl",
        "apiKeys",
        "backendModelName",
        "weight",
        "enabled",
    ];
    map(node, &|entry| {
        let known = KEYS.iter().find(|key| key.eq_ignore_ascii_case(&entry.key));
        let key = known.map_or_else(|| entry.key.clone(), |key| (*key).to_owned());
        Entry { key, value: value(&entry.value), ..entry.clone() }
    })
}

fn names(node: &Node, value: &dyn Fn(&Node) -> Node) -> Node {
    map(node, &|entry| Entry { value: value(&entry.value), ..entry.clone() })
}

fn map(node: &Node, change: &dyn Fn(&Entry) -> Entry) -> Node {
    match &node.value {
        Value::Map(entries) => Node { value: Value::Map(entries.iter().map(change).collect()), ..node.clone() },
        _ => node.clone(),
    }
}

fn items(node: &Node, change: &dyn Fn(&Node) -> Node) -> Node {
    match &node.value {
        Value::List(list) => Node { value: Value::List(list.iter().map(change).collect()), ..node.clone() },
        _ => node.clone(),
    }
}

pub(super) fn read(root: &mut Section) -> Config {
    let mut config = open(1852);
    config.timeouts.first_byte = Some(TIMEOUT);
    config.timeouts.total = Some(TIMEOUT);
    add(root, &mut config);
    // That format probes no endpoint [S003-21].
    config.endpoints.iter_mut().for_each(|endpoint| endpoint.probe = Probe::Never);
    if config.endpoints.is_empty() {
        root.warn("no model has a backend yet; add one on the page, or to a model's `Backends`");
    }
    config
}

/// Adds routes, and an endpoint for each new address with its keys.
pub(super) fn add(root: &mut Section, config: &mut Config) {
    let field = root.field("models");
    let endpoints = config.endpoints.clone();
    let probe = if config.admin.probe { Probe::Default } else { Probe::Never };
    let (known, names) = (endpoints.len(), UniqueNames::of(&endpoints));
    let mut fresh = Fresh { timeouts: config.timeouts, probe, known, names, endpoints };
    let added = field.map(|name, item| {
        if name.is_empty() {
            item.problem("a model needs a name");
            return None;
        }
        if let Err(error) = no_key(name) {
            item.problem(format!("the name {error}"));
        }
        item.item(|s| route(s, name, &mut fresh))
    });
    config.endpoints = fresh.endpoints;
    let replaced: HashSet<_> = added.iter().map(|route| route.name.as_str()).collect();
    config.models.retain(|route| !replaced.contains(route.name.as_str()));
    config.models.extend(added);
}

struct Fresh {
    timeouts: Timeouts,
    probe: Probe,
    /// The endpoints before this index are the configuration's own and stay unchanged.
    known: usize,
    endpoints: Vec<Endpoint>,
    names: UniqueNames,
}

fn route(s: &mut Section, name: &str, fresh: &mut Fresh) -> Option<Route> {
    let strategy = strategy(&s.field("strategy"));
    let backends = s.field("backends").list(|item| item.item(|s| backend(s, name, fresh))).unwrap_or_default();
    Some(Route { name: name.to_owned(), strategy: Some(strategy), backends })
}

/// S003-02: a word, or the number that the original writes; missing = 0.
fn strategy(field: &Field) -> Strategy {
    let by_number = [Strategy::RoundRobin, Strategy::Failover, Strategy::Random];
    if let Some(number) = field.is_number().then(|| field.number("a strategy", 0..=2)) {
        return by_number[number.unwrap_or(0usize)];
    }
    let words =
        [("RoundRobin", Strategy::RoundRobin), ("Failover", Strategy::Failover), ("Weighted", Strategy::Random)];
    let word = field.parse(|text| {
        let known = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
        known.map(|(_, strategy)| *strategy).ok_or_else(|| "is not Failover, RoundRobin or Weighted".into())
    });
    word.unwrap_or(Strategy::RoundRobin)
}

fn backend(s: &mut Section, model: &str, fresh: &mut Fresh) -> Option<Backend> {
    let name = named(&s.field("name"));
    let (by_name, base_url) = (s.field("endpoint"), s.field("baseUrl"));
    let keys: Vec<Secret> = s.field("apiKeys").list(|item| item.secret_or_empty()).unwrap_or_default();
    if keys.iter().any(|key| !can_be_sent(key.reveal())) {
        s.problem("a key has a character that cannot be sent in a header (ASCII only)");
    }
    let backend_model = named(&s.field("backendModelName"));
    let weight = s.field("weight").integer().map_or(1, |weight| weight.clamp(1, 65_535));
    let enabled = s.field("enabled").flag().unwrap_or(true);
    let made = |endpoint: String| Backend { endpoint, model: backend_model, weight: Some(weight as u16), enabled };
    if by_name.text().is_some_and(|name| !name.is_empty()) {
        return by_name.parse(|text| known(text, &fresh.endpoints[..fresh.known])).map(made);
    }
    if base_url.text().is_none_or(str::is_empty) {
        s.problem("needs a `BaseUrl`, or an `Endpoint` of the configuration");
        return None;
    }
    let name = name.unwrap_or_else(|| format!("backend-{}", fresh.endpoints.len() + 1));
    let mut one = endpoint(name, base_url.parse(base)?, keys);
    (one.timeouts, one.probe, one.enabled) = (fresh.timeouts, fresh.probe.clone(), false);
    // The same backend under several models is one endpoint.
    let same = |other: &Endpoint| other.base == one.base && other.api_keys == one.api_keys;
    let same = fresh.endpoints.iter().skip(fresh.known).position(same).map(|at| at + fresh.known);
    let at = same.unwrap_or_else(|| {
        one.name = fresh.names.unique(one.name.clone());
        fresh.endpoints.push(one);
        fresh.endpoints.len() - 1
    });
    let used = &mut fresh.endpoints[at];
    // An endpoint that no model uses is not even probed.
    used.enabled |= enabled;
    if !used.models.iter().any(|known| known == model) {
        used.models.push(model.to_owned());
    }
    Some(made(used.name.clone()))
}
