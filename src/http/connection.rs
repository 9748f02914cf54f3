//! One parked connection: bytes in, a complete request or a refusal out. Reads, never waits.

use super::head::{Framing, Head, Limits, Parser};
use super::request::{Body, From};
use super::unsent::Unsent;
use super::upload::{LARGE, Upload};
use crate::api::chunked::Decoder;
use crate::api::errors::{Failure, Kind};
use crate::config::Server;
use crate::http::handler::{Handler, Pool};
use crate::http::min_rate::MinRate;
use crate::util::budget::Budget;
use crate::util::cancel::CancelToken;
use memchr::memmem;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Reads of one client in a row, 1 MiB, before others get their turn.
const READS: usize = 16;
/// How long a client may be silent after its last answer when it owes no bytes, and how long it may go on at all while
/// the proxy is being stopped.
const LINGER: Duration = Duration::from_secs(1);
/// What is still read of bytes that it does not owe.
const LINGER_BYTES: u64 = 64 << 10;

/// The bounds that every connection of a front obeys.
pub(super) struct Rules {
    pub(crate) limits: Limits,
    pub budget: Arc<Budget>,
    pub handler: Arc<dyn Handler>,
    pub(crate) head_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) write_timeout: Duration,
    /// Each large body that a worker reads holds one of these.
    uploads: Arc<()>,
    /// So many at once: a quarter of the workers. Others are collected, and hold none.
    max_uploads: usize,
}

impl Rules {
    pub(super) fn new(server: &Server, budget: Arc<Budget>, handler: Arc<dyn Handler>) -> Self {
        Self {
            limits: Limits { target: 8 << 10, head: 32 << 10, fields: 100, body: server.max_body },
            budget,
            handler,
            head_timeout: server.head_timeout,
            body_timeout: server.body_timeout,
            keep_alive: server.keep_alive,
            write_timeout: server.write_timeout,
            uploads: Arc::default(),
            max_uploads: server.workers / 4,
        }
    }

    /// Other bounds from now on, for what is there already too.
    pub(crate) fn obey(&mut self, server: &Server) {
        let uploads = Arc::clone(&self.uploads);
        *self = Self { uploads, ..Self::new(server, Arc::clone(&self.budget), Arc::clone(&self.handler)) };
    }

    /// Whether one more large body may be sent on as it comes.
    fn passes_on(&self, head: &Head, listener: usize) -> bool {
        Arc::strong_count(&self.uploads) <= self.max_uploads && self.handler.passes_on(head, listener)
    }
}

pub(super) struct Conn {
    pub(crate) stream: Arc<TcpStream>,
    pub(crate) peer: IpAddr,
    pub(crate) peer_text: Arc<str>,
    pub(crate) listener: usize,
    pub(crate) state: State,
    /// When `expire` wants to be asked.
    pub(crate) deadline: Instant,
    /// Since when it waits for the first byte of a head.
    pub(crate) parked: Instant,
    /// Bytes read and not yet understood, from `at` on: a started head, or what was pipelined. At most a head and one read.
    buf: Vec<u8>,
    at: usize,
    /// Remembers how far `buf` was understood.
    parser: Parser,
    /// `buf` holds pipelined bytes that nobody has looked at.
    fresh: bool,
    /// The kernel may hold more bytes whose event was already seen.
    more: bool,
    /// The client closed its side; seen in an event or a read.
    pub(crate) closed: bool,
    /// Its next turn is due without an event.
    pub(crate) again: bool,
    /// Bytes that the client is still going to send of a request that was refused.
    owed: u64,
}

pub(super) enum State {
    /// Parked: idle, or `since` a head began.
    Head {
        since: Option<Instant>,
    },
    Body(Box<Incoming>),
    Served {
        cancel: Arc<CancelToken>,
        seen: Arc<AtomicBool>,
    },
    /// Bytes that the client does not read, then the rest of its life.
    Flush {
        rest: Unsent,
        keep: bool,
    },
    /// Closed for writing. What still comes is thrown away, whatever its framing: a client that sends first and reads
    /// later must not be reset before it reads. Lasts as long as a body may, `until` at most.
    Linger {
        min_rate: MinRate,
        spare: u64,
        until: Option<Instant>,
    },
}

pub(super) struct Incoming {
    head: Head,
    decoder: Decoder,
    body: Body,
    began: Instant,
    min_rate: MinRate,
}

/// A request that a worker can begin with.
pub(super) struct Arrived {
    pub head: Head,
    pub(crate) body: Body,
    /// What follows `body`.
    pub(crate) rest: Option<Upload>,
    pub(crate) began: Instant,
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
    pub(super) fn new(stream: TcpStream, peer: IpAddr, listener: usize, now: Instant, rules: &Rules) -> Self {
        Self {
            stream: Arc::new(stream),
            peer,
            peer_text: peer.to_string().into(),
            listener,
            state: State::Head { since: None },
            // The first head must come in time; only a kept connection may idle longer.
            deadline: now + rules.head_timeout,
            parked: now,
            buf: Vec::new(),
            at: 0,
            parser: Parser::default(),
            fresh: false,
            more: true,
            closed: false,
            again: false,
            owed: 0,
        }
    }

    /// Parked without a started request: may be closed without loss.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.state, State::Head { since: None })
    }

    /// How soon it may be closed to make room, the least first: after its last answer, then without a whole head for the
    /// longest time (FAULTS A20), fresh or not.
    pub(crate) fn expendable(&self) -> Option<(bool, Instant)> {
        match self.state {
            State::Linger { .. } | State::Head { .. } => Some((matches!(self.state, State::Head { .. }), self.parked)),
            State::Body(_) | State::Served { .. } | State::Flush { .. } => None,
        }
    }

    pub(crate) fn from(&self) -> From {
        From { peer: self.peer, listener: self.listener }
    }

    /// Notes an event that came while a worker owns the connection.
    pub(crate) fn note_unread(&mut self) {
        self.more = true;
    }

    /// The connection is ours again, after an answer.
    pub(crate) fn park(&mut self, now: Instant, rules: &Rules) {
        self.state = State::Head { since: None };
        self.deadline = now + rules.keep_alive;
        self.parked = now;
        self.fresh = !self.buf.is_empty();
    }

    pub(crate) fn linger(&mut self, now: Instant, rules: &Rules, draining: bool) {
        self.buf = Vec::new();
        self.note_unread();
        let patience = if self.owed > 0 { rules.body_timeout } else { LINGER.min(rules.body_timeout / 2) };
        let min_rate = MinRate::new(patience, now);
        self.deadline = min_rate.next_look(now);
        self.state = State::Linger { min_rate, spare: LINGER_BYTES, until: None };
        if draining {
            self.hasten(now);
        }
    }

    /// The proxy is being stopped: what lingers ends soon.
    pub(crate) fn hasten(&mut self, now: Instant) {
        if let State::Linger { until, .. } = &mut self.state {
            *until = Some(now + LINGER);
            self.deadline = self.deadline.min(now + LINGER);
        }
    }

    /// The rest of its body is read by a worker, or not at all.
    pub(crate) fn owes_unknown(&mut self) {
        self.owed = u64::MAX;
    }

    pub(crate) fn owes_nothing(&mut self) {
        self.owed = 0;
    }

    /// Whether `advance` could find something without a new event.
    pub(crate) fn has_unread(&self) -> bool {
        self.more || !self.buf.is_empty()
    }

    /// Takes in what the client sent, until a request is complete or nothing is left to read.
    pub(crate) fn advance(&mut self, scratch: &mut [u8], now: Instant, rules: &Rules) -> Step {
        if std::mem::take(&mut self.fresh) {
            match self.take_in_buffered(now, rules) {
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
                        let (step, kept) = self.take_in(&scratch[..n], now, rules);
                        self.buf.extend_from_slice(&scratch[n - kept..n]);
                        step
                    } else {
                        self.buf.drain(..std::mem::take(&mut self.at));
                        self.buf.extend_from_slice(&scratch[..n]);
                        self.take_in_buffered(now, rules)
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

    fn take_in_buffered(&mut self, now: Instant, rules: &Rules) -> Step {
        let buf = std::mem::take(&mut self.buf);
        let (step, kept) = self.take_in(&buf[self.at..], now, rules);
        // Nothing is moved: what was understood is skipped.
        self.at = if kept > 0 { buf.len() - kept } else { 0 };
        self.buf = if kept > 0 { buf } else { Vec::new() };
        step
    }

    /// What the input leads to, and how much of its end is not understood yet.
    fn take_in(&mut self, input: &[u8], now: Instant, rules: &Rules) -> (Step, usize) {
        match &mut self.state {
            State::Head { since } => {
                let began = *since.get_or_insert_with(|| {
                    self.deadline = now + rules.head_timeout;
                    now
                });
                match self.parser.parse(input, &rules.limits) {
                    Ok(None) => (Step::Wait, input.len()),
                    Ok(Some((head, used))) => {
                        self.parser = Parser::default();
                        self.begin_body(head, &input[used..], now, rules)
                    }
                    Err(failure) => {
                        // A whole head may be followed by a body; a head without end is not waited for.
                        if memmem::find(input, b"\r\n\r\n").is_some() {
                            self.owes_unknown();
                        }
                        (Step::Refuse(None, failure, began), 0)
                    }
                }
            }
            State::Body(_) => self.feed(input, now, rules),
            State::Linger { min_rate, spare, until } => {
                min_rate.moved(input.len(), now);
                if self.owed > 0 && self.owed <= input.len() as u64 {
                    *min_rate = MinRate::new(LINGER, now);
                }
                let excess = (input.len() as u64).saturating_sub(self.owed);
                self.owed = self.owed.saturating_sub(input.len() as u64);
                *spare = spare.saturating_sub(excess);
                if *spare == 0 {
                    return (Step::Close, 0);
                }
                self.deadline = until.map_or(min_rate.next_look(now), |until| until.min(min_rate.next_look(now)));
                (Step::Wait, 0)
            }
            State::Served { .. } | State::Flush { .. } => (Step::Wait, input.len()),
        }
    }

    fn begin_body(&mut self, head: Head, rest: &[u8], now: Instant, rules: &Rules) -> (Step, usize) {
        let client = rules.handler.client(&head, self.from());
        let body = Body::new(rules.budget.hold(client));
        let length = match head.framing {
            Framing::None => 0,
            Framing::Sized(length) => length,
            Framing::Chunked => u64::MAX,
        };
        // Without a key nobody makes us hold a body, or takes the place of one who has a key.
        if (length > 0 || rules.handler.pool(&head, self.listener) == Pool::Proxy)
            && let Err(failure) = rules.handler.admit(&head, self.from())
        {
            self.owed = length.saturating_sub(rest.len() as u64);
            return (Step::Refuse(Some(Box::new(head)), failure, now), 0);
        }
        if length == 0 {
            return (Step::Serve(Box::new(Arrived { head, body, rest: None, began: now })), rest.len());
        }
        if head.expect_continue && rest.is_empty() {
            // 25 bytes into an empty socket buffer; a client that does not get them sends anyway.
            let _ = (&*self.stream).write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let decoder = Decoder::new(head.framing, rules.limits.body);
        let min_rate = MinRate::new(rules.body_timeout, now);
        self.state = State::Body(Box::new(Incoming { head, decoder, body, began: now, min_rate }));
        self.feed(rest, now, rules)
    }

    fn feed(&mut self, input: &[u8], now: Instant, rules: &Rules) -> (Step, usize) {
        let State::Body(incoming) = &mut self.state else {
            return (Step::Wait, 0);
        };
        let Incoming { head, decoder, body, min_rate, .. } = &mut **incoming;
        let before = body.bytes().len();
        let grown = body.grow(|out| decoder.feed(input, out));
        let after = body.bytes().len();
        min_rate.moved(after - before, now);
        self.deadline = min_rate.next_look(now);
        let is_large = before < LARGE && after >= LARGE;
        let complete = match grown {
            Some(Ok(progress)) if progress.complete => Ok(Some(progress.consumed)),
            Some(Ok(_)) if is_large && rules.passes_on(head, self.listener) => Ok(None),
            Some(Ok(_)) => return (Step::Wait, 0),
            Some(Err(failure)) => Err(failure),
            None => Err(out_of_memory()),
        };
        let State::Body(incoming) = std::mem::replace(&mut self.state, State::Head { since: None }) else {
            return (Step::Wait, 0);
        };
        let Incoming { head, decoder, body, began, .. } = *incoming;
        let (rest, kept) = match complete {
            Ok(Some(consumed)) => (None, input.len() - consumed),
            Ok(None) => {
                self.owes_unknown();
                let min_rate = MinRate::new(rules.body_timeout, now);
                (Some(Upload::new(Arc::clone(&self.stream), decoder, min_rate, Arc::clone(&rules.uploads))), 0)
            }
            Err(failure) => {
                self.owed = decoder.missing().unwrap_or(u64::MAX);
                return (Step::Refuse(Some(Box::new(head)), failure, began), 0);
            }
        };
        (Step::Serve(Box::new(Arrived { head, body, rest, began: now })), kept)
    }

    pub(crate) fn expire(&mut self, now: Instant, rules: &Rules) -> Step {
        match &mut self.state {
            State::Head { since: None } => Step::Close,
            State::Linger { min_rate, until, .. } => {
                if until.is_some_and(|until| until <= now) || min_rate.refusal(now).is_some() {
                    return Step::Close;
                }
                self.deadline = until.map_or(min_rate.next_look(now), |until| until.min(min_rate.next_look(now)));
                Step::Wait
            }
            State::Head { since: Some(began) } => {
                let text = format!("The request head did not arrive within {:?}.", rules.head_timeout);
                Step::Refuse(None, Failure::new(Kind::RequestTimeout, text), *began)
            }
            State::Body(incoming) => {
                let Some(failure) = incoming.min_rate.refusal(now) else {
                    self.deadline = incoming.min_rate.next_look(now);
                    return Step::Wait;
                };
                let State::Body(incoming) = std::mem::replace(&mut self.state, State::Head { since: None }) else {
                    return Step::Wait;
                };
                Step::Refuse(Some(Box::new(incoming.head)), failure, incoming.began)
            }
            // Workers have time-outs of their own, and the event loop asks for what is flushed.
            State::Served { .. } | State::Flush { .. } => {
                self.deadline = now + Duration::from_secs(3600);
                Step::Wait
            }
        }
    }

    /// Writes what the client has not taken so far; true when all of it is out. Any byte taken gives it more time.
    pub(crate) fn flush(&mut self, now: Instant, rules: &Rules) -> io::Result<bool> {
        let State::Flush { rest, .. } = &mut self.state else {
            return Ok(true);
        };
        if rest.write(&self.stream)? {
            self.deadline = now + rules.write_timeout;
        }
        Ok(rest.is_empty())
    }
}

fn out_of_memory() -> Failure {
    Failure::new(Kind::Overloaded, "Too many request bodies at once (server.bodyMemory); try again shortly.")
        .retry_after(Duration::from_secs(1))
}
