//! One parked connection: bytes in, a complete request or a refusal out. Reads, never waits.

use super::body::Decoder;
use super::door::{Desk, From};
use super::head::{Framing, Head, Limits, Parser};
use super::request::{Body, Budget};
use crate::base::gone::Gone;
use crate::config::Server;
use crate::model::failure::{Failure, Kind};
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Slower than this (bytes a second), after `bodyTimeout`, is no honest client (FAULTS A18).
const SLOWEST_BODY: u64 = 500;
/// Reads of one client in a row, 1 MiB, before others get their turn.
const READS: usize = 16;
/// What is still read of a refused client before the connection is closed.
pub(super) const LINGER_BYTES: usize = 64 << 10;
/// How long.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// The bounds that every connection of a front obeys.
pub(super) struct Rules {
    pub limits: Limits,
    pub budget: Arc<Budget>,
    pub desk: Arc<dyn Desk>,
    pub head_timeout: Duration,
    pub body_timeout: Duration,
    pub keep_alive: Duration,
    pub write_timeout: Duration,
}

impl Rules {
    pub fn new(server: &Server, budget: Arc<Budget>, desk: Arc<dyn Desk>) -> Self {
        Self {
            limits: Limits { target: 8 << 10, head: 32 << 10, fields: 100, body: server.max_body },
            budget,
            desk,
            head_timeout: server.head_timeout,
            body_timeout: server.body_timeout,
            keep_alive: server.keep_alive,
            write_timeout: server.write_timeout,
        }
    }
}

pub(super) struct Conn {
    pub stream: Arc<TcpStream>,
    pub peer: IpAddr,
    pub peer_text: Arc<str>,
    pub listener: usize,
    pub state: State,
    /// When `expire` wants to be asked.
    pub deadline: Instant,
    /// Bytes read and not yet understood: a started head, or what was pipelined.
    buf: Vec<u8>,
    /// Remembers how far `buf` was understood.
    parser: Parser,
    /// `buf` holds pipelined bytes that nobody has looked at.
    fresh: bool,
    /// The kernel may hold more bytes whose event was already seen.
    more: bool,
    /// The client closed its side; seen in an event or a read.
    pub closed: bool,
}

pub(super) enum State {
    /// Parked: idle, or `since` a head began.
    Head { since: Option<Instant> },
    /// A body is coming.
    Body(Box<Incoming>),
    /// A worker owns the connection.
    Served { gone: Arc<Gone>, seen: Arc<AtomicBool> },
    /// Bytes that the client does not read, then the rest of its life.
    Flush { rest: Vec<u8>, keep: bool },
    /// Closed for writing; what still comes is thrown away.
    Linger { left: usize },
}

pub(super) struct Incoming {
    head: Head,
    decoder: Decoder,
    body: Body,
    began: Instant,
    since: Instant,
    last: Instant,
    bytes: u64,
}

impl Incoming {
    /// Silence is noticed when it is over the limit, slowness about four times in that time.
    fn next_look(&self, now: Instant, rules: &Rules) -> Instant {
        let limit = rules.body_timeout;
        (self.last + limit).min((self.since + limit).max(now + limit / 4))
    }
}

/// What a look at a connection led to.
pub(super) enum Step {
    Wait,
    /// There is more to read, but others wait too.
    Again,
    /// A complete request, and when its first byte came.
    Serve(Box<Head>, Body, Instant),
    /// An answer that ends the connection.
    Refuse(Option<Box<Head>>, Failure, Instant),
    Close,
}

impl Conn {
    pub fn new(stream: TcpStream, peer: IpAddr, listener: usize, now: Instant, rules: &Rules) -> Self {
        Self {
            stream: Arc::new(stream),
            peer,
            peer_text: peer.to_string().into(),
            listener,
            state: State::Head { since: None },
            // The first head must come in time; only a kept connection may idle longer.
            deadline: now + rules.head_timeout,
            buf: Vec::new(),
            parser: Parser::default(),
            fresh: false,
            more: true,
            closed: false,
        }
    }

    /// Parked without a started request: may be closed without loss.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Head { since: None })
    }

    /// Has not yet sent a whole head (FAULTS A20: such go first).
    pub fn is_headless(&self) -> bool {
        matches!(self.state, State::Head { .. })
    }

    /// Where its requests come from.
    pub fn from(&self) -> From {
        From { peer: self.peer, listener: self.listener }
    }

    /// Notes an event that came while a worker owns the connection.
    pub fn note_unread(&mut self) {
        self.more = true;
    }

    /// The connection is ours again, after an answer.
    pub fn park(&mut self, now: Instant, rules: &Rules) {
        self.state = State::Head { since: None };
        self.deadline = now + rules.keep_alive;
        self.fresh = !self.buf.is_empty();
    }

    /// Whether `advance` could find something without a new event.
    pub fn has_unread(&self) -> bool {
        self.more || !self.buf.is_empty()
    }

    /// Takes in what the client sent, until a request is complete or nothing is left to read.
    pub fn advance(&mut self, scratch: &mut [u8], now: Instant, rules: &Rules) -> Step {
        if std::mem::take(&mut self.fresh) {
            let buf = std::mem::take(&mut self.buf);
            match self.take_in(&buf, now, rules) {
                Step::Wait => {}
                step => return step,
            }
        }
        for _ in 0..READS {
            if !self.more {
                return if self.closed { self.ended() } else { Step::Wait };
            }
            match (&*self.stream).read(scratch) {
                Ok(0) => {
                    self.closed = true;
                    self.more = false;
                }
                Ok(n) => {
                    // A short read has emptied the socket (epoll(7)); a later byte is a new event.
                    self.more = n == scratch.len();
                    let step = if self.buf.is_empty() {
                        self.take_in(&scratch[..n], now, rules)
                    } else {
                        let mut buf = std::mem::take(&mut self.buf);
                        buf.extend_from_slice(&scratch[..n]);
                        self.take_in(&buf, now, rules)
                    };
                    match step {
                        Step::Wait => {}
                        step => return step,
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.more = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Step::Close,
            }
        }
        Step::Again
    }

    /// The client closed its side and everything it sent has been looked at.
    fn ended(&self) -> Step {
        match &self.state {
            State::Served { .. } | State::Flush { .. } => Step::Wait,
            State::Head { .. } | State::Body(_) | State::Linger { .. } => Step::Close,
        }
    }

    fn take_in(&mut self, input: &[u8], now: Instant, rules: &Rules) -> Step {
        match &mut self.state {
            State::Head { since } => {
                let began = *since.get_or_insert_with(|| {
                    self.deadline = now + rules.head_timeout;
                    now
                });
                match self.parser.parse(input, &rules.limits) {
                    Ok(None) => {
                        self.buf = input.to_vec();
                        Step::Wait
                    }
                    Ok(Some((head, used))) => {
                        self.parser = Parser::default();
                        self.begin_body(head, &input[used..], began, now, rules)
                    }
                    Err(failure) => Step::Refuse(None, failure, began),
                }
            }
            State::Body(incoming) => {
                incoming.last = now;
                incoming.bytes += input.len() as u64;
                self.feed(input, now, rules)
            }
            State::Linger { left } => {
                *left = left.saturating_sub(input.len());
                if *left == 0 { Step::Close } else { Step::Wait }
            }
            State::Served { .. } | State::Flush { .. } => {
                self.buf = input.to_vec();
                Step::Wait
            }
        }
    }

    fn begin_body(&mut self, head: Head, rest: &[u8], began: Instant, now: Instant, rules: &Rules) -> Step {
        let mut body = rules.budget.body();
        if matches!(head.framing, Framing::None | Framing::Sized(0)) {
            self.keep_rest(rest);
            return Step::Serve(Box::new(head), body, began);
        }
        if let Err(failure) = rules.desk.admit(&head, self.from()) {
            return Step::Refuse(Some(Box::new(head)), failure, began);
        }
        if head.expect_continue && rest.is_empty() {
            // 25 bytes into an empty socket buffer; a client that does not get them sends anyway.
            let _ = (&*self.stream).write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let decoder = Decoder::new(head.framing, rules.limits.body);
        if body.grow(|_| ()).is_none() {
            return Step::Refuse(Some(Box::new(head)), out_of_memory(), began);
        }
        let incoming = Incoming { head, decoder, body, began, since: now, last: now, bytes: rest.len() as u64 };
        self.state = State::Body(Box::new(incoming));
        self.deadline = now + rules.body_timeout;
        if rest.is_empty() { Step::Wait } else { self.feed(rest, now, rules) }
    }

    fn feed(&mut self, input: &[u8], now: Instant, rules: &Rules) -> Step {
        let State::Body(incoming) = &mut self.state else {
            return Step::Wait;
        };
        self.deadline = incoming.next_look(now, rules);
        let Incoming { decoder, body, .. } = &mut **incoming;
        let failure = match body.grow(|out| decoder.feed(input, out)) {
            Some(Ok(progress)) if !progress.complete => return Step::Wait,
            Some(Ok(progress)) => {
                let State::Body(incoming) = std::mem::replace(&mut self.state, State::Head { since: None }) else {
                    return Step::Wait;
                };
                self.keep_rest(&input[progress.consumed..]);
                return Step::Serve(Box::new(incoming.head), incoming.body, incoming.began);
            }
            Some(Err(failure)) => failure,
            None => out_of_memory(),
        };
        let State::Body(incoming) = std::mem::replace(&mut self.state, State::Head { since: None }) else {
            return Step::Wait;
        };
        Step::Refuse(Some(Box::new(incoming.head)), failure, incoming.began)
    }

    fn keep_rest(&mut self, rest: &[u8]) {
        self.buf = rest.to_vec();
    }

    /// A deadline has passed.
    pub fn expire(&mut self, now: Instant, rules: &Rules) -> Step {
        match &mut self.state {
            State::Head { since: None } | State::Linger { .. } | State::Flush { .. } => Step::Close,
            State::Head { since: Some(began) } => {
                let text = format!("The request head did not arrive within {:?}.", rules.head_timeout);
                Step::Refuse(None, Failure::new(Kind::RequestTimeout, text), *began)
            }
            State::Body(incoming) => {
                let silent = now.saturating_duration_since(incoming.last) >= rules.body_timeout;
                let elapsed = now.saturating_duration_since(incoming.since);
                let slow = elapsed >= rules.body_timeout
                    && u128::from(incoming.bytes) * 1000 < u128::from(SLOWEST_BODY) * elapsed.as_millis();
                if !silent && !slow {
                    self.deadline = incoming.next_look(now, rules);
                    return Step::Wait;
                }
                let text = if silent { "did not arrive in time" } else { "came too slowly" };
                let State::Body(incoming) = std::mem::replace(&mut self.state, State::Head { since: None }) else {
                    return Step::Wait;
                };
                let text =
                    format!("The request body {text} (limit: {:?} of silence, 500 bytes/s).", rules.body_timeout);
                let failure = Failure::new(Kind::RequestTimeout, text);
                Step::Refuse(Some(Box::new(incoming.head)), failure, incoming.began)
            }
            // Workers have time-outs of their own.
            State::Served { .. } => {
                self.deadline = now + Duration::from_secs(3600);
                Step::Wait
            }
        }
    }

    /// Writes what the client did not read so far; true when all of it is out.
    pub fn flush(&mut self) -> io::Result<bool> {
        let State::Flush { rest, .. } = &mut self.state else {
            return Ok(true);
        };
        while !rest.is_empty() {
            match (&*self.stream).write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => drop(rest.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

fn out_of_memory() -> Failure {
    Failure::new(Kind::Overloaded, "Too many request bodies at once (server.bodyMemory); try again shortly.")
        .retry_after(Duration::from_secs(1))
}
