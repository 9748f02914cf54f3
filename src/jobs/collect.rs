//! Turns an event stream into the answer that it would have been without `stream` [S004-19]. Pure.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Fields of a delta that come whole, not in pieces.
const WHOLE: [&str; 4] = ["role", "id", "type", "name"];

#[derive(Default)]
struct Choice {
    members: Map<String, Value>,
    message: Option<Map<String, Value>>,
    /// Lists of the message whose items come in pieces with an `index`, such as `tool_calls`.
    lists: BTreeMap<String, BTreeMap<u64, Value>>,
    is_finished: bool,
}

/// The answer of a stream of chat or completion chunks.
///
/// # Errors
/// The stream has an error event, or no end.
pub(crate) fn collect(body: &[u8]) -> Result<Value, String> {
    let mut answer = Map::new();
    let mut choices: BTreeMap<u64, Choice> = BTreeMap::new();
    let mut is_done = false;
    let text = String::from_utf8_lossy(body);
    for (kind, data) in events(&text) {
        // Only an event of its own is the end, not a text with these words.
        if data.trim() == "[DONE]" {
            is_done = true;
            break;
        }
        let Ok(Value::Object(mut chunk)) = serde_json::from_str::<Value>(&data) else {
            return Err("The stream holds an event that is no JSON object.".into());
        };
        if kind == "error" || chunk.contains_key("error") {
            let error = chunk.get("error").unwrap_or(&Value::Null);
            let text = error["message"].as_str().or(error.as_str()).or(chunk.get("message").and_then(Value::as_str));
            return Err(text.unwrap_or("The stream ended with an error.").to_owned());
        }
        if let Some(Value::Array(parts)) = chunk.remove("choices") {
            for part in parts {
                let Value::Object(part) = part else { continue };
                let index = part.get("index").and_then(Value::as_u64).unwrap_or(0);
                choices.entry(index).or_default().add(part);
            }
        }
        // `usage` and `timings` stand in the last chunk that has them.
        for (name, value) in chunk {
            if !value.is_null() || !answer.contains_key(&name) {
                answer.insert(name, value);
            }
        }
    }
    let is_complete = is_done || !choices.is_empty() && choices.values().all(|choice| choice.is_finished);
    if answer.is_empty() && choices.is_empty() || !is_complete {
        return Err("The stream ended before its answer was complete.".into());
    }
    if let Some(object) = answer.get_mut("object").filter(|object| *object == "chat.completion.chunk") {
        *object = json!("chat.completion");
    }
    let choices = choices.into_iter().map(|(index, choice)| choice.whole(index)).collect();
    answer.insert("choices".into(), Value::Array(choices));
    Ok(Value::Object(answer))
}

/// The type and the data of each event that has data (WHATWG HTML 9.2.6). An event that the end of the stream cuts off counts too:
/// some servers leave out the last empty line.
fn events(text: &str) -> impl Iterator<Item = (&str, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'));
    std::iter::from_fn(move || {
        let (mut kind, mut data) = ("", None::<String>);
        loop {
            let Some(line) = lines.next() else { return data.map(|data| (kind, data)) };
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match (name, &mut data) {
                ("data", Some(data)) => data.extend(["\n", value]),
                ("data", None) => data = Some(value.to_owned()),
                ("event", _) => kind = value,
                ("", Some(_)) if line.is_empty() => return data.map(|data| (kind, data)),
                ("", None) if line.is_empty() => kind = "",
                _ => {}
            }
        }
    })
}

impl Choice {
    /// Merges a chunk's choice.
    fn add(&mut self, part: Map<String, Value>) {
        for (name, value) in part {
            match (name.as_str(), value) {
                ("index", _) => {}
                ("delta", Value::Object(delta)) => self.add_delta(delta),
                ("delta", _) => {}
                (_, value) => {
                    self.is_finished |= name == "finish_reason" && !value.is_null();
                    merge(self.members.entry(name).or_insert(Value::Null), value);
                }
            }
        }
    }

    fn add_delta(&mut self, delta: Map<String, Value>) {
        let message = self.message.get_or_insert_default();
        for (name, value) in delta {
            let place = |item: &Value| item.get("index").and_then(Value::as_u64);
            match value {
                Value::Array(items) if !items.is_empty() && items.iter().all(|item| place(item).is_some()) => {
                    let list = self.lists.entry(name).or_default();
                    for item in items {
                        merge(list.entry(place(&item).unwrap_or(0)).or_insert(Value::Null), item);
                    }
                }
                value => merge_member(message, name, value),
            }
        }
    }

    fn whole(self, index: u64) -> Value {
        let Self { mut members, mut message, lists, .. } = self;
        for (name, list) in lists {
            message.get_or_insert_default().insert(name, list.into_values().collect());
        }
        members.insert("index".into(), json!(index));
        message.map(|message| members.insert("message".into(), Value::Object(message)));
        Value::Object(members)
    }
}

fn merge_member(members: &mut Map<String, Value>, name: String, value: Value) {
    match members.get_mut(&name) {
        Some(known) if WHOLE.contains(&name.as_str()) && known.is_string() && !value.is_null() => *known = value,
        Some(known) => merge(known, value),
        None => drop(members.insert(name, value)),
    }
}

/// Text is continued, lists go on, members are filled in; `null` changes nothing.
fn merge(into: &mut Value, new: Value) {
    match (into, new) {
        (_, Value::Null) => {}
        (Value::String(text), Value::String(more)) => text.push_str(&more),
        (Value::Array(items), Value::Array(more)) => items.extend(more),
        (Value::Object(members), Value::Object(more)) => {
            more.into_iter().for_each(|(name, value)| merge_member(members, name, value));
        }
        (into, new) => *into = new,
    }
}

#[cfg(test)]
mod tests;
