//! The writing side to one client: a head, then pieces, then `finish` or `cut`. Whatever is dropped
//! unfinished is cut, so that an answer that broke off can never look complete.

use super::head::{Fields, Version};
use super::unsent::{Unsent, write_some};
use crate::api::errors::{Dialect, Failure, Kind};
use crate::util::budget::Held;
use crate::util::cancel::CancelToken;
use crate::util::lock::lock;
use crate::util::time;
use http::{HeaderName, HeaderValue, StatusCode, header};
use socket2::SockRef;
use std::io::{self, IoSlice, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longest single wait inside a blocked write: how soon a client that left is noticed there.
const WRITE_TICK: Duration = Duration::from_millis(250);
/// Parts above this are not copied before it is known how much of them the client takes.
const LARGE_PART: usize = 64 << 10;

/// Bytes of a live stream that the kernel holds for its client.
const LIVE_BUFFER: usize = 64 << 10;

/// How a body is delimited on the way to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// No body at all, and none may follow (204, 304, an answer to HEAD whose length is unknown).
    Empty,
    /// Exactly so many bytes.
    Sized(u64),
    /// As long as it lasts: chunked, or until close for HTTP/1.0.
    Open,
}

/// What the event loop does with a connection that comes back.
pub(super) struct Returned {
    pub(crate) token: usize,
    /// Bytes that would have blocked a control worker: the event loop writes them when the client reads.
    pub(crate) rest: Unsent,
    pub(crate) keep: bool,
    /// To be closed at once, which resets it.
    pub(crate) reset: bool,
    /// It was told that it is too late: the rest of its body is not waited for again.
    pub(crate) late: bool,
    /// The socket was switched to blocking writes.
    pub(crate) blocking: bool,
}

/// Connections on their way from workers back to the event loop.
pub(super) struct ReturnQueue {
    /// One at most for each connection.
    list: Mutex<Vec<Returned>>,
    waker: mio::Waker,
}

impl ReturnQueue {
    pub(super) fn new(waker: mio::Waker) -> Self {
        Self { list: Mutex::new(Vec::new()), waker }
    }

    /// Gives one back. The event loop is woken only if it could miss it: it sees an idle connection again
    /// when the client's next byte arrives, unless that byte was already announced (`seen`).
    pub(crate) fn give(&self, back: Returned, seen: &AtomicBool) {
        let must_act = !back.keep || !back.rest.is_empty();
        lock(&self.list).push(back);
        if must_act || seen.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    pub(crate) fn wake(&self) {
        // It can only fail when the kernel is out of memory; the event loop also looks every second.
        let _ = self.waker.wake();
    }

    pub(crate) fn take(&self, into: &mut Vec<Returned>) {
        std::mem::swap(&mut *lock(&self.list), into);
    }
}

enum State {
    Fresh,
    Open { chunked: bool, left: Option<u64>, silent: bool },
    Done,
}

/// One answer in the making. Consumed by its ending.
pub struct Response {
    stream: Arc<TcpStream>,
    token: usize,
    returns: Arc<ReturnQueue>,
    cancel: Arc<CancelToken>,
    seen: Arc<AtomicBool>,
    version: Version,
    head_only: bool,
    keep: bool,
    write_timeout: Duration,
    blocking: bool,
    /// Control answers are never waited for: what does not fit goes to the event loop.
    may_block: bool,
    state: State,
    pending: Unsent,
    sent: u64,
    late: bool,
}

/// What [`Reply::new`] needs of the connection.
pub(super) struct Line {
    pub(crate) stream: Arc<TcpStream>,
    pub(crate) token: usize,
    pub(crate) returns: Arc<ReturnQueue>,
    pub(crate) cancel: Arc<CancelToken>,
    pub(crate) seen: Arc<AtomicBool>,
    pub(crate) write_timeout: Duration,
    pub(crate) may_block: bool,
    pub(crate) held: Held,
}

impl Response {
    pub(super) fn new(line: Line, version: Version, head_only: bool, keep: bool) -> Self {
        Self {
            stream: line.stream,
            token: line.token,
            returns: line.returns,
            cancel: line.cancel,
            seen: line.seen,
            version,
            head_only,
            keep,
            write_timeout: line.write_timeout,
            blocking: false,
            may_block: line.may_block,
            state: State::Fresh,
            pending: Unsent::new(line.held),
            sent: 0,
            late: false,
        }
    }

    /// The connection is closed after this answer.
    pub(crate) fn close_after(&mut self) {
        self.keep = false;
    }

    /// From now on nothing is waited for: what the client does not take at once, the event loop sends later.
    pub(super) fn never_block(&mut self) {
        self.may_block = false;
    }

    /// From now on each write waits for the client, for `writeTimeout` at most, and the kernel holds little for it: one
    /// that does not read is noticed soon.
    pub(crate) fn wait_for_client(&mut self) {
        self.may_block = true;
        let _ = SockRef::from(&*self.stream).set_send_buffer_size(LIVE_BUFFER);
    }

    pub(crate) fn is_started(&self) -> bool {
        !matches!(self.state, State::Fresh)
    }

    /// Body bytes given to the client so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Makes sure that a body of so many bytes may wait for its client.
    ///
    /// # Errors
    /// Too much waits already, for this client or in all; the refusal is to be sent instead.
    pub(crate) fn afford(&mut self, bytes: usize) -> Result<(), Failure> {
        if self.may_block || bytes <= LARGE_PART || self.pending.hold(bytes) {
            return Ok(());
        }
        let text =
            "Too much is held for clients that do not read their answers (server.bodyMemory); try again shortly.";
        Err(Failure::new(Kind::Overloaded, text).retry_after(Duration::from_secs(1)))
    }

    /// A whole answer with its body: head and body leave in one write.
    pub fn send(mut self, status: StatusCode, fields: &Fields, body: &[u8]) {
        let length = if forbids_body(status) { Length::Empty } else { Length::Sized(body.len() as u64) };
        self.start(status, fields, length);
        match self.write_chunk(body) {
            Ok(()) => self.finish(),
            Err(_) => self.abort(),
        }
    }

    /// Prepares the head. It leaves with the first piece, or by [`Reply::flush`].
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
        // RFC 9110 6.6.1: of a forwarded answer the origin's own counts.
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

    /// Sends what is prepared, without a body byte.
    ///
    /// # Errors
    /// The client has left, or did not read for `writeTimeout`.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.write(&[])
    }

    /// Sends one piece of the body, at once.
    ///
    /// # Errors
    /// The client has left or did not read for `writeTimeout`; more bytes than declared.
    pub(crate) fn write_chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        let State::Open { chunked, left, silent } = &mut self.state else {
            return Err(io::Error::other("a piece needs a head"));
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

    /// Ends the answer as complete and gives the connection back.
    pub(crate) fn finish(mut self) {
        let whole = match &self.state {
            State::Open { chunked: true, silent: false, .. } => self.write(&[b"0\r\n\r\n"]).is_ok(),
            State::Open { left, silent, .. } => (*silent || left.is_none_or(|left| left == 0)) && self.flush().is_ok(),
            State::Fresh | State::Done => false,
        };
        let keep = whole && self.keep;
        self.give_back(keep);
    }

    /// Ends the answer so that the client sees that it is not complete.
    pub(crate) fn abort(mut self) {
        self.break_off();
    }

    fn break_off(&mut self) {
        if let State::Open { chunked, silent: false, .. } = self.state {
            // nginx takes the end of a connection for the end of an HTTP/1.0 body, but not a reset.
            let reset = Some(Duration::ZERO);
            if self.version == Version::Http10 && SockRef::from(&*self.stream).set_linger(reset).is_ok() {
                return self.return_to_front(false, true);
            }
            // Some clients (Node 20's fetch) take the end of a chunked body for its proper end when the head
            // said `Connection: close`; no client takes this for a chunk.
            if chunked && !self.keep {
                let _ = (&*self.stream).write(b"!\r\n");
            }
        }
        self.give_back(false);
    }

    fn give_back(&mut self, keep: bool) {
        if !keep && self.pending.is_empty() {
            // The front closes; the client must not wait for that.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        self.return_to_front(keep, false);
    }

    fn return_to_front(&mut self, keep: bool, reset: bool) {
        self.state = State::Done;
        let rest = self.pending.take();
        let back = Returned { token: self.token, rest, keep, reset, late: self.late, blocking: self.blocking };
        self.returns.give(back, &self.seen);
    }

    /// Writes what is pending, then `parts`.
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

    /// The socket is non-blocking while the event loop owns it. The first write that would block turns
    /// that off, which most answers never need.
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
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if self.cancel.is_cancelled() {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                    let now = time::now();
                    let since = *stuck_since.get_or_insert(now);
                    if now.saturating_duration_since(since) >= self.write_timeout {
                        self.cancel.cancel();
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    if !self.blocking {
                        self.stream.set_nonblocking(false)?;
                        self.stream.set_write_timeout(Some(WRITE_TICK.min(self.write_timeout)))?;
                        self.blocking = true;
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Drop for Response {
    fn drop(&mut self) {
        match self.state {
            State::Done => {}
            State::Open { .. } => self.break_off(),
            // Only a panic leads here: the client gets a clean 500 instead of silence.
            State::Fresh => {
                let body = Failure::new(Kind::Internal, "An internal error; the log has the details.");
                let body = body.body(Dialect::OpenAi);
                let mut fields = Fields::default();
                fields.push(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                self.keep = false;
                self.start(StatusCode::INTERNAL_SERVER_ERROR, &fields, Length::Sized(body.len() as u64));
                let _ = self.write_chunk(&body);
                self.give_back(false);
            }
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
