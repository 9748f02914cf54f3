//! Format 001: `backends` with static models, one mode for all.

use super::{UniqueNames, any_name, endpoint, give_keys, key, weight};
use crate::config::address::base;
use crate::config::reader::Field;
use crate::config::table::*;
use crate::config::{Config, Endpoint, Strategy, UnknownModel};
use std::time::Duration;

pub(super) fn keys(config: &mut Config, keys: &mut Keys) {
    keys.key(&mut config.server.port, "server.port", number("a port", 1..=65_535));
    // S001-03: documented default.
    let mut timeout = Duration::from_secs(180);
    keys.key(&mut timeout, "timeout", go_duration());
    // S001-04: the total number of attempts, and 0 means the default.
    let mut retry = 0;
    keys.key(&mut retry, "retry", number("a number of attempts", 0..=100));
    config.retry.attempts = Some(if retry > 0 { retry } else { 3 });
    config.routing.strategy = Strategy::Random;
    keys.key(&mut config.routing.strategy, "mode", mode());
    config.routing.unknown_model = UnknownModel::Default;
    let mut one = endpoint();
    (one.timeouts.first_byte, one.timeouts.total) = (Some(timeout), Some(timeout));
    keys.required(&mut config.endpoints, "backends", items_as(one, backend));
    let mut names = UniqueNames::default();
    for (index, one) in config.endpoints.iter_mut().enumerate() {
        let name = if one.name.is_empty() { format!("backend{}", index + 1) } else { one.name.clone() };
        one.name = names.unique(name);
    }
}

fn backend(one: &mut Endpoint, keys: &mut Keys) {
    keys.key(&mut one.name, "name", any_name());
    keys.required(&mut one.base, "url", text(base));
    let mut api_key = None;
    keys.key(&mut api_key, "api_key", optional(key()));
    give_keys(one, api_key);
    keys.key(&mut one.weight, "weight", weight());
    keys.key(&mut one.models, "models", list(any_name()));
    keys.key(&mut one.default_model, "default_model", optional(any_name()));
    // A default that is not on the list is served all the same.
    if let Some(model) =
        one.default_model.as_ref().filter(|model| !one.models.is_empty() && !one.models.contains(model))
    {
        one.models.push(model.clone());
    }
}

/// A bare number is an error there, and would mean milliseconds here.
fn go_duration() -> Kind<Duration> {
    Kind::read_only(|field| match field.value().and_then(|value| value.numeric()) {
        Some(_) => {
            field.problem("has no unit; write 180s");
            None
        }
        None => (time(SOME_TIME).read)(field, None),
    })
}

/// S001-05: any other text means random.
fn mode() -> Kind<Strategy> {
    let word = |field: &Field, text: &str| match text {
        "round-robin" | "round\u{2011}robin" => Strategy::RoundRobin,
        "random" => Strategy::Random,
        _ => {
            field.warn("mode is neither random nor round-robin; random is used");
            Strategy::Random
        }
    };
    Kind::read_only(move |field| field.parse(|text| Ok(word(field, text))))
}
