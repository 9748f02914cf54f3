//! The outermost members of a JSON body, read where they stand; and those that matter to a job.

use crate::api::errors::{Failure, Kind};
use crate::api::scan::{find, find_text};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Deepest nesting, the object itself included: what serde_json and nlohmann's users take for sane.
const DEPTH: usize = 128;
/// The members that [`JsonObject`] keeps; any others stay where they are, however many there are.
const NAMES: [&str; 8] = [
    "messages",
    "temperature",
    "presence_penalty",
    "frequency_penalty",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    WEBHOOK,
];

/// The member that is ours and goes no further.
pub const WEBHOOK: &str = "webhookUrl";

/// A body, and where its members stand.
pub struct JsonObject<'a> {
    text: &'a str,
    model: Option<&'a RawValue>,
    values: [Option<&'a RawValue>; NAMES.len()],
    /// Where the name of `webhookUrl` begins and its value ends.
    webhook: Option<(usize, usize)>,
}

impl<'a> JsonObject<'a> {
    /// Reads a body, which is checked whole.
    ///
    /// # Errors
    /// It is no JSON object, or says something twice.
    pub fn read(body: &'a [u8]) -> Result<Self, Failure> {
        let text = text(body)?;
        let mut model = ModelMember::default();
        let mut found = Self { text, model: None, values: [None; NAMES.len()], webhook: None };
        let mut twice = None;
        each_member(text, |name, value| {
            if model.take(name, value) {
                return;
            }
            let Some(at) = NAMES.iter().position(|known| spells(name, known)) else { return };
            if found.values[at].replace(value).is_some() {
                twice = Some(NAMES[at]);
            }
            if NAMES[at] == WEBHOOK {
                let place = |raw: &RawValue| raw.get().as_ptr() as usize - text.as_ptr() as usize;
                found.webhook = Some((place(name), place(value) + value.get().len()));
            }
        })?;
        found.model = model.only()?;
        match twice {
            Some(name) => Err(invalid(&format!("The body says `{name}` more than once."))),
            None => Ok(found),
        }
    }

    /// The value of `model` or one of [`NAMES`].
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        match NAMES.iter().position(|known| *known == name) {
            Some(at) => self.values[at],
            None => self.model.filter(|_| name == "model"),
        }
    }

    /// The body without `webhookUrl`, in two pieces; every other byte stays as it was written.
    pub fn without_webhook(&self) -> [&'a str; 2] {
        let Some((start, end)) = self.webhook else { return [self.text, ""] };
        let (before, after) = (&self.text[..start], &self.text[end..]);
        match after.trim_start().strip_prefix(',') {
            Some(after) => [before, after.trim_start()],
            None => [before.trim_end().trim_end_matches(','), after],
        }
    }
}

/// Whether a body asks for a webhook; one that cannot be read does not.
pub(crate) fn has_webhook(body: &[u8]) -> bool {
    find_text(body, WEBHOOK.as_bytes()).is_some()
        && JsonObject::read(body).is_ok_and(|members| members.webhook.is_some())
}

/// The text of a body that may be a JSON object of sane depth.
pub(crate) fn text(body: &[u8]) -> Result<&str, Failure> {
    if body.is_empty() {
        return Err(invalid("The request body is empty: send a JSON object."));
    }
    // RFC 8259 8.1: a sender adds none, and a parser that skips it sees another body than one that does not.
    if [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff"].iter().any(|mark| body.starts_with(mark)) {
        return Err(invalid("The body starts with a byte order mark: send UTF-8 without one."));
    }
    let text = str::from_utf8(body)
        .map_err(|error| invalid(&format!("The body is not valid UTF-8 at byte {}.", error.valid_up_to())))?;
    if text.trim_ascii_start().as_bytes().first() != Some(&b'{') {
        return Err(invalid("The body is not a JSON object: it does not start with `{`."));
    }
    if is_deep(body) {
        return Err(invalid("The body is nested deeper than 128 levels."));
    }
    Ok(text)
}

/// Calls `member` for every member of the outermost object; everything below is skipped without being built. Names are
/// raw as well: one with an unpaired surrogate is none of our business.
pub(crate) fn each_member<'a>(text: &'a str, member: impl FnMut(&'a RawValue, &'a RawValue)) -> Result<(), Failure> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = reader.deserialize_map(Outermost(member)).and_then(|()| reader.end());
    read.map_err(|error| invalid(&format!("The body is not JSON: {error}.")))
}

/// The member `model`. Servers that match names without case take `Model` for it, and the last of several: no body may
/// say it in two ways.
#[derive(Default)]
pub(crate) struct ModelMember<'a> {
    value: Option<&'a RawValue>,
    spellings: usize,
}

impl<'a> ModelMember<'a> {
    /// Whether this member is called `model`, in upper or lower case.
    pub(crate) fn take(&mut self, name: &RawValue, value: &'a RawValue) -> bool {
        let is_model = plain(name, "model").is_some_and(|name| name.eq_ignore_ascii_case("model"));
        if is_model {
            self.spellings += 1;
            self.value = self.value.or(spells(name, "model").then_some(value));
        }
        is_model
    }

    /// Its value, if there is one.
    ///
    /// # Errors
    /// There are several, or one that only some servers find.
    pub(crate) fn only(self) -> Result<Option<&'a RawValue>, Failure> {
        match (self.spellings, self.value) {
            (0, _) | (1, Some(_)) => Ok(self.value),
            (1, None) => {
                Err(invalid("The body writes `model` with capital letters: write it in lower case.").param("model"))
            }
            _ => Err(invalid("The body names `model` more than once.").param("model")),
        }
    }
}

/// Visits the outermost object.
struct Outermost<F>(F);

impl<'a, F: FnMut(&'a RawValue, &'a RawValue)> Visitor<'a> for Outermost<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry()? {
            (self.0)(name, value);
        }
        Ok(())
    }
}

/// Whether a raw JSON string says `word`, with or without escapes.
pub(crate) fn spells(raw: &RawValue, word: &str) -> bool {
    plain(raw, word).is_some_and(|name| name == word)
}

/// A raw JSON string without its escapes, if it may be as long as `word`.
fn plain<'a>(raw: &'a RawValue, word: &str) -> Option<Cow<'a, str>> {
    let raw = raw.get();
    let text = &raw[1..raw.len() - 1];
    // With each letter as `\u0061` the word is six times as long; nothing longer is worth decoding.
    match text.len() {
        length if length > word.len() * 6 => None,
        _ if text.contains('\\') => serde_json::from_str(raw).ok().map(Cow::Owned),
        _ => Some(Cow::Borrowed(text)),
    }
}

/// Whether brackets are open beyond the limit. serde_json skips values without recursion and without a bound, but
/// upstreams build trees; so this runs first, on text that may still turn out not to be JSON.
fn is_deep(body: &[u8]) -> bool {
    let mut depth = 0usize;
    let mut rest = body;
    // One bit apart: `[` and `{`, `]` and `}`.
    while let Some(at) = find(rest, |byte| (byte == b'"') | (byte | 0x20 == b'{') | (byte | 0x20 == b'}')) {
        let byte = rest[at];
        rest = &rest[at + 1..];
        match byte {
            b'"' => rest = after_string(rest),
            b'[' | b'{' if depth == DEPTH => return true,
            b'[' | b'{' => depth += 1,
            _ => depth = depth.saturating_sub(1),
        }
    }
    false
}

fn after_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = find(rest, |byte| (byte == b'"') | (byte == b'\\')) {
        let escape = rest[at] == b'\\';
        rest = rest.get(at + 1 + usize::from(escape)..).unwrap_or_default();
        if !escape {
            return rest;
        }
    }
    &[]
}

pub(crate) fn invalid(message: &str) -> Failure {
    Failure::new(Kind::InvalidBody, message)
}

#[cfg(test)]
mod tests;
