//! Everything at once: clients that leave, endpoints that fail, places that are few. At the end nothing is left over.

use crate::support::fact::ms;
use crate::support::proxy::CHAT;
use crate::support::proxy::Setup;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use llmproxy::config::{Endpoint, MaxConcurrent, Strategy};
use llmproxy::util::time;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// A server that counts what it works on at once, and fails in its own way at every few requests.
struct Shaky {
    addr: SocketAddr,
    most: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

/// Numbers that look like chance and are the same in every run.
fn chance(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

impl Shaky {
    fn start(seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let (now, most, over) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (most_too, over_too) = (Arc::clone(&most), Arc::clone(&over));
        thread::spawn(move || {
            for (n, socket) in listener.incoming().map_while(Result::ok).enumerate() {
                if over_too.load(Ordering::SeqCst) {
                    return;
                }
                let (now, most) = (Arc::clone(&now), Arc::clone(&most_too));
                thread::spawn(move || connection(&socket, chance(seed + n as u64), &now, &most));
            }
        });
        Self { addr, most, over }
    }
}

impl Drop for Shaky {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.addr));
    }
}

/// Counted as long as it is worked on.
struct Work<'a>(&'a AtomicUsize);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn connection(socket: &TcpStream, seed: u64, now: &AtomicUsize, most: &AtomicUsize) {
    let mut reader = BufReader::new(socket);
    for turn in 0.. {
        let (mut path, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(1..) => {}
                _ => return,
            }
            if path.is_empty() {
                path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line == "\r\n" {
                break;
            }
        }
        if reader.read_exact(&mut vec![0; length]).is_err() {
            return;
        }
        let json = |body: &str| {
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        };
        let mut socket = socket;
        let answer = match path.as_str() {
            "/v1/models" => json(r#"{"data":[{"id":"m"}]}"#),
            "/props" => json("{}"),
            _ => {
                let here = now.fetch_add(1, Ordering::SeqCst) + 1;
                let work = Work(now);
                most.fetch_max(here, Ordering::SeqCst);
                // A pause that holds the place without a sleep: for as long as nobody notifies.
                let pause = Duration::from_millis(chance(seed + turn) % 8);
                let idle = Mutex::new(());
                drop(Condvar::new().wait_timeout(idle.lock().expect("our own"), pause));
                match chance(seed ^ turn) % 10 {
                    0 => return,
                    1 => {
                        drop(work);
                        drop(socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)));
                        return;
                    }
                    2 => "HTTP/1.1 500 X\r\nContent-Length: 2\r\n\r\n{}".into(),
                    3 => "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: x\n\n\r\n".into(),
                    _ => json("{}"),
                }
            }
        };
        let cut = answer.contains("event-stream");
        if socket.write_all(answer.as_bytes()).is_err() || cut {
            drop(socket.shutdown(Shutdown::Both));
            return;
        }
    }
}

const LIMITS: [u32; 3] = [2, 3, 5];

#[test]
fn a_thousand_requests_of_leavers_at_failing_endpoints_leave_nothing_behind() {
    storm(Strategy::LeastBusy, true);
}

#[test]
fn a_thousand_requests_at_failing_endpoints_are_never_more_than_there_are_places() {
    // Without leavers the servers' own count is exact: one that is left notices it only a moment later.
    for (server, limit) in storm(Strategy::RoundRobin, false).iter().zip(LIMITS) {
        let most = server.most.load(Ordering::SeqCst);
        assert!(most <= limit as usize, "{most} at a server with {limit} places");
    }
}

#[test]
fn a_thousand_conversations_leave_nothing_behind() {
    storm(Strategy::Affinity, true);
}

fn storm(strategy: Strategy, leave: bool) -> Vec<Shaky> {
    let servers: Vec<Shaky> = (0..3).map(|n| Shaky::start(n * 1_000_003)).collect();
    let mut setup = Setup::over(&[]);
    for ((name, server), limit) in ["a", "b", "c"].iter().zip(&servers).zip(LIMITS) {
        let mut endpoint = Endpoint::plain(*name, "127.0.0.1", server.addr.port());
        endpoint.max_concurrent = MaxConcurrent::Most(limit);
        setup = setup.endpoint(endpoint);
    }
    let setup = setup.with(|config| {
        config.routing.strategy = strategy;
        (config.server.per_client, config.queue.length) = (500, 100);
        (config.retry.attempts, config.retry.initial_delay) = (Some(4), ms(1));
    });
    let proxy = setup.start();
    let (answered, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let client = |client: u64| {
        let mut slowest = Duration::ZERO;
        for n in 0..16 {
            let random = chance(client * 1000 + n);
            let began = time::now();
            let mut asked = proxy.sent(post(CHAT, stream("m")));
            if leave && random.is_multiple_of(4) {
                // Leaves when it has waited a little.
                asked.hears_within(Duration::from_millis(1 + random % 5));
                continue;
            }
            let status = asked.head().status;
            assert!(matches!(status, 200 | 500 | 502 | 503), "{status}");
            asked.body();
            answered.fetch_add(1, Ordering::SeqCst);
            slowest = slowest.max(time::now() - began);
        }
        slowest
    };
    let client = &client;
    let slowest = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                let health = proxy.health();
                for (name, limit) in ["a", "b", "c"].iter().zip(LIMITS) {
                    let here = health["endpoints"][name]["inFlight"].as_u64().expect("a number");
                    assert!(here <= u64::from(limit), "{here} at {name}");
                }
            }
        });
        let clients: Vec<_> = (0..64).map(|number| scope.spawn(move || client(number))).collect();
        let slowest: Vec<_> = clients.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::SeqCst);
        watching.join().expect("never over a limit");
        slowest.into_iter().map(|one| one.expect("no client fails")).max().expect("64 clients")
    });
    let answered = answered.load(Ordering::SeqCst);
    assert!(answered > 600 && slowest < Duration::from_secs(10), "nobody starved: {answered}, {slowest:?}");
    proxy.idle();
    proxy.until(|health| health["queue"]["waiting"] == 0);
    let zero = |metrics: &str, name: &str| {
        let samples = metrics.lines().filter(|line| line.starts_with(name)).map(|line| line.ends_with(" 0"));
        samples.clone().count() > 0 && samples.min() == Some(true)
    };
    proxy.until(|_| {
        let metrics = proxy.get("/metrics");
        let gauges = ["llmproxy_endpoint_in_flight", "llmproxy_queue_length", "llmproxy_workers_busy"];
        gauges.iter().all(|name| zero(metrics.text(), name))
    });
    servers
}
