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
    let mut out = String::from("# The effective configuration. Put the secrets in where \"***\" stands.");
    block(&mut out, &printed(config), 0);
    out.push('\n');
    out
}

/// Writes a value: in block style near the top, in flow style from depth 3.
fn block(out: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if depth < 3 && !map.is_empty() => {
            // The first key of a list item follows the dash.
            let mut is_item = out.ends_with("- ");
            for (key, value) in map {
                if !std::mem::take(&mut is_item) {
                    let _ = write!(out, "\n{indent}");
                }
                let _ = write!(out, "{}:", word(key, key));
                block(out, value, depth + 1);
            }
        }
        Value::Array(list) if depth < 3 && list.iter().any(Value::is_object) => {
            for item in list {
                let _ = write!(out, "\n{indent}- ");
                block(out, item, depth + 1);
            }
        }
        value if out.ends_with(' ') => *out += &flow(value),
        value => *out += &format!(" {}", flow(value)),
    }
}

fn flow(value: &Value) -> String {
    match value {
        // When a file is read, variables in values are replaced, and `$$` stands for `$`.
        Value::String(text) => word(text, &text.replace('$', "$$")),
        Value::Array(list) => format!("[{}]", list.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| format!("{}: {}", word(key, key), flow(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// A YAML string: `text` without quotes if it cannot be read as anything else, or `escaped` in quotes.
fn word(text: &str, escaped: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    // Times and sizes, as `30s` or `64MiB`.
    let measures = text.starts_with(|c: char| matches!(c, '1'..='9'))
        && text.bytes().all(|b| b.is_ascii_alphanumeric())
        && text.parse::<f64>().is_err();
    let is_word = starts_well && text.chars().all(bare) && !reserved.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is_word || measures { text.into() } else { quoted(escaped) }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // The YAML reader rejects these unless escaped.
            _ if c.is_control() || matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}' | '\u{2028}' | '\u{2029}') => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
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
