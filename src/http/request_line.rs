//! The request line: method, target and version, and the canonical path by which requests are routed. Pure.

use super::framing::{Authority, Version, is_token, refuse};
use crate::api::errors::{Failure, Kind};
use crate::api::query;
use http::Method;
use http::uri::PathAndQuery;
use std::borrow::Cow;

/// Longest method; the longest registered one, UPDATEREDIRECTREF, has 17 letters.
const METHOD: usize = 32;

pub(super) struct RequestLine<'a> {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) version: Version,
    /// The host of an absolute target.
    pub(super) authority: Option<Authority<'a>>,
}

impl<'a> RequestLine<'a> {
    pub(super) fn of(request: &httparse::Request<'_, 'a>) -> Result<Self, Failure> {
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
            return Err(malformed());
        };
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| malformed())?;
        if method == Method::CONNECT || method == Method::TRACE {
            return Err(Failure::new(Kind::MethodNotAllowed, format!("{method} is not served here.")));
        }
        let (target, authority) = Target::parse(target, &method)?;
        let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
        Ok(Self { method, target, version, authority })
    }
}

/// Refuses a complete request line (with its line end) before the fields have arrived.
pub(super) fn check(line: &[u8]) -> Result<(), Failure> {
    let mut request = httparse::Request::new(&mut []);
    match request.parse(line) {
        Err(httparse::Error::Version) => Err(unknown_version(line)),
        Err(_) => Err(malformed()),
        // Without fields httparse calls a valid line incomplete.
        Ok(_) => RequestLine::of(&request).map(|_| ()),
    }
}

/// Refuses the start of a line that cannot become a request line with a target of at most `limit` bytes.
pub(super) fn check_start(line: &[u8], limit: usize) -> Result<(), Failure> {
    let end = line.iter().take(METHOD + 1).position(|byte| !is_token(*byte));
    let target = match end {
        None if line.len() <= METHOD => return Ok(()),
        // May still become an empty line.
        Some(0) if line == b"\r" => return Ok(()),
        Some(end) if end > 0 && line[end] == b' ' => &line[end + 1..],
        _ => return Err(refuse("it does not start with a method")),
    };
    if target.len() > limit && !target[..=limit].contains(&b' ') {
        return Err(Failure::new(Kind::TargetTooLong, format!("The target is longer than {limit} bytes.")));
    }
    Ok(())
}

/// 505 for another version of HTTP (RFC 9112 2.3), 400 for anything else.
fn unknown_version(line: &[u8]) -> Failure {
    let mut words = line.strip_suffix(b"\r\n").unwrap_or(line).split(|byte| *byte == b' ').skip(2);
    match (words.next(), words.next()) {
        (Some([b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']), None) => {
            Failure::new(Kind::VersionUnsupported, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
        }
        _ => malformed(),
    }
}

fn malformed() -> Failure {
    refuse("the request line is not `METHOD /target HTTP/1.1`")
}

/// A request target in origin form, or `*`; unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(PathAndQuery);

impl Target {
    /// The path, not decoded.
    pub fn path(&self) -> &str {
        self.0.path()
    }

    pub(crate) fn query(&self) -> Option<&str> {
        self.0.query()
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The path for routing: escapes of unreserved characters are decoded (RFC 3986 6.2.2.2). `%2F` stays, since it may
    /// be part of a model's name.
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

    /// Parses any form of target (RFC 9112 3.2); returns the host of the absolute form too.
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
            // RFC 9112 3.2.4: the form in which a proxy gets `*`.
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
        // Upstream servers disagree on `..`, `%2e%2e%2f` and `..;x`, so none is forwarded.
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
