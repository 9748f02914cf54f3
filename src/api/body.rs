//! Which model a JSON body names and whether it wants a stream, read in passing: nothing else of the body is kept. Routes nothing.

use crate::api::errors::Failure;
use crate::api::json_object::{self, ModelMember, invalid, spells};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::ops::Range;

/// What the proxy needs to know of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peek {
    /// The model asked for; none when the body has no such field.
    pub model: Option<Named>,
    /// Whether the body says `"stream": true`.
    pub stream: bool,
    /// The response that this one follows (`previous_response_id`).
    pub(crate) previous: Option<String>,
}

/// A model's name, and where the body or query says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    /// The raw value's place, in JSON with its quotes.
    pub span: Range<usize>,
}

/// Longest model name that is looked at, in bytes as written: a name is copied, so it must not be as long as a body.
pub(crate) const MAX_NAME: usize = 64 * 1024;

/// Longest id of a response that is looked at.
const LONGEST_ID: usize = 1024;

/// Reads a JSON body. The whole of it is checked against RFC 8259, since an upstream may be laxer than its neighbour.
pub fn json(body: &[u8]) -> Result<Peek, Failure> {
    let (mut model, mut stream, mut previous) = (ModelMember::default(), false, None);
    json_object::each_member(json_object::text(body)?, |name, value| {
        if model.take(name, value) {
            return;
        }
        if spells(name, "stream") {
            stream = value.get() == "true";
        } else if spells(name, "previous_response_id") && value.get().len() <= LONGEST_ID {
            previous = serde_json::from_str(value.get()).ok();
        }
    })?;
    let model = model.only()?.map(|raw| named(raw, body)).transpose()?;
    Ok(Peek { model, stream, previous })
}

/// The body with the JSON text at `span` replaced by `name`: three pieces to send one after another.
pub fn renamed<'a>(body: &'a [u8], span: &Range<usize>, name: &str) -> [Cow<'a, [u8]>; 3] {
    let quoted = serde_json::Value::from(name).to_string();
    replaced(body, span, quoted.into_bytes())
}

/// The body with the bytes at `span` replaced, as for a form's field, which has no quotes.
pub fn replaced<'a>(body: &'a [u8], span: &Range<usize>, new: Vec<u8>) -> [Cow<'a, [u8]>; 3] {
    [Cow::Borrowed(&body[..span.start]), Cow::Owned(new), Cow::Borrowed(&body[span.end..])]
}

/// A body without `model` with `name` as its first member. It is an object: that was checked when it was peeked at.
pub(crate) fn named_first<'a>(body: &'a [u8], name: &str) -> [Cow<'a, [u8]>; 3] {
    let open = body.iter().position(|&byte| byte == b'{').map_or(0, |at| at + 1);
    let is_empty = body[open..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
    let member = format!("\"model\":{}{}", serde_json::Value::from(name), if is_empty { "" } else { "," });
    replaced(body, &(open..open), member.into_bytes())
}

fn named(raw: &RawValue, body: &[u8]) -> Result<Named, Failure> {
    let raw = raw.get();
    let what = match raw.as_bytes()[0] {
        b'"' if raw.len() <= MAX_NAME => {
            let start = raw.as_ptr() as usize - body.as_ptr() as usize;
            // The grammar was checked, so only half of a surrogate pair is left to go wrong.
            let name = serde_json::from_str(raw)
                .map_err(|_| invalid("`model` holds an unpaired surrogate, which no name has.").param("model"))?;
            return Ok(Named { name, span: start..start + raw.len() });
        }
        b'"' => "shorter",
        b'[' => "text, not a list",
        b'{' => "text, not an object",
        b'n' => "text, not null; leave it out to get the default",
        b't' | b'f' => "text, not a boolean",
        _ => "text, not a number",
    };
    Err(invalid(&format!("`model` must be {what}.")).param("model"))
}

#[cfg(test)]
mod tests;
