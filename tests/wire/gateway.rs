//! SPEC 8: several listeners, each with its group, keys and limit; everything passed on as it is.

use crate::support::client::{Answer, Client};
use crate::support::fact::Latch;
use crate::support::program::Program;
use crate::support::proxy::CHAT;
use crate::support::proxy::chat;
use crate::support::proxy::get;
use crate::support::proxy::post;
use crate::support::proxy::post_with;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use llmproxy::util::time;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// The ports of the listeners beside the main one, in order; free a moment ago. Below those that the system gives away
/// itself, and by process and turn, so that no other test takes them meanwhile.
pub fn ports(n: usize) -> Vec<u16> {
    static TURN: AtomicU32 = AtomicU32::new(0);
    let candidates = std::iter::repeat_with(|| {
        let turn = TURN.fetch_add(1, Ordering::Relaxed);
        20_000 + (std::process::id().wrapping_mul(37).wrapping_add(turn) % 12_000) as u16
    });
    let held: Vec<TcpListener> =
        candidates.take(12_000).filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).take(n).collect();
    assert_eq!(held.len(), n, "free ports");
    held.iter().map(|listener| listener.local_addr().expect("bound").port()).collect()
}

fn two() -> [Upstream; 2] {
    [(); 2].map(|()| {
        let upstream = Upstream::serving(&["m"]);
        upstream.always(CHAT, Script::json("{}"));
        upstream
    })
}

fn endpoints([a, b]: &[Upstream; 2]) -> String {
    format!(
        "server: {{port: 0}}\nhealthCheck: {{interval: 60s}}\nendpoints:\n  - {{name: a, address: 127.0.0.1, port: {}}}\n  - {{name: b, address: 127.0.0.1, port: {}}}\n",
        a.addr().port(),
        b.addr().port()
    )
}

fn ask(port: u16, request: impl AsRef<[u8]>) -> Answer {
    let mut client = Client::connect(SocketAddr::from(([127, 0, 0, 1], port)));
    client.send(request);
    client.answer()
}

fn endpoint(answer: &Answer) -> &str {
    answer.field("x-llmproxy-endpoint").unwrap_or("none")
}

#[test]
fn each_listener_sees_its_own_group_only() {
    // S002-01, S002-13
    let upstreams = two();
    let port = ports(1)[0];
    let program = Program::start(&format!(
        "{}groups: [{{name: only-b, endpoints: [{{name: b}}]}}]\nlisteners: [{{name: second, port: {port}, group: only-b}}]\n",
        endpoints(&upstreams)
    ));
    let main = program.addr.port();
    for _ in 0..3 {
        assert_eq!(endpoint(&ask(main, post(CHAT, chat("m")))), "a");
        assert_eq!(endpoint(&ask(port, post(CHAT, chat("m")))), "b");
    }
    let entry = ask(port, get("/v1/models/m")).json();
    assert_eq!((&entry["provider"], &entry["endpoints"]), (&"b".into(), &serde_json::json!(["b"])));
    assert_eq!(ask(port, get("/health")).json()["endpoints"].as_object().map(|all| all.len()), Some(1));
}

#[test]
fn everything_goes_raw_by_weight_with_its_query_and_method() {
    // S002-07, S002-11, S002-14, W002-5
    let upstreams = two();
    let port = ports(1)[0];
    let program = Program::start(&format!(
        "{}groups: [{{name: g, strategy: weighted_roundrobin, endpoints: [{{name: a, weight: 8}}, {{name: b, weight: 2}}]}}]\n\
         listeners: [{{name: raw, port: {port}, group: g, mode: raw}}]\n",
        endpoints(&upstreams)
    ));
    let path = "/any/thing";
    for upstream in &upstreams {
        upstream.always(path, Script::answer(418, &[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")], "short"));
        upstream.always("/health", Script::json("{\"theirs\":true}"));
    }
    for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let answer =
            ask(port, format!("{method} {path}?a=1&b=%20 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nx,y"));
        assert_eq!((answer.status(), answer.text()), (418, "short"));
        assert_eq!(answer.head.all("set-cookie"), ["a=1", "b=2"], "W002-6");
    }
    let counts = upstreams.each_ref().map(|upstream| upstream.count(path));
    assert_eq!(counts, [4, 1]);
    let received = upstreams[1].take(path);
    assert_eq!((received.target(), received.text()), ("/any/thing?a=1&b=%20", "x,y"));
    assert_eq!(ask(port, get("/health")).json()["theirs"], true, "nothing is special here");
    // Two whole rounds of ten.
    let names: String = (0..20).map(|_| endpoint(&ask(port, post(CHAT, "no JSON"))).to_owned()).collect();
    assert_eq!((names.matches('a').count(), names.matches('b').count()), (16, 4), "{names}");
    assert_eq!(ask(port, "TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n").status(), 405);
    drop(program);
}

#[test]
fn a_raw_stream_passes_chunk_by_chunk_and_a_dead_upstream_is_passed_over() {
    // S002-21, S002-22, W002-2, W002-8
    let mut upstreams = two();
    let port = ports(1)[0];
    let program = Program::start(&format!(
        "{}groups: [{{name: g, strategy: rr, endpoints: [{{name: a}}, {{name: b}}]}}]\nlisteners: [{{name: raw, port: {port}, group: g, mode: raw}}]\n",
        endpoints(&upstreams)
    ));
    let latch = Latch::new();
    upstreams[0].on(CHAT, Script::sse().chunk(event("one")).latch(&latch).chunk(event("two")).end());
    let mut client = Client::connect(SocketAddr::from(([127, 0, 0, 1], port)));
    client.send(post(CHAT, stream("m")));
    client.head();
    assert_eq!(client.event(), Some(event("one")));
    latch.open();
    assert_eq!(client.event(), Some(event("two")));
    upstreams[0].kill();
    for _ in 0..6 {
        let answer = ask(port, post(CHAT, chat("m")));
        assert_eq!((answer.status(), endpoint(&answer)), (200, "b"));
    }
    drop(program);
}

#[test]
fn a_listener_has_keys_of_its_own() {
    let upstreams = two();
    let [open, one] = ports(2)[..] else { panic!("two") };
    let program = Program::start(&format!(
        "{}auth: {{keys: [{{name: k, key: first}}, {{name: l, key: second}}]}}\n\
         listeners: [{{name: open, port: {open}, keys: none}}, {{name: one, port: {one}, keys: [l]}}]\n",
        endpoints(&upstreams)
    ));
    let with =
        |port, key: &str| ask(port, post_with(CHAT, &format!("Authorization: Bearer {key}\r\n"), chat("m"))).status();
    let main = program.addr.port();
    assert_eq!([with(main, "first"), with(main, "second"), with(main, "no")], [200, 200, 401]);
    assert_eq!([with(one, "first"), with(one, "second")], [401, 200]);
    assert_eq!(with(open, "whatever"), 200);
    assert_eq!(upstreams[0].take(CHAT).field("authorization"), None, "our keys go no further");
}

#[test]
fn a_listener_bounds_each_address() {
    // S002-02, S002-03, W002-1
    let upstreams = two();
    let port = ports(1)[0];
    let program = Program::start(&format!(
        "{}groups: [{{name: g, endpoints: [{{name: a}}]}}]\n\
         listeners: [{{name: limited, port: {port}, host: 0.0.0.0, group: g, mode: raw, rateLimit: {{perSecond: 100, burst: 200}}}}]\n",
        endpoints(&upstreams)
    ));
    let burst = |from: &str| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let own: SocketAddr = format!("{from}:0").parse().expect("an address");
        socket.bind(&own.into()).expect("loopback is 127.0.0.0/8");
        socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).expect("it listens");
        let stream = TcpStream::from(socket);
        let mut writer = stream.try_clone().expect("a socket");
        let began = time::now();
        let sender =
            thread::spawn(move || (0..600).for_each(|_| writer.write_all(&post(CHAT, "x")).expect("it reads")));
        let (mut reader, mut granted, mut last) = (BufReader::new(stream), 0, String::new());
        for _ in 0..600 {
            let (mut head, mut length) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") {
                let mut line = String::new();
                reader.read_line(&mut line).expect("an answer");
                if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                    length = value.trim().parse().expect("a number");
                }
                head += &line;
            }
            reader.read_exact(&mut vec![0; length]).expect("a body");
            match head.starts_with("HTTP/1.1 200") {
                true => granted += 1,
                false => last = head.to_lowercase(),
            }
        }
        sender.join().expect("it was read");
        // What comes in while the burst lasts is granted too: a hundred a second.
        let most = 201 + (time::now() - began).as_millis() / 10;
        assert!((200..=most).contains(&granted), "{granted} of at most {most}");
        last
    };
    let [last, _] = ["127.0.0.1", "127.0.0.2"].map(burst);
    assert!(last.starts_with("http/1.1 429") && last.contains("retry-after: 1"), "{last}");
    assert!(
        last.contains("x-ratelimit-limit-requests: 200") && last.contains("x-ratelimit-remaining-requests: 0"),
        "{last}"
    );
    let metrics = ask(program.addr.port(), get("/metrics"));
    assert!(metrics.text().contains("llmproxy_ratelimit_total{forward=\"limited\"}"), "S002-28: {}", metrics.text());
}

#[test]
fn a_trusted_proxys_clients_are_told_apart() {
    let upstreams = two();
    let program = Program::start(
        &(endpoints(&upstreams).replace("{port: 0}", "{port: 0, trustedProxies: [127.0.0.1]}")
            + "rateLimit: {perSecond: 0.01, burst: 1}\n"),
    );
    let from = |client: &str| {
        ask(program.addr.port(), post_with(CHAT, &format!("X-Forwarded-For: 9.9.9.9, {client}\r\n"), chat("m")))
            .status()
    };
    assert_eq!([from("10.0.0.1"), from("10.0.0.2"), from("10.0.0.1"), from("10.0.0.2")], [200, 200, 429, 429]);
    assert_eq!(ask(program.addr.port(), get("/health")).status(), 200, "health is not counted");
}

#[test]
fn a_status_listener_says_ok_and_has_the_metrics() {
    // S002-05, S002-06
    let upstreams = two();
    let port = ports(1)[0];
    let program =
        Program::start(&format!("{}listeners: [{{name: ops, port: {port}, mode: status}}]\n", endpoints(&upstreams)));
    let health = ask(port, get("/health"));
    assert_eq!((health.status(), health.text()), (200, "OK"));
    let metrics = ask(port, get("/metrics"));
    assert!(metrics.field("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    assert!(metrics.text().contains("llmproxy_endpoint_up{endpoint=\"a\"} 1"));
    assert_eq!([ask(port, get("/v1/models")).status(), ask(port, post(CHAT, chat("m"))).status()], [404, 404]);
    drop(program);
}
