//! A JSON body, its outermost members found in one pass, and the same body with some of them changed. Nothing below them is
//! built, so neither their number nor their depth costs memory. Routes nothing.

use crate::api::edit::{self, MemberEdit};
use crate::api::errors::{Failure, Kind};
use crate::api::json::{each_member, type_of, unescaped};
use crate::api::prompt;
use memchr::{memchr2, memmem};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::ops::Range;

/// A model's name, and where the body or query says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    /// Where the raw value stands, in JSON with its quotes.
    pub span: Range<usize>,
}

/// Longest model name that is looked at, in bytes as written: a name is copied, so it must not be as long as a body.
pub(crate) const MAX_NAME: usize = 64 * 1024;

const LONGEST_ID: usize = 1024;

/// Deepest nesting, the object itself included: what serde_json and nlohmann's users take for sane.
const DEPTH: usize = 128;

/// The member that is ours and goes no further.
pub const WEBHOOK: &str = "webhookUrl";

/// The members that are found; any others stay where they are, however many there are.
const NAMES: [&str; 20] = [
    // What decides where a request goes, and how.
    "model",
    "stream",
    "previous_response_id",
    // What a conversation is recognised by, with `messages`.
    "prompt",
    "input",
    "tools",
    "functions",
    "system",
    "instructions",
    "prompt_cache_key",
    "metadata",
    "user",
    // What a job is checked for.
    "messages",
    "temperature",
    "presence_penalty",
    "frequency_penalty",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    WEBHOOK,
];

/// From here on a name that stands there twice is refused, where a job is checked.
const CHECKED: usize = 12;

/// As long as the longest of [`NAMES`] is with each letter as `\u0061`; nothing longer is worth decoding.
const LONGEST_NAME: usize = 6 * "max_completion_tokens".len();

/// A body and its members.
pub struct JsonBody<'a> {
    text: &'a str,
    /// Of several the last.
    members: [Option<&'a RawValue>; NAMES.len()],
    /// Members called `model`, in upper or lower case.
    models: usize,
    /// One of those that are checked for a job stands there more than once.
    repeated: Option<&'static str>,
}

impl<'a> JsonBody<'a> {
    /// Reads a body. The whole of it is checked against RFC 8259, since an upstream may be laxer than its neighbour.
    ///
    /// # Errors
    /// It is no JSON object, or nested too deep.
    pub fn read(body: &'a [u8]) -> Result<Self, Failure> {
        let text = text(body)?;
        let mut found = Self { text, members: [None; NAMES.len()], models: 0, repeated: None };
        each_member(text, |name, value| {
            let Some(plain) = unescaped(name, LONGEST_NAME) else { return };
            found.models += usize::from(plain.eq_ignore_ascii_case("model"));
            let Some(at) = NAMES.iter().position(|known| *known == plain) else { return };
            if found.members[at].replace(value).is_some() && at >= CHECKED {
                found.repeated = Some(NAMES[at]);
            }
        })
        .map_err(|error| invalid(&format!("The body is not JSON: {error}.")))?;
        Ok(found)
    }

    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.members[NAMES.iter().position(|known| *known == name)?]
    }

    /// Servers that match names without case take `Model` for `model`, and the last of several: no body may say it in two
    /// ways.
    fn raw_model(&self) -> Result<Option<&'a RawValue>, Failure> {
        let refused = |text: &str| Err(invalid(text).param("model"));
        match (self.models, self.get("model")) {
            (0, _) => Ok(None),
            (1, Some(raw)) => Ok(Some(raw)),
            (1, None) => refused("The body writes `model` with capital letters: write it in lower case."),
            _ => refused("The body names `model` more than once."),
        }
    }

    /// The model asked for; none when the body has no such field.
    pub fn model(&self) -> Result<Option<Named>, Failure> {
        let Some(raw) = self.raw_model()? else { return Ok(None) };
        let refused = |text: &str| Err(invalid(text).param("model"));
        match raw.get() {
            "null" => refused("`model` must be text, not null; leave it out to get the default."),
            text if !text.starts_with('"') => refused(&format!("`model` must be text, not {}.", type_of(raw))),
            text if text.len() > MAX_NAME => refused("`model` must be shorter."),
            // The grammar was checked, so only half of a surrogate pair is left to go wrong.
            text => match serde_json::from_str(text) {
                Ok(name) => Ok(Some(Named { name, span: self.span(raw) })),
                Err(_) => refused("`model` holds an unpaired surrogate, which no name has."),
            },
        }
    }

    pub fn stream(&self) -> bool {
        self.get("stream").is_some_and(|raw| raw.get() == "true")
    }

    pub(crate) fn previous(&self) -> Option<String> {
        let raw = self.get("previous_response_id").filter(|raw| raw.get().len() <= LONGEST_ID)?;
        serde_json::from_str(raw.get()).ok()
    }

    /// # Errors
    /// What a job is checked for stands there more than once.
    pub fn check_once(&self) -> Result<(), Failure> {
        self.raw_model()?;
        let refused = |name| Err(invalid(&format!("The body says `{name}` more than once.")));
        self.repeated.map_or(Ok(()), refused)
    }

    /// The body with another model, if one is given (in the place of the old one, else as its first member), with these edits, and with Claude Code's line made stable.
    ///
    /// # Errors
    /// It repeats what is to be edited too often.
    pub fn edited(
        &self,
        model: Option<&str>,
        edits: &[MemberEdit],
        stabilize: bool,
    ) -> Result<Vec<Cow<'a, [u8]>>, Failure> {
        let rename = model.map(|name| MemberEdit::set("model", name));
        let mut changes = match self.get("model").filter(|_| rename.is_some() && edits.is_empty()) {
            // Its place is known.
            Some(raw) => vec![(self.span(raw), serde_json::Value::from(model).to_string().into_bytes())],
            None => edit::changes(self.text, &rename.iter().chain(edits).collect::<Vec<_>>())
                .ok_or_else(|| invalid("The body repeats members that are edited here too often."))?,
        };
        if stabilize {
            let of = |names: [&str; 2]| names.map(|name| self.get(name)).into_iter().flatten();
            prompt::stabilize(self.text, of(["system", "instructions"]), of(["messages", "input"]), &mut changes);
        }
        Ok(edit::parts(self.text.as_bytes(), changes))
    }

    /// Whether the prompt holds an image.
    pub(crate) fn has_image(&self) -> bool {
        // Found out fast of most.
        let may = ["image", "\\u00"].iter().any(|word| memmem::find(self.text.as_bytes(), word.as_bytes()).is_some());
        let mut prompts = ["messages", "input"].into_iter().filter_map(|name| self.get(name));
        may && prompts.any(|prompt| prompt::has_image(prompt, prompt::DEPTH))
    }

    /// The body without `webhookUrl`; every other byte stays as it was written.
    pub fn without_webhook(&self) -> Vec<Cow<'a, [u8]>> {
        let remove = self.get(WEBHOOK).map(|_| MemberEdit::remove(WEBHOOK));
        let changes = edit::changes(self.text, &remove.iter().collect::<Vec<_>>());
        edit::parts(self.text.as_bytes(), changes.unwrap_or_default())
    }

    fn span(&self, raw: &RawValue) -> Range<usize> {
        let start = raw.get().as_ptr() as usize - self.text.as_ptr() as usize;
        start..start + raw.get().len()
    }
}

/// Whether a body asks for a webhook; one that cannot be read does not.
pub(crate) fn has_webhook(body: &[u8]) -> bool {
    memmem::find(body, WEBHOOK.as_bytes()).is_some()
        && JsonBody::read(body).is_ok_and(|json| json.check_once().is_ok() && json.get(WEBHOOK).is_some())
}

/// The text of a body that may be a JSON object of sane depth.
fn text(body: &[u8]) -> Result<&str, Failure> {
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

/// Whether brackets are open beyond the limit. serde_json skips values without recursion and without a bound, but
/// upstreams build trees; so this runs first, on text that may still turn out not to be JSON.
fn is_deep(body: &[u8]) -> bool {
    let mut depth = 0usize;
    let mut rest = body;
    while let Some(at) = quote_or_bracket(rest) {
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

/// Whole blocks are tested without a branch, which compilers turn into vector instructions.
fn quote_or_bracket(bytes: &[u8]) -> Option<usize> {
    // One bit apart: `[` and `{`, `]` and `}`.
    let wanted = |byte: u8| (byte == b'"') | (byte | 0x20 == b'{') | (byte | 0x20 == b'}');
    let (blocks, _) = bytes.as_chunks::<32>();
    let clean = blocks.iter().take_while(|block| !block.iter().fold(false, |any, byte| any | wanted(*byte)));
    let start = clean.count() * 32;
    bytes[start..].iter().position(|byte| wanted(*byte)).map(|at| start + at)
}

fn after_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr2(b'"', b'\\', rest) {
        let escape = rest[at] == b'\\';
        rest = rest.get(at + 1 + usize::from(escape)..).unwrap_or_default();
        if !escape {
            return rest;
        }
    }
    &[]
}

fn invalid(message: &str) -> Failure {
    Failure::new(Kind::InvalidBody, message)
}

#[cfg(test)]
mod tests;
