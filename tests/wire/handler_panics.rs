//! HOUSE 4: a panic on the thread that owns all connections ends one of them and nothing else.

use crate::support::client::Client;
use crate::support::fact::DEADLINE;
use crate::support::proxy::{CHAT, chat, get, post};
use http::{HeaderValue, StatusCode, header};
use llmproxy::api::errors::{Failure, Kind};
use llmproxy::config::Server;
use llmproxy::http::handler::{Handler, PoolSize, ServerConfig};
use llmproxy::http::head::{Fields, Head};
use llmproxy::http::request::{Decide, From, HeadDecision, Pool, Refused, Request};
use llmproxy::http::response::Response;
use llmproxy::http::server::{EventLoop, listen};
use llmproxy::util::budget::Budget;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

/// Panics where the path says so.
struct Clumsy;

fn falls(head: &Head, where_: &str) {
    assert!(head.target.path() != where_, "on purpose");
}

impl Decide for Clumsy {
    fn decide(&self, head: &Head, from: From) -> HeadDecision {
        falls(head, "/admit");
        let refusal = (head.target.path() == "/refuse").then(|| Failure::new(Kind::Unauthorized, "no"));
        HeadDecision { pool: Pool::Proxy, client: Some(from.peer), refusal, decided: None }
    }
    fn passes_on(&self, _: &Head, _: usize) -> bool {
        false
    }
}

impl Handler for Clumsy {
    fn serve(&self, request: Request, response: &mut Response) {
        falls(&request.head, "/serve");
        let mut fields = Fields::default();
        fields.push(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response.send(StatusCode::OK, &fields, b"ok");
    }
    fn refuse(&self, _: &Refused, _: &mut Response) {
        panic!("on purpose");
    }
    fn client_disconnected(&self, _: &Request) {
        panic!("on purpose");
    }
}

#[test]
fn a_panic_in_the_loop_is_one_closed_connection() {
    // S8
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let one = PoolSize { threads: 1, backlog: 8 };
    let server_handle = ServerConfig {
        listeners: vec![listener],
        budget: Budget::new(256 << 20, 32 << 20),
        server: Server::default(),
        max_connections: 16,
        handler: Arc::new(Clumsy),
        control: one,
        proxy: one,
    };
    let (front, handle) = EventLoop::new(server_handle).expect("a front");
    let front = thread::spawn(move || front.run());
    let mut kept = Client::connect(addr);
    // More often than there are connections, so that none of them is left behind.
    for _ in 0..20 {
        let mut client = Client::connect(addr);
        client.send(post("/admit", chat("m")));
        client.expect_close(DEADLINE);
        // The response that is dropped on the way answers.
        for path in ["/refuse", "/serve"] {
            let mut client = Client::connect(addr);
            client.send(post(path, chat("m")));
            assert_eq!(client.answer().status(), 500);
        }
        kept.send(post(CHAT, chat("m")));
        assert_eq!(kept.answer().text(), "ok");
        kept.send(get("/props"));
        assert_eq!(kept.answer().text(), "ok");
    }
    assert!(handle.connections() <= 16);
    handle.drain();
    drop(kept);
    front.join().expect("the front ends well");
}
