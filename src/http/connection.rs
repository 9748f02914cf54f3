//! One connection: bytes in, a complete request or a refusal out. Reads without waiting. It has one owner at a time: the
//! event loop while it is parked, a worker while its requests are served.
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

/// Reads from one client before the other connections get their turn: 1 MiB at most.
const READS: usize = 16;
/// Lingering close: how long a client may be silent once its whole request has arrived, and the limit for any client
/// during a drain.
const LINGER: Duration = Duration::from_secs(1);
/// Lingering close: bytes read beyond the rest of the request.
const LINGER_BYTES: u64 = 64 << 10;

pub(super) struct Connection {
    /// Shared with the response and the `CancelToken` of the request being served.
    pub(crate) stream: Arc<TcpStream>,
    pub(crate) peer: IpAddr,
    pub(crate) peer_text: Arc<str>,
    pub(crate) listener: usize,
    /// Never reused.
    pub(crate) token: Token,
    /// Registered with the event loop's poll.
    pub(crate) is_registered: bool,
    _permit: ConnectionPermit,
    pub(crate) state: State,
    /// When `expire` is due.
    pub(crate) deadline: Instant,
    /// Start of the wait for the next head.
    pub(crate) parked: Instant,
    /// Bytes read and not yet parsed, from `at` on: a partial head or pipelined requests. At most a head and one read.
    buf: Vec<u8>,
    at: usize,
    parser: Parser,
    /// `buf` holds pipelined bytes that were not parsed yet.
    fresh: bool,
    /// The socket may hold bytes whose event was already delivered.
    more: bool,
    /// The client closed its side.
    pub(crate) closed: bool,
    /// Bytes still to come of a refused request.
    expected: u64,
}

pub(super) enum State {
    /// Parked: idle, or reading a head that began at `since`.
    Head {
        since: Option<Instant>,
    },
    Body(Box<Incoming>),
    /// Complete; waits for a worker.
    Queued(Box<Request>),
    /// The rest of an answer that the client is slow to read.
    Flush {
        rest: Unsent,
        keep: bool,
    },
    /// Lingering close: closed for writing; input is discarded, since a client that sends first and reads later must not
    /// be reset before it has read the answer. Bounded like a body, and by `until`.
    Linger {
        min_rate: MinRate,
        spare: u64,
        until: Option<Instant>,
    },
}

/// A request whose body is arriving.
pub(super) struct Incoming {
    request: Request,
    decoder: Decoder,
    min_rate: MinRate,
}

pub(super) struct AfterResponse {
    /// Bytes that a control worker could not write without waiting; the event loop writes them.
    pub(crate) rest: Unsent,
    pub(crate) keep: bool,
    /// The answer was 408: the rest of the body is not waited for a second time.
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

    /// Waiting for the client to send a head or a body.
    pub(crate) fn is_parked(&self) -> bool {
        matches!(self.state, State::Head { .. } | State::Body(_))
    }

    /// Order in which connections are closed to make room, smallest first: those that linger, then those that have waited
    /// longest for a complete head (FAULTS A20).
    pub(crate) fn expendable(&self) -> Option<(bool, Instant)> {
        match self.state {
            State::Linger { .. } | State::Head { .. } => Some((matches!(self.state, State::Head { .. }), self.parked)),
            State::Body(_) | State::Queued(_) | State::Flush { .. } => None,
        }
    }

    pub(crate) fn from(&self) -> From {
        From { peer: self.peer, listener: self.listener }
    }

    /// There is something to read.
    pub(crate) fn note_unread(&mut self) {
        self.more = true;
    }

    /// Sets the state that follows an answer.
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

    /// The answer is written: the next request, or a lingering close.
    fn resume(&mut self, keep: bool, now: Instant, rules: &Rules, draining: bool) {
        if keep {
            self.state = State::Head { since: None };
            self.deadline = now + rules.keep_alive;
            self.parked = now;
            self.fresh = !self.buf.is_empty();
            return;
        }
        // The client sees the end of the answer at once.
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

    /// During a drain a lingering close is short.
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

    /// Part of the next request was already read.
    pub(crate) fn has_buffered(&self) -> bool {
        !self.buf.is_empty()
    }

    /// Reads and parses until a request is complete or the socket is empty.
    pub(crate) fn advance(&mut self, scratch: &mut [u8], now: Instant, rules: &Rules) -> Step {
        // Pipelined input waits until the request before it is answered.
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
        // Parsed bytes are skipped, not moved.
        self.at = if kept > 0 { buf.len() - kept } else { 0 };
        self.buf = if kept > 0 { buf } else { Vec::new() };
        step
    }

    /// The next step, and how many bytes at the end of the input are not parsed yet.
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
                        // A complete head may be followed by a body of unknown length.
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
            // 25 bytes always fit into an empty socket buffer.
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
                // The worker reads the rest.
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
            // A queued request has no deadline here; the event loop handles `Flush` itself.
            State::Queued(_) | State::Flush { .. } => {
                self.deadline = now + Duration::from_secs(3600);
                Step::Wait
            }
        }
    }

    /// Writes more of the rest; true when all of it is written. Any progress renews `writeTimeout`.
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
