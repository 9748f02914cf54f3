//! What the fields of a head say about body, host and connection. Anything ambiguous is refused. Pure.

use super::fields::Fields;
pub use crate::api::chunked::Framing;
pub(super) use crate::api::chunked::{is_token, is_value, refuse, too_large};
use crate::api::errors::{Failure, Kind};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderValue, TRANSFER_ENCODING};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

impl Framing {
    /// RFC 9112 6.3, strictly: whatever allows two readings is refused.
    pub(super) fn of(fields: &Fields, version: Version, limit: u64) -> Result<Self, Failure> {
        if fields.iter().any(|(name, _)| is_disguised(name.as_str())) {
            return Err(refuse("a field name imitates Content-Length or Transfer-Encoding"));
        }
        let length = only(fields, CONTENT_LENGTH.as_str())?;
        let coding = only(fields, TRANSFER_ENCODING.as_str())?;
        match (length, coding) {
            (None, None) => Ok(Self::None),
            // RFC 9112 6.1: both given means an attack or a bug.
            (Some(_), Some(_)) => Err(refuse("Content-Length and Transfer-Encoding are both given")),
            // RFC 9112 6.1: an HTTP/1.0 sender does not know chunks.
            (None, Some(_)) if version == Version::Http10 => Err(refuse("HTTP/1.0 has no Transfer-Encoding")),
            (None, Some(coding)) => chunked(coding.as_bytes()),
            (Some(length), None) => sized(length.as_bytes(), limit),
        }
    }
}

/// The value of a field that may be given once.
fn only<'a>(fields: &'a Fields, name: &'a str) -> Result<Option<&'a HeaderValue>, Failure> {
    let mut values = fields.all(name);
    let first = values.next();
    match values.next() {
        Some(_) => Err(refuse(&format!("{name} is given more than once"))),
        None => Ok(first),
    }
}

/// `Transfer_Encoding`, `Content.Length` and the like: servers that normalize such names would see another body.
fn is_disguised(name: &str) -> bool {
    let letters = || name.bytes().filter(u8::is_ascii_alphanumeric);
    name != CONTENT_LENGTH && letters().eq(*b"contentlength")
        || name != TRANSFER_ENCODING && letters().eq(*b"transferencoding")
}

/// RFC 9112 7 allows `chunked` in any case; real clients write it in lower case, request smugglers do not.
fn chunked(coding: &[u8]) -> Result<Framing, Failure> {
    let token = |part: &[u8]| !part.is_empty() && part.iter().all(|byte| is_token(*byte));
    let mut parts = coding.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let mut others = parts.clone().rev().skip(1);
    match coding {
        b"chunked" => Ok(Framing::Chunked),
        // RFC 9112 6.3: chunks inside of another coding do not tell where the body ends.
        _ if others.any(|part| part.eq_ignore_ascii_case(b"chunked")) => {
            Err(refuse("the last transfer coding is not `chunked`"))
        }
        _ if !parts.clone().all(token) || parts.all(|part| part.eq_ignore_ascii_case(b"chunked")) => {
            Err(refuse("Transfer-Encoding is not exactly `chunked`"))
        }
        _ => Err(Failure::new(Kind::UnknownCoding, "No transfer coding but `chunked` is known here.")),
    }
}

fn sized(length: &[u8], limit: u64) -> Result<Framing, Failure> {
    // `parse` alone would take a plus sign; RFC 9110 8.6 has digits only.
    let digits = str::from_utf8(length).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let length = digits.and_then(|text| text.parse().ok());
    match length {
        None => Err(refuse("Content-Length is not a number of bytes")),
        Some(length) if length > limit => Err(too_large(limit)),
        Some(length) => Ok(Framing::Sized(length)),
    }
}

/// A host and its port, compared without case and without the scheme's default port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Authority<'a>(&'a str);

impl PartialEq for Authority<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(other.0)
    }
}

impl<'a> Authority<'a> {
    pub(super) fn parse(text: &'a str, scheme: &str) -> Result<Self, Failure> {
        let port = match scheme {
            _ if scheme.eq_ignore_ascii_case("http") => "80",
            _ if scheme.eq_ignore_ascii_case("https") => "443",
            _ => return Err(refuse("the target's scheme is not http")),
        };
        // The last colon outside of brackets; in `[::1]` none is outside.
        let (host, given) = match text.rsplit_once(':') {
            Some((host, given)) if !given.contains(']') => (host, given),
            _ => (text, ""),
        };
        let inside = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let sound = match inside {
            Some(address) => address.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte)),
            // RFC 3986 3.2.2 without the comma, which is the mark of two Hosts joined.
            None => host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&byte)),
        };
        let numeric =
            given.bytes().all(|byte| byte.is_ascii_digit()) && (given.is_empty() || given.parse::<u16>().is_ok());
        if !sound || !numeric || inside.unwrap_or(host).is_empty() {
            return Err(refuse("the host is not a name or address with an optional port"));
        }
        Ok(Self(if given.is_empty() || given == port { host } else { text }))
    }
}

/// Requires one valid Host (RFC 9112 3.2), the same as that of an absolute target.
pub(super) fn check_host(fields: &Fields, version: Version, target: Option<Authority>) -> Result<(), Failure> {
    let Some(host) = only(fields, HOST.as_str())? else {
        return match version {
            Version::Http10 => Ok(()),
            Version::Http11 => Err(refuse("there is no Host")),
        };
    };
    let host = Authority::parse(host.to_str().unwrap_or_default(), "http")?;
    match target {
        Some(target) if target != host => Err(refuse("the target names another host than Host does")),
        _ => Ok(()),
    }
}

/// Whether the connection may carry another request (RFC 9112 9.3).
pub(super) fn keeps_alive(fields: &Fields, version: Version) -> bool {
    let asked = |option: &[u8]| fields.list(CONNECTION.as_str()).any(|element| element.eq_ignore_ascii_case(option));
    !asked(b"close") && (version == Version::Http11 || asked(b"keep-alive"))
}

/// Whether the client waits for `100 Continue` before it sends its body (RFC 9110 10.1.1: HTTP/1.0 cannot).
pub(super) fn expects_continue(fields: &Fields, version: Version, framing: Framing) -> bool {
    let asked = fields.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    asked && version == Version::Http11 && !matches!(framing, Framing::None | Framing::Sized(0))
}

#[cfg(test)]
mod tests;
