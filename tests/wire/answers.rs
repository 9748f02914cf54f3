//! Answers that come too early, too late, or in chunks that nobody should send.

use crate::support::client::Ended;
use crate::support::fact::Latch;
use crate::support::proxy::CHAT;
use crate::support::proxy::Proxy;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::get;
use crate::support::proxy::post;
use crate::support::proxy::post_with;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use llmproxy::config::Mode;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

fn one() -> (Upstream, Proxy) {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    (upstream, proxy)
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn chunk_sizes_that_are_no_numbers_are_502_or_a_cut() {
    // U25
    for size in ["+2", " 2 ", "2 ", "0x2"] {
        let (upstream, proxy) = one();
        upstream.on(CHAT, Script::raw(format!("{CHUNKED}{size}\r\n{{}}\r\n0\r\n\r\n")));
        let answer = proxy.chat("m");
        assert!(answer.status() == 502 || answer.ended == Ended::Cut, "{size:?}: {answer:?}");
        assert!(answer.status() == 502 || answer.body.is_empty(), "{size:?}: {answer:?}");
        proxy.still_serves();
    }
    let (upstream, proxy) = one();
    upstream.on(CHAT, Script::raw(format!("{CHUNKED}2\r\n{{}}\r\n+0\r\n\r\n")));
    let answer = proxy.chat("m");
    assert_eq!((answer.text(), answer.ended), ("{}", Ended::Cut));
}

#[test]
fn long_chunk_extensions_cut_nothing() {
    // U26
    let (upstream, proxy) = one();
    let extension = format!(";signature=\"{}\"", "x".repeat(3000));
    upstream.on(CHAT, Script::raw(format!("{CHUNKED}2{extension}\r\n{{}}\r\n0{extension}\r\n\r\n")));
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.text(), answer.ended), (200, "{}", Ended::Complete));
}

#[test]
fn a_continue_with_fields_is_swallowed() {
    // U22
    let (upstream, proxy) = one();
    let interim =
        "HTTP/1.1 100 Continue\r\nX-Queue: 3\r\nServer: x\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    upstream.on(CHAT, Script::raw(interim).then(Script::json("{}")));
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.text()), (200, "{}"));
    assert_eq!((answer.field("x-queue"), answer.field("link")), (None, None));
}

#[test]
fn chunks_in_an_http_10_answer_are_502() {
    // U10
    let (upstream, proxy) = one();
    upstream.on(CHAT, Script::raw(CHUNKED.replace("1.1", "1.0")).chunk("{}").end().cut());
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_error"));
}

#[test]
fn events_in_the_same_packet_as_a_broken_chunk_are_delivered() {
    // H7
    let (upstream, proxy) = one();
    let (first, second) = (event("one"), event("two"));
    let chunks = format!("{:x}\r\n{first}\r\n{:x}\r\n{second}\r\nzz\r\n", first.len(), second.len());
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    upstream.on(CHAT, Script::raw(format!("{head}{chunks}")).stall());
    let mut client = proxy.sent(post(CHAT, stream("m")));
    let answer = client.answer();
    let text = answer.text();
    assert!(text.starts_with(&format!("{first}{second}")) && text.contains("\"error\""), "{text}");
    assert_eq!(answer.ended, Ended::Cut);
}

/// An endpoint of bytes: answers the head of each request with the next of these, and leaves everything after the head
/// unread; keeps its connections open until the peer closes.
fn deaf(answers: Vec<&'static str>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for answer in answers {
            let (mut socket, _) = listener.accept().expect("the proxy connects");
            read_head(&mut socket);
            socket.write_all(answer.as_bytes()).expect("the proxy reads");
            // Open to the end of the test.
            std::mem::forget(socket);
        }
    });
    addr
}

fn read_head(socket: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && socket.read(&mut byte).is_ok_and(|n| n == 1) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn before(addr: SocketAddr, mode: Mode) -> Proxy {
    let mut endpoint = crate::support::proxy::endpoint("a", addr);
    endpoint.probe = llmproxy::config::Probe::Never;
    endpoint.models = vec!["m".into()];
    Setup::over(&[]).endpoint(endpoint).with(|config| config.policy.mode = mode).start()
}

#[test]
fn a_refusal_that_leaves_the_upload_unread_is_passed_on_at_once() {
    // U12: nothing closes the connection, and nobody reads on.
    let large = format!(r#"{{"model":"m","a":"{}"}}"#, "x".repeat(12 << 20));
    for head in ["413 Payload Too Large", "429 Too Many Requests\r\nRetry-After: 9", "401 Unauthorized"] {
        let answer: &'static str = format!("HTTP/1.1 {head}\r\nContent-Length: 4\r\n\r\nfull").leak();
        for mode in [Mode::Models, Mode::Raw] {
            let proxy = before(deaf(vec![answer]), mode);
            let mut client = proxy.client();
            // A raw listener may close before it has everything.
            drop(client.try_send(post(CHAT, &large)));
            let got = client.answer();
            assert_eq!((got.status().to_string().as_str(), got.text()), (&head[..3], "full"), "{mode:?}");
        }
    }
}

#[test]
fn an_early_answer_is_read_whole_and_its_connection_not_used_again() {
    // U12
    let large = format!(r#"{{"model":"m","a":"{}"}}"#, "x".repeat(12 << 20));
    let chunked = "HTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n";
    let next = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    let proxy = before(deaf(vec![chunked, next]), Mode::Models);
    assert_eq!(proxy.post(CHAT, &large).text(), "onetwo");
    // The scripted endpoint plays its second answer on a second connection only.
    assert_eq!(proxy.chat("m").text(), "{}");
}

/// An endpoint that answers the first request with `head`, sends `late` when told to and says when that is out; what
/// comes on further connections gets an answer of its own.
fn talking_on(head: &'static str, late: &'static str) -> (SocketAddr, Sender<()>, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let ((go, told), (done, seen)) = (channel::<()>(), channel());
    thread::spawn(move || {
        let (mut first, _) = listener.accept().expect("the proxy connects");
        read_head(&mut first);
        first.read_exact(&mut vec![0; chat("m").len()]).expect("the body");
        drop(first.write_all(head.as_bytes()));
        let _ = told.recv();
        // The proxy may have closed it already.
        drop(first.write_all(late.as_bytes()));
        let _ = done.send(());
        for mut next in listener.incoming().map_while(Result::ok) {
            read_head(&mut next);
            drop(next.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"mine\":1}"));
            drop(std::io::copy(&mut next, &mut std::io::sink()));
        }
    });
    (addr, go, seen)
}

#[test]
fn bytes_after_an_answer_never_reach_the_next_client() {
    // U11: late, so that no read of the answer finds them.
    let heads = [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ];
    for head in heads {
        for late in ["POISON", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"] {
            let (addr, go, done) = talking_on(head, late);
            let proxy = before(addr, Mode::Models);
            let mut first = proxy.sent(post(CHAT, chat("m")));
            first.answer();
            proxy.idle();
            go.send(()).expect("it waits");
            done.recv().expect("it says so");
            let second = proxy.chat("m");
            assert_eq!((second.status(), second.text()), (200, "{\"mine\":1}"), "{head:?} {late:?}");
        }
    }
}

#[test]
fn the_late_body_of_an_answer_without_one_never_meets_a_request_that_is_under_way() {
    // U11: the request is sent before the bytes come, so that no look at the connection could find them.
    for head in ["204 No Content", "304 Not Modified", "200 OK\r\nContent-Length: 0"] {
        let head: &'static str = format!("HTTP/1.1 {head}\r\n\r\n").leak();
        let (addr, go, _done) = talking_on(head, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON");
        let proxy = before(addr, Mode::Models);
        let mut first = proxy.sent(post(CHAT, chat("m")));
        first.answer();
        proxy.idle();
        let mut second = proxy.sent(post(CHAT, chat("m")));
        proxy.until(|health| health["endpoints"]["a"]["inFlight"] == 1);
        go.send(()).expect("it waits");
        assert_eq!(second.answer().text(), "{\"mine\":1}", "{head:?}");
    }
}

#[test]
fn leftovers_that_are_no_answer_on_a_pooled_connection_cost_nobody_anything() {
    // U11: they come when the next request is already on its way.
    let (upstream, proxy) = one();
    upstream.on(CHAT, Script::json("{}"));
    let mut first = proxy.sent(post(CHAT, chat("m")));
    first.answer();
    proxy.idle();
    upstream.on(CHAT, Script::raw("LEFTOVER").then(Script::json("{\"theirs\":1}")));
    upstream.on(CHAT, Script::json("{\"mine\":1}"));
    let second = proxy.chat("m");
    assert_eq!((second.status(), second.text()), (200, "{\"mine\":1}"));
}

#[test]
fn a_late_body_of_a_head_request_never_reaches_the_next_client() {
    // U11
    let (upstream, proxy) = one();
    let latch = Latch::new();
    upstream.on("/props", Script::raw("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n").latch(&latch).bytes("POISON"));
    proxy.sent("HEAD /props?model=m HTTP/1.1\r\nHost: localhost\r\n\r\n").head();
    proxy.idle();
    latch.open();
    upstream.on(CHAT, Script::json("{\"mine\":1}"));
    assert_eq!(proxy.chat("m").text(), "{\"mine\":1}");
}

#[test]
fn an_error_that_trickles_does_not_hold_the_next_endpoint_back() {
    // S9
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    let proxy = Setup::over(&[&first, &second]).start();
    first.on(CHAT, Script::head(503, &[("Content-Length", "100")]).bytes("a").stall());
    second.on(CHAT, Script::json("{}"));
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.field("x-llmproxy-endpoint")), (200, Some("b")));
    first.take(CHAT).closed.wait("the proxy's close");
}

#[test]
fn an_error_too_long_to_keep_is_delivered() {
    // S9
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    let proxy = Setup::over(&[&first, &second]).start();
    let chunk = "x".repeat(64 << 10);
    let mut long = Script::head(503, &[("Transfer-Encoding", "chunked")]);
    for _ in 0..40 {
        long = long.chunk(&chunk);
    }
    first.on(CHAT, long.end());
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.body.len(), answer.ended), (503, 40 * chunk.len(), Ended::Complete));
}

#[test]
fn no_target_of_a_raw_listener_leads_anywhere_but_to_its_endpoint() {
    // U06
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(|config| config.policy.mode = Mode::Raw).start();
    let targets = [
        "//evil.example/x",
        "/@evil.example",
        "/:80",
        "/?",
        "/x?@evil.example:80",
        "/v1//evil.example",
        "//",
        "http://localhost/y",
    ];
    for target in targets {
        for method in ["GET", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"] {
            let path = target.trim_start_matches("http://localhost").split('?').next().expect("a path");
            upstream.on(path, Script::json("{}"));
            let answer =
                proxy.ask(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"));
            assert_eq!((answer.status(), answer.field("x-llmproxy-endpoint")), (200, Some("a")), "{method} {target}");
            assert_eq!(upstream.take(path).field("host"), Some(upstream.addr().to_string().as_str()));
        }
    }
    assert!(proxy.ask("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n").status() < 600);
}

#[test]
fn compressed_answers_may_be_asked_for_where_nothing_is_put_into_them() {
    let (upstream, proxy) = one();
    upstream.on(CHAT, Script::json("{}"));
    proxy.ask(post_with(CHAT, "Accept-Encoding: gzip\r\n", chat("m")));
    assert_eq!(upstream.take(CHAT).field("accept-encoding"), Some("gzip"));
    assert_eq!(proxy.ask(get("/health")).status(), 200);
}

#[test]
fn an_early_answer_may_come_in_chunks() {
    // U12
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    let latch = Latch::new();
    let head = Script::head(413, &[("Content-Length", "8")]).latch(&latch);
    upstream.on(CHAT, head.bytes("too much").early());
    let mut client = proxy.sent(post(CHAT, format!(r#"{{"model":"m","a":"{}"}}"#, "x".repeat(8 << 20))));
    // The endpoint has begun to answer, and its head is not followed by anything yet.
    upstream.take(CHAT);
    latch.open();
    let answer = client.answer();
    assert_eq!((answer.status(), answer.text()), (413, "too much"));
}
