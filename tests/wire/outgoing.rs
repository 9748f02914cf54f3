//! SPEC 8: the outgoing HTTP CONNECT proxy.

use crate::support::proxy::CHAT;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use llmproxy::util::secret::Secret;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// A proxy that answers CONNECT with this status line and passes bytes; the heads it got.
fn connecting(status: &'static str) -> (SocketAddr, Receiver<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let (heads, got) = channel();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let heads = heads.clone();
            thread::spawn(move || {
                let mut reader = BufReader::new(client.try_clone().expect("a socket"));
                let lines: Vec<String> =
                    reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let target = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
                drop(heads.send(lines));
                let mut writer = client;
                drop(write!(writer, "HTTP/1.1 {status}\r\n\r\n"));
                if !status.starts_with("200") {
                    return;
                }
                let server = TcpStream::connect(target).expect("the endpoint's address");
                let mut there = server.try_clone().expect("a socket");
                let back = thread::spawn(move || {
                    drop(io::copy(&mut &server, &mut writer));
                    drop(writer.shutdown(Shutdown::Both));
                });
                drop(io::copy(&mut reader, &mut there));
                drop(there.shutdown(Shutdown::Both));
                drop(back.join());
            });
        }
    });
    (addr, got)
}

#[test]
fn requests_go_through_the_outgoing_proxy_with_its_credentials() {
    // S002-20
    let upstream = Upstream::serving(&["m"]);
    let (addr, heads) = connecting("200 Connection established");
    let proxy = Setup::over(&[&upstream])
        .with(|config| config.endpoints[0].proxy = Some(Secret::new(format!("http://user:p%40ss@{addr}"))))
        .start();
    upstream.on(CHAT, Script::json("{}"));
    upstream.on(CHAT, Script::sse().chunk(event("one")).stall());
    assert_eq!(proxy.chat("m").status(), 200);
    let head = heads.recv().expect("a CONNECT");
    assert_eq!(head[0], format!("CONNECT {} HTTP/1.1", upstream.addr()));
    let sent = head
        .iter()
        .find_map(|line| line.strip_prefix("Proxy-Authorization: ").or(line.strip_prefix("proxy-authorization: ")));
    assert_eq!(sent, Some("Basic dXNlcjpwQHNz"), "user:p@ss");
    assert_eq!(upstream.take(CHAT).field("proxy-authorization"), None);
    // A client that leaves is heard through it too.
    let mut leaver = proxy.sent(post(CHAT, stream("m")));
    leaver.head();
    assert_eq!(leaver.event(), Some(event("one")));
    drop(leaver);
    proxy.idle();
}

#[test]
fn an_outgoing_proxy_that_refuses_is_a_502_without_its_password() {
    let upstream = Upstream::serving(&["m"]);
    let (addr, _heads) = connecting("407 Proxy Authentication Required");
    let proxy = Setup::over(&[&upstream])
        .with(|config| {
            config.endpoints[0].proxy = Some(Secret::new(format!("http://user:canary@{addr}")));
            config.endpoints[0].models = vec!["m".into()];
            config.endpoints[0].probe = llmproxy::config::Probe::Never;
        })
        .start();
    let answer = proxy.post(CHAT, chat("m"));
    assert_eq!(answer.status(), 502, "{}", answer.text());
    assert!(!answer.text().contains("canary"));
    assert!(!proxy.health().to_string().contains("canary"));
    assert_eq!(upstream.count(CHAT), 0);
}
