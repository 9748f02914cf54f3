//! A configuration as text: all of it in native YAML, or a one-screen summary. Shows no secrets.

use super::address::bracketed;
use super::table::printed;
use super::{Config, Timeouts};
use crate::util::units::{print_duration, print_size};
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;

/// The effective configuration with every key. With the secrets put in, it reads back as the same configuration.
pub fn yaml(config: &Config) -> String {
    let mut all = printed(config);
    escape_variables(&mut all);
    let yaml = serde_yaml::to_string(&all).expect("JSON is YAML");
    format!("# The effective configuration. Put the secrets in where '***' stands.\n{yaml}")
}

/// When a file is read, variables in values are replaced, and `$$` stands for `$`.
fn escape_variables(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.replace('$', "$$"),
        Value::Array(list) => list.iter_mut().for_each(escape_variables),
        Value::Object(map) => map.values_mut().for_each(escape_variables),
        _ => {}
    }
}

/// Listeners, groups and endpoints listed one by one.
const FEW: usize = 3;

/// One screen for `--check`.
pub fn summary(config: &Config) -> String {
    let server = &config.server;
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12}{value}");
    };
    let place = |host: &str, port: u16| format!("http://{}:{port}", bracketed(host));
    line("listens on", place(&server.host, server.port));
    for listener in config.listeners.iter().take(FEW) {
        let group = listener.policy.group.as_deref().map_or(String::new(), |group| format!(", group {group}"));
        line("", format!("{} ({}{group})", place(&listener.host, listener.port), listener.name));
    }
    if config.listeners.len() > FEW {
        line("", format!("and {} more", config.listeners.len() - FEW));
    }
    let (workers, backlog, connections) = (server.workers, server.backlog, server.max_connections);
    line("holds", format!("{workers} requests at once, {backlog} waiting, {connections} connections"));
    line("bodies", format!("{} each, {} together", print_size(server.max_body), print_size(server.body_memory)));
    let (interval, failures) = (config.health_check.interval, config.health_check.failure_threshold);
    let interval = print_duration(interval);
    line("health", format!("probed every {interval}, unhealthy after {failures} failures in a row"));
    line("time-outs", limits(&config.timeouts));
    for group in config.groups.iter().take(FEW) {
        let stages = group.timeouts.over(&config.timeouts);
        if stages != config.timeouts {
            line("", format!("{} in group {}", limits(&stages), group.name));
        }
    }
    line("models", format!("lists are cached for {}", print_duration(config.models_ttl())));
    let enabled = config.endpoints.iter().filter(|endpoint| endpoint.enabled).count();
    line("endpoints", format!("{enabled} of {} switched on", config.endpoints.len()));
    for one in endpoints(config) {
        line("", one);
    }
    let differing = config.endpoints.iter().filter(|one| one.enabled && one.timeouts != config.timeouts);
    for endpoint in differing.take(FEW) {
        line("", format!("{} at {}", limits(&endpoint.timeouts), endpoint.name));
    }
    out
}

fn limits(timeouts: &Timeouts) -> String {
    let limit = |time: Option<Duration>| time.map_or("none".into(), print_duration);
    let (connect, first_byte) = (limit(timeouts.connect), limit(timeouts.first_byte));
    let (idle, total) = (limit(timeouts.idle), limit(timeouts.total));
    format!("connect {connect}, first byte {first_byte}, idle {idle}, total {total}")
}

/// One line per endpoint: name, address, models.
pub fn endpoints(config: &Config) -> Vec<String> {
    const MAX_LISTED: usize = 8;
    let few = config.endpoints.iter().take(MAX_LISTED);
    let width = few.clone().map(|endpoint| endpoint.name.chars().count()).max().unwrap_or(0);
    let mut lines: Vec<_> = few
        .map(|endpoint| {
            let models = match endpoint.models.as_slice() {
                [] if !config.knows_models() => "any request, unchanged".into(),
                [] => "models from its own list".into(),
                models if models.len() > 4 => format!("{} and {} more", models[..3].join(", "), models.len() - 3),
                models => models.join(", "),
            };
            let off = if endpoint.enabled { "" } else { " (off)" };
            format!("{:<width$}  {}{off}  {models}", endpoint.name, endpoint.base)
        })
        .collect();
    if config.endpoints.len() > MAX_LISTED {
        lines.push(format!("and {} more", config.endpoints.len() - MAX_LISTED));
    }
    lines
}
