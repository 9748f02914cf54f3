//! Names and values that may stand in an HTTP header, and the changes an endpoint makes. Pure but for its notes.

use crate::config::reader::Section;
use crate::config::shown::looks_secret;
use crate::config::{HeaderOp, Op};

/// Fields that belong to one connection (RFC 9110 7.6.1) or to the framing of a message: never ours to set.
const NOT_OURS: [&str; 11] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A header name in lower case.
pub(super) fn name(text: &str) -> Result<String, String> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || !text.bytes().all(is_token) {
        return Err("is not a header name".into());
    }
    let lower = text.to_ascii_lowercase();
    if NOT_OURS.contains(&lower.as_str()) {
        return Err("belongs to the connection or the framing and cannot be changed".into());
    }
    Ok(lower)
}

/// A header value that a file may show.
pub(super) fn value(text: &str) -> Result<String, String> {
    if text.is_empty() || !can_be_sent(text) {
        return Err("is empty or has a character that cannot be sent in a header (ASCII only)".into());
    }
    Ok(text.to_owned())
}

/// Whether a text may stand in a header as it is. Bytes beyond ASCII have no agreed meaning there (RFC 9110 5.5).
pub(crate) fn can_be_sent(text: &str) -> bool {
    text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

/// Parts of the names of headers that carry credentials.
const SECRET_NAMES: [&str; 11] =
    ["apikey", "assertion", "auth", "cookie", "credential", "jwt", "key", "passw", "secret", "signature", "token"];

/// Whether a header's value is a secret, by its name.
fn is_secret(name: &str) -> bool {
    SECRET_NAMES.iter().any(|part| name.contains(part))
}

/// One entry of `endpoints[].headers`.
pub(crate) fn change(s: &mut Section) -> Option<HeaderOp> {
    let ops = [("insert", Op::Insert), ("replace", Op::Replace), ("remove", Op::Remove)];
    let op = s.required("op").choice(&ops);
    let key = s.required("key").parse(name);
    let secret_name = key.as_deref().is_none_or(is_secret);
    let value = s.secret_when("value", |text| secret_name || looks_secret(text));
    let from_elsewhere = s.gives("valueFile") || s.field("value").is_filled_in();
    let has_value = s.gives("value") || s.gives("valueFile");
    if value.as_ref().is_some_and(|value| !can_be_sent(value.reveal())) {
        s.problem("`value` has a character that cannot be sent in a header (ASCII only)");
    }
    match op {
        Some(Op::Remove) if has_value => s.problem("`remove` takes no value"),
        Some(Op::Insert | Op::Replace) if !has_value => s.problem("`value` is missing"),
        _ => {}
    }
    let value = value.unwrap_or_default();
    let masked = secret_name || from_elsewhere || looks_secret(value.reveal());
    Some(HeaderOp { op: op?, key: key?, value: if masked { value } else { value.shown() } })
}
