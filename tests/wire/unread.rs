//! SPEC 2 and 11: answers that their clients do not take, or take slowly.

use crate::jobs::{Folder, look, start, submit};
use crate::support::client::{Client, Ended};
use crate::support::fact::{DEADLINE, ms};
use crate::support::program::{Program, yaml};
use crate::support::proxy::{CHAT, Proxy, chat, get, post_with};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::util::time;
use socket2::SockRef;

/// An answer that no socket buffer holds.
fn large() -> String {
    format!(r#"{{"id":"large","choices":[{{"index":0,"message":{{"content":"{}"}}}}]}}"#, "x".repeat(12 << 20))
}

/// A job whose answer is large, done.
fn done(proxy: &Proxy) -> String {
    let id = submit(proxy, chat("m"));
    let end = time::now() + DEADLINE;
    while look(proxy, &id).json()["status"] != "completed" {
        assert!(time::now() < end, "never completed");
    }
    id
}

#[test]
fn answers_that_nobody_takes_stay_within_body_memory() {
    // U08
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json(large()));
    let folder = Folder::new();
    let server = "  maxBody: 4MiB\n  bodyMemory: 80MiB\n  perClient: 100\n";
    let jobs = format!("jobs: {{enabled: true, dir: {}}}\n", folder.0.display());
    let program = Program::start(&(yaml(&[&upstream], server) + &jobs));
    let mut client = program.client();
    client.send(post_with(CHAT, "Prefer: respond-async\r\n", chat("m")));
    let id = client.answer().json()["request_id"].as_str().expect("an id").to_owned();
    let path = format!("{CHAT}/{id}");
    let end = time::now() + DEADLINE;
    loop {
        client.send(get(&path));
        if client.answer().json()["status"] == "completed" {
            break;
        }
        assert!(time::now() < end, "never completed");
    }
    let before = program.rss();
    let mut readers: Vec<Client> = (0..40)
        .map(|_| {
            let mut reader = Client::with_small_window(program.addr);
            reader.send(get(&path));
            reader
        })
        .collect();
    let statuses: Vec<u16> = readers.iter_mut().map(|reader| reader.head().status).collect();
    let refused = statuses.iter().filter(|status| **status == 503).count();
    assert!(refused >= 36 && statuses.contains(&200), "a quarter of 80 MiB is one answer of 12 MiB: {statuses:?}");
    // Four more are being read from the disk, each in several forms.
    assert!(program.rss() < before + (260 << 10), "{before} KiB, then {}", program.rss());
    for path in ["/health", "/v1/models"] {
        client.send(get(path));
        assert_eq!(client.answer().status(), 200);
    }
    drop(readers);
    let end = time::now() + DEADLINE;
    loop {
        client.send(get(&path));
        if client.answer().status() == 200 {
            break;
        }
        assert!(time::now() < end, "what was held is not given back");
    }
}

/// Reads some bytes every 50 ms, for five times as long as `writeTimeout`, then all; whether it came whole.
fn reads_slowly(proxy: &Proxy, path: &str, some: usize) -> Ended {
    let mut reader = Client::with_small_window(proxy.addr);
    reader.send(get(path));
    assert_eq!(reader.head().status, 200);
    let mut quiet = proxy.client();
    for _ in 0..30 {
        let mut came = 0;
        while came < some {
            came += reader.read_some().expect("more to come").len();
        }
        assert!(!quiet.hears_within(ms(50)));
    }
    SockRef::from(&reader.writer()).set_recv_buffer_size(4 << 20).expect("a size");
    reader.body().1
}

#[test]
fn a_reader_that_is_slow_but_reads_gets_all_of_it() {
    // S4, S5
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json(large()));
    let folder = Folder::new();
    let proxy = start(&folder, &upstream, |c| c.server.write_timeout = ms(300));
    let path = format!("{CHAT}/{}", done(&proxy));
    for some in [64 << 10, 4 << 10] {
        assert_eq!(reads_slowly(&proxy, &path, some), Ended::Complete, "{some} bytes each 50 ms");
    }
}

#[test]
fn a_reader_that_reads_nothing_is_cut_after_write_timeout() {
    // S4, U08
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json(large()));
    let folder = Folder::new();
    let proxy = start(&folder, &upstream, |c| c.server.write_timeout = ms(300));
    let path = format!("{CHAT}/{}", done(&proxy));
    let mut reader = Client::with_small_window(proxy.addr);
    reader.send(get(&path));
    assert_eq!(reader.head().status, 200);
    let mut quiet = proxy.client();
    let closed = (0..100).any(|_| {
        let connections =
            proxy.get("/metrics").text().lines().find_map(|line| {
                line.strip_prefix("llmproxy_connections ").and_then(|count| count.parse::<usize>().ok())
            });
        // `quiet` and the one that asks.
        connections.expect("a metric") <= 2 || quiet.hears_within(ms(50))
    });
    assert!(closed, "still held");
    assert_eq!(reader.body().1, Ended::Cut);
}
