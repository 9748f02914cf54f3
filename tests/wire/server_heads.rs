//! FAULTS A9 to A16: heads that are not quite HTTP.

use super::server_framing::refused;
use crate::support::fact::ms;
use crate::support::program::{Program, yaml};
use crate::support::proxy::{CHAT, Proxy, Setup, chat, post_with};
use crate::support::script::Script;
use crate::support::upstream::Upstream;

fn untouched() -> (Upstream, Proxy) {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    (upstream, proxy)
}

/// A chat with these bytes among its head lines.
fn with_lines(lines: &[u8]) -> Vec<u8> {
    let body = chat("m");
    let start = format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n", body.len());
    [start.as_bytes(), lines, b"\r\n", body.as_bytes()].concat()
}

#[test]
fn field_lines_with_space_where_none_belongs_are_refused() {
    // A9
    let (_upstream, proxy) = untouched();
    for lines in ["X-A: 1\r\n folded\r\n", "X-A: 1\r\n\tfolded\r\n", "X-A : 1\r\n", "X-A\t: 1\r\n", "X A: 1\r\n"] {
        assert_eq!(refused(proxy.sent(with_lines(lines.as_bytes()))), 400, "{lines:?}");
    }
    let leading = "GET /health HTTP/1.1\r\n Host: localhost\r\n\r\n";
    assert_eq!(refused(proxy.sent(leading)), 400);
    proxy.still_serves();
}

#[test]
fn control_bytes_and_bare_line_ends_in_a_head_are_refused() {
    // A10
    let (_upstream, proxy) = untouched();
    for lines in
        ["X-A: a\0b\r\n", "X-A: a\rb\r\n", "X-A: 1\nX-B: 2\r\n", "X-A: 1\r\r\n", "X\0A: 1\r\n", "X-A: \x7f\r\n"]
    {
        assert_eq!(refused(proxy.sent(with_lines(lines.as_bytes()))), 400, "{lines:?}");
    }
    for head in ["GET /health HTTP/1.1\nHost: localhost\n\n", "GET /health HTTP/1.1\r\nHost: localhost\r\n\n"] {
        assert_eq!(refused(proxy.sent(head)), 400, "{head:?}");
    }
    proxy.still_serves();
}

#[test]
fn field_names_that_are_no_tokens_are_refused() {
    // A11
    let (_upstream, proxy) = untouched();
    for lines in [": 1\r\n", "no colon\r\n", "X(A): 1\r\n", "X\"A: 1\r\n", "X\u{e9}: 1\r\n", "X/A: 1\r\n", "\r\r\n"] {
        assert_eq!(refused(proxy.sent(with_lines(lines.as_bytes()))), 400, "{lines:?}");
    }
    proxy.still_serves();
}

#[test]
fn a_field_value_beyond_ascii_is_served() {
    // A12
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    assert_eq!(proxy.ask(with_lines("X-Title: Ünïcode ✓\r\n".as_bytes())).status(), 200);
    let request = upstream.take(CHAT);
    // Bytes shown as code points: forwarded as they came, or dropped.
    let bytes: String = "Ünïcode ✓".bytes().map(char::from).collect();
    assert!(request.field("x-title").is_none_or(|value| value == bytes), "{:?}", request.lines);
}

#[test]
fn a_request_line_with_bytes_that_do_not_belong_is_refused() {
    // A13
    let (_upstream, proxy) = untouched();
    for line in [
        "GET /health\0 HTTP/1.1",
        "GET /h\u{e9}alth HTTP/1.1",
        "GET /health#part HTTP/1.1",
        "GET /hea lth HTTP/1.1",
        "GET\t/health HTTP/1.1",
        "G(T /health HTTP/1.1",
        "GET health HTTP/1.1",
        "GET  HTTP/1.1",
        " GET /health HTTP/1.1",
        "GET /health HTTP/1.1 ",
        "GET /health http/1.1",
        "GET /health HTTP/1.x",
    ] {
        let status = refused(proxy.sent(format!("{line}\r\nHost: localhost\r\n\r\n")));
        assert!(status == 400 || (status == 505 && line.contains("1.x")), "{status} for {line:?}");
    }
    proxy.still_serves();
}

#[test]
fn an_empty_line_before_a_request_is_forgiven() {
    // RFC 9112 2.2: a server should ignore at least one.
    let (_upstream, proxy) = untouched();
    assert_eq!(proxy.ask("\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").status(), 200);
}

#[test]
fn the_host_must_be_given_once_and_be_ours() {
    // A14
    let (_upstream, proxy) = untouched();
    for head in [
        "GET /health HTTP/1.1\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        "GET http://example.com/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: local host\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: user@localhost\r\n\r\n",
    ] {
        assert_eq!(refused(proxy.sent(head)), 400, "{head:?}");
    }
    // RFC 9112 3.2.2: absolute-form must be accepted.
    assert_eq!(proxy.ask("GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n").status(), 200);
    assert_eq!(proxy.ask("GET /health HTTP/1.0\r\n\r\n").status(), 200);
}

#[test]
fn connect_and_trace_are_405() {
    // A14
    let (_upstream, proxy) = untouched();
    for head in [
        "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "TRACE /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        assert_eq!(proxy.ask(head).status(), 405, "{head:?}");
    }
    proxy.still_serves();
}

#[test]
fn other_versions_and_protocols_are_refused_at_once() {
    // A15
    let (_upstream, proxy) = untouched();
    let hello: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for bytes in [
        b"GET /health\r\n\r\n",
        &b"GET /health HTTP/1.9\r\nHost: localhost\r\n\r\n"[..],
        b"GET /health HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/0.9\r\nHost: localhost\r\n\r\n",
        preface,
        hello,
    ] {
        let mut client = proxy.sent(bytes);
        let answer = client.answer();
        assert!(matches!(answer.status(), 400 | 505), "{} for {bytes:?}", answer.status());
        client.expect_close(ms(5000));
    }
    proxy.still_serves();
}

#[test]
fn tls_on_the_plain_port_is_named_in_the_log() {
    // A15
    let upstream = Upstream::serving(&["m"]);
    let program = Program::start(&yaml(&[&upstream], ""));
    let mut client = program.client();
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    client.answer();
    program.logged(&["TLS"]);
}

#[test]
fn heads_beyond_the_limits_are_refused() {
    // A16, X-09
    let (_upstream, proxy) = untouched();
    let target = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(8 << 10));
    assert_eq!(refused(proxy.sent(target)), 414);
    let value = format!("X-A: {}\r\n", "x".repeat(33 << 10));
    assert_eq!(refused(proxy.sent(with_lines(value.as_bytes()))), 431);
    let many = "X-A: 1\r\n".repeat(101);
    assert_eq!(refused(proxy.sent(with_lines(many.as_bytes()))), 431);
    proxy.still_serves();
}

#[test]
fn a_head_within_the_limits_is_served() {
    // A16: the other side of the fence.
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    for lines in ["X-A: 1\r\n".repeat(90), format!("X-A: {}\r\n", "x".repeat(7 << 10)).repeat(4)] {
        upstream.on(CHAT, Script::json("{}"));
        assert_eq!(proxy.ask(with_lines(lines.as_bytes())).status(), 200);
        assert_eq!(upstream.take(CHAT).all("x-a").len(), lines.matches("X-A").count());
    }
    let long = format!("/v1/models/{}", "x".repeat(8000));
    assert_eq!(proxy.get(&long).status(), 404);
}

#[test]
fn a_line_without_end_takes_no_memory() {
    // A16
    let upstream = Upstream::serving(&["m"]);
    let program = Program::start(&yaml(&[&upstream], ""));
    let before = program.peak();
    for start in ["GET /", "GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: "] {
        let mut client = program.client();
        client.send(start);
        let block = vec![b'x'; 1 << 20];
        // 300 MB, or as much as is taken before the refusal's close.
        let sent = (0..300).take_while(|_| client.try_send(&block).is_ok()).count();
        assert!(sent < 300, "the proxy reads for ever");
    }
    assert!(program.peak() < before + 4096, "{} KiB, then {} KiB", before, program.peak());
    let mut client = program.client();
    client.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.answer().status(), 200);
}

#[test]
fn a_foreign_name_for_a_loopback_listener_is_421() {
    // DNS rebinding: the listener has no keys.
    let (_upstream, proxy) = untouched();
    let ask = |host: &str| proxy.ask(format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n")).status();
    for host in ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.nip.io"] {
        assert_eq!(ask(host), 421, "{host}");
    }
    let port = proxy.addr.port();
    for host in ["localhost", "LOCALHOST", "127.0.0.1", "[::1]", "192.168.1.5"] {
        assert_eq!(ask(host), 200, "{host}");
        assert_eq!(ask(&format!("{host}:{port}")), 200, "{host}");
    }
}

#[test]
fn an_allowed_name_for_a_loopback_listener_is_served() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(|c| c.server.allowed_hosts = vec!["llm.home".into()]).start();
    let ask = |host: &str| proxy.ask(format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n")).status();
    assert_eq!((ask("llm.home"), ask("LLM.home:8080"), ask("other.home")), (200, 200, 421));
}

#[test]
fn a_head_in_single_bytes_is_one_request() {
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    let mut client = proxy.client();
    for byte in post_with(CHAT, "", chat("m")) {
        client.send([byte]);
    }
    assert_eq!(client.answer().status(), 200);
    assert_eq!(upstream.take(CHAT).text(), chat("m"));
}
