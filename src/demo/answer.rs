//! The answers of a toy server in llama-server's formats. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// Context length a toy claims to have.
const CONTEXT: u32 = 4096;
const DIMENSIONS: usize = 16;
/// How long the first token takes when the last message says `slow` or `queued`.
const LONG_WAIT: Duration = Duration::from_secs(3);

pub(crate) struct Toy {
    pub(crate) name: &'static str,
    pub(crate) addr: SocketAddr,
    pub(crate) models: [&'static str; 2],
    /// In seconds since 1970.
    pub(super) created: u64,
}

/// An answer of `/v1/chat/completions` or `/v1/completions`.
pub(super) struct Text {
    is_chat: bool,
    /// Time without a byte, as while all slots are taken: not zero when the last message says `queued`.
    pub(super) queued: Duration,
    /// Time from a stream's head to its first token, as for a long prompt: not zero when it says `slow`.
    pub(super) prompt: Duration,
    pub(super) stream: bool,
    include_usage: bool,
    prompt_tokens: usize,
    pub(super) words: Vec<String>,
    finish_reason: &'static str,
    common: Value,
}

/// Checks that a body is JSON for a model of this server; an error is the sentence for the client.
pub(super) fn parse(body: &[u8], toy: &Toy) -> Result<(Value, String), String> {
    let body: Value = serde_json::from_slice(body).map_err(|e| format!("the body is not JSON: {e}"))?;
    let model = body["model"].as_str().unwrap_or_default().to_owned();
    if toy.models.contains(&&*model) { Ok((body, model)) } else { Err(format!("model '{model}' not found")) }
}

impl Text {
    /// Of a request a toy reads only what it knows; `number` makes the id.
    pub(super) fn new(is_chat: bool, body: &Value, model: &str, toy: &Toy, number: u64) -> Self {
        let prompts: Vec<String> = match &body["messages"] {
            Value::Array(messages) if is_chat => messages.iter().map(|m| text(&m["content"])).collect(),
            _ => vec![text(&body["prompt"])],
        };
        let (queued, prompt) = waits(prompts.last().map_or("", String::as_str));
        let limit = body["max_completion_tokens"].as_u64().or(body["max_tokens"].as_u64());
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let all = speech(toy.name);
        let words: Vec<String> = all.split_inclusive(' ').take(limit).map(str::to_owned).collect();
        Self {
            is_chat,
            queued,
            prompt,
            stream: body["stream"] == true,
            include_usage: body["stream_options"]["include_usage"] == true,
            prompt_tokens: prompts.iter().map(|prompt| prompt.split_whitespace().count()).sum(),
            finish_reason: if words.concat().len() < all.len() { "length" } else { "stop" },
            words,
            common: json!({
                "id": format!("chatcmpl-{}-{number}", toy.name), "created": toy.created, "model": model,
                "object": if is_chat { "chat.completion.chunk" } else { "text_completion" },
                "system_fingerprint": toy.name,
            }),
        }
    }

    /// Events for one word; the first is led by the role, as llama-server does.
    pub(super) fn events(&self, index: usize) -> String {
        let word = &self.words[index];
        if !self.is_chat {
            return event(&self.object(choice("text", word.as_str().into(), Value::Null)));
        }
        let role = json!({"role": "assistant", "content": null});
        let deltas = [Some(role).filter(|_| index == 0), Some(json!({"content": word}))];
        deltas.into_iter().flatten().map(|delta| event(&self.object(choice("delta", delta, Value::Null)))).collect()
    }

    /// Events after the last word, without `[DONE]`.
    pub(super) fn ending(&self, prompt: Duration, predicted: Duration) -> String {
        let (name, nothing) = if self.is_chat { ("delta", json!({})) } else { ("text", "".into()) };
        let mut last = self.object(choice(name, nothing, self.finish_reason.into()));
        let mut before = String::new();
        if self.is_chat && self.include_usage {
            before = event(&last);
            last["choices"] = json!([]);
        }
        if !self.is_chat || self.include_usage {
            last["usage"] = self.usage();
        }
        last["timings"] = self.timings(prompt, predicted);
        before + &event(&last)
    }

    pub(super) fn whole(&self, prompt: Duration, predicted: Duration) -> Value {
        let text = self.words.concat();
        let (name, content) = match self.is_chat {
            true => ("message", json!({"role": "assistant", "content": text})),
            false => ("text", text.into()),
        };
        let mut whole = self.object(choice(name, content, self.finish_reason.into()));
        if self.is_chat {
            whole["object"] = "chat.completion".into();
        }
        whole["usage"] = self.usage();
        whole["timings"] = self.timings(prompt, predicted);
        whole
    }

    fn object(&self, choice: Value) -> Value {
        let mut object = self.common.clone();
        object["choices"] = vec![choice].into();
        object
    }

    fn usage(&self) -> Value {
        let (prompt, completion) = (self.prompt_tokens, self.words.len());
        json!({
            "completion_tokens": completion, "prompt_tokens": prompt, "total_tokens": prompt + completion,
        })
    }

    fn timings(&self, prompt: Duration, predicted: Duration) -> Value {
        let (prompt_n, predicted_n) = (self.prompt_tokens, self.words.len());
        // A microsecond at least: rates are numbers, never infinite.
        let [prompt_ms, predicted_ms] = [prompt, predicted].map(|time| time.as_secs_f64().max(1e-6) * 1e3);
        json!({
            "prompt_n": prompt_n, "prompt_ms": prompt_ms,
            "prompt_per_second": prompt_n as f64 / prompt_ms * 1e3,
            "predicted_n": predicted_n, "predicted_ms": predicted_ms,
            "predicted_per_second": predicted_n as f64 / predicted_ms * 1e3,
        })
    }
}

/// `GET /v1/models`
pub(super) fn models(toy: &Toy) -> Value {
    let listed = toy.models.map(|name| json!({"name": name, "model": name, "type": "model"}));
    let data = toy.models.map(|name| {
        json!({
            "id": name, "aliases": [name], "object": "model", "created": toy.created, "owned_by": "llmproxy-demo",
            "meta": {"n_ctx": CONTEXT, "n_ctx_train": CONTEXT, "n_embd": DIMENSIONS},
        })
    });
    json!({"models": listed, "object": "list", "data": data})
}

/// `GET /props`
pub(super) fn props(toy: &Toy) -> Value {
    json!({
        "default_generation_settings": {"params": {}, "n_ctx": CONTEXT}, "total_slots": 2,
        "model_alias": toy.models[0], "model_path": "", "modalities": {"vision": false, "audio": false},
        "endpoint_slots": false, "endpoint_props": false, "endpoint_metrics": false, "chat_template": "",
    })
}

/// `POST /v1/embeddings`: one vector for each text of `input`, the same one for the same text.
pub(super) fn embeddings(body: &Value, model: &str) -> Value {
    let inputs: Vec<String> = match &body["input"] {
        // A list of numbers is one text, given as tokens.
        Value::Array(items) if !items.iter().all(Value::is_number) => items.iter().map(text).collect(),
        one => vec![text(one)],
    };
    let entry = |(index, input): (usize, &String)| {
        let vector = vector(input);
        let mut entry = json!({"embedding": vector, "index": index, "object": "embedding"});
        if body["encoding_format"] == "base64" {
            entry["embedding"] = STANDARD.encode(vector.map(f32::to_le_bytes).concat()).into();
            entry["encoding_format"] = "base64".into();
        }
        entry
    };
    let tokens: usize = inputs.iter().map(|input| input.split_whitespace().count()).sum();
    json!({
        "model": model, "object": "list", "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "data": inputs.iter().enumerate().map(entry).collect::<Vec<_>>(),
    })
}

/// `{"error":{...}}` with llama-server's numeric code.
pub(super) fn error(code: u16, kind: &str, message: &str) -> Value {
    json!({"error": {"code": code, "message": message, "type": kind}})
}

fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

fn choice(name: &str, content: Value, finish_reason: Value) -> Value {
    json!({name: content, "index": 0, "logprobs": null, "finish_reason": finish_reason})
}

/// How long a request waits for a slot, and for its prompt.
fn waits(last: &str) -> (Duration, Duration) {
    let wait = |word| if last.contains(word) { LONG_WAIT } else { Duration::ZERO };
    (wait("queued"), wait("slow"))
}

/// The text of a message's content: a string, or the text parts of a list.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|p| p["text"].as_str()).collect::<Vec<_>>().join(" "),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn speech(server: &str) -> String {
    format!(
        "This is {server}, one of two toy model servers that llmproxy --demo starts on this machine. \
         No model is at work here: every question gets these sentences. \
         llmproxy puts one OpenAI-compatible address in front of several model servers. \
         It asks each server which models it has, sends a request to a server that has the model you named, \
         and passes each piece of the answer on as it arrives. \
         When a server dies, the next request goes to another one that has the same model. \
         When you close your connection, the server's work for you is stopped, so its slot is free for others."
    )
}

/// A bag of words, each hashed into one dimension, of length 1: texts that share words lie near each other.
fn vector(input: &str) -> [f32; DIMENSIONS] {
    let mut vector = [0.01_f32; DIMENSIONS];
    for word in input.split_whitespace() {
        let hash = word.bytes().fold(0_usize, |hash, byte| hash.wrapping_mul(31) + usize::from(byte));
        vector[hash % DIMENSIONS] += 1.0;
    }
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.map(|x| x / length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_has_length_one_and_is_nearer_to_a_text_with_common_words() {
        let near = |a: &str, b: &str| -> f32 { vector(a).iter().zip(vector(b)).map(|(a, b)| a * b).sum() };
        assert!((near("a red apple", "a red apple") - 1.0).abs() < 1e-5);
        assert!(near("a red apple", "a red pear") > near("a red apple", "seven quick foxes"));
        assert!((near("", "") - 1.0).abs() < 1e-5);
    }

    #[test]
    fn the_last_message_decides_how_long_the_first_token_takes() {
        let demo = super::super::start().expect("free ports");
        let waits = |messages: Value| {
            let text = Text::new(true, &json!({"messages": messages}), "m", &demo.servers[0], 1);
            (text.queued, text.prompt)
        };
        let none = Duration::ZERO;
        assert_eq!(waits(json!([{"content": "slow"}, {"content": "now"}])), (none, none));
        assert_eq!(waits(json!([{"content": "hi"}, {"content": "be slow"}])), (none, LONG_WAIT));
        assert_eq!(waits(json!([{"content": [{"type": "text", "text": "queued"}]}])), (LONG_WAIT, none));
        assert_eq!(waits(json!([])), (none, none));
    }
}
