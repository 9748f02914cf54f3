//! Percent-encoding, and the parameters of a query string. Pure.

use crate::api::body::{MAX_NAME, Named};
use crate::api::errors::{Failure, Kind};
use std::ops::Range;

/// Raw names and values, and the byte range of each value.
fn parameters(query: &str) -> impl Iterator<Item = (&str, &str, Range<usize>)> {
    let mut start = 0;
    query.split('&').map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let end = start + pair.len();
        start = end + 1;
        (name, value, end - value.len()..end)
    })
}

/// The value of a parameter, still percent-encoded.
pub(crate) fn parameter<'q>(query: &'q str, wanted: &str) -> Option<&'q str> {
    parameters(query).find(|(name, ..)| *name == wanted).map(|(_, value, _)| value)
}

/// The model of `?model=`, and the range of its value in `query`.
pub fn query_model(query: &str) -> Result<Option<Named>, Failure> {
    let fail = |message: &str| Failure::new(Kind::InvalidBody, message).param("model");
    let mut found = None;
    for (name, value, span) in parameters(query) {
        let Some(name) = decoded(name, true).filter(|name| name.eq_ignore_ascii_case(b"model")) else { continue };
        if found.is_some() {
            return Err(fail("The query names `model` more than once."));
        }
        if name != b"model" {
            return Err(fail("The query writes `model` with capital letters: write it in lower case."));
        }
        if value.len() > MAX_NAME {
            return Err(fail("The `model` in the query is too long."));
        }
        let name = decoded(value, true).and_then(|bytes| String::from_utf8(bytes).ok());
        let name = name.ok_or_else(|| fail("The `model` in the query is not percent-encoded UTF-8."))?;
        found = Some(Named { name, span });
    }
    Ok(found)
}

/// The query with the value at `span` replaced by `name`.
pub fn query_renamed(query: &str, span: &Range<usize>, name: &str) -> String {
    let mut text = query[..span.start].to_owned();
    // `?model` alone has an empty value and no `=`.
    if !text.ends_with('=') {
        text.push('=');
    }
    text + &encoded(name) + &query[span.end..]
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
pub(crate) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Decodes percent-encoded text; `plus`: `+` is a space, as in forms. `None` if an escape is invalid.
pub(crate) fn decoded(text: &str, plus: bool) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let escape = *byte == b'%';
        bytes.push(if escape {
            escaped(rest)?
        } else if plus && *byte == b'+' {
            b' '
        } else {
            *byte
        });
        rest = if escape { &rest[3..] } else { tail };
    }
    Some(bytes)
}

/// Decodes the `%XX` at the start of `text`.
pub(crate) fn escaped(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = *text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests;
