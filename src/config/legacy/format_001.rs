//! Format 001: `backends` with static models, one mode for all.

use super::{UniqueNames, endpoint, named, open};
use crate::config::check::address::base;
use crate::config::check::endpoint::no_key;
use crate::config::check::header::can_be_sent;
use crate::config::reader::{Field, Section};
use crate::config::{Config, Endpoint, Strategy, UnknownModel};
use std::time::Duration;

/// S001-03: documented default.
const TIMEOUT: Duration = Duration::from_secs(180);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn read(root: &mut Section) -> Config {
    let port = root.field("server").section(|s| s.field("port").number("a port", 1..=65_535));
    let mut config = open(port.unwrap_or(8080));
    let timeout = timeout(&root.field("timeout"));
    // S001-04: the total number of attempts, and 0 means the default.
    let retry = root.field("retry").number("a number of attempts", 0..=100).filter(|n| *n > 0u32);
    config.retry.attempts = Some(retry.unwrap_or(3));
    config.routing.strategy = mode(root);
    config.routing.unknown_model = UnknownModel::Default;
    let (mut endpoints, mut names): (Vec<Endpoint>, _) = (Vec::new(), UniqueNames::default());
    let field = root.required("backends");
    field.list(|item| {
        let mut one = item.item(|s| backend(s, endpoints.len() + 1, &mut names))?;
        one.timeouts.first_byte = Some(timeout);
        one.timeouts.total = Some(timeout);
        endpoints.push(one);
        Some(())
    });
    if endpoints.is_empty() && field.is_given() {
        field.problem("has no backend that can be used");
    }
    config.endpoints = endpoints;
    config
}

/// A bare number is an error there, and would mean milliseconds here.
fn timeout(field: &Field) -> Duration {
    if field.is_number() || field.text().is_some_and(|text| text.parse::<f64>().is_ok()) {
        field.problem("has no unit; write 180s");
        return TIMEOUT;
    }
    field.duration(Duration::from_millis(1)..=DAY).unwrap_or(TIMEOUT)
}

/// S001-05: any other text means random.
fn mode(root: &mut Section) -> Strategy {
    let field = root.field("mode");
    match field.text() {
        Some("round-robin" | "round\u{2011}robin") => Strategy::RoundRobin,
        None | Some("random") => Strategy::Random,
        Some(_) => {
            root.warn("mode is neither random nor round-robin; random is used");
            Strategy::Random
        }
    }
}

fn backend(s: &mut Section, number: usize, names: &mut UniqueNames) -> Option<Endpoint> {
    let name = named(&s.field("name"));
    let base = s.required("url").parse(base);
    let key = s.field("api_key").secret_or_empty();
    if key.as_ref().is_some_and(|key| !can_be_sent(key.reveal())) {
        s.problem("`api_key` has a character that cannot be sent in a header (ASCII only)");
    }
    // S001-06: weight <= 0 counts as 1.
    let weight = s.field("weight").integer().map_or(1, |weight| weight.clamp(1, 65_535));
    let models: Vec<String> = s.field("models").list(|item| item.parse(no_key)).unwrap_or_default();
    let default_model = named(&s.field("default_model"));
    let name = names.unique(name.unwrap_or_else(|| format!("backend{number}")));
    let mut one = endpoint(name, base?, key.into_iter().collect());
    one.weight = weight as u16;
    // A default that is not on the list is served all the same.
    one.models = models;
    if let Some(model) = default_model.as_ref().filter(|model| !one.models.is_empty() && !one.models.contains(model)) {
        one.models.push(model.clone());
    }
    one.default_model = default_model;
    Some(one)
}
