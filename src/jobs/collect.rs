//! Turns an event stream into the answer that it would have been without `stream` [S004-19]. Pure.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Fields of a delta that come whole, not in pieces.
const WHOLE: [&str; 4] = ["role", "id", "type", "name"];

#[derive(Default)]
struct Choice {
    merged: Value,
    /// Items of lists of the delta that come in pieces with an `index`, such as `tool_calls`.
    items: BTreeMap<(String, u64), Value>,
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
            for part in parts.into_iter().filter(Value::is_object) {
                choices.entry(index(&part).unwrap_or(0)).or_default().add(part);
            }
        }
        // `usage` and `timings` stand in the last chunk that has them.
        for (name, value) in chunk {
            if !value.is_null() || !answer.contains_key(&name) {
                answer.insert(name, value);
            }
        }
    }
    let is_finished = choices.values().all(|choice| !choice.merged["finish_reason"].is_null());
    let is_complete = is_done || !choices.is_empty() && is_finished;
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

fn index(item: &Value) -> Option<u64> {
    item.get("index")?.as_u64()
}

impl Choice {
    fn add(&mut self, mut part: Value) {
        let delta = part.get_mut("delta").and_then(Value::as_object_mut);
        for (name, value) in delta.into_iter().flatten() {
            let Value::Array(items) = value else { continue };
            // A list without indexes goes on as it is.
            if items.iter().all(|item| index(item).is_some()) {
                for item in std::mem::take(items) {
                    let place = (name.clone(), index(&item).unwrap_or(0));
                    merge(self.items.entry(place).or_default(), item);
                }
            }
        }
        merge(&mut self.merged, part);
    }

    fn whole(self, index: u64) -> Value {
        let mut choice = self.merged;
        for ((name, _), item) in self.items {
            if let Value::Array(list) = &mut choice["delta"][name] {
                list.push(item);
            }
        }
        let delta = choice.as_object_mut().and_then(|members| members.remove("delta"));
        choice["index"] = index.into();
        if let Some(delta @ Value::Object(_)) = delta {
            choice["message"] = delta;
        }
        choice
    }
}

/// Text is continued, lists go on, members are filled in; `null` changes nothing.
fn merge(into: &mut Value, new: Value) {
    match (into, new) {
        (_, Value::Null) => {}
        (Value::String(text), Value::String(more)) => text.push_str(&more),
        (Value::Array(items), Value::Array(more)) => items.extend(more),
        (Value::Object(members), Value::Object(more)) => {
            for (name, value) in more {
                let known = members.entry(name.as_str()).or_insert(Value::Null);
                if WHOLE.contains(&name.as_str()) && !value.is_null() {
                    *known = Value::Null;
                }
                merge(known, value);
            }
        }
        (into, new) => *into = new,
    }
}

#[cfg(test)]
mod tests;
