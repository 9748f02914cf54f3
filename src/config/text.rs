//! Parses names, headers and paths. Pure; errors are predicates (`is not ...`) to follow the text.

use super::shown::has_key;
use http::HeaderName;
use std::path::PathBuf;

/// The name of an endpoint or a model, which appears in headers, logs and labels.
pub(super) fn name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("is empty".into());
    }
    if text.chars().any(char::is_control) || text.trim() != text {
        return Err("has a control character in it, or space around it".into());
    }
    no_key(text)
}

/// A name that does not look like a key.
pub(super) fn no_key(text: &str) -> Result<String, String> {
    if has_key(text) {
        return Err("has a key in it, which logs and pages would show; is a line indented too far?".into());
    }
    Ok(text.to_owned())
}

/// Fields of a connection (RFC 9110 7.6.1) or of the framing, which cannot be configured.
const NOT_OURS: &str = "connection content-length host keep-alive proxy-authenticate proxy-authorization \
    proxy-connection te trailer transfer-encoding upgrade";

/// A header name in lower case.
pub(super) fn header_name(text: &str) -> Result<String, String> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| "is not a header name")?;
    if NOT_OURS.split(' ').any(|other| name == other) {
        return Err("belongs to the connection or the framing and cannot be changed".into());
    }
    Ok(name.to_string())
}

/// The predicate for a text that is not a valid header value.
pub(super) const NOT_SENDABLE: &str = "has a character that cannot be sent in a header (ASCII only)";

/// A header value that may be printed.
pub(super) fn header_value(text: &str) -> Result<String, String> {
    if text.is_empty() || !can_be_sent(text) {
        return Err(format!("is empty or {NOT_SENDABLE}"));
    }
    Ok(text.to_owned())
}

/// Whether a text is a valid header value. Non-ASCII bytes have no defined meaning (RFC 9110 5.5).
pub(super) fn can_be_sent(text: &str) -> bool {
    text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

/// The first colon ends the user name (RFC 7617 2).
pub(super) fn user(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(':') || text.chars().any(char::is_control) {
        return Err("is not a user name".into());
    }
    Ok(text.to_owned())
}

/// The path of a probe, for a request line.
pub(super) fn probe_path(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err("does not start with /".into());
    }
    if text.contains('#') || text.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err("has a character that cannot stand in a path; percent-encode it".into());
    }
    Ok(text.to_owned())
}

/// The path of a file or folder (`what`).
pub(super) fn path(text: &str, what: &str) -> Result<PathBuf, String> {
    match text.trim() {
        "" => Err(format!("is empty; name a {what}")),
        _ if text.contains('\0') => Err(format!("is no name of a {what}")),
        _ => Ok(text.into()),
    }
}

/// A host that webhooks may be sent to.
pub(super) fn webhook_host(text: &str) -> Result<String, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let is_host = !bare.is_empty() && !bare.contains(['/', '@', ' ', '*']);
    if is_host { Ok(bare.to_ascii_lowercase()) } else { Err("is not a host, such as hooks.lan".into()) }
}

/// `*` matches any text, including none; every other character matches itself.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(start) else { return false };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some((_, after)) = name.split_once(part) else { return false };
        name = after;
    }
    name.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name) in [
            ("*", ""),
            ("*", "x"),
            ("a", "a"),
            ("a*", "a"),
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*c", "ac"),
            ("a*b*c", "a1b2c"),
            ("qwen*", "qwen3/8b"),
            ("**", "x"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("", "a"),
            ("a", "ab"),
            ("a", "A"),
            ("a*", "ba"),
            ("*c", "cb"),
            ("a*a", "a"),
            ("a*b*c", "acb"),
            ("ab*bc", "abc"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
