//! Unit tests of `request_line`.

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
    let status = |line: String| check_start(line.as_bytes(), 64).map_or_else(|failure| failure.kind.status(), |()| 0);
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
