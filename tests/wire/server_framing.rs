//! FAULTS A1 to A8: any doubt about where a request ends is a refusal, and nothing of it reaches an upstream.

use crate::support::client::Client;
use crate::support::fact::ms;
use crate::support::proxy::{CHAT, Proxy, Setup, chat, post_with};
use crate::support::script::Script;
use crate::support::upstream::Upstream;

/// Without a script for a chat, so that one that arrives fails the test.
fn untouched() -> (Upstream, Proxy) {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    (upstream, proxy)
}

/// A chat with these framing fields and these bytes after the head.
fn framed(fields: &str, body: &str) -> Vec<u8> {
    let head = format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{fields}\r\n");
    [head.as_bytes(), body.as_bytes()].concat()
}

fn chunked(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

/// The answer of a refusal that ends the connection; its status.
pub fn refused(mut client: Client) -> u16 {
    let answer = client.answer();
    assert_eq!(answer.field("connection"), Some("close"), "{:?}", answer.head);
    assert!(answer.field("x-request-id").is_some_and(|id| !id.is_empty()), "{:?}", answer.head);
    let body = answer.json();
    let error = body["error"].as_object().unwrap_or_else(|| panic!("an error: {body}"));
    for key in ["message", "type", "code", "param"] {
        assert!(error.contains_key(key), "{key} in {body}");
    }
    client.expect_close(ms(5000));
    answer.status()
}

#[test]
fn both_framings_in_one_request_are_refused() {
    // A1
    let (upstream, proxy) = untouched();
    let body = chunked(&chat("m"));
    let cases =
        ["Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"];
    for fields in cases {
        assert_eq!(refused(proxy.sent(framed(fields, &body))), 400, "{fields:?}");
        proxy.still_serves();
    }
    assert_eq!(upstream.count(CHAT), 0);
}

#[test]
fn an_unknown_transfer_coding_is_501() {
    // A2
    let (_upstream, proxy) = untouched();
    for coding in ["gzip", "gzip, chunked", "identity", "xchunked", "chunkedx"] {
        let request = framed(&format!("Transfer-Encoding: {coding}\r\n"), &chunked(&chat("m")));
        assert_eq!(refused(proxy.sent(request)), 501, "{coding:?}");
    }
    proxy.still_serves();
}

#[test]
fn chunked_twice_or_not_last_is_400() {
    // A2
    let (_upstream, proxy) = untouched();
    let codings = [
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: chunked\r\n , gzip\r\n",
        // D6
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: gzip, chunked, identity\r\n",
    ];
    for fields in codings {
        let status = refused(proxy.sent(framed(fields, &chunked(&chat("m")))));
        assert_eq!(status, 400, "{fields:?}");
    }
    proxy.still_serves();
}

#[test]
fn no_disguise_of_chunked_lets_a_body_through() {
    // A2
    let (upstream, proxy) = untouched();
    let body = chunked(&chat("m"));
    let mut met = 0;
    for byte in 0..=255_u8 {
        let places: [(&[u8], &[u8]); 4] = [
            (b"Transfer-Encoding:", b"chunked\r\n"),
            (b"Transfer-Encoding: chunked", b"\r\n"),
            (b"", b"Transfer-Encoding: chunked\r\n"),
            (b"Transfer-Encoding", b": chunked\r\n"),
        ];
        for (place, (before, after)) in places.iter().enumerate() {
            if place < 2 && matches!(byte, b' ' | b'\t') {
                continue; // optional white space: no disguise
            }
            let mut request = format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n").into_bytes();
            request.extend([before, &[byte][..], after, b"\r\n", body.as_bytes()].concat());
            let status = proxy.ask(request).status();
            assert!(matches!(status, 400 | 501), "{status} for byte {byte} at place {place}");
            met += 1;
        }
    }
    assert_eq!(met, 4 * 256 - 4);
    assert_eq!(upstream.count(CHAT), 0);
    proxy.still_serves();
}

#[test]
fn chunked_is_refused_on_http_1_0() {
    // A3
    let (_upstream, proxy) = untouched();
    let request = String::from_utf8(framed("Transfer-Encoding: chunked\r\n", &chunked(&chat("m")))).expect("text");
    assert_eq!(refused(proxy.sent(request.replace("HTTP/1.1", "HTTP/1.0"))), 400);
    proxy.still_serves();
}

#[test]
fn an_upgrade_is_ignored_and_not_forwarded() {
    // A3
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    let fields = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    assert_eq!(proxy.ask(post_with(CHAT, fields, chat("m"))).status(), 200);
    let request = upstream.take(CHAT);
    assert_eq!(request.text(), chat("m"));
    assert_eq!((request.all("upgrade").len(), request.all("http2-settings").len()), (0, 0), "{:?}", request.lines);
}

#[test]
fn a_second_content_length_is_refused_even_when_equal() {
    // A4
    let (_upstream, proxy) = untouched();
    let n = chat("m").len();
    for fields in [
        format!("Content-Length: {n}\r\nContent-Length: {n}\r\n"),
        format!("Content-Length: {n}\r\nContent-Length: 3\r\n"),
        format!("Content-Length: 3\r\ncontent-length: {n}\r\n"),
        format!("Content-Length: {n}, {n}\r\n"),
    ] {
        assert_eq!(refused(proxy.sent(framed(&fields, &chat("m")))), 400, "{fields:?}");
    }
    proxy.still_serves();
}

#[test]
fn a_length_that_is_not_digits_is_refused() {
    // A5
    let (_upstream, proxy) = untouched();
    for length in ["+3", "-1", "0x3", "", "40x", "3 4", "3;", "3,", "1e2", "99999999999999999999999", "٣"] {
        assert_eq!(refused(proxy.sent(framed(&format!("Content-Length: {length}\r\n"), "{}"))), 400, "{length:?}");
    }
    proxy.still_serves();
}

#[test]
fn a_body_above_the_limit_is_refused_from_its_head_alone() {
    // A6, X-09, W000-5
    let (_upstream, proxy) = untouched();
    for length in ["99999999999999", "33554433", "18446744073709551615"] {
        let head = framed(&format!("Content-Length: {length}\r\n"), "");
        assert_eq!(refused(proxy.sent(&head)), 413, "{length}");
        let expecting = framed(&format!("Content-Length: {length}\r\nExpect: 100-continue\r\n"), "");
        let mut client = proxy.sent(expecting);
        assert_eq!(client.head().status, 413, "no 100 before it");
    }
    proxy.still_serves();
}

#[test]
fn a_chunked_body_above_the_limit_is_refused_when_it_gets_there() {
    // A6, X-09
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(|c| c.server.max_body = 1000).start();
    let body = format!("64\r\n{}\r\n385\r\n", "x".repeat(100));
    assert_eq!(refused(proxy.sent(framed("Transfer-Encoding: chunked\r\n", &body))), 413);
    proxy.still_serves();
}

#[test]
fn a_chunk_that_is_not_plain_hex_is_refused() {
    // A7
    let (_upstream, proxy) = untouched();
    let next = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for body in [
        "+3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "zz\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "00000000000000003\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "3\r\rabc\r\n0\r\n\r\n",
    ] {
        let request = framed("Transfer-Encoding: chunked\r\n", &format!("{body}{next}"));
        assert_eq!(refused(proxy.sent(request)), 400, "{body:?}");
    }
    proxy.still_serves();
}

#[test]
fn chunk_extensions_and_trailers_are_dropped_and_bounded() {
    // A8
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    let body = chat("m");
    let te = "Transfer-Encoding: chunked\r\n";
    let small = format!("{:x};name=value\r\n{body}\r\n0\r\nX-Trailer: t\r\nAuthorization: evil\r\n\r\n", body.len());
    assert_eq!(proxy.ask(framed(te, &small)).status(), 200);
    let request = upstream.take(CHAT);
    assert_eq!(request.text(), body);
    assert_eq!((request.all("x-trailer").len(), request.all("authorization").len()), (0, 0));

    let extension = format!("{:x};{}\r\n{body}\r\n0\r\n\r\n", body.len(), "x".repeat(16 << 10));
    assert_eq!(refused(proxy.sent(framed(te, &extension))), 400);
    let trailers = format!("{:x}\r\n{body}\r\n0\r\n{}\r\n", body.len(), "X-T: 0123456789\r\n".repeat(4 << 10));
    let mut client = proxy.client();
    // The refusal may come while the rest is still being sent.
    drop(client.try_send(framed(te, &trailers)));
    assert!(matches!(client.answer().status(), 400 | 431));
    proxy.still_serves();
}

#[test]
fn a_chunked_body_arrives_whole_whatever_its_chunks() {
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    let body = chat("m");
    let mut client = proxy.sent(framed("Transfer-Encoding: chunked\r\n", ""));
    for byte in body.bytes() {
        client.send(b"1\r\n");
        client.send([byte, b'\r']);
        client.send(b"\n");
    }
    client.send("000\r\n\r\n");
    assert_eq!(client.answer().status(), 200);
    let request = upstream.take(CHAT);
    assert_eq!(request.text(), body);
    assert_eq!(request.field("content-length"), Some(body.len().to_string().as_str()));
}

#[test]
fn a_client_that_expects_100_gets_it_before_it_sends() {
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    let body = chat("m");
    let mut client = proxy.sent(framed(&format!("Content-Length: {}\r\nExpect: 100-continue\r\n", body.len()), ""));
    assert_eq!(client.head().status, 100);
    client.send(&body);
    assert_eq!(client.answer().status(), 200);
    assert_eq!(upstream.take(CHAT).all("expect").len(), 0);
}
