//! The answers of a toy server in llama-server's formats. Pure.

use super::Toy;
use serde_json::{Value, json};
use std::time::Duration;

/// Context length a toy claims to have.
const CONTEXT: u32 = 4096;
const DIMENSIONS: usize = 16;
/// How long the first token takes when the last message says `slow` or `queued`.
const LONG_WAIT: Duration = Duration::from_secs(3);

/// Which of the two text APIs was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
}

/// A request for text, as far as a toy reads it.
#[derive(Debug)]
pub(crate) struct TextRequest {
    pub(crate) kind: Kind,
    /// Time without a byte, as while all slots are taken: not zero when the last message says `queued`.
    pub(crate) queued: Duration,
    /// Time from a stream's head to its first token, as for a long prompt: not zero when it says `slow`.
    pub(crate) prompt: Duration,
    /// Server-sent events or one JSON object.
    pub(crate) stream: bool,
    include_usage: bool,
    model: String,
    prompt_tokens: usize,
    limit: usize,
}

/// Times measured by the server, for `timings`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) prompt: Duration,
    /// From the first token to the last.
    pub(crate) predicted: Duration,
}

/// What all objects and events of one answer share.
pub(crate) struct TextResponse {
    request: TextRequest,
    id: String,
    created: u64,
    server: &'static str,
    words: Vec<String>,
    finish_reason: &'static str,
}

/// Checks that a body is JSON for a model of this server; an error is the sentence for the client.
pub(super) fn parse(body: &[u8], toy: &Toy) -> Result<(Value, String), String> {
    let body: Value = serde_json::from_slice(body).map_err(|e| format!("the body is not JSON: {e}"))?;
    let model = body["model"].as_str().unwrap_or_default();
    if !toy.models.contains(&model) {
        return Err(format!("model '{model}' not found"));
    }
    let model = model.to_owned();
    Ok((body, model))
}

impl TextRequest {
    /// Reads the fields a toy knows; it ignores all others.
    pub(super) fn new(kind: Kind, body: &Value, model: String) -> Self {
        let prompts: Vec<String> = match (kind, &body["messages"]) {
            (Kind::Chat, Value::Array(messages)) => messages.iter().map(|m| text(&m["content"])).collect(),
            _ => vec![text(&body["prompt"])],
        };
        let last = prompts.last().map_or("", String::as_str);
        let wait = |word| if last.contains(word) { LONG_WAIT } else { Duration::ZERO };
        let limit = body["max_completion_tokens"].as_u64().or(body["max_tokens"].as_u64());
        Self {
            kind,
            queued: wait("queued"),
            prompt: wait("slow"),
            stream: body["stream"] == true,
            include_usage: body["stream_options"]["include_usage"] == true,
            model,
            prompt_tokens: prompts.iter().map(|p| p.split_whitespace().count()).sum(),
            limit: limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX),
        }
    }
}

impl TextResponse {
    /// The answer of `server` to `request`; `number` makes its id, `created` is in seconds since 1970.
    pub(super) fn new(request: TextRequest, server: &'static str, number: u64, created: u64) -> Self {
        let all = speech(server);
        let words: Vec<String> = all.split_inclusive(' ').take(request.limit).map(str::to_owned).collect();
        let finish_reason = if words.concat().len() < all.len() { "length" } else { "stop" };
        Self { id: format!("chatcmpl-{server}-{number}"), created, server, words, finish_reason, request }
    }

    pub(crate) fn request(&self) -> &TextRequest {
        &self.request
    }

    pub(crate) fn words(&self) -> &[String] {
        &self.words
    }

    /// Events for one word; the first is led by the role, as llama-server does.
    pub(crate) fn events(&self, index: usize) -> String {
        let word = &self.words[index];
        match self.request.kind {
            Kind::Chat if index == 0 => self.delta(&json!({"role": "assistant", "content": null})) + &self.word(word),
            Kind::Chat => self.word(word),
            Kind::Completion => event(&self.object(json!([choice_of_text(word, Value::Null)]))),
        }
    }

    /// Events after the last word, without `[DONE]`.
    pub(crate) fn ending(&self, spent: Spent) -> String {
        if self.request.kind == Kind::Completion {
            let mut last = self.object(json!([choice_of_text("", self.finish_reason.into())]));
            last["usage"] = self.usage();
            last["timings"] = self.timings(spent);
            return event(&last);
        }
        let mut last = self.object(json!([{"finish_reason": self.finish_reason, "index": 0, "delta": {}}]));
        if !self.request.include_usage {
            last["timings"] = self.timings(spent);
            return event(&last);
        }
        let mut usage = self.object(json!([]));
        usage["usage"] = self.usage();
        usage["timings"] = self.timings(spent);
        event(&last) + &event(&usage)
    }

    /// The whole answer as one object.
    pub(crate) fn whole(&self, spent: Spent) -> Value {
        let text = self.words.concat();
        let mut whole = match self.request.kind {
            Kind::Completion => self.object(json!([choice_of_text(&text, self.finish_reason.into())])),
            Kind::Chat => self.object(json!([{
                "finish_reason": self.finish_reason, "index": 0,
                "message": {"role": "assistant", "content": text},
            }])),
        };
        if self.request.kind == Kind::Chat {
            whole["object"] = "chat.completion".into();
        }
        whole["usage"] = self.usage();
        whole["timings"] = self.timings(spent);
        whole
    }

    fn word(&self, word: &str) -> String {
        self.delta(&json!({"content": word}))
    }

    fn delta(&self, delta: &Value) -> String {
        event(&self.object(json!([{"finish_reason": null, "index": 0, "delta": delta}])))
    }

    fn object(&self, choices: Value) -> Value {
        let object = if self.request.kind == Kind::Chat { "chat.completion.chunk" } else { "text_completion" };
        json!({
            "choices": choices, "created": self.created, "id": self.id, "model": self.request.model,
            "system_fingerprint": self.server, "object": object,
        })
    }

    fn usage(&self) -> Value {
        let (prompt, completion) = (self.request.prompt_tokens, self.words.len());
        json!({
            "completion_tokens": completion, "prompt_tokens": prompt, "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0},
        })
    }

    fn timings(&self, spent: Spent) -> Value {
        let (prompt_n, predicted_n) = (self.request.prompt_tokens, self.words.len());
        // A microsecond at least: rates are numbers, never infinite.
        let ms = |time: Duration| time.as_secs_f64().max(1e-6) * 1e3;
        let (prompt_ms, predicted_ms) = (ms(spent.prompt), ms(spent.predicted));
        json!({
            "cache_n": 0, "prompt_n": prompt_n, "prompt_ms": prompt_ms,
            "prompt_per_second": prompt_n as f64 / prompt_ms * 1e3,
            "predicted_n": predicted_n, "predicted_ms": predicted_ms,
            "predicted_per_second": predicted_n as f64 / predicted_ms * 1e3,
        })
    }
}

/// `GET /v1/models`
pub(crate) fn models(toy: &Toy, created: u64) -> Value {
    let listed = |name: &&str| json!({"name": name, "model": name, "type": "model", "capabilities": ["completion"]});
    let entry = |name: &&str| {
        json!({
            "id": name, "aliases": [name], "tags": [], "object": "model", "created": created,
            "owned_by": "llmproxy-demo", "meta": {"n_ctx": CONTEXT, "n_ctx_train": CONTEXT, "n_embd": DIMENSIONS},
        })
    };
    json!({
        "models": toy.models.iter().map(listed).collect::<Vec<_>>(),
        "object": "list",
        "data": toy.models.iter().map(entry).collect::<Vec<_>>(),
    })
}

/// `GET /props`
pub(crate) fn props(toy: &Toy) -> Value {
    json!({
        "default_generation_settings": {"params": {}, "n_ctx": CONTEXT}, "total_slots": 2,
        "model_alias": toy.models[0], "model_path": "", "modalities": {"vision": false, "audio": false},
        "endpoint_slots": false, "endpoint_props": false, "endpoint_metrics": false, "chat_template": "",
    })
}

/// `POST /v1/embeddings`: one vector for each text of `input`, the same one for the same text.
pub(crate) fn embeddings(body: &Value, model: &str) -> Value {
    let inputs: Vec<String> = match &body["input"] {
        // A list of numbers is one text, given as tokens.
        Value::Array(items) if !items.iter().all(Value::is_number) => items.iter().map(text).collect(),
        one => vec![text(one)],
    };
    let packed = body["encoding_format"] == "base64";
    let entry = |(index, input): (usize, &String)| {
        let vector = vector(input);
        let mut entry = json!({"embedding": vector, "index": index, "object": "embedding"});
        if packed {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            entry["embedding"] = base64(&bytes).into();
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
pub(crate) fn error(code: u16, kind: &str, message: &str) -> Value {
    json!({"error": {"code": code, "message": message, "type": kind}})
}

fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

fn choice_of_text(text: &str, finish_reason: Value) -> Value {
    json!({"text": text, "index": 0, "logprobs": null, "finish_reason": finish_reason})
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
        // FNV-1a
        let hash =
            word.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        vector[(hash % DIMENSIONS as u64) as usize] += 1.0;
    }
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.map(|x| x / length)
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().chain([0; 2].iter()).take(3).fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        for place in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * place) & 63];
            text.push(if place <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::SHARED;
    use super::*;

    #[test]
    fn base64_matches_the_rfcs_examples() {
        let examples = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| base64(text.as_bytes()));
        assert_eq!(examples, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
    }

    #[test]
    fn a_vector_has_length_one_and_is_nearer_to_a_text_with_common_words() {
        let near = |a: &str, b: &str| -> f32 { vector(a).iter().zip(vector(b)).map(|(a, b)| a * b).sum() };
        assert!((near("a red apple", "a red apple") - 1.0).abs() < 1e-5);
        assert!(near("a red apple", "a red pear") > near("a red apple", "seven quick foxes"));
        assert!((near("", "") - 1.0).abs() < 1e-5);
    }

    #[test]
    fn the_last_message_decides_how_long_the_first_token_takes() {
        let waits = |messages: Value| {
            let request = TextRequest::new(Kind::Chat, &json!({"messages": messages}), SHARED.into());
            (request.queued, request.prompt)
        };
        let none = Duration::ZERO;
        assert_eq!(waits(json!([{"content": "slow"}, {"content": "now"}])), (none, none));
        assert_eq!(waits(json!([{"content": "hi"}, {"content": "be slow"}])), (none, LONG_WAIT));
        assert_eq!(waits(json!([{"content": [{"type": "text", "text": "queued"}]}])), (LONG_WAIT, none));
        assert_eq!(waits(json!([])), (none, none));
    }
}
