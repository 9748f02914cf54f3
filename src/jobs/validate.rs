//! Whether a job can be run at all; every mistake is listed [S004-05..07].

use super::address;
use crate::api::body::{JsonBody, MAX_NAME, WEBHOOK, each_element, each_member, type_of, unescaped};
use crate::config::Webhooks;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The most details that are reported.
const MOST: usize = 50;

/// `role` with each letter as `\u0061`.
const LONGEST_ROLE: usize = 6 * "role".len();

#[derive(Debug, Clone, PartialEq)]
pub struct Detail {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// Path to the member: names and indexes.
    pub path: Vec<Value>,
}

impl Detail {
    fn new(code: &'static str, message: impl Into<String>, path: &[&str]) -> Self {
        Self { code, message: message.into(), path: path.iter().map(|part| json!(part)).collect() }
    }
}

pub fn refusal(details: &[Detail]) -> Value {
    let details: Vec<_> =
        details.iter().map(|one| json!({"code": one.code, "message": one.message, "path": one.path})).collect();
    json!({"error": {"message": "Invalid request body", "type": "validation_error", "code": "invalid_body", "param": null, "details": details}})
}

/// Everything that is wrong with a body for this path.
pub fn check(path: &str, members: &JsonBody<'_>, webhooks: &Webhooks) -> Vec<Detail> {
    let mut found = Vec::new();
    let given = |name: &str| members.get(name).filter(|raw| raw.get() != "null");
    match members.get("model") {
        Some(raw) if !is_text(raw) => found.push(expected("text", raw, &["model"])),
        Some(raw) if raw.get().len() > MAX_NAME => found.push(Detail::new("too_big", "model is too long", &["model"])),
        _ => {}
    }
    if path == "/v1/chat/completions" {
        match members.get("messages") {
            None => found.push(Detail::new("invalid_type", "messages is required", &["messages"])),
            Some(list) if list.get().starts_with('[') => messages(list, &mut found),
            Some(other) => found.push(expected("a list", other, &["messages"])),
        }
    }
    for (name, low, high) in [
        ("temperature", 0.0, 2.0),
        ("presence_penalty", -2.0, 2.0),
        ("frequency_penalty", -2.0, 2.0),
        ("top_p", 0.0, 1.0),
    ] {
        let Some(raw) = given(name) else { continue };
        match number(raw) {
            None => found.push(expected("a number", raw, &[name])),
            Some(number) if number < low => {
                found.push(Detail::new("too_small", format!("{name} must be {low} or more"), &[name]));
            }
            Some(number) if number > high => {
                found.push(Detail::new("too_big", format!("{name} must be {high} or less"), &[name]));
            }
            Some(_) => {}
        }
    }
    for name in ["max_tokens", "max_completion_tokens"] {
        let Some(raw) = given(name) else { continue };
        match raw.get().parse::<u64>() {
            Ok(1..) => {}
            _ if number(raw).is_some() => {
                found.push(Detail::new("too_small", format!("{name} must be a whole number above 0"), &[name]));
            }
            _ => found.push(expected("a number", raw, &[name])),
        }
    }
    if let Some(raw) = given(WEBHOOK) {
        match text(raw) {
            Some(url) => {
                let wrong = address::check(&url, webhooks).err();
                found.extend(wrong.map(|why| Detail::new("invalid_string", format!("{WEBHOOK} {why}"), &[WEBHOOK])));
            }
            None => found.push(expected("text", raw, &[WEBHOOK])),
        }
    }
    found
}

/// The text of a member; `None` for other types and for a lone surrogate.
pub(crate) fn text(raw: &RawValue) -> Option<String> {
    is_text(raw).then(|| serde_json::from_str(raw.get()).ok()).flatten()
}

fn is_text(raw: &RawValue) -> bool {
    raw.get().starts_with('"')
}

fn number(raw: &RawValue) -> Option<f64> {
    raw.get()
        .starts_with(|first: char| first == '-' || first.is_ascii_digit())
        .then(|| raw.get().parse().ok())
        .flatten()
}

/// Looks at every message, one at a time: a list can be as long as a body.
fn messages(list: &RawValue, found: &mut Vec<Detail>) {
    let mut length = 0;
    let read = each_element(list.get(), |raw| {
        if found.len() < MOST {
            found.extend(message(raw, length));
        }
        length += 1;
    });
    if read.is_ok() && length == 0 {
        found.push(Detail::new("too_small", "messages must hold at least one message", &["messages"]));
    }
}

fn message(raw: &RawValue, index: usize) -> Option<Detail> {
    let at = |rest: &[&str], detail: Detail| {
        let path = [json!("messages"), json!(index)].into_iter().chain(rest.iter().map(|part| json!(part)));
        Some(Detail { path: path.collect(), ..detail })
    };
    if !raw.get().starts_with('{') {
        return at(&[], expected("an object", raw, &[]));
    }
    let mut role = None;
    let read = each_member(raw.get(), |name, value| {
        if unescaped(name, LONGEST_ROLE).is_some_and(|name| name == "role") {
            role = Some(value);
        }
    });
    match role.filter(|_| read.is_ok()) {
        Some(role) if !is_text(role) => at(&["role"], expected("text", role, &[])),
        Some(role) if role.get() != "\"\"" => None,
        _ => at(&["role"], Detail::new("invalid_type", "a message needs a role", &[])),
    }
}

fn expected(wanted: &str, given: &RawValue, path: &[&str]) -> Detail {
    Detail::new("invalid_type", format!("expected {wanted}, got {}", type_of(given)), path)
}

#[cfg(test)]
mod tests;
