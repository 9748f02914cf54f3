//! Reads an answer while it is relayed: where its event stream starts and ends, its token counts, its response id.
//! Buffers only what is incomplete. Pure.

use crate::api::json::each_member;
use memchr::memchr2;
use memchr::memmem::{self, Finder};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Number;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::LazyLock;

/// Only the start of a longer line is read: it carries an image or a whole answer, and `event:` gives its type.
const LONGEST_LINE: usize = 256 << 10;

/// Types of final events: Anthropic, OpenAI's Responses, Audio and Images, and the error of every API.
const ENDS: [&str; 9] = [
    "message_stop",
    "response.completed",
    "response.incomplete",
    "response.failed",
    "speech.audio.done",
    "transcript.text.done",
    "image_generation.completed",
    "image_edit.completed",
    "error",
];

/// Reads an event stream line by line (WHATWG HTML 9.2.6).
#[derive(Default)]
pub(crate) struct Events {
    /// An incomplete line, at most [`LONGEST_LINE`] of it.
    partial: Vec<u8>,
    /// The last line ended with CR, so an LF that follows is part of its end.
    after_cr: bool,
    begun: bool,
    /// Inside an event, which an empty line ends.
    inside: bool,
    /// `data` lines of this event.
    data: u32,
    /// This event is a final one, by its type or its only `data` line.
    ends: bool,
    ended: bool,
    tokens: u64,
}

/// What marks a final event: its type, llama-server's `"stop": true`, or an error.
#[derive(Deserialize)]
struct EventData<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    stop: Option<serde_json::Value>,
    error: Option<IgnoredAny>,
}

impl Events {
    pub(crate) fn push(&mut self, mut chunk: &[u8]) {
        while let Some(at) = memchr2(b'\n', b'\r', chunk) {
            let (line, is_lf) = (&chunk[..at], chunk[at] == b'\n');
            chunk = &chunk[at + 1..];
            if std::mem::replace(&mut self.after_cr, !is_lf) && is_lf && line.is_empty() {
                continue;
            }
            if self.partial.is_empty() {
                self.line(line);
                continue;
            }
            self.add_partial(line);
            let mut whole = std::mem::take(&mut self.partial);
            self.line(&whole);
            whole.clear();
            self.partial = whole;
        }
        if !chunk.is_empty() {
            self.after_cr = false;
            self.add_partial(chunk);
        }
    }

    /// Whether anything but comments and empty lines was received.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun || self.partial.first().is_some_and(|first| *first != b':')
    }

    pub(crate) fn is_between_events(&self) -> bool {
        !self.inside && self.partial.is_empty()
    }

    /// Whether a final event was received; its last line breaks may be missing.
    pub(crate) fn saw_end_marker(&self) -> bool {
        let last = match self.partial.strip_prefix(b"data:") {
            Some(data) => self.data == 0 && is_end(data),
            None => self.partial.is_empty() && self.ends && self.data == 1,
        };
        self.ended || last
    }

    pub(crate) fn is_torn(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Events with text, about one token each.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    fn add_partial(&mut self, bytes: &[u8]) {
        let room = LONGEST_LINE - self.partial.len();
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn line(&mut self, line: &[u8]) {
        if line.is_empty() {
            self.ended |= self.ends;
            (self.inside, self.data, self.ends) = (false, 0, false);
            return;
        }
        if line[0] == b':' {
            return;
        }
        (self.begun, self.inside) = (true, true);
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"event" => self.ends = ENDS.iter().any(|end| end.as_bytes() == value),
            b"data" => {
                self.data += 1;
                // Several `data` lines are one text, of which no line can be judged alone.
                self.ends = self.data == 1 && (self.ends || is_end(value));
                self.tokens += u64::from(brings_text(value));
            }
            _ => {}
        }
    }
}

/// Whether an event with this `data` is a final one. A plain search rules out most before they are parsed.
fn is_end(data: &[u8]) -> bool {
    if data.trim_ascii() == b"[DONE]" {
        return true;
    }
    let has = |text: &str| memmem::find(data, text.as_bytes()).is_some();
    let may = has("\"error\"") || has("\"stop\"") || (has("\"type\"") && ENDS.iter().any(|end| has(end)));
    may && serde_json::from_slice::<EventData<'_>>(data).is_ok_and(|data| {
        let by_type = data.kind.is_some_and(|kind| ENDS.contains(&&*kind));
        by_type || data.stop == Some(true.into()) || data.error.is_some()
    })
}

fn brings_text(data: &[u8]) -> bool {
    let has = |text: &str| memmem::find(data, text.as_bytes()).is_some();
    data.starts_with(b"{") && (has("\"delta\"") || has("\"text\"") || has("\"content\"")) && !has("\"content\":null")
}

/// Longest `usage` or `timings` object that is buffered; llama-server's are under 1 KB together.
const LONGEST_USAGE: usize = 8 << 10;

/// The numbers that are read from `usage` and `timings`.
const NUMBERS: [&str; 12] = [
    // OpenAI's Chat and Responses.
    "prompt_tokens",
    "completion_tokens",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    // Anthropic's, whose `input_tokens` exclude these.
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    // llama-server's, in every final object.
    "prompt_n",
    "cache_n",
    "predicted_n",
    // Speeds in tokens per second.
    "predicted_per_second",
    "prompt_per_second",
];

const USAGE: &[u8] = b"\"usage\"";
const TIMINGS: &[u8] = b"\"timings\"";
/// Built once: building a finder costs more than searching one chunk.
static FINDERS: LazyLock<[Finder<'static>; 2]> = LazyLock::new(|| [Finder::new(USAGE), Finder::new(TIMINGS)]);

/// Collects token counts. They may come before or after the data of a long answer, and in several events of a stream.
#[derive(Default)]
pub(crate) struct UsageReader {
    /// The tail of the answer so far: possibly the start of a key, or a key with an incomplete value.
    rest: Vec<u8>,
    numbers: Numbers,
}

type Numbers = [Option<Number>; NUMBERS.len()];

/// Shortest prompt, in tokens, whose speed means anything.
const MEASURABLE: u64 = 32;
/// Tokens per second above which a speed is taken for an error; it would spoil every average.
const FASTEST: f64 = 1e12;

/// The token counts of an answer, as far as it gives them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Tokens {
    pub(crate) prompt: Option<u64>,
    /// Prompt tokens found in the cache.
    pub(crate) cached: Option<u64>,
    pub(crate) completion: Option<u64>,
    /// Generated tokens per second.
    pub(crate) per_second: Option<f64>,
    /// Prompt tokens processed per second, if there were enough of them.
    pub(crate) prompt_per_second: Option<f64>,
}

impl Tokens {
    /// The cached part of the prompt, in per cent.
    pub(crate) fn cached_share(&self) -> Option<u64> {
        let (prompt, cached) = (self.prompt.filter(|prompt| *prompt > 0)?, self.cached?);
        Some(((cached as f64 / prompt as f64 * 100.0).round() as u64).min(100))
    }
}

impl UsageReader {
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        for part in chunk.chunks(LONGEST_USAGE) {
            self.rest.extend_from_slice(part);
            let done = self.read();
            self.rest.drain(..done);
        }
    }

    /// Reads the counts in the buffer; returns how many bytes of it are no longer needed.
    fn read(&mut self) -> usize {
        let mut keys: Vec<usize> = FINDERS.iter().flat_map(|finder| finder.find_iter(&self.rest)).collect();
        keys.sort_unstable();
        for at in keys {
            let text = &self.rest[at..];
            let key = if text.starts_with(USAGE) { USAGE } else { TIMINGS };
            match value(&text[key.len()..]) {
                Some(object) => read_numbers(object, &mut self.numbers),
                None if text.len() < LONGEST_USAGE => return at,
                None => {}
            }
        }
        self.rest.len() - self.rest.len().min(TIMINGS.len() - 1)
    }

    pub(crate) fn tokens(&self) -> Tokens {
        let number = |name: &str| self.numbers[NUMBERS.iter().position(|known| *known == name)?].as_ref();
        let count = |name: &str| number(name)?.as_u64();
        let speed = |name: &str| number(name)?.as_f64().filter(|speed| *speed > 0.0 && *speed <= FASTEST);
        let read = count("cache_read_input_tokens");
        // Saturating, as an endpoint may send any number.
        let beside = read.unwrap_or(0).saturating_add(count("cache_creation_input_tokens").unwrap_or(0));
        let input = count("input_tokens").map(|n| n.saturating_add(beside));
        let timed = count("prompt_n").map(|n| n.saturating_add(count("cache_n").unwrap_or(0)));
        let completion = count("completion_tokens").or(count("output_tokens")).or(count("predicted_n"));
        Tokens {
            prompt: count("prompt_tokens").or(input).or(timed),
            cached: count("cached_tokens").or(read).or(count("cache_n")),
            completion,
            // One token has no speed.
            per_second: speed("predicted_per_second").filter(|_| completion.is_none_or(|tokens| tokens > 1)),
            prompt_per_second: speed("prompt_per_second").filter(|_| count("prompt_n") >= Some(MEASURABLE)),
        }
    }
}

/// Reads the numbers of an object. Later ones replace earlier ones.
fn read_numbers(object: &str, numbers: &mut Numbers) {
    let _ = each_member(object, |name, value| {
        let name = name.get().trim_matches('"');
        if let Some(at) = NUMBERS.iter().position(|known| *known == name) {
            numbers[at] = value.get().parse().ok().or(numbers[at].take());
        } else if matches!(name, "prompt_tokens_details" | "input_tokens_details") {
            read_numbers(value.get(), numbers);
        }
    });
}

/// The JSON value that follows a key; empty if there is none, `None` while it is incomplete (or if it is not JSON).
fn value(text: &[u8]) -> Option<&str> {
    let text = text.trim_ascii_start();
    let Some(value) = text.strip_prefix(b":") else { return (!text.is_empty()).then_some("") };
    serde_json::Deserializer::from_slice(value).into_iter::<&RawValue>().next()?.ok().map(RawValue::get)
}

/// The response id is among the first bytes, even where fields are sorted by name.
const HEAD: usize = 8 << 10;
const LONGEST_ID: usize = 512;

/// Finds the id of a response (OpenAI's Responses API) in the first bytes of an answer.
#[derive(Default)]
pub struct IdReader {
    head: Vec<u8>,
    seen: usize,
    is_done: bool,
}

impl IdReader {
    /// Reports each id that may be the response's: the first one, and the first one that starts with `resp`.
    pub fn push(&mut self, chunk: &[u8], mut found: impl FnMut(&str)) {
        if self.is_done || self.head.len() == HEAD {
            return;
        }
        self.head.extend_from_slice(&chunk[..chunk.len().min(HEAD - self.head.len())]);
        while let Some((id, end)) = next_id(&self.head, self.seen) {
            self.is_done = id.starts_with("resp");
            if self.is_done || self.seen == 0 {
                found(id);
            }
            self.seen = end;
            if self.is_done {
                self.head = Vec::new();
                return;
            }
        }
    }
}

/// The next `id` that is a string without escapes, and where to continue; `None` if its value is incomplete.
fn next_id(text: &[u8], from: usize) -> Option<(&str, usize)> {
    for at in memmem::find_iter(&text[from..], b"\"id\"") {
        let end = from + at + 4;
        let id = value(&text[end..])?.strip_prefix('"').and_then(|id| id.strip_suffix('"'));
        if let Some(id) = id.filter(|id| (1..=LONGEST_ID).contains(&id.len()) && !id.contains('\\')) {
            return Some((id, end));
        }
    }
    None
}

#[cfg(test)]
mod tests;
