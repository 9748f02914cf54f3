//! One parked connection: bytes in, a complete request or a refusal out. Reads, never waits.

use super::body::Decoder;
use super::door::{Desk, From};
use super::head::{Framing, Head, Limits, Parser};
use super::pace::Pace;
use super::request::Body;
use super::upload::{LARGE, Upload};
use crate::base::budget::Budget;
use crate::base::gone::Gone;
use crate::config::Server;
use crate::model::failure::{Failure, Kind};
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

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
    /// Each large body that a worker reads holds one of these.
    uploads: Arc<()>,
    /// So many at once: a quarter of the workers. Others are collected, and hold none.
    max_uploads: usize,
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
            uploads: Arc::default(),
            max_uploads: server.workers / 4,
        }
    }

    /// Other bounds from now on, for what is there already too.
    pub fn obey(&mut self, server: &Server) {
        let uploads = Arc::clone(&self.uploads);
        *self = Self { uploads, ..Self::new(server, Arc::clone(&self.budget), Arc::clone(&self.desk)) };
    }

    /// Whether one more large body may be sent on as it comes.
    fn passes_on(&self, head: &Head, listener: usize) -> bool {
        Arc::strong_count(&self.uploads) <= self.max_uploads && self.desk.passes_on(head, listener)
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
    pace: Pace,
}

/// A request that a worker can begin with.
pub(super) struct Arrived {
    pub head: Head,
    pub body: Body,
    /// What follows `body`.
    pub rest: Option<Upload>,
    /// When its first byte came.
    pub began: Instant,
}

/// What a look at a connection led to.
pub(super) enum Step {
    Wait,
    /// There is more to read, but others wait too.
    Again,
    Serve(Box<Arrived>),
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
                incoming.pace.moved(input.len(), now);
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
        let mut body = Body::new(rules.budget.hold(Some(self.peer)));
        if matches!(head.framing, Framing::None | Framing::Sized(0)) {
            self.keep_rest(rest);
            return Step::Serve(Box::new(Arrived { head, body, rest: None, began }));
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
        let mut pace = Pace::new(rules.body_timeout, now);
        pace.moved(rest.len(), now);
        let incoming = Incoming { head, decoder, body, began, pace };
        self.state = State::Body(Box::new(incoming));
        self.deadline = now + rules.body_timeout;
        if rest.is_empty() { Step::Wait } else { self.feed(rest, now, rules) }
    }

    fn feed(&mut self, input: &[u8], now: Instant, rules: &Rules) -> Step {
        let State::Body(incoming) = &mut self.state else {
            return Step::Wait;
        };
        self.deadline = incoming.pace.next_look(now);
        let Incoming { head, decoder, body, .. } = &mut **incoming;
        let before = body.bytes().len();
        let grown = body.grow(|out| decoder.feed(input, out));
        let is_large = before < LARGE && body.bytes().len() >= LARGE;
        let complete = match grown {
            Some(Ok(progress)) if progress.complete => Ok(Some(progress.consumed)),
            Some(Ok(_)) if is_large && rules.passes_on(head, self.listener) => Ok(None),
            Some(Ok(_)) => return Step::Wait,
            Some(Err(failure)) => Err(failure),
            None => Err(out_of_memory()),
        };
        let State::Body(incoming) = std::mem::replace(&mut self.state, State::Head { since: None }) else {
            return Step::Wait;
        };
        let Incoming { head, decoder, body, began, .. } = *incoming;
        let rest = match complete {
            Ok(Some(consumed)) => {
                self.keep_rest(&input[consumed..]);
                None
            }
            Ok(None) => {
                let pace = Pace::new(rules.body_timeout, now);
                Some(Upload::new(Arc::clone(&self.stream), decoder, pace, Arc::clone(&rules.uploads)))
            }
            Err(failure) => return Step::Refuse(Some(Box::new(head)), failure, began),
        };
        Step::Serve(Box::new(Arrived { head, body, rest, began }))
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
                let Some(failure) = incoming.pace.refusal(now) else {
                    self.deadline = incoming.pace.next_look(now);
                    return Step::Wait;
                };
                let State::Body(incoming) = std::mem::replace(&mut self.state, State::Head { since: None }) else {
                    return Step::Wait;
                };
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
