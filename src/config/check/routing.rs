//! Where models go: `routing`, `models`, `queue`, `retry`. Each takes its defaults from its type.

use super::endpoint::word;
use super::sections::{ANY_TIME, SOME_TIME, weight};
use crate::config::reader::{Field, Section, not_one_of};
use crate::config::shown::has_key;
use crate::config::{Backend, Endpoint, Queue, Retry, Route, Routing, Strategy, UnknownModel};

/// Every accepted spelling of a strategy (SPEC section 5); the first of each is printed.
const STRATEGIES: [(Strategy, &[&str]); 6] = [
    (Strategy::Failover, &["failover", "Failover", "priority"]),
    // S001-05: that README writes U+2011, a hyphen that does not break a line.
    (Strategy::RoundRobin, &["round_robin", "round-robin", "round\u{2011}robin", "roundrobin", "RoundRobin", "rr"]),
    (Strategy::WeightedRoundRobin, &["weighted_round_robin", "weighted_roundrobin", "wrr"]),
    (Strategy::Random, &["random", "weighted", "Weighted"]),
    (Strategy::LeastBusy, &["least_busy", "least_connections"]),
    (Strategy::Affinity, &["affinity"]),
];

pub(super) fn routing(s: &mut Section) -> Routing {
    let default = Routing::default();
    let unknown = [
        ("error", UnknownModel::Error),
        ("default", UnknownModel::Default),
        ("passthrough", UnknownModel::Passthrough),
    ];
    Routing {
        strategy: strategy(&s.field("strategy")).unwrap_or(default.strategy),
        unknown_model: s.field("unknownModel").choice(&unknown).unwrap_or(default.unknown_model),
    }
}

/// A strategy by any of its names.
pub(super) fn strategy(field: &Field) -> Option<Strategy> {
    field.parse(|text| {
        let known = STRATEGIES.iter().find(|(_, words)| words.contains(&text));
        known
            .map(|(strategy, _)| *strategy)
            .ok_or_else(|| not_one_of(text, STRATEGIES.iter().map(|(_, words)| words[0])))
    })
}

/// `models`: names with a route of their own, in the order of the file.
pub(super) fn models(root: &mut Section, endpoints: &[Endpoint]) -> Vec<Route> {
    root.field("models").map(|name, field| {
        if let Err(error) = word(name) {
            let shown = if has_key(name) { String::new() } else { format!(" {name:?}") };
            field.problem(format!("the name{shown} {error}"));
        }
        field.item(|s| route(s, name, endpoints))
    })
}

fn route(s: &mut Section, name: &str, endpoints: &[Endpoint]) -> Option<Route> {
    let strategy = strategy(&s.field("strategy"));
    let field = s.required("backends");
    let backends = field.list(|item| item.item(|s| backend(s, endpoints)));
    Some(Route { name: name.to_owned(), strategy, backends: backends? })
}

fn backend(s: &mut Section, endpoints: &[Endpoint]) -> Option<Backend> {
    let endpoint = s.required("endpoint").parse(|text| known(text, endpoints));
    let model = s.field("model").parse(word);
    let weight = weight(&s.field("weight"));
    let enabled = s.field("enabled").flag().unwrap_or(true);
    Some(Backend { endpoint: endpoint?, model, weight, enabled })
}

/// The name of an endpoint that exists.
pub(crate) fn known(text: &str, endpoints: &[Endpoint]) -> Result<String, String> {
    if endpoints.iter().any(|one| one.name == text) {
        return Ok(text.to_owned());
    }
    let error = not_one_of(text, endpoints.iter().map(|one| one.name.as_str()));
    Err(error.replacen("is not one of", "is no endpoint of this file; there are", 1))
}

pub(super) fn queue(s: &mut Section) -> Queue {
    let default = Queue::default();
    Queue {
        length: s.field("length").number("a number of requests", 0..=65_536).unwrap_or(default.length),
        timeout: s.field("timeout").duration(SOME_TIME).unwrap_or(default.timeout),
    }
}

/// Missing keys are as in `default`.
pub(super) fn retry(s: &mut Section, default: &Retry) -> Retry {
    let attempts = s.field("attempts");
    let attempts = if attempts.is_word("auto") { None } else { attempts.number("auto or a number", 1..=101) };
    let initial_delay = s.field("initialDelay").duration(ANY_TIME).unwrap_or(default.initial_delay);
    let longest = s.field("maxDelay");
    let max_delay = longest.duration(ANY_TIME).unwrap_or(default.max_delay);
    if initial_delay > max_delay {
        s.problem("`initialDelay` is longer than `maxDelay`");
    }
    let words = ["connect", "reset", "timeout", "status"];
    let on = s.field("on").list(|item| {
        item.parse(|text| {
            words.iter().position(|word| *word == text).ok_or_else(|| not_one_of(text, words.into_iter()))
        })
    });
    let has = |index: usize| on.as_ref().is_none_or(|on| on.contains(&index));
    Retry {
        attempts,
        initial_delay,
        max_delay,
        on_connect: has(0),
        on_reset: has(1),
        on_timeout: has(2),
        on_status: has(3),
    }
}
