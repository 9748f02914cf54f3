//! The first line of a request: method, target, version, and what else may come where one should be. Does no I/O.

use super::framing::{Authority, Version, is_token, refuse};
use super::target::Target;
use crate::api::errors::{Failure, Kind};
use http::Method;

/// Longest method waited for; the longest registered one has 17 letters (UPDATEREDIRECTREF).
const METHOD: usize = 32;

/// A request line that can be served.
pub(super) struct RequestLine<'a> {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) version: Version,
    /// The host that an absolute target names.
    pub(super) authority: Option<Authority<'a>>,
}

impl<'a> RequestLine<'a> {
    /// Checks what httparse has taken apart.
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

/// Refuses a whole request line, its line end included, without waiting for the fields.
pub(super) fn check(line: &[u8]) -> Result<(), Failure> {
    let mut request = httparse::Request::new(&mut []);
    match request.parse(line) {
        Err(httparse::Error::Version) => Err(unknown_version(line)),
        Err(_) => Err(malformed()),
        // Without fields httparse calls every sound line incomplete.
        Ok(_) => RequestLine::of(&request).map(|_| ()),
    }
}

/// Refuses the start of a line that cannot become a request, or not one with a target of at most `limit` bytes.
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

/// Tells a version of HTTP (RFC 9112 2.3: digit, dot, digit) from noise.
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

#[cfg(test)]
mod tests;
