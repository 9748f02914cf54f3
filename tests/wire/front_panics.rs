//! HOUSE 4: a panic on the thread that owns all connections ends one of them and nothing else.

use crate::support::client::Client;
use crate::support::fact::DEADLINE;
use crate::support::proxy::{CHAT, chat, get, post};
use http::{HeaderValue, StatusCode, header};
use llmproxy::api::errors::{Failure, Kind};
use llmproxy::config::Server;
use llmproxy::http::handler::{Handler, Pool, Refused, ServerConfig};
use llmproxy::http::head::{Fields, Head};
use llmproxy::http::request::{From, Request};
use llmproxy::http::response::Response;
use llmproxy::http::server::{EventLoop, listen};
use llmproxy::http::workers::{Exchange, WorkerPool};
use llmproxy::util::budget::Budget;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;

/// Panics where the path says so.
struct Clumsy;

fn falls(head: &Head, where_: &str) {
    assert!(head.target.path() != where_, "on purpose");
}

impl Handler for Clumsy {
    fn admit(&self, head: &Head, _: From) -> Result<(), Failure> {
        falls(head, "/admit");
        if head.target.path() == "/refuse" { Err(Failure::new(Kind::Unauthorized, "no")) } else { Ok(()) }
    }
    fn client(&self, head: &Head, from: From) -> Option<IpAddr> {
        falls(head, "/client");
        Some(from.peer)
    }
    fn passes_on(&self, _: &Head, _: usize) -> bool {
        false
    }
    fn pool(&self, head: &Head, _: usize) -> Pool {
        falls(head, "/lane");
        Pool::Proxy
    }
    fn refuse(&self, _: Refused<'_>, _: Response) {
        panic!("on purpose");
    }
    fn left(&self, _: &Request, _: Response) {
        panic!("on purpose");
    }
}

#[test]
fn a_panic_in_the_loop_is_one_closed_connection() {
    // S8
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let work = Arc::new(|job: Exchange| {
        let mut fields = Fields::default();
        fields.push(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        job.response.send(StatusCode::OK, &fields, b"ok");
    });
    let lane = |name| WorkerPool::start(name, 1, 8, Arc::clone(&work) as _).expect("threads");
    let server_handle = ServerConfig {
        listeners: vec![listener],
        budget: Budget::new(256 << 20, 32 << 20),
        server: Server::default(),
        max_connections: 16,
        handler: Arc::new(Clumsy),
        control: lane("control"),
        proxy: lane("proxy"),
    };
    let (front, handle) = EventLoop::new(server_handle).expect("a front");
    let front = thread::spawn(move || front.run());
    let mut kept = Client::connect(addr);
    // More often than there are connections, so that none of them is left behind.
    for _ in 0..20 {
        for path in ["/admit", "/client", "/lane"] {
            let mut client = Client::connect(addr);
            client.send(post(path, chat("m")));
            client.expect_close(DEADLINE);
        }
        // The response that is dropped on the way answers.
        let mut client = Client::connect(addr);
        client.send(post("/refuse", chat("m")));
        assert_eq!(client.answer().status(), 500);
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
