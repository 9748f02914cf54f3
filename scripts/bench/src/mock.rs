//! The model server that every target stands in front of: it does what the request's `x-bench` header orders, short
//! answers on one thread with readiness, all else on a thread per connection. It runs in the load's process, so that
//! both ends read one clock. Knows nothing of proxies.

use crate::http::{PATIENCE, Wire};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::fmt;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use std::{process, thread};

static FILLER: [u8; 64 * 1024] = [b'a'; 64 * 1024];

/// What the mock is asked to do with one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// 1 KB of JSON.
    Json,
    /// JSON of so many bytes.
    Body(usize),
    /// So many events, this far apart, each with the time it was sent; `id` 0 = nobody asks when it is cancelled.
    Stream { count: u32, gap: Duration, id: u64 },
    /// Nothing at all: a long prompt.
    Silent(u64),
    /// The first 64 KB of 1 MB, then nothing.
    Stall(u64),
}

/// What the mock saw of a request with an id.
pub enum Seen {
    Began(u64),
    Closed(u64, Instant),
}

pub struct Mock {
    pub addr: SocketAddr,
    pub seen: Receiver<Seen>,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Order::Json => write!(f, "json"),
            Order::Body(length) => write!(f, "body {length}"),
            Order::Stream { count, gap, id } => write!(f, "stream {count} {} {id}", gap.as_micros()),
            Order::Silent(id) => write!(f, "silent {id}"),
            Order::Stall(id) => write!(f, "stall {id}"),
        }
    }
}

impl Order {
    fn parse(text: &str) -> Order {
        let mut words = text.split(' ');
        let name = words.next().unwrap_or_default();
        let mut number = || words.next().and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
        match name {
            "body" => Order::Body(number() as usize),
            "stream" => Order::Stream { count: number() as u32, gap: Duration::from_micros(number()), id: number() },
            "silent" => Order::Silent(number()),
            "stall" => Order::Stall(number()),
            _ => Order::Json,
        }
    }

    /// The whole request that carries this order, with `filler` more bytes in its prompt.
    pub fn request(self, filler: usize) -> Vec<u8> {
        let stream = matches!(self, Order::Stream { .. });
        let prompt = "a".repeat(filler);
        let body =
            format!(r#"{{"model":"m","stream":{stream},"messages":[{{"role":"user","content":"Hello {prompt}"}}]}}"#);
        let length = body.len();
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\
             Content-Type: application/json\r\nx-bench: {self}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

/// Nanoseconds on the clock that mock and load share.
pub fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Small stacks: there are thousands of these threads, and none of them is deep.
pub fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().stack_size(128 * 1024).spawn(work)
}

impl Mock {
    pub fn start(listener: TcpListener) -> io::Result<Mock> {
        let addr = listener.local_addr()?;
        let (tell, seen) = channel();
        spawn(move || {
            if let Err(e) = serve_all(&listener, &tell) {
                eprintln!("bench: the mock upstream ended: {e}");
                process::exit(1); // the kernel ends the proxy under test
            }
        })?;
        Ok(Mock { addr, seen })
    }
}

/// One thread answers all that is short; a connection with any other order moves to a thread of its own.
fn serve_all(listener: &TcpListener, tell: &Sender<Seen>) -> io::Result<()> {
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(1024));
    let mut peers: Vec<Option<Wire>> = Vec::new();
    let (front, filler, back) = answer(1024);
    let small = [front.as_bytes(), &FILLER[..filler], back.as_bytes()].concat();
    listener.set_nonblocking(true)?;
    poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), Token(usize::MAX), Interest::READABLE)?;
    loop {
        wait(&mut poll, &mut events, None)?;
        for event in &events {
            let at = event.token().0;
            if at == usize::MAX {
                while let Ok((stream, _)) = listener.accept() {
                    let at = peers.iter().position(Option::is_none).unwrap_or(peers.len());
                    if at == peers.len() {
                        peers.push(None);
                    }
                    stream.set_nonblocking(true)?;
                    poll.registry().register(&mut SourceFd(&stream.as_raw_fd()), Token(at), Interest::READABLE)?;
                    peers[at] = Some(Wire::new(stream)?);
                }
                continue;
            }
            let Some(wire) = &mut peers[at] else { continue };
            match answer_short(wire, &small) {
                Ok(None) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // a connection that ends in an error is the peer's doing, and the peer reports it
                Err(_) => peers[at] = None,
                Ok(Some(order)) => {
                    let Some(wire) = peers[at].take() else { continue };
                    poll.registry().deregister(&mut SourceFd(&wire.stream.as_raw_fd()))?;
                    let tell = tell.clone();
                    spawn(move || drop(serve_alone(wire, order, &tell)))?;
                }
            }
        }
    }
}

/// Waits for readiness; a pause of the process is no event.
pub fn wait(poll: &mut Poll, events: &mut Events, limit: Option<Duration>) -> io::Result<()> {
    while let Err(e) = poll.poll(events, limit) {
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
    Ok(())
}

/// Answers what has arrived; an order that takes longer is handed back.
fn answer_short(wire: &mut Wire, small: &[u8]) -> io::Result<Option<Order>> {
    loop {
        match next_order(wire)? {
            Order::Json => wire.send(small)?,
            order => return Ok(Some(order)),
        }
        if wire.rests() {
            return Ok(None);
        }
    }
}

/// The next request's order; requests that are GETs are answered in passing.
fn next_order(wire: &mut Wire) -> io::Result<Order> {
    loop {
        let (head, _) = wire.message()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if !head.first.starts_with("GET ") {
            return Ok(Order::parse(&head.order));
        }
        wire.send(get(&head.first).as_bytes())?;
    }
}

/// Serves the given order and then whatever else comes on this connection.
fn serve_alone(mut wire: Wire, mut order: Order, tell: &Sender<Seen>) -> io::Result<()> {
    wire.stream.set_nonblocking(false)?;
    wire.stream.set_read_timeout(None)?; // pooled connections may rest for as long as the proxy likes
    loop {
        match order {
            Order::Json => send_answer(&mut wire, 1024)?,
            Order::Body(length) => send_answer(&mut wire, length)?,
            Order::Stream { count, gap, id } => {
                if id > 0 {
                    watch(wire.stream.try_clone()?, id, tell.clone())?;
                }
                stream_events(&mut wire, count, gap)?;
                if id > 0 {
                    return Ok(()); // its watcher would eat the next request
                }
            }
            Order::Silent(id) => return watch(wire.stream, id, tell.clone()),
            Order::Stall(id) => {
                wire.send(answer(1_000_000).0.as_bytes())?;
                wire.send(&FILLER)?;
                return watch(wire.stream, id, tell.clone());
            }
        }
        order = next_order(&mut wire)?;
    }
}

fn get(first: &str) -> String {
    let (status, body) = match first.split(' ').nth(1).unwrap_or_default() {
        "/health" | "/v1/health" => ("200 OK", r#"{"status":"ok"}"#),
        "/v1/models" | "/models" => {
            ("200 OK", r#"{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"bench"}]}"#)
        }
        _ => ("404 Not Found", r#"{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}"#),
    };
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Head and front, length of the filler, back: a large body is never in memory whole.
fn answer(length: usize) -> (String, usize, &'static str) {
    let front = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":""#;
    let back = r#""}}],"usage":{"prompt_tokens":7,"completion_tokens":200,"total_tokens":207}}"#;
    let filler = length.saturating_sub(front.len() + back.len());
    let length = front.len() + filler + back.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: mock\r\nContent-Type: application/json; charset=utf-8\r\n\
         Content-Length: {length}\r\n\r\n{front}"
    );
    (head, filler, back)
}

fn send_answer(wire: &mut Wire, length: usize) -> io::Result<()> {
    let (front, mut filler, back) = answer(length);
    wire.send(front.as_bytes())?;
    while filler > 0 {
        let piece = &FILLER[..filler.min(FILLER.len())];
        wire.send(piece)?;
        filler -= piece.len();
    }
    wire.send(back.as_bytes())
}

fn stream_events(wire: &mut Wire, count: u32, gap: Duration) -> io::Result<()> {
    wire.send(
        b"HTTP/1.1 200 OK\r\nServer: mock\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    let mut due = Instant::now();
    for _ in 0..count {
        let event = format!(
            "data: {{\"t\":{:020},\"choices\":[{{\"index\":0,\"finish_reason\":null,\"delta\":{{\"content\":\" token\"}}}}],\
             \"created\":1,\"id\":\"chatcmpl-1\",\"model\":\"m\",\"object\":\"chat.completion.chunk\"}}\n\n",
            now_ns()
        );
        wire.send(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())?;
        due += gap;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    wire.send(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
}

/// Reports when the peer closes. Runs on a thread of its own: the stream's writer is busy.
fn watch(mut stream: TcpStream, id: u64, tell: Sender<Seen>) -> io::Result<()> {
    stream.set_read_timeout(Some(2 * PATIENCE))?;
    // the receiver is gone only when the benchmark ends
    let _ = tell.send(Seen::Began(id));
    spawn(move || {
        let ended = stream.read(&mut [0; 64]);
        if !matches!(ended, Err(ref e) if e.kind() == io::ErrorKind::WouldBlock) {
            let _ = tell.send(Seen::Closed(id, Instant::now()));
        }
    })?;
    Ok(())
}
