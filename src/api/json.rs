//! JSON read where it stands: the members of an object, the elements of a list. Nothing below them is built, so neither
//! their number nor their depth costs memory.

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Calls `member` with the name and the value of every member of an object. Names are raw as well: one with an unpaired
/// surrogate is none of our business.
pub(crate) fn each_member<'a>(text: &'a str, member: impl FnMut(&'a RawValue, &'a RawValue)) -> serde_json::Result<()> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_map(Members(member)).and_then(|()| reader.end())
}

pub(crate) fn each_element<'a>(text: &'a str, element: impl FnMut(&'a RawValue)) -> serde_json::Result<()> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_seq(Elements(element)).and_then(|()| reader.end())
}

/// A raw JSON string without its escapes; none if it has half of a surrogate pair, or more than `longest` bytes as written.
pub(crate) fn unescaped(raw: &RawValue, longest: usize) -> Option<Cow<'_, str>> {
    let raw = raw.get();
    let text = &raw[1..raw.len() - 1];
    match text.contains('\\') {
        _ if text.len() > longest => None,
        true => serde_json::from_str(raw).ok().map(Cow::Owned),
        false => Some(Cow::Borrowed(text)),
    }
}

struct Members<F>(F);

impl<'a, F: FnMut(&'a RawValue, &'a RawValue)> Visitor<'a> for Members<F> {
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

struct Elements<F>(F);

impl<'a, F: FnMut(&'a RawValue)> Visitor<'a> for Elements<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(element) = list.next_element()? {
            (self.0)(element);
        }
        Ok(())
    }
}
