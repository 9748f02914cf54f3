//! Walks JSON text without building a tree: names and values stay as written. Pure.

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// Bytes of the longest way to write an ASCII character: `\u0061`.
pub(crate) const ESCAPED: usize = 6;

/// Calls `member` with the name and value of every member of an object. Names are raw too, so that an unpaired
/// surrogate in one is no error.
pub(crate) fn each_member<'a>(text: &'a str, member: impl FnMut(&'a RawValue, &'a RawValue)) -> serde_json::Result<()> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_map(Each(member)).and_then(|()| reader.end())
}

pub(crate) fn each_element<'a>(text: &'a str, mut element: impl FnMut(&'a RawValue)) -> serde_json::Result<()> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_seq(Each(|_: &'a RawValue, value| element(value))).and_then(|()| reader.end())
}

/// The type of a value, as error messages call it.
pub(crate) fn type_of(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes()[0] {
        b'n' => "null",
        b't' | b'f' => "a boolean",
        b'"' => "text",
        b'[' => "a list",
        b'{' => "an object",
        _ => "a number",
    }
}

/// The first member of that name; `None` also if `object` is not an object.
pub(crate) fn member<'a>(object: &'a str, wanted: &str) -> Option<&'a str> {
    let mut found = None;
    let read = each_member(object, |key, value| {
        if key.get().trim_matches('"') == wanted {
            found.get_or_insert(value.get());
        }
    });
    found.filter(|_| read.is_ok())
}

/// Calls the function with name and value; for the elements of a list, the name is `null`.
struct Each<F>(F);

impl<'a, F: FnMut(&'a RawValue, &'a RawValue)> Visitor<'a> for Each<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object or a list")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry()? {
            (self.0)(name, value);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(value) = list.next_element()? {
            (self.0)(RawValue::NULL, value);
        }
        Ok(())
    }
}

/// Decodes a JSON string; `None` for other values, for an unpaired surrogate, and for more than `longest` bytes as
/// written.
pub(crate) fn unescaped(raw: &RawValue, longest: usize) -> Option<Cow<'_, str>> {
    let text = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    match text.contains('\\') {
        _ if text.len() > longest => None,
        true => serde_json::from_str(raw.get()).ok().map(Cow::Owned),
        false => Some(Cow::Borrowed(text)),
    }
}

/// The byte range of `part`, a slice of `text`.
pub(crate) fn span(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}
