//! TLS to endpoints: whom it trusts, and what is checked above it.

use crate::support::client::Ended;
use crate::support::program::Program;
use crate::support::proxy::{CHAT, Proxy, Setup, chat, post};
use llmproxy::config::{CaFile, Endpoint, Probe};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

const CA: &str = include_str!("../data/tls/ca.pem");

/// A server with a certificate of a home authority: reads a head and as much of the body, plays `answer`, and closes with
/// a close_notify or without.
fn serving(body: bool, answer: &'static str, notify: bool) -> SocketAddr {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("../data/tls/server.pem")).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../data/tls/server.key")).expect("PEM");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).expect("they fit");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let config = Arc::clone(&config);
            thread::spawn(move || {
                let mut stream = StreamOwned::new(ServerConnection::new(config).expect("a connection"), socket);
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") {
                    if !stream.read(&mut byte).is_ok_and(|n| n == 1) {
                        return;
                    }
                    head.push(byte[0]);
                }
                let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
                let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                if body {
                    drop(stream.read_exact(&mut vec![0; length.unwrap_or(0)]));
                }
                drop(stream.write_all(answer.as_bytes()));
                if !body {
                    // Open to the end of the test, and nothing is read.
                    std::mem::forget(stream);
                    return;
                }
                if notify {
                    stream.conn.send_close_notify();
                    drop(stream.flush());
                }
                drop(stream.sock.shutdown(Shutdown::Write));
                drop(std::io::copy(&mut stream.sock, &mut std::io::sink()));
            });
        }
    });
    addr
}

fn endpoint(addr: SocketAddr, trusted: bool) -> Endpoint {
    let mut endpoint = Endpoint::plain("a", "localhost", addr.port());
    endpoint.base.tls = true;
    endpoint.probe = Probe::Never;
    endpoint.models = vec!["m".into()];
    let der = CertificateDer::from_pem_slice(CA.as_bytes()).expect("PEM").to_vec();
    endpoint.ca_file = trusted.then(|| CaFile { path: "ca.pem".into(), certificates: vec![der].into() });
    endpoint
}

fn over(addr: SocketAddr) -> Proxy {
    Setup::over(&[]).endpoint(endpoint(addr, true)).start()
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

#[test]
fn a_home_authority_is_trusted_where_its_file_is_named_and_nowhere_else() {
    // R21
    let addr = serving(true, GOOD, true);
    assert_eq!(over(addr).chat("m").text(), "{}");
    let proxy = Setup::over(&[]).endpoint(endpoint(addr, false)).start();
    let answer = proxy.chat("m");
    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream_error"));
}

#[test]
fn ssl_cert_file_adds_to_what_every_endpoint_trusts() {
    // R21
    let addr = serving(true, GOOD, true);
    let port = addr.port();
    let yaml = format!(
        "server: {{port: 0}}\nendpoints: [{{name: a, url: 'https://localhost:{port}/v1', models: [m], healthCheck: false}}]\n"
    );
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/ca.pem");
    let program = Program::start_with(&yaml, &[("SSL_CERT_FILE", file)]);
    let mut client = program.client();
    client.send(post(CHAT, chat("m")));
    assert_eq!(client.answer().text(), "{}");
    let named = yaml.replace("models: [m]", &format!("models: [m], caFile: '{file}'"));
    let program = Program::start(&named);
    let mut client = program.client();
    client.send(post(CHAT, chat("m")));
    assert_eq!(client.answer().text(), "{}");
}

#[test]
fn a_body_that_ends_by_close_is_whole_with_a_close_notify_and_lost_without() {
    let open = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhello";
    for (notify, ended) in [(true, Ended::Complete), (false, Ended::Cut)] {
        let answer = over(serving(true, open, notify)).chat("m");
        assert_eq!((answer.text(), answer.ended), ("hello", ended), "{notify}");
    }
    // What has an end of its own needs none of the connection.
    assert_eq!(over(serving(true, GOOD, false)).chat("m").ended, Ended::Complete);
}

#[test]
fn chunks_are_checked_above_tls() {
    // U25, H7
    let broken = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n+5\r\nhello\r\n0\r\n\r\n";
    let answer = over(serving(true, broken, true)).chat("m");
    assert_eq!((answer.text(), answer.ended), ("hello", Ended::Cut));
}

#[test]
fn an_early_refusal_is_heard_through_tls() {
    // U12
    let refusal = "HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nfull";
    let proxy = over(serving(false, refusal, true));
    let answer = proxy.post(CHAT, format!(r#"{{"model":"m","a":"{}"}}"#, "x".repeat(12 << 20)));
    assert_eq!((answer.status(), answer.text()), (413, "full"));
}
