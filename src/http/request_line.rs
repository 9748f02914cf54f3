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
mod tests {
    use super::*;

    fn status(line: &str) -> u16 {
        let result = check_start(line.as_bytes(), 64).and_then(|()| check(format!("{line}\r\n").as_bytes()));
        result.map_or_else(|failure| failure.kind.status(), |()| 200)
    }

    // A13
    #[test]
    fn a_request_line_is_a_method_a_target_and_a_version() {
        let lines = "G@T / HTTP/1.1|GET  / HTTP/1.1|GET /  HTTP/1.1|GET / HTTP/1.1 | GET / HTTP/1.1|GET\t/ HTTP/1.1|GET /\tHTTP/1.1|\
            GET /a b HTTP/1.1|GET /\u{e9} HTTP/1.1|GET /#x HTTP/1.1|GET / http/1.1|GET / HTTP/1.1x|GET / HTTP/1.10|GET / HTTP/1|\
            GET / HTTP/+1.1|GET / XTTP/1.1|GET / HTTP/2.0 |GET HTTP/1.1|GET|GET |GET /|/ HTTP/1.1|* HTTP/1.1|GET * HTTP/1.1|\
            GET x HTTP/1.1|{\"a\":1}|GET /%00 HTTP/1.1|GET /../x HTTP/1.1|HTTP/1.1 200 OK";
        assert_eq!(lines.split('|').map(|line| assert_eq!(status(line), 400, "{line}")).count(), 29);
        for line in ["GET / HTTP/1.1", "OPTIONS * HTTP/1.1", "BREW /pot HTTP/1.0"] {
            assert_eq!(status(line), 200, "{line}");
        }
    }

    // A14, A15
    #[test]
    fn tunnels_and_other_versions_are_named_as_such() {
        for version in ["HTTP/0.9", "HTTP/1.9", "HTTP/2.0", "HTTP/3.0"] {
            assert_eq!(status(&format!("GET / {version}")), 505);
        }
        assert_eq!(status("PRI * HTTP/2.0"), 505);
        assert_eq!(status("CONNECT h:443 HTTP/1.1"), 405);
        assert_eq!(status("TRACE / HTTP/1.1"), 405);
    }

    // A13, A16
    #[test]
    fn a_start_without_hope_is_not_waited_for() {
        let status =
            |line: String| check_start(line.as_bytes(), 64).map_or_else(|failure| failure.kind.status(), |()| 0);
        for line in ["", "\r", "G", "GET", "GET ", "GET /", &"A".repeat(32)] {
            assert_eq!(status(line.into()), 0, "{line}");
        }
        for line in ["\rG", "G@", " ", "{", "GET\r", &"A".repeat(33)] {
            assert_eq!(status(line.into()), 400, "{line}");
        }
        assert_eq!(status(format!("GET {}", "a".repeat(64))), 0);
        assert_eq!(status(format!("GET {} ", "a".repeat(64))), 0);
        assert_eq!(status(format!("GET {}", "a".repeat(65))), 414);
        assert_eq!(status(format!("GET {} HTTP/1.1", "a".repeat(65))), 414);
    }
}
