//! The file of routes as edited by the page: models in format 003. The page gets masks for keys; a mask that it sends
//! back stands for its key. Pure.

use crate::util::secret::fingerprint;
use serde_json::{Map, Value, json};

/// The models of a file, added if missing.
pub(crate) fn models(file: &mut Value) -> &mut Map<String, Value> {
    if !file.is_object() {
        *file = json!({});
    }
    let name = file.as_object().and_then(|all| all.keys().find(|key| key.eq_ignore_ascii_case("models")).cloned());
    let name = name.unwrap_or_else(|| "Models".into());
    let models = &mut file[name.as_str()];
    if !models.is_object() {
        *models = json!({});
    }
    models.as_object_mut().expect("made an object above")
}

/// In the order of their numbers.
const STRATEGIES: [&str; 3] = ["RoundRobin", "Failover", "Weighted"];

/// A model as it is written to the file: documented spellings, defaults filled in [S003-27]. And the problems that the
/// check of the whole file cannot find, with their paths.
pub(crate) fn written(
    given: &Value,
    stored: &Value,
    name: &mut dyn FnMut() -> String,
) -> (Value, Vec<(String, String)>) {
    let mut problems = Vec::new();
    let Value::Object(model) = given else {
        return (json!({}), vec![(String::new(), "is not an object".into())]);
    };
    let given_strategy = field(model, "Strategy");
    let strategy = match given_strategy {
        Value::Null => STRATEGIES.first(),
        Value::Number(number) => number.as_u64().and_then(|at| STRATEGIES.get(usize::try_from(at).ok()?)),
        Value::String(text) => STRATEGIES.iter().find(|word| word.eq_ignore_ascii_case(text)),
        _ => None,
    };
    let strategy = strategy.map_or_else(|| given_strategy.clone(), |word| json!(word));
    let backends = match field(model, "Backends") {
        Value::Null => Vec::new(),
        Value::Array(list) => list.clone(),
        _ => {
            problems.push(("backends".into(), "is not a list".into()));
            Vec::new()
        }
    };
    let written = backends.iter().enumerate().map(|(at, backend)| match backend {
        Value::Object(backend) => written_backend(backend, at, stored, name, &mut problems),
        other => other.clone(),
    });
    let written: Vec<Value> = written.collect();
    let mut out = json!({"Strategy": strategy, "Backends": written});
    keep(&mut out, model, &["Set", "Default", "Remove", "Variants", "Match", "Stabilize"]);
    (out, problems)
}

/// Copies the members that are given and not empty.
fn keep(out: &mut Value, given: &Map<String, Value>, keys: &[&str]) {
    let is_empty = |value: &Value| [json!(null), json!(""), json!([]), json!({})].contains(value);
    for key in keys.iter().filter(|key| !is_empty(field(given, key))) {
        out[*key] = field(given, key).clone();
    }
}

fn written_backend(
    given: &Map<String, Value>,
    at: usize,
    stored: &Value,
    name: &mut dyn FnMut() -> String,
    problems: &mut Vec<(String, String)>,
) -> Value {
    let text = |key: &str| field(given, key).as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    let mut keys = Vec::new();
    let listed = match field(given, "ApiKeys") {
        Value::Array(list) => list.clone(),
        Value::Null => Vec::new(),
        Value::String(text) => text.split(',').map(|key| json!(key.trim())).collect(),
        _ => {
            problems.push((format!("backends[{at}].apiKeys"), "is not a list of keys".into()));
            Vec::new()
        }
    };
    for (n, key) in listed.iter().enumerate() {
        let place = || format!("backends[{at}].apiKeys[{n}]");
        match key.as_str().map(str::trim) {
            Some("") => {}
            Some(key) if key.starts_with(MASK) => match unmasked(key, &goal(given), stored) {
                Some(key) => keys.push(json!(key)),
                None => {
                    let text = "is the mask of a key that is not stored with this address; type the key";
                    problems.push((place(), text.into()));
                }
            },
            Some(key) => keys.push(json!(key)),
            None => problems.push((place(), "is not text".into())),
        }
    }
    let weight = match field(given, "Weight") {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let weight = weight.unwrap_or(1).clamp(1, 65_535);
    let (kind, target) = match text("Endpoint") {
        Some(endpoint) => ("Endpoint", endpoint),
        None => ("BaseUrl", text("BaseUrl").unwrap_or_default()),
    };
    let mut out = json!({
        "Name": text("Name").unwrap_or_else(name), kind: target, "ApiKeys": keys,
        "BackendModelName": text("BackendModelName"), "Weight": weight,
        "Enabled": field(given, "Enabled").as_bool().unwrap_or(true),
    });
    keep(&mut out, given, &["Under", "Vision"]);
    out
}

/// A member by its name, ignoring case.
fn field<'a>(map: &'a Map<String, Value>, name: &str) -> &'a Value {
    map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or(&Value::Null, |(_, value)| value)
}

const MASK: &str = "***";

/// A mask distinguishes keys but reveals nothing of them.
fn mask(key: &str) -> String {
    format!("{MASK}{}", fingerprint(key, 4))
}

/// Where the keys of a backend are sent: the name of an endpoint, or a base URL.
fn goal(backend: &Map<String, Value>) -> (String, String) {
    let text = |key: &str| field(backend, key).as_str().unwrap_or_default().trim().to_owned();
    match text("Endpoint") {
        endpoint if !endpoint.is_empty() => (endpoint, String::new()),
        _ => (String::new(), text("BaseUrl").trim_end_matches('/').to_owned()),
    }
}

/// The key for a mask, only if stored with this goal, so that a mask cannot redirect a key to another server.
fn unmasked(masked: &str, to: &(String, String), stored: &Value) -> Option<String> {
    match stored {
        Value::Array(items) => items.iter().find_map(|item| unmasked(masked, to, item)),
        Value::Object(members) => {
            let keys = field(members, "ApiKeys").as_array().filter(|_| goal(members) == *to);
            let mut keys = keys.into_iter().flatten().filter_map(Value::as_str);
            let own = keys.find(|key| mask(key) == masked).map(str::to_owned);
            own.or_else(|| members.values().find_map(|value| unmasked(masked, to, value)))
        }
        _ => None,
    }
}

/// A copy with masks in place of all texts that may be keys.
pub(crate) fn masked(file: &Value) -> Value {
    const SECRET: [&str; 5] = ["key", "token", "secret", "password", "auth"];
    fn hide(value: &mut Value, is_secret: bool) {
        match value {
            Value::String(text) if is_secret => *text = mask(text),
            // A URL with a user or password.
            Value::String(text) if text.contains("://") && text.contains('@') => *text = mask(text),
            Value::Array(items) => items.iter_mut().for_each(|item| hide(item, is_secret)),
            Value::Object(members) => members.iter_mut().for_each(|(name, value)| {
                let name = name.to_ascii_lowercase();
                // These contain members of requests, such as `max_tokens`.
                if ["set", "default", "variants"].contains(&&*name) {
                    return;
                }
                hide(value, is_secret || (!value.is_object() && SECRET.iter().any(|word| name.contains(word))));
            }),
            _ => {}
        }
    }
    let mut out = file.clone();
    hide(&mut out, false);
    out
}

/// The models with their members spelled as documented: a file that was written by hand may use any case.
pub(crate) fn documented(models: &Map<String, Value>) -> Value {
    const MODEL: [&str; 8] = ["Strategy", "Backends", "Set", "Default", "Remove", "Variants", "Match", "Stabilize"];
    const BACKEND: [&str; 9] =
        ["Name", "Endpoint", "BaseUrl", "ApiKeys", "BackendModelName", "Weight", "Enabled", "Under", "Vision"];
    fn spelled(value: &Value, names: &[&str]) -> Value {
        let Value::Object(members) = value else { return value.clone() };
        let name =
            |key: &str| names.iter().find(|name| name.eq_ignore_ascii_case(key)).copied().unwrap_or(key).to_owned();
        members.iter().map(|(key, value)| (name(key), value.clone())).collect()
    }
    let model = |model: &Value| {
        let mut out = spelled(model, &MODEL);
        if out.get("Strategy").is_some() {
            out["Strategy"] = written(model, &Value::Null, &mut String::new).0["Strategy"].take();
        }
        if let Some(Value::Array(backends)) = out.get_mut("Backends") {
            backends.iter_mut().for_each(|backend| *backend = spelled(backend, &BACKEND));
        }
        out
    };
    models.iter().map(|(name, value)| (name.clone(), model(value))).collect()
}

#[cfg(test)]
mod tests;
