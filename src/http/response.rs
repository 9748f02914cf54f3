//! Writes one response: `start`, then the body chunk by chunk, then `finish` or `abort`. Dropping an unfinished response
//! aborts it, so a truncated answer never looks complete. Owns the connection until it is given back.

use super::connection::{AfterResponse, Connection};
use super::head::{Fields, Head, Version};
use super::state::ServerState;
use super::unsent::{Unsent, write_some};
use crate::api::errors::{Dialect, Failure, Kind};
use crate::util::cancel::{CancelToken, PollFlags, ready};
use crate::util::time;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use socket2::SockRef;
use std::io::{self, IoSlice, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Parts above this size are written before the remainder is copied.
const LARGE_PART: usize = 64 << 10;

/// Send buffer of the socket for a live stream.
const LIVE_BUFFER: usize = 64 << 10;

/// How a body is delimited on the way to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// No body (204, 304, the answer to HEAD when the length is unknown).
    Empty,
    Sized(u64),
    /// Of unknown length: chunked, or until close for HTTP/1.0.
    Open,
}

enum State {
    Fresh,
    Open { chunked: bool, left: Option<u64>, silent: bool },
    Done,
}

pub struct Response {
    /// `None` once given back or detached.
    connection: Option<Box<Connection>>,
    stream: Arc<TcpStream>,
    server: Arc<ServerState>,
    cancel: Arc<CancelToken>,
    version: Version,
    head_only: bool,
    keep: bool,
    write_timeout: Duration,
    /// `false` for control workers: what the socket does not take is written by the event loop.
    may_block: bool,
    state: State,
    pending: Unsent,
    sent: u64,
    late: bool,
    /// The connection is to be reset.
    reset: bool,
}

pub(super) struct ResponseTo {
    pub(super) version: Version,
    pub(super) head_only: bool,
    /// The connection may carry another request.
    pub(super) keep: bool,
    pub(super) may_block: bool,
    /// The client whose share of `server.bodyMemory` unsent bytes count in.
    pub(super) client: Option<IpAddr>,
}

impl ResponseTo {
    /// Without a head, the last answer on its connection.
    pub(super) fn head(head: Option<&Head>, client: Option<IpAddr>, may_block: bool) -> Self {
        Self {
            version: head.map_or(Version::Http11, |head| head.version),
            head_only: head.is_some_and(|head| head.method == Method::HEAD),
            keep: head.is_some_and(|head| head.keep_alive),
            may_block,
            client,
        }
    }
}

impl Response {
    pub(super) fn new(connection: Box<Connection>, server: &Arc<ServerState>, to: ResponseTo) -> Self {
        let rules = server.rules();
        let stream = Arc::clone(&connection.stream);
        let cancel = Arc::new(CancelToken::of_client(Arc::clone(&stream), Arc::clone(&server.stopping)));
        if connection.closed {
            cancel.cancel();
        }
        Self {
            connection: Some(connection),
            stream,
            server: Arc::clone(server),
            cancel,
            version: to.version,
            head_only: to.head_only,
            keep: to.keep && !server.is_draining(),
            write_timeout: rules.write_timeout,
            may_block: to.may_block,
            state: State::Fresh,
            pending: Unsent::new(rules.budget.hold(to.client)),
            sent: 0,
            late: false,
            reset: false,
        }
    }

    /// Cancelled when the client hangs up.
    pub(super) fn cancel(&self) -> &Arc<CancelToken> {
        &self.cancel
    }

    /// Moves the response out, so that another thread can finish it while the worker goes on. The connection returns to
    /// the event loop when the new owner drops it.
    #[must_use]
    pub(crate) fn detach(&mut self) -> Self {
        Self {
            connection: self.connection.take(),
            stream: Arc::clone(&self.stream),
            server: Arc::clone(&self.server),
            cancel: Arc::clone(&self.cancel),
            state: std::mem::replace(&mut self.state, State::Done),
            pending: self.pending.take(),
            ..*self
        }
    }

    /// Ends the response if that was not done, and returns the connection in its next state; `None` if it is closed or
    /// was detached.
    pub(super) fn give_back(&mut self) -> Option<Box<Connection>> {
        match self.state {
            State::Done => {}
            State::Open { .. } => self.abort(),
            // The handler panicked before it answered.
            State::Fresh if self.connection.is_some() => {
                self.keep = false;
                let body = Failure::new(Kind::Internal, "An internal error; the log has the details.");
                let body = body.body(Dialect::OpenAi);
                let mut fields = Fields::default();
                fields.push(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                self.send(StatusCode::INTERNAL_SERVER_ERROR, &fields, &body);
            }
            State::Fresh => {}
        }
        let mut connection = self.connection.take().filter(|_| !self.reset)?;
        let after = AfterResponse { rest: self.pending.take(), keep: self.keep, late: self.late };
        connection.after_response(after, time::now(), &self.server.rules(), self.server.is_draining());
        Some(connection)
    }

    /// From now on writes wait for the client, `writeTimeout` at most. The small send buffer lets a client that does not
    /// read be noticed soon.
    pub(crate) fn wait_for_client(&mut self) {
        self.may_block = true;
        let _ = SockRef::from(&*self.stream).set_send_buffer_size(LIVE_BUFFER);
    }

    pub(crate) fn is_started(&self) -> bool {
        !matches!(self.state, State::Fresh)
    }

    /// Body bytes written so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Reserves memory for a body of `bytes` that may have to wait for its client.
    ///
    /// # Errors
    /// The budget is used up, for this client or in all; the failure is to be sent instead.
    pub(crate) fn afford(&mut self, bytes: usize) -> Result<(), Failure> {
        if self.may_block || bytes <= LARGE_PART || self.pending.hold(bytes) {
            return Ok(());
        }
        let text =
            "Too much is held for clients that do not read their answers (server.bodyMemory); try again shortly.";
        Err(Failure::new(Kind::Overloaded, text).retry_after(Duration::from_secs(1)))
    }

    /// Sends a complete response; head and body leave in one write.
    pub fn send(&mut self, status: StatusCode, fields: &Fields, body: &[u8]) {
        let length = if forbids_body(status) { Length::Empty } else { Length::Sized(body.len() as u64) };
        self.start(status, fields, length);
        match self.write_chunk(body) {
            Ok(()) => self.finish(),
            Err(_) => self.abort(),
        }
    }

    /// Prepares the head; it is written with the first bytes of the body or by [`Response::flush`].
    pub fn start(&mut self, status: StatusCode, fields: &Fields, length: Length) {
        let length = if forbids_body(status) { Length::Empty } else { length };
        let old = self.version == Version::Http10;
        self.late = status == StatusCode::REQUEST_TIMEOUT;
        if length == Length::Open && old {
            self.keep = false;
        }
        let out = &mut self.pending.bytes;
        out.reserve(512);
        let version: &[u8] = if old { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
        out.extend_from_slice(version);
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(status.canonical_reason().unwrap_or("").as_bytes());
        out.extend_from_slice(b"\r\n");
        for (name, value) in fields.iter() {
            field(out, name, value.as_bytes());
        }
        // RFC 9110 6.6.1: a forwarded answer keeps the Date of its origin.
        if fields.get(header::DATE).is_none() {
            field(out, &header::DATE, &time::http_date());
        }
        match length {
            Length::Sized(bytes) => field(out, &header::CONTENT_LENGTH, bytes.to_string().as_bytes()),
            Length::Open if !old => field(out, &header::TRANSFER_ENCODING, b"chunked"),
            Length::Open | Length::Empty => {}
        }
        match (old, self.keep) {
            (false, false) => field(out, &header::CONNECTION, b"close"),
            (true, true) => field(out, &header::CONNECTION, b"keep-alive"),
            _ => {}
        }
        out.extend_from_slice(b"\r\n");
        self.state = State::Open {
            chunked: length == Length::Open && !old,
            left: match length {
                Length::Sized(bytes) => Some(bytes),
                Length::Empty => Some(0),
                Length::Open => None,
            },
            silent: self.head_only || length == Length::Empty,
        };
    }

    /// Writes the prepared head.
    ///
    /// # Errors
    /// The client disconnected or did not read for `writeTimeout`.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.write(&[])
    }

    /// Writes part of the body at once.
    ///
    /// # Errors
    /// The client disconnected or did not read for `writeTimeout`, or this is more than the declared length.
    pub(crate) fn write_chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        let State::Open { chunked, left, silent } = &mut self.state else {
            return Err(io::Error::other("a body needs a head"));
        };
        if *silent {
            return self.write(&[]);
        }
        if let Some(left) = left {
            let Some(rest) = left.checked_sub(bytes.len() as u64) else {
                return Err(io::Error::other("more bytes than declared"));
            };
            *left = rest;
        }
        self.sent += bytes.len() as u64;
        if bytes.is_empty() {
            return self.write(&[]);
        }
        if *chunked {
            let mut size = [0u8; 18];
            let size = chunk_size(bytes.len(), &mut size);
            self.write(&[size, bytes, b"\r\n"])
        } else {
            self.write(&[bytes])
        }
    }

    /// Ends the answer as complete.
    pub(crate) fn finish(&mut self) {
        let whole = match &self.state {
            State::Open { chunked: true, silent: false, .. } => self.write(&[b"0\r\n\r\n"]).is_ok(),
            State::Open { left, silent, .. } => (*silent || left.is_none_or(|left| left == 0)) && self.flush().is_ok(),
            State::Fresh | State::Done => false,
        };
        self.keep &= whole;
        self.state = State::Done;
    }

    /// Ends the response in a way that shows it is incomplete.
    pub(crate) fn abort(&mut self) {
        if let State::Open { chunked, silent: false, .. } = self.state {
            // nginx accepts a close, but not a reset, as the end of an HTTP/1.0 body.
            let reset = || SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO)).is_ok();
            self.reset = self.version == Version::Http10 && reset();
            // After `Connection: close` some clients (Node 20's fetch) accept a close as the end of a chunked body;
            // none accepts an invalid chunk.
            if !self.reset && chunked && !self.keep {
                let _ = (&*self.stream).write(b"!\r\n");
            }
        }
        self.keep = false;
        self.state = State::Done;
    }

    fn write(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        if !self.may_block {
            return self.write_what_fits(parts);
        }
        let pending = std::mem::take(&mut self.pending.bytes);
        let mut slices = [IoSlice::new(&pending), IoSlice::new(&[]), IoSlice::new(&[]), IoSlice::new(&[])];
        for (slot, part) in slices[1..].iter_mut().zip(parts) {
            *slot = IoSlice::new(part);
        }
        self.write_all(&mut slices[..=parts.len()])
    }

    fn write_what_fits(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let Self { stream, pending, .. } = self;
        for part in parts {
            let mut taken = 0;
            if part.len() > LARGE_PART {
                pending.write(stream)?;
                taken = if pending.is_empty() { write_some(stream, part)? } else { 0 };
            }
            pending.push(&part[taken..]);
        }
        pending.write(stream)?;
        if pending.is_empty() || pending.hold(pending.bytes.capacity()) {
            return Ok(());
        }
        pending.clear();
        Err(io::ErrorKind::OutOfMemory.into())
    }

    fn write_all(&mut self, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut stuck_since = None;
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match (&*self.stream).write_vectored(slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    stuck_since = None;
                    IoSlice::advance_slices(&mut slices, n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.cancel.is_cancelled() {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                    let now = time::now();
                    let stuck = now.saturating_duration_since(*stuck_since.get_or_insert(now));
                    if stuck >= self.write_timeout {
                        self.cancel.cancel();
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    ready(&*self.stream, PollFlags::OUT, Some(&self.cancel), self.write_timeout - stuck)?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Drop for Response {
    fn drop(&mut self) {
        if let Some(connection) = self.give_back() {
            self.server.returns.give(connection);
        }
    }
}

/// 1xx, 204 and 304 never have a body (RFC 9110 6.4.1).
fn forbids_body(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// `len` in hexadecimal with CRLF, written into the end of `space`.
fn chunk_size(mut len: usize, space: &mut [u8; 18]) -> &[u8] {
    let mut at = space.len() - 2;
    space[at..].copy_from_slice(b"\r\n");
    loop {
        at -= 1;
        space[at] = b"0123456789abcdef"[len & 15];
        len >>= 4;
        if len == 0 {
            return &space[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::chunk_size;

    #[test]
    fn a_chunk_size_is_hexadecimal_without_leading_zeros() {
        for len in [1, 9, 10, 255, 256, 65_536, usize::MAX] {
            assert_eq!(chunk_size(len, &mut [0; 18]), format!("{len:x}\r\n").as_bytes());
        }
    }
}
