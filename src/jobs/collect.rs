//! An event stream put together to the answer that it would have been without `stream` [S004-19]. Pure.

use serde_json::{Map, Value, json};

/// Fields of a delta that are told once and not in pieces.
const WHOLE: [&str; 4] = ["role", "id", "type", "name"];

/// The answer that a stream of chat or completion chunks amounts to.
///
/// # Errors
/// The stream tells an error, or does not come to its end.
pub fn collect(body: &[u8]) -> Result<Value, String> {
    let mut answer = Map::new();
    let mut choices: Vec<(u64, Map<String, Value>)> = Vec::new();
    let mut ended = false;
    for event in events(body) {
        if event.trim() == "[DONE]" {
            ended = true;
            continue;
        }
        let Ok(Value::Object(mut chunk)) = serde_json::from_str::<Value>(&event) else {
            return Err("The stream holds an event that is no JSON object.".into());
        };
        if let Some(error) = chunk.get("error") {
            let text = error.get("message").and_then(Value::as_str).or(error.as_str());
            return Err(text.unwrap_or("The stream ended with an error.").to_owned());
        }
        let parts = chunk.remove("choices");
        for part in parts.as_ref().and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object) {
            let index = part.get("index").and_then(Value::as_u64).unwrap_or(0);
            let at = choices.iter().position(|(known, _)| *known == index).unwrap_or_else(|| {
                choices.push((index, Map::from_iter([("index".to_owned(), json!(index))])));
                choices.len() - 1
            });
            ended |= part.get("finish_reason").is_some_and(|reason| !reason.is_null());
            add(&mut choices[at].1, part);
        }
        // `usage` and `timings` stand in the last chunk that has them.
        for (name, value) in chunk {
            if !value.is_null() || !answer.contains_key(&name) {
                answer.insert(name, value);
            }
        }
    }
    if !ended {
        return Err("The stream ended before its answer was complete.".into());
    }
    if let Some(object) = answer.get_mut("object").filter(|object| *object == "chat.completion.chunk") {
        *object = json!("chat.completion");
    }
    choices.sort_by_key(|(index, _)| *index);
    let choices = choices.into_iter().map(|(_, choice)| Value::Object(choice)).collect();
    answer.insert("choices".into(), Value::Array(choices));
    Ok(Value::Object(answer))
}

/// The data of each event (WHATWG HTML 9.2.6).
fn events(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(body);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let data = |event: &str| {
        let lines = event.lines().filter_map(|line| line.strip_prefix("data:"));
        let lines: Vec<_> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    };
    text.split("\n\n").filter_map(data).collect()
}

/// Adds a chunk's choice to what came before.
fn add(choice: &mut Map<String, Value>, part: &Map<String, Value>) {
    for (name, value) in part {
        match name.as_str() {
            "index" => {}
            "delta" => merge(choice.entry("message").or_insert_with(|| json!({})), value),
            _ => merge(choice.entry(name.clone()).or_insert(Value::Null), value),
        }
    }
}

/// Text is continued, lists go on, members are filled in; `null` changes nothing.
fn merge(into: &mut Value, new: &Value) {
    match (into, new) {
        (_, Value::Null) => {}
        (Value::String(text), Value::String(more)) => text.push_str(more),
        (Value::Object(members), Value::Object(more)) => {
            for (name, value) in more {
                match members.get_mut(name) {
                    Some(known) if WHOLE.contains(&name.as_str()) && known.is_string() => known.clone_from(value),
                    Some(known) => merge(known, value),
                    None => {
                        members.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        (Value::Array(items), Value::Array(more)) => {
            for item in more {
                let index = item.get("index").filter(|index| index.is_u64());
                match items.iter_mut().find(|known| index.is_some() && known.get("index") == index) {
                    Some(known) => merge(known, item),
                    None => items.push(item.clone()),
                }
            }
        }
        (into, new) => into.clone_from(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_stream_becomes_the_answer_it_would_have_been() {
        let body = concat!(
            ": ping\n\n",
            "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null},\"finish_reason\":null}]}\n\n",
            "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"}},{\"index\":1,\"delta\":{\"content\":\"x\"}}]}\r\n\r\n",
            "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\",\"tool_calls\":[{\"index\":0,\"id\":\"t\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}}]}\n\n",
            "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"}\"}}]},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n",
            "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":3}}\n\n",
            "data: [DONE]\n\n"
        );
        let answer = collect(body.as_bytes()).expect("complete");
        assert_eq!((&answer["object"], &answer["usage"]["prompt_tokens"]), (&json!("chat.completion"), &json!(3)));
        let first = &answer["choices"][0];
        assert_eq!((&first["message"]["content"], &first["message"]["role"]), (&json!("Hello"), &json!("assistant")));
        assert_eq!((&first["finish_reason"], first.get("delta")), (&json!("stop"), None));
        let call = &first["message"]["tool_calls"][0];
        assert_eq!((&call["id"], &call["function"]["arguments"]), (&json!("t"), &json!("{}")));
        assert_eq!(answer["choices"][1]["message"]["content"], "x");
    }

    #[test]
    fn recorded_streams_become_answers() {
        for (raw, part) in [
            (&include_bytes!("../../tests/data/chat_stream_usage.raw")[..], "message"),
            (include_bytes!("../../tests/data/chat_stream.raw"), "message"),
            (include_bytes!("../../tests/data/completions_stream.raw"), "text"),
        ] {
            let text = String::from_utf8_lossy(raw);
            let (_, body) = text.split_once("\r\n\r\n").expect("a head");
            // Chunk sizes stand between the events.
            let body: Vec<_> = body.lines().filter(|line| line.starts_with("data:")).collect();
            let answer = collect(body.join("\n\n").as_bytes()).expect("complete");
            assert!(
                answer["choices"][0][part].is_string() || answer["choices"][0][part]["content"].is_string(),
                "{answer}"
            );
            assert!(answer["choices"][0]["finish_reason"].is_string(), "{answer}");
        }
    }

    #[test]
    fn a_stream_without_its_end_or_with_an_error_is_no_answer() {
        assert!(collect(b"data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n").is_err());
        let told = collect(b"data: {\"error\":{\"message\":\"too long\"}}\n\ndata: [DONE]\n\n");
        assert_eq!(told, Err("too long".into()));
        assert!(collect(b"data: {\n\n").is_err() && collect(b"").is_err());
    }
}
