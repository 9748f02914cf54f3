//! Unit tests of `head`.

use super::*;

const LIMITS: Limits = Limits { target: 64, head: 600, fields: 8, body: 1000 };

/// At once and byte by byte, which must not differ.
fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, u16> {
    let at_once = Parser::default().parse(bytes, &LIMITS);
    let mut parser = Parser::default();
    let grown = (0..=bytes.len()).map(|end| parser.parse(&bytes[..end], &LIMITS)).find(|result| *result != Ok(None));
    assert_eq!(at_once, grown.unwrap_or(Ok(None)), "{}", bytes.escape_ascii());
    at_once.map_err(|failure| failure.kind.status())
}

fn head(text: &str) -> Head {
    let (head, length) = parse(text.as_bytes()).expect("sound").expect("complete");
    assert_eq!(length, text.len());
    head
}

fn status(bytes: impl AsRef<[u8]>) -> u16 {
    parse(bytes.as_ref()).map_or_else(|status| status, |head| if head.is_some() { 200 } else { 0 })
}

#[test]
fn a_head_is_taken_apart() {
    let head = head(
        "POST /v1/x?y=1 HTTP/1.1\r\nHost: h:1\r\nX-A:  b c\t\r\nContent-Length: 5\r\nExpect: 100-continue\r\nE:\r\n\r\n",
    );
    assert_eq!((head.method, head.version), (Method::POST, Version::Http11));
    assert_eq!(head.target.as_str(), "/v1/x?y=1");
    assert_eq!(head.fields.get("x-a").unwrap(), "b c");
    assert_eq!(head.fields.get("e").unwrap(), "");
    assert_eq!((head.framing, head.keep_alive, head.expect_continue), (Framing::Sized(5), true, true));
}

#[test]
fn what_follows_the_head_is_left_alone() {
    let bytes = b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n\0GET";
    let (head, length) = parse(bytes).unwrap().unwrap();
    assert_eq!((length, head.framing), (bytes.len() - 4, Framing::None));
}

#[test]
fn a_part_of_a_head_is_waited_for() {
    let whole = b"\r\nGET /x HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n";
    for end in 0..whole.len() {
        assert_eq!(status(&whole[..end]), 0, "{end}");
    }
    assert_eq!(status(whole), 200);
}

#[test]
fn http_1_0_is_served() {
    let head = head("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((head.version, head.keep_alive), (Version::Http10, false));
}

// A3
#[test]
fn an_upgrade_is_ignored_and_chunks_in_1_0_are_not() {
    let fields = "Host: h\r\nConnection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\n";
    let head = head(&format!("POST / HTTP/1.1\r\n{fields}"));
    assert_eq!((head.framing, head.keep_alive), (Framing::Sized(3), true));
    assert_eq!(status("POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
}

// A6
#[test]
fn a_large_length_is_refused_from_the_head_alone() {
    assert_eq!(status("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999\r\n\r\n"), 413);
}

// A9, A11
#[test]
fn a_field_is_a_token_a_colon_and_a_value_on_one_line() {
    for lines in [
        "A: b\r\n c",
        "A: b\r\n\tc",
        " A: b",
        "\tA: b",
        "A : b",
        "A\t: b",
        ": b",
        "A",
        "A b: c",
        "A(b): c",
        "\u{e9}: b",
        "A[]: b",
        "A\"b: c",
        "A: b\r\n ",
    ] {
        assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n")), 400, "{lines:?}");
        assert_eq!(status(format!("GET / HTTP/1.1\r\n{lines}\r\nHost: h\r\n\r\n")), 400, "{lines:?}");
    }
}

// A10
#[test]
fn control_characters_end_it_at_once() {
    let sound = "GET /x HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n";
    for at in 0..sound.len() - 1 {
        for byte in (0..b' ').chain([0x7f]).filter(|byte| *byte != b'\t') {
            let mut bytes = sound.as_bytes().to_vec();
            bytes.insert(at, byte);
            // A carriage return that meets a line feed, or an empty line in front, is what a sound head holds.
            if byte == b'\r' && matches!(sound.as_bytes().get(at), Some(b'\n')) {
                assert_eq!(status(&bytes), 400);
            }
            assert_eq!(status(&bytes), 400, "{}", bytes.escape_ascii());
            bytes.truncate(at + 2);
            assert_eq!(status(&bytes), 400, "told at once: {}", bytes.escape_ascii());
        }
    }
    assert_eq!(status("GET / HTTP/1.1\nHost: h\n\n"), 400);
    assert_eq!(status("GET / HTTP/1.1\r\nHost: h\r\n\n"), 400);
    assert_eq!(status("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
    assert_eq!(status("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
}

// A12
#[test]
fn bytes_beyond_ascii_pass_in_a_value() {
    let (head, _) = parse(b"GET / HTTP/1.1\r\nHost: h\r\nA: gr\xc3\xbc\xff\r\n\r\n").unwrap().unwrap();
    assert_eq!(head.fields.get("a").unwrap().as_bytes(), b"gr\xc3\xbc\xff");
}

// A14
#[test]
fn the_host_is_known_and_the_method_is_not_a_tunnel() {
    assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(status("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n"), 400);
    assert_eq!(status("GET http://other/ HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
    assert_eq!(head("GET http://H:80/x?y HTTP/1.1\r\nHost: h\r\n\r\n").target.as_str(), "/x?y");
    assert_eq!(status("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n"), 405);
    assert_eq!(status("TRACE / HTTP/1.1\r\n"), 405);
}

// A15
#[test]
fn other_protocols_are_told_from_noise() {
    // S002-32
    assert_eq!(status("GET /\r\n"), 400);
    assert_eq!(status("GET / HTTP/1.9\r\n"), 505);
    assert_eq!(status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
    let hello = Parser::default().parse(b"\x16", &LIMITS).unwrap_err();
    assert_eq!(hello.kind, Kind::BadFraming);
    assert!(hello.message.contains("TLS"));
    assert_eq!(status("\x16\x03\x01\x02\0\x01"), 400);
}

// A16
#[test]
fn each_limit_is_kept_to_the_byte() {
    let target = |length: usize| format!("GET /{}", "a".repeat(length - 1));
    assert_eq!(status(format!("{} HTTP/1.1\r\nHost: h\r\n\r\n", target(64))), 200);
    assert_eq!(status(target(64)), 0);
    assert_eq!(status(target(65)), 414);
    assert_eq!(status(target(2000)), 414);
    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}", "A: b\r\n".repeat(count - 1));
    assert_eq!(status(fields(8) + "\r\n"), 200);
    assert_eq!(status(fields(9)), 431);
    let long = |length: usize| format!("GET / HTTP/1.1\r\nHost: h\r\nA: {}\r\n\r\n", "b".repeat(length - 32));
    assert_eq!((long(600).len(), status(long(600)), status(long(601))), (600, 200, 431));
    assert_eq!(status(&long(5000)[..601]), 431);
}
