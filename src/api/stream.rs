//! An event stream read in passing, line by line (WHATWG HTML 9.2.6): whether an event has begun, and whether the
//! API's own end was one of the events. Pure.

use memchr::{memchr2, memmem};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::borrow::Cow;

/// A longer line is not looked into: it carries a picture or a whole answer, and its `event:` line tells what it is.
const LONGEST: usize = 256 << 10;

/// Types of events after which nothing follows: Anthropic, OpenAI's Responses, Audio and Images, and every API's error.
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

#[derive(Default)]
pub(crate) struct Events {
    /// A line whose end is not here yet; at most [`LONGEST`] of it.
    partial: Vec<u8>,
    /// The last line ended with CR: an LF that follows belongs to it.
    after_cr: bool,
    begun: bool,
    /// Inside an event: lines of it came, but no empty one.
    inside: bool,
    /// `data:` lines of this event.
    data: u32,
    /// This event's type, or its only data, is an end.
    ends: bool,
    ended: bool,
    tokens: u64,
}

/// What of an event's data tells that it is the last one: its type, llama-server's own `"stop": true`, an error.
#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    stop: Option<serde_json::Value>,
    error: Option<IgnoredAny>,
}

impl Events {
    /// Takes in the next bytes.
    pub(crate) fn push(&mut self, mut chunk: &[u8]) {
        while let Some(at) = memchr2(b'\n', b'\r', chunk) {
            let (line, is_lf) = (&chunk[..at], chunk[at] == b'\n');
            chunk = &chunk[at + 1..];
            if std::mem::replace(&mut self.after_cr, !is_lf) && is_lf && line.is_empty() {
                continue;
            }
            if self.partial.is_empty() {
                self.line(line);
            } else {
                self.keep(line);
                let whole = std::mem::take(&mut self.partial);
                self.line(&whole);
                self.partial = whole;
                self.partial.clear();
            }
        }
        if !chunk.is_empty() {
            self.after_cr = false;
            self.keep(chunk);
        }
    }

    /// Whether anything but comments and empty lines came.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun || self.partial.first().is_some_and(|first| *first != b':')
    }

    /// Whether an event may follow here.
    pub(crate) fn is_between_events(&self) -> bool {
        !self.inside && self.partial.is_empty()
    }

    /// Whether the API's own end came, as an event of its own. Nothing but its last line breaks may be missing.
    pub(crate) fn has_ended(&self) -> bool {
        let last = match self.partial.strip_prefix(b"data:") {
            Some(data) => self.data == 0 && is_end(data),
            None => self.partial.is_empty() && self.ends && self.data == 1,
        };
        self.ended || last
    }

    pub(crate) fn is_torn(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Events that bring text: about a token each.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LONGEST - self.partial.len();
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
                // Of several lines each is a part of one text.
                self.ends = if self.data == 1 { self.ends || is_end(value) } else { false };
                self.tokens += u64::from(brings_text(value));
            }
            _ => {}
        }
    }
}

/// Whether an event with these data is the last one. They are only parsed when they may say so.
fn is_end(data: &[u8]) -> bool {
    if data.trim_ascii() == b"[DONE]" {
        return true;
    }
    let has = |text: &str| memmem::find(data, text.as_bytes()).is_some();
    let may = has("\"error\"") || has("\"stop\"") || (has("\"type\"") && ENDS.iter().any(|end| has(end)));
    if !may {
        return false;
    }
    serde_json::from_slice::<Said<'_>>(data).is_ok_and(|said| {
        let by_type = said.kind.is_some_and(|kind| ENDS.contains(&&*kind));
        by_type || said.stop == Some(true.into()) || said.error.is_some()
    })
}

fn brings_text(data: &[u8]) -> bool {
    let has = |text: &str| memmem::find(data, text.as_bytes()).is_some();
    data.starts_with(b"{") && (has("\"delta\"") || has("\"text\"") || has("\"content\"")) && !has("\"content\":null")
}

#[cfg(test)]
mod tests;
