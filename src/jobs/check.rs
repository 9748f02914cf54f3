//! Whether a job can be run at all, told as a list of what is wrong [S004-05..07].

use super::address;
use crate::config::Webhooks;
use crate::model::members::Members;
use serde_json::{Value, json};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Detail {
    /// A word for it.
    pub code: &'static str,
    /// A sentence.
    pub message: String,
    /// Names and indexes down to it.
    pub path: Vec<Value>,
}

impl Detail {
    fn new(code: &'static str, message: impl Into<String>, path: &[&str]) -> Self {
        Self { code, message: message.into(), path: path.iter().map(|part| json!(part)).collect() }
    }
}

/// The answer that tells them.
pub fn refusal(details: &[Detail]) -> Value {
    let details: Vec<_> =
        details.iter().map(|one| json!({"code": one.code, "message": one.message, "path": one.path})).collect();
    json!({"error": {"message": "Invalid request body", "type": "validation_error", "code": "invalid_body", "param": null, "details": details}})
}

/// Everything that is wrong with a body for this path.
pub fn check(path: &str, members: &Members<'_>, webhooks: &Webhooks) -> Vec<Detail> {
    let mut found = Vec::new();
    let value = |name: &str| members.get(name).and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
    match value("model") {
        None | Some(Value::String(_)) => {}
        Some(other) => found.push(expected("text", &other, &["model"])),
    }
    if path == "/v1/chat/completions" {
        messages(value("messages"), &mut found);
    }
    for (name, low, high) in [
        ("temperature", 0.0, 2.0),
        ("presence_penalty", -2.0, 2.0),
        ("frequency_penalty", -2.0, 2.0),
        ("top_p", 0.0, 1.0),
    ] {
        match value(name) {
            None | Some(Value::Null) => {}
            Some(given) => match given.as_f64() {
                None => found.push(expected("a number", &given, &[name])),
                Some(number) if number < low => {
                    found.push(Detail::new("too_small", format!("{name} must be {low} or more"), &[name]));
                }
                Some(number) if number > high => {
                    found.push(Detail::new("too_big", format!("{name} must be {high} or less"), &[name]));
                }
                Some(_) => {}
            },
        }
    }
    for name in ["max_tokens", "max_completion_tokens"] {
        match value(name) {
            None | Some(Value::Null) => {}
            Some(given) if given.as_u64().is_some_and(|number| number > 0) => {}
            Some(given) if given.is_number() => {
                found.push(Detail::new("too_small", format!("{name} must be a whole number above 0"), &[name]));
            }
            Some(given) => found.push(expected("a number", &given, &[name])),
        }
    }
    match value("webhookUrl") {
        None | Some(Value::Null) => {}
        Some(Value::String(url)) => {
            if let Err(why) = address::check(&url, webhooks) {
                found.push(Detail::new("invalid_string", format!("webhookUrl {why}"), &["webhookUrl"]));
            }
        }
        Some(other) => found.push(expected("text", &other, &["webhookUrl"])),
    }
    found
}

fn messages(given: Option<Value>, found: &mut Vec<Detail>) {
    let list = match given {
        None => return found.push(Detail::new("invalid_type", "messages is required", &["messages"])),
        Some(Value::Array(list)) => list,
        Some(other) => return found.push(expected("a list", &other, &["messages"])),
    };
    if list.is_empty() {
        found.push(Detail::new("too_small", "messages must hold at least one message", &["messages"]));
    }
    for (index, message) in list.iter().enumerate() {
        let at = |rest: Option<&str>| {
            let mut path = vec![json!("messages"), json!(index)];
            path.extend(rest.map(|rest| json!(rest)));
            path
        };
        let wrong = match message {
            Value::Object(message) => match message.get("role") {
                Some(Value::String(role)) if !role.is_empty() => None,
                Some(other) if !other.is_string() => {
                    Some(Detail { path: at(Some("role")), ..expected("text", other, &[]) })
                }
                _ => Some(Detail {
                    path: at(Some("role")),
                    ..Detail::new("invalid_type", "a message needs a role", &[])
                }),
            },
            other => Some(Detail { path: at(None), ..expected("an object", other, &[]) }),
        };
        found.extend(wrong);
    }
}

fn expected(wanted: &str, given: &Value, path: &[&str]) -> Detail {
    let kind = match given {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Detail::new("invalid_type", format!("expected {wanted}, got {kind}"), path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(body: &str) -> Vec<(&'static str, String)> {
        let members = Members::read(body.as_bytes()).expect("JSON");
        let all = check("/v1/chat/completions", &members, &Webhooks::default());
        all.into_iter().map(|one| (one.code, Value::from(one.path).to_string())).collect()
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_place() {
        // S004-06, S004-07
        let body = r#"{"model":1,"messages":[{"role":"user","content":"x"},{"content":1},3,{"role":7}],"temperature":2.1,
            "presence_penalty":-3,"frequency_penalty":"x","top_p":1.5,"max_tokens":0,"webhookUrl":"ftp://x"}"#;
        let all = [
            ("invalid_type", r#"["model"]"#),
            ("invalid_type", r#"["messages",1,"role"]"#),
            ("invalid_type", r#"["messages",2]"#),
            ("invalid_type", r#"["messages",3,"role"]"#),
            ("too_big", r#"["temperature"]"#),
            ("too_small", r#"["presence_penalty"]"#),
            ("invalid_type", r#"["frequency_penalty"]"#),
            ("too_big", r#"["top_p"]"#),
            ("too_small", r#"["max_tokens"]"#),
            ("invalid_string", r#"["webhookUrl"]"#),
        ];
        assert_eq!(found(body), all.map(|(code, path)| (code, path.to_owned())));
        for body in ["{}", r#"{"messages":[]}"#, r#"{"messages":{}}"#] {
            assert_eq!(found(body).len(), 1, "{body}");
        }
    }

    #[test]
    fn what_the_original_refused_or_dropped_is_right_here() {
        // W004-3
        let body = r#"{"messages":[{"role":"tool","content":[{"type":"text","text":"x"}]}],"tools":[],"seed":1,"stream":true,
            "temperature":null,"top_p":0,"max_tokens":1,"response_format":{}}"#;
        assert!(found(body).is_empty());
    }
}
