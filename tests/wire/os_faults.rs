//! FAULTS D4 and group E, as far as they run on any machine; the others are under scripts/faults/.

use crate::support::client::Client;
use crate::support::fact::DEADLINE;
use crate::support::proxy::{CHAT, chat, get, post};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::Server;
use llmproxy::http::handler::{Handler, PoolSize, ServerConfig};
use llmproxy::http::head::Head;
use llmproxy::http::request::{Decide, From, HeadDecision, Pool, Refused, Request};
use llmproxy::http::response::Response;
use llmproxy::http::server::{EventLoop, listen};
use llmproxy::util::time;
use std::fs::OpenOptions;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

const ONE: &str = "127.0.0.1:0";

fn program(yaml: &str, name: &str) -> Command {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}.yml", std::process::id()));
    std::fs::write(&file, yaml).expect("the build's own directory is writable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmproxy"));
    command.arg("-c").arg(file).stdin(Stdio::null());
    command
}

#[test]
fn an_address_that_cannot_be_had_ends_it_with_71_and_its_name() {
    // D4, S002-30
    let taken = TcpListener::bind(ONE).expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let endpoint = "endpoints: [{name: a, address: 127.0.0.1, port: 1}]\n";
    let second = format!("server: {{port: 0}}\nlisteners: [{{name: second, port: {port}}}]\n{endpoint}");
    let cases = [
        (format!("server: {{port: {port}}}\n{endpoint}"), format!("127.0.0.1:{port}")),
        (format!("server: {{host: 192.0.2.1, port: 3000}}\n{endpoint}"), "192.0.2.1:3000".to_owned()),
        (second, format!("127.0.0.1:{port}")),
    ];
    for (n, (yaml, addr)) in cases.into_iter().enumerate() {
        let out = program(&yaml, &format!("taken-{n}")).output().expect("the program was built");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(71), "{said}");
        assert!(said.contains(&addr), "{said}");
        assert!(out.stdout.is_empty(), "nothing claims to listen");
    }
}

#[test]
fn it_serves_on_when_nobody_can_hear_it() {
    // E4
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let held = TcpListener::bind(ONE).expect("a free port");
    let addr = held.local_addr().expect("bound");
    drop(held);
    let yaml = format!(
        "server: {{port: {}}}\nendpoints: [{{name: a, address: 127.0.0.1, port: {}}}]\n",
        addr.port(),
        upstream.addr().port()
    );
    let full = || OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let mut child = program(&yaml, "deaf").stdout(full()).stderr(full()).spawn().expect("the program was built");
    let end = time::now() + DEADLINE;
    while TcpStream::connect(addr).is_err() {
        assert!(time::now() < end, "it never listened");
        thread::yield_now();
    }
    let mut client = Client::connect(addr);
    for _ in 0..10 {
        client.send(post(CHAT, chat("m")));
        assert_eq!(client.answer().status(), 200);
    }
    loop {
        client.send(get("/metrics"));
        let text = client.answer().text().to_owned();
        let dropped = text.lines().find_map(|line| line.strip_prefix("llmproxy_log_dropped_total "));
        if dropped.is_some_and(|count| count.parse::<u64>().is_ok_and(|count| count >= 10)) {
            break;
        }
        assert!(time::now() < end, "{dropped:?}");
    }
    drop(child.kill());
    drop(child.wait());
}

/// Lets everything in, and panics.
struct Open;

impl Decide for Open {
    fn decide(&self, _: &Head, from: From) -> HeadDecision {
        HeadDecision { pool: Pool::Proxy, client: Some(from.peer), refusal: None, decided: None }
    }
    fn passes_on(&self, _: &Head, _: usize) -> bool {
        false
    }
}

impl Handler for Open {
    fn serve(&self, request: Request, _: &mut Response) {
        assert!(request.head.method == "NONE", "on purpose");
    }
    fn refuse(&self, _: &Refused, _: &mut Response) {
        panic!("nothing is refused here");
    }
    fn client_disconnected(&self, _: &Request) {}
}

#[test]
fn a_panic_in_a_request_is_one_500_and_the_pool_stays_whole() {
    // E9
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let two = PoolSize { threads: 2, backlog: 8 };
    let server_handle = ServerConfig {
        listeners: vec![listener],
        budget: llmproxy::util::budget::Budget::new(256 << 20, 32 << 20),
        server: Server::default(),
        max_connections: 16,
        handler: Arc::new(Open),
        control: two,
        proxy: two,
    };
    let (front, handle) = EventLoop::new(server_handle).expect("a front");
    let front = thread::spawn(move || front.run());
    // Five times as many as there are workers: each died and served on.
    for _ in 0..10 {
        let mut client = Client::connect(addr);
        client.send(post(CHAT, chat("m")));
        let answer = client.answer();
        assert_eq!((answer.status(), answer.json()["error"]["type"].as_str().is_some()), (500, true));
    }
    handle.drain();
    front.join().expect("the front ends well");
}

#[test]
fn a_log_file_that_disappears_under_it_does_not_matter() {
    // E4: a closed pipe
    let upstream = Upstream::serving(&["m"]);
    let yaml = format!(
        "server: {{port: 0}}\nendpoints: [{{name: a, address: 127.0.0.1, port: {}}}]\n",
        upstream.addr().port()
    );
    let mut child =
        program(&yaml, "piped").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it was built");
    drop(child.stderr.take());
    let mut first = String::new();
    let stdout = child.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut first).expect("a line");
    let addr: SocketAddr =
        first.trim().rsplit("http://").next().and_then(|addr| addr.parse().ok()).expect("an address");
    for _ in 0..3 {
        let mut client = Client::connect(addr);
        client.send(get("/v1/models"));
        assert_eq!(client.answer().status(), 200);
    }
    drop(child.kill());
    drop(child.wait());
}
