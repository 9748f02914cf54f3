//! A JSON request body: its top-level members, found in one pass, and its edited copies. No tree is built, so memory
//! use does not depend on the number or depth of members.

use crate::api::edit::{self, MemberEdit};
use crate::api::errors::{Failure, Kind};
use crate::api::json::{ESCAPED, each_member, span, type_of, unescaped};
use crate::api::prompt;
use memchr::{memchr2, memmem};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::ops::Range;

/// A model name, and its byte range in the body or query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    /// Of the raw value: in JSON, with the quotes.
    pub span: Range<usize>,
}

/// Longest model name, in bytes as written: names are copied, bodies are not.
pub(crate) const MAX_NAME: usize = 64 * 1024;

const LONGEST_ID: usize = 1024;

/// Deepest nesting, the body's own object included; serde_json's default limit.
const DEPTH: usize = 128;

/// A member for this proxy only; it is removed before the body is forwarded.
pub const WEBHOOK: &str = "webhookUrl";

/// The members that are looked up; all others are only skipped.
const NAMES: [&str; 20] = [
    // Routing.
    "model",
    "stream",
    "previous_response_id",
    // Affinity, together with `messages`.
    "prompt",
    "input",
    "tools",
    "functions",
    "system",
    "instructions",
    "prompt_cache_key",
    "metadata",
    "user",
    // Validation of jobs.
    "messages",
    "temperature",
    "presence_penalty",
    "frequency_penalty",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    WEBHOOK,
];

/// Index in [`NAMES`] from which a job must not repeat a member.
const CHECKED: usize = 12;

/// Longest of [`NAMES`], in bytes as written.
const LONGEST_NAME: usize = ESCAPED * "max_completion_tokens".len();

pub struct JsonBody<'a> {
    text: &'a str,
    /// The last one of each name.
    members: [Option<&'a RawValue>; NAMES.len()],
    /// How many members are called `model`, in any case.
    models: usize,
    /// A member that occurs more than once and must not in a job.
    repeated: Option<&'static str>,
}

impl<'a> JsonBody<'a> {
    /// Reads a body and checks all of it against RFC 8259, since upstreams differ in what else they accept.
    ///
    /// # Errors
    /// It is not a JSON object, or nested too deep.
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

    /// Some servers match names in any case, and some take the first, some the last of several members. So that this
    /// proxy and the upstream agree on the model, there must be exactly one spelling of it.
    fn raw_model(&self) -> Result<Option<&'a RawValue>, Failure> {
        match (self.models, self.get("model")) {
            (0, _) => Ok(None),
            (1, Some(raw)) => Ok(Some(raw)),
            (1, None) => invalid_model("The body writes `model` with capital letters: write it in lower case."),
            _ => invalid_model("The body names `model` more than once."),
        }
    }

    pub fn model(&self) -> Result<Option<Named>, Failure> {
        let Some(raw) = self.raw_model()? else { return Ok(None) };
        match raw.get() {
            "null" => invalid_model("`model` must be text, not null; leave it out to get the default."),
            text if !text.starts_with('"') => invalid_model(&format!("`model` must be text, not {}.", type_of(raw))),
            text if text.len() > MAX_NAME => invalid_model("`model` must be shorter."),
            // The syntax was checked, so only an unpaired surrogate can fail.
            text => match serde_json::from_str(text) {
                Ok(name) => Ok(Some(Named { name, span: span(self.text, text) })),
                Err(_) => invalid_model("`model` contains an unpaired surrogate, which no name has."),
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
    /// A member that is validated in jobs occurs more than once.
    pub fn check_once(&self) -> Result<(), Failure> {
        self.raw_model()?;
        match self.repeated {
            Some(name) => Err(invalid(&format!("The body has `{name}` more than once."))),
            None => Ok(()),
        }
    }

    /// The body with another `model`, if one is given (replaced, or added as the first member), with these edits, and,
    /// if `stabilize` is set, with a constant billing line.
    ///
    /// # Errors
    /// The body repeats edited members too often.
    pub fn edited(
        &self,
        model: Option<&str>,
        edits: &[MemberEdit],
        stabilize: bool,
    ) -> Result<Vec<Cow<'a, [u8]>>, Failure> {
        let rename = model.map(|name| MemberEdit::set("model", name));
        let mut changes = match self.get("model").filter(|_| rename.is_some() && edits.is_empty()) {
            // The common case needs no second pass.
            Some(raw) => vec![(span(self.text, raw.get()), serde_json::Value::from(model).to_string().into_bytes())],
            None => edit::changes(self.text, rename.iter().chain(edits))
                .ok_or_else(|| invalid("The body repeats members that are edited here too often."))?,
        };
        if stabilize {
            let of = |names: [&str; 2]| names.map(|name| self.get(name)).into_iter().flatten();
            prompt::stabilize(self.text, of(["system", "instructions"]), of(["messages", "input"]), &mut changes);
        }
        Ok(edit::parts(self.text.as_bytes(), changes))
    }

    pub(crate) fn has_image(&self) -> bool {
        // A plain search rules out most bodies.
        let may = ["image", "\\u00"].iter().any(|word| memmem::find(self.text.as_bytes(), word.as_bytes()).is_some());
        let mut prompts = ["messages", "input"].into_iter().filter_map(|name| self.get(name));
        may && prompts.any(|prompt| prompt::has_image(prompt, prompt::DEPTH))
    }

    /// The body without `webhookUrl`.
    pub fn without_webhook(&self) -> Vec<Cow<'a, [u8]>> {
        let remove = self.get(WEBHOOK).map(|_| MemberEdit::remove(WEBHOOK));
        edit::parts(self.text.as_bytes(), edit::changes(self.text, &remove).unwrap_or_default())
    }
}

/// Whether a body has a `webhookUrl`; false if it is invalid.
pub(crate) fn has_webhook(body: &[u8]) -> bool {
    memmem::find(body, WEBHOOK.as_bytes()).is_some()
        && JsonBody::read(body).is_ok_and(|json| json.check_once().is_ok() && json.get(WEBHOOK).is_some())
}

/// The text of a body that looks like a JSON object and is not nested too deep.
fn text(body: &[u8]) -> Result<&str, Failure> {
    if body.is_empty() {
        return Err(invalid("The request body is empty: send a JSON object."));
    }
    // RFC 8259 8.1 forbids it, and parsers differ in whether they skip it.
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

/// Whether more than [`DEPTH`] brackets are open. serde_json skips nested values without a limit, but upstreams build
/// trees. The text may still turn out not to be JSON.
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

/// Blocks are tested without a branch, so that the compiler can vectorise.
fn quote_or_bracket(bytes: &[u8]) -> Option<usize> {
    // `[` and `{` differ in one bit, and so do `]` and `}`.
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

fn invalid_model<T>(message: &str) -> Result<T, Failure> {
    Err(invalid(message).param("model"))
}

#[cfg(test)]
mod tests;
