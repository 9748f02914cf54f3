//! Format 003: `Models`, each with its strategy and backends. Property names are read in any case.

use super::{endpoint, open, unique};
use crate::base::secret::Secret;
use crate::config::check::{base, can_be_sent};
use crate::config::node::{Entry, Node, Value};
use crate::config::reader::{Field, Section};
use crate::config::{Backend, Config, Endpoint, Route, Strategy};
use std::time::Duration;

/// S003-21
const TIMEOUT: Duration = Duration::from_secs(180);

/// The tree with its property names in camelCase; names of models stay as they are.
pub fn spelled(tree: &Node) -> Node {
    each(tree, &|models| {
        names(models, &|model| each(model, &|backends| items(backends, &|one| each(one, &Node::clone))))
    })
}

/// A map with its keys in camelCase and its values changed.
fn each(node: &Node, value: &dyn Fn(&Node) -> Node) -> Node {
    const KEYS: [&str; 9] =
        ["models", "strategy", "backends", "name", "baseUrl", "apiKeys", "backendModelName", "weight", "enabled"];
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

pub fn read(root: &mut Section) -> Config {
    let mut config = open(1852);
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let field = root.field("models");
    config.models = field.map(|name, item| {
        if name.is_empty() {
            item.problem("a model needs a name");
            return None;
        }
        item.item(|s| route(s, name, &mut endpoints))
    });
    if endpoints.is_empty() {
        field.problem("has no backend to send to; add one to a model's `Backends`");
    }
    config.endpoints = endpoints;
    config
}

fn route(s: &mut Section, name: &str, endpoints: &mut Vec<Endpoint>) -> Option<Route> {
    let strategy = strategy(&s.field("strategy"));
    let backends = s.field("backends").list(|item| item.item(|s| backend(s, name, endpoints))).unwrap_or_default();
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

fn backend(s: &mut Section, model: &str, endpoints: &mut Vec<Endpoint>) -> Option<Backend> {
    let name = s.field("name").text().filter(|name| !name.is_empty());
    let base = s.required("baseUrl").parse(base);
    let keys: Vec<Secret> = s.field("apiKeys").list(|item| item.secret_or_empty()).unwrap_or_default();
    if keys.iter().any(|key| !can_be_sent(key.reveal())) {
        s.problem("a key has a character that cannot be sent in a header (ASCII only)");
    }
    let backend_model = s.field("backendModelName").text().filter(|name| !name.is_empty()).map(str::to_owned);
    let weight = s.field("weight").integer().map_or(1, |weight| weight.clamp(1, 65_535));
    let enabled = s.field("enabled").flag().unwrap_or(true);
    let name = name.map_or_else(|| format!("backend-{}", endpoints.len() + 1), str::to_owned);
    let mut one = endpoint(name, base?, keys);
    one.timeouts.first_byte = Some(TIMEOUT);
    one.timeouts.total = Some(TIMEOUT);
    // The same backend under several models is one endpoint.
    let same = endpoints.iter().position(|other| other.base == one.base && other.api_keys == one.api_keys);
    let at = same.unwrap_or_else(|| {
        one.name = unique(one.name.clone(), endpoints);
        endpoints.push(one);
        endpoints.len() - 1
    });
    if !endpoints[at].models.iter().any(|known| known == model) {
        endpoints[at].models.push(model.to_owned());
    }
    Some(Backend { endpoint: endpoints[at].name.clone(), model: backend_model, weight: Some(weight as u16), enabled })
}
