//! Whether a job can be run at all; every mistake is listed [S004-05..07].

use super::address;
use crate::api::body::{JsonBody, MAX_NAME, WEBHOOK};
use crate::api::json::{each_element, each_member, type_of, unescaped};
use crate::config::Webhooks;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The most details that are reported.
const MOST: usize = 50;

/// `role` with each letter as `\u0061`.
const LONGEST_ROLE: usize = 6 * "role".len();

#[derive(Debug, Clone, PartialEq, Serialize)]
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
    let text = "Invalid request body";
    json!({"error": {"message": text, "type": "validation_error", "code": "invalid_body", "param": null, "details": details}})
}

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
        found.extend(match number(raw) {
            None => Some(expected("a number", raw, &[name])),
            Some(n) if n < low => Some(Detail::new("too_small", format!("{name} must be {low} or more"), &[name])),
            Some(n) if n > high => Some(Detail::new("too_big", format!("{name} must be {high} or less"), &[name])),
            Some(_) => None,
        });
    }
    for name in ["max_tokens", "max_completion_tokens"] {
        let Some(raw) = given(name) else { continue };
        let small = || Detail::new("too_small", format!("{name} must be a whole number above 0"), &[name]);
        found.extend(match raw.get().parse::<u64>() {
            Ok(1..) => None,
            _ if number(raw).is_some() => Some(small()),
            _ => Some(expected("a number", raw, &[name])),
        });
    }
    if let Some(raw) = given(WEBHOOK) {
        let wrong = |why| Detail::new("invalid_string", format!("{WEBHOOK} {why}"), &[WEBHOOK]);
        found.extend(match text(raw) {
            Some(url) => address::check(&url, webhooks).err().map(wrong),
            None => Some(expected("text", raw, &[WEBHOOK])),
        });
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
    let is_number = raw.get().starts_with(|first: char| first == '-' || first.is_ascii_digit());
    raw.get().parse().ok().filter(|_| is_number)
}

/// Looks at every message, one at a time: a list can be as long as a body.
fn messages(list: &RawValue, found: &mut Vec<Detail>) {
    let mut length = 0;
    let read = each_element(list.get(), |raw| {
        if found.len() < MOST
            && let Some(mut detail) = message(raw)
        {
            detail.path.splice(..0, [json!("messages"), json!(length)]);
            found.push(detail);
        }
        length += 1;
    });
    if read.is_ok() && length == 0 {
        found.push(Detail::new("too_small", "messages must hold at least one message", &["messages"]));
    }
}

fn message(raw: &RawValue) -> Option<Detail> {
    if !raw.get().starts_with('{') {
        return Some(expected("an object", raw, &[]));
    }
    let mut role = None;
    let read = each_member(raw.get(), |name, value| {
        if unescaped(name, LONGEST_ROLE).is_some_and(|name| name == "role") {
            role = Some(value);
        }
    });
    match role.filter(|_| read.is_ok()) {
        Some(role) if !is_text(role) => Some(expected("text", role, &["role"])),
        Some(role) if role.get() != "\"\"" => None,
        _ => Some(Detail::new("invalid_type", "a message needs a role", &["role"])),
    }
}

fn expected(wanted: &str, given: &RawValue, path: &[&str]) -> Detail {
    Detail::new("invalid_type", format!("expected {wanted}, got {}", type_of(given)), path)
}

#[cfg(test)]
mod tests;
