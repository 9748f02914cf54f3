//! One connection: bytes in, a complete request or a refusal out. Reads, never waits. Whoever holds it owns it: the event
//! loop while it is parked, a worker while its requests are served.
//!
//! Head -> Body -> Queued -> (a worker answers) -> Flush -> Head, or Linger and the end.

use super::head::{Framing, Head, Parser};
use super::limits::{ConnectionPermit, Rules};
use super::request::{Body, From, HeadDecision, Refused, Request, Step};
use super::unsent::Unsent;
use super::upload::{LARGE, MinRate, Upload};
use crate::api::chunked::Decoder;
use crate::api::errors::{Failure, Kind};
use memchr::memmem;
use mio::Token;
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Reads of one client in a row, 1 MiB at most, before others get their turn.
const READS: usize = 16;
/// How long a client may be silent after its last answer when it owes no bytes, and how long it may go on at all while
/// the proxy is being stopped.
const LINGER: Duration = Duration::from_secs(1);
/// What is still read of bytes that it does not owe.
const LINGER_BYTES: u64 = 64 << 10;

pub(super) struct Connection {
    /// Shared with what waits for its client, for as long as a request of it is served.
    pub(crate) stream: Arc<TcpStream>,
    pub(crate) peer: IpAddr,
    pub(crate) peer_text: Arc<str>,
    pub(crate) listener: usize,
    /// Its event token, which no other connection has had.
    pub(crate) token: Token,
    /// The event loop hears of its events.
    pub(crate) is_registered: bool,
    _permit: ConnectionPermit,
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
    /// Bytes that the client is still going to send of a request that was refused.
    expected: u64,
}

pub(super) enum State {
    /// Parked: idle, or `since` a head began.
    Head {
        since: Option<Instant>,
    },
    Body(Box<Incoming>),
    /// Complete; waits for a worker.
    Queued(Box<Request>),
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

/// A request whose body comes.
pub(super) struct Incoming {
    request: Request,
    decoder: Decoder,
    min_rate: MinRate,
}

/// What an answer left behind.
pub(super) struct AfterResponse {
    /// Bytes that would have blocked a control worker: the event loop writes them when the client reads.
    pub(crate) rest: Unsent,
    pub(crate) keep: bool,
    /// The client was told that it is too late: the rest of its body is not waited for again.
    pub(crate) late: bool,
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        permit: ConnectionPermit,
        peer: IpAddr,
        (listener, token): (usize, Token),
        now: Instant,
        rules: &Rules,
    ) -> Self {
        Self {
            token,
            is_registered: false,
            _permit: permit,
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
            expected: 0,
        }
    }

    /// Parked without a started request: may be closed without loss.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.state, State::Head { since: None })
    }

    /// Waits for its client, which owes it a head or a body.
    pub(crate) fn is_parked(&self) -> bool {
        matches!(self.state, State::Head { .. } | State::Body(_))
    }

    /// How soon it may be closed to make room, the least first: after its last answer, then without a whole head for the
    /// longest time (FAULTS A20), fresh or not.
    pub(crate) fn expendable(&self) -> Option<(bool, Instant)> {
        match self.state {
            State::Linger { .. } | State::Head { .. } => Some((matches!(self.state, State::Head { .. }), self.parked)),
            State::Body(_) | State::Queued(_) | State::Flush { .. } => None,
        }
    }

    pub(crate) fn from(&self) -> From {
        From { peer: self.peer, listener: self.listener }
    }

    /// An event told of bytes to read.
    pub(crate) fn note_unread(&mut self) {
        self.more = true;
    }

    /// What comes next now that an answer is out.
    pub(crate) fn after_response(&mut self, after: AfterResponse, now: Instant, rules: &Rules, draining: bool) {
        let AfterResponse { rest, keep, late } = after;
        if late {
            self.expected = 0;
        }
        if rest.is_empty() {
            return self.resume(keep, now, rules, draining);
        }
        self.state = State::Flush { rest, keep };
        self.deadline = now + rules.write_timeout;
    }

    /// The whole answer is out: the next request, or the end.
    fn resume(&mut self, keep: bool, now: Instant, rules: &Rules, draining: bool) {
        if keep {
            self.state = State::Head { since: None };
            self.deadline = now + rules.keep_alive;
            self.parked = now;
            self.fresh = !self.buf.is_empty();
            return;
        }
        // The client must not wait for the end of the lingering.
        let _ = self.stream.shutdown(Shutdown::Write);
        self.buf = Vec::new();
        self.note_unread();
        let patience = if self.expected > 0 { rules.body_timeout } else { LINGER.min(rules.body_timeout / 2) };
        let min_rate = MinRate::new(patience, now);
        self.deadline = min_rate.next_look(now);
        self.state = State::Linger { min_rate, spare: LINGER_BYTES, until: None };
        if draining {
            self.shorten_deadline(now);
        }
    }

    /// The proxy is being stopped: what lingers ends soon.
    pub(crate) fn shorten_deadline(&mut self, now: Instant) {
        if let State::Linger { until, .. } = &mut self.state {
            *until = Some(now + LINGER);
            self.deadline = self.deadline.min(now + LINGER);
        }
    }

    /// Whether `advance` could find something without a new event.
    pub(crate) fn has_unread(&self) -> bool {
        self.more || self.has_buffered()
    }

    /// Bytes of the next request are here already.
    pub(crate) fn has_buffered(&self) -> bool {
        !self.buf.is_empty()
    }

    /// Takes in what the client sent, until a request is complete or nothing is left to read.
    pub(crate) fn advance(&mut self, scratch: &mut [u8], now: Instant, rules: &Rules) -> Step {
        // What follows a request that has no answer yet is not read.
        if matches!(self.state, State::Queued(_) | State::Flush { .. }) {
            return Step::Wait;
        }
        if std::mem::take(&mut self.fresh) {
            match self.take_in_buffered(now, rules) {
                Step::Wait => {}
                step => return step,
            }
        }
        for _ in 0..READS {
            if !self.more {
                return if self.closed { Step::Close } else { Step::Wait };
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
                            self.expected = u64::MAX;
                        }
                        (self.headless(failure, began), 0)
                    }
                }
            }
            State::Body(_) => self.feed(input, now, rules),
            State::Linger { min_rate, spare, until } => {
                min_rate.moved(input.len(), now);
                if self.expected > 0 && self.expected <= input.len() as u64 {
                    *min_rate = MinRate::new(LINGER, now);
                }
                let excess = (input.len() as u64).saturating_sub(self.expected);
                self.expected = self.expected.saturating_sub(input.len() as u64);
                *spare = spare.saturating_sub(excess);
                if *spare == 0 {
                    return (Step::Close, 0);
                }
                self.deadline = until.map_or(min_rate.next_look(now), |until| until.min(min_rate.next_look(now)));
                (Step::Wait, 0)
            }
            State::Queued(_) | State::Flush { .. } => (Step::Wait, input.len()),
        }
    }

    /// Refuses what is no head.
    fn headless(&self, failure: Failure, began: Instant) -> Step {
        Step::Refuse(Box::new(Refused { from: self.from(), head: None, client: Some(self.peer), failure, began }))
    }

    fn begin_body(&mut self, head: Head, rest: &[u8], now: Instant, rules: &Rules) -> (Step, usize) {
        let from = self.from();
        let HeadDecision { pool, client, refusal, decided } = rules.handler.decide(&head, from);
        let length = match head.framing {
            Framing::None => 0,
            Framing::Sized(length) => length,
            Framing::Chunked => u64::MAX,
        };
        if let Some(failure) = refusal {
            self.expected = length.saturating_sub(rest.len() as u64);
            return (Step::Refuse(Box::new(Refused { from, head: Some(head), client, failure, began: now })), 0);
        }
        let expects_continue = head.expect_continue;
        let decoder = Decoder::new(head.framing, rules.limits.body);
        let request = Request {
            head,
            from,
            peer_text: Arc::clone(&self.peer_text),
            pool,
            client,
            decided,
            body: Body::new(rules.budget.hold(client)),
            rest: None,
            began: now,
            cancel: Arc::default(),
        };
        if length == 0 {
            return (Step::Serve(Box::new(request)), rest.len());
        }
        if expects_continue && rest.is_empty() {
            // 25 bytes into an empty socket buffer; a client that does not get them sends anyway.
            let _ = (&*self.stream).write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let min_rate = MinRate::new(rules.body_timeout, now);
        self.state = State::Body(Box::new(Incoming { request, decoder, min_rate }));
        self.feed(rest, now, rules)
    }

    fn feed(&mut self, input: &[u8], now: Instant, rules: &Rules) -> (Step, usize) {
        let State::Body(incoming) = &mut self.state else {
            return (Step::Wait, 0);
        };
        let Incoming { request: Request { head, body, .. }, decoder, min_rate } = &mut **incoming;
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
        let Incoming { mut request, decoder, .. } = *incoming;
        let kept = match complete {
            Ok(Some(consumed)) => input.len() - consumed,
            Ok(None) => {
                // The rest is read by a worker, or not at all.
                self.expected = u64::MAX;
                let (stream, min_rate) = (Arc::clone(&self.stream), MinRate::new(rules.body_timeout, now));
                let rest = Upload::new(stream, decoder, min_rate, Arc::clone(&rules.uploads));
                request.rest = Some(RefCell::new(rest));
                0
            }
            Err(failure) => {
                self.expected = decoder.missing().unwrap_or(u64::MAX);
                return (Step::Refuse(Box::new(request.refused(failure))), 0);
            }
        };
        request.began = now;
        (Step::Serve(Box::new(request)), kept)
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
                let began = *began;
                self.headless(Failure::new(Kind::RequestTimeout, text), began)
            }
            State::Body(incoming) => {
                let Some(failure) = incoming.min_rate.refusal(now) else {
                    self.deadline = incoming.min_rate.next_look(now);
                    return Step::Wait;
                };
                let State::Body(incoming) = std::mem::replace(&mut self.state, State::Head { since: None }) else {
                    return Step::Wait;
                };
                Step::Refuse(Box::new(incoming.request.refused(failure)))
            }
            // What waits for a worker waits for as long as it takes, and the event loop asks for what is flushed.
            State::Queued(_) | State::Flush { .. } => {
                self.deadline = now + Duration::from_secs(3600);
                Step::Wait
            }
        }
    }

    /// Writes what the client has not taken so far; true when all of it is out. Any byte taken gives it more time.
    pub(crate) fn flush(&mut self, now: Instant, rules: &Rules, draining: bool) -> io::Result<bool> {
        let State::Flush { rest, keep } = &mut self.state else {
            return Ok(true);
        };
        if rest.write(&self.stream)? {
            self.deadline = now + rules.write_timeout;
        }
        if !rest.is_empty() {
            return Ok(false);
        }
        let keep = *keep;
        self.resume(keep, now, rules, draining);
        Ok(true)
    }
}

fn out_of_memory() -> Failure {
    Failure::new(Kind::Overloaded, "Too many request bodies at once (server.bodyMemory); try again shortly.")
        .retry_after(Duration::from_secs(1))
}
