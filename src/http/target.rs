//! The request target: what may stand in it, and the one reading by which it is routed. Knows no route.

use super::framing::{Authority, refuse};
use crate::api::errors::Failure;
use crate::api::query;
use http::Method;
use http::uri::PathAndQuery;
use std::borrow::Cow;

/// A request target in origin form (or `*`), its text as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(PathAndQuery);

impl Target {
    /// The path as it came, escapes and all.
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// What follows the first `?`.
    pub(crate) fn query(&self) -> Option<&str> {
        self.0.query()
    }

    /// Path and query as they came.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The path by which to decide: escapes of unreserved characters are decoded, as RFC 3986 6.2.2.2 calls for.
    /// `%2F` stays, since an escaped slash separates nothing: it may be part of a model's name.
    pub fn canonical(&self) -> Cow<'_, str> {
        let path = self.path();
        if !path.contains('%') {
            return Cow::Borrowed(path);
        }
        let mut plain = String::with_capacity(path.len());
        let mut rest = path;
        while let Some(at) = rest.find('%') {
            let (before, escape) = rest.split_at(at);
            plain.push_str(before);
            match query::escaped(escape.as_bytes()) {
                Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => plain.push(byte.into()),
                _ => plain.push_str(&escape[..3]),
            }
            rest = &escape[3..];
        }
        plain.push_str(rest);
        Cow::Owned(plain)
    }

    /// Reads a target in any of its forms (RFC 9112 3.2); the absolute form also gives the host it names.
    pub(super) fn parse<'a>(text: &'a str, method: &Method) -> Result<(Self, Option<Authority<'a>>), Failure> {
        // RFC 9112 3.2: a fragment is never sent, and what is not ASCII must be escaped.
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(refuse("the target holds a character that must be percent-encoded"));
        }
        if text.starts_with('/') {
            return Ok((Self::origin(text.into())?, None));
        }
        if text == "*" && *method == Method::OPTIONS {
            return Ok((Self(PathAndQuery::from_static("*")), None));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refuse("the target does not start with `/`"))?;
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let authority = Authority::parse(authority, scheme)?;
        if path.is_empty() && *method == Method::OPTIONS {
            // RFC 9112 3.2.4: this is how a proxy is told `*`.
            return Ok((Self(PathAndQuery::from_static("*")), Some(authority)));
        }
        let origin = if path.starts_with('/') { path.into() } else { format!("/{path}") };
        Ok((Self::origin(origin)?, Some(authority)))
    }

    fn origin(text: String) -> Result<Self, Failure> {
        let path = text.split('?').next().unwrap_or_default();
        if !path.contains(['%', '\\', '.']) {
            return Self::whole(text);
        }
        let Some(decoded) = query::decoded(path, false) else {
            return Err(refuse("the path holds a `%` that starts no escape"));
        };
        if decoded.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\') {
            return Err(refuse("the path holds a control character or a backslash"));
        }
        // What servers behind us make of `..`, `%2e%2e%2f` or `..;x` differs, so nobody gets to see one.
        let mut names = decoded.split(|byte| *byte == b'/').map(|part| part.split(|byte| *byte == b';').next());
        if names.any(|name| matches!(name, Some(b"." | b".."))) {
            return Err(refuse("the path holds a `.` or `..` segment"));
        }
        Self::whole(text)
    }

    fn whole(text: String) -> Result<Self, Failure> {
        let whole = PathAndQuery::try_from(text);
        Ok(Self(whole.map_err(|_| refuse("the target holds a character that must be percent-encoded"))?))
    }
}

#[cfg(test)]
mod tests;
