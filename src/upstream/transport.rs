//! The transport under ureq: one connection to an endpoint. Sends head and body together, encrypts if the endpoint has TLS,
//! checks answers before ureq parses them, looks for an early answer while it sends, and waits in a way that a disconnect,
//! a time-out or a ping can end.

use super::call::{Call, Stage, current};
use super::connect::Addresses;
use super::response::Response;
use super::tls::Tls;
use crate::util::cancel::{PollFlags, ready};
use crate::util::time;
use http::uri::Authority;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};
use rustls::ClientConnection;
use std::cell::RefCell;
use std::fmt;
use std::io::{self, BufRead, IoSlice, Write};
use std::net::TcpStream;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};
use ureq::{Error, Timeout};

/// One read of a socket.
const READ: usize = 32 << 10;
/// One chunk of a request body of unknown length.
const CHUNK: usize = 16 << 10;
/// The most that each buffer of an idle connection keeps.
const IDLE: usize = 4 << 10;

thread_local! {
    /// What a thread reads; allocated here, since idle connections need none, and never filled in advance.
    static RAW: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Opens connections: to the endpoint, also through an open tunnel, or to the outgoing proxy that makes the tunnel.
pub(super) struct TcpConnector {
    pub(super) addresses: Addresses,
    /// The endpoint's.
    pub(super) authority: Authority,
    pub(super) tls: Option<Tls>,
}

impl fmt::Debug for TcpConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TcpConnector")
    }
}

impl<In: Transport> Connector<In> for TcpConnector {
    type Out = TcpTransport;

    fn connect(&self, details: &ConnectionDetails, tunnel: Option<In>) -> Result<Option<TcpTransport>, Error> {
        let call = current().ok_or_else(|| io::Error::other("a connection needs a call"))?;
        let socket = match tunnel {
            Some(_) => call.tunnel.take().ok_or_else(|| io::Error::other("a tunnel needs a socket"))?,
            None => self.addresses.connect(&call, &details.addrs)?,
        };
        socket.set_nodelay(true)?;
        let is_endpoint = details.uri.authority() == Some(&self.authority);
        if !is_endpoint {
            call.tunnel.set(Some(socket.try_clone()?));
        }
        let tls = match &self.tls {
            Some(tls) if is_endpoint => Some(Box::new(tls.handshake(&socket, &call)?)),
            _ => None,
        };
        Ok(Some(TcpTransport {
            socket,
            tls,
            response: is_endpoint.then(|| Response::new(false)),
            input: Vec::new(),
            at: 0,
            moved: false,
            unseen: false,
            may_have_more: false,
            output: Vec::new(),
            chunk: Vec::new(),
            held: Vec::new(),
            parts: 0,
            deaf: false,
            calls: 0,
            idle: false,
        }))
    }
}

/// A connection.
pub(super) struct TcpTransport {
    /// Non-blocking.
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// `None`: a connection to an outgoing proxy, whose answers are not checked.
    response: Option<Response>,
    /// Checked input, consumed up to `at`.
    input: Vec<u8>,
    at: usize,
    /// ureq consumed input since the last wait.
    moved: bool,
    /// There is input that ureq has not seen.
    unseen: bool,
    /// The last read filled its buffer, so the next one does not wait.
    may_have_more: bool,
    /// What ureq writes.
    output: Vec<u8>,
    chunk: Vec<u8>,
    /// To be sent first: the head, until the first part of the body joins it or an answer is awaited; what TLS made of
    /// output; and the part of the body that was not written because the socket became readable.
    held: Vec<u8>,
    /// Parts of the body sent.
    parts: u32,
    /// A write failed: the rest of the request is dropped; there may still be an answer.
    deaf: bool,
    calls: u32,
    idle: bool,
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TcpTransport")
    }
}

impl TcpTransport {
    fn begin(&mut self, call: &Call) {
        call.reused.set(self.calls > 0);
        call.enter_stage(Stage::Send, time::now());
        self.response = Some(Response::new(call.is_head));
        self.input.clear();
        (self.at, self.parts, self.calls) = (0, 0, self.calls + 1);
        (self.idle, self.deaf, self.may_have_more) = (false, false, false);
    }

    /// Writes `held`, then `amount` bytes of the output. If that would block and the socket is readable, holds the rest
    /// and sets `call.interrupted`.
    fn send(&mut self, call: &Call, amount: usize) -> Result<(), Error> {
        let held = std::mem::take(&mut self.held);
        if self.deaf {
            return Ok(());
        }
        let mut slices = [IoSlice::new(&held), IoSlice::new(&self.output[..amount])];
        let mut slices = &mut slices[..];
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            if call.is_cancelled() {
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
            }
            // Rust programs ignore SIGPIPE.
            match sendmsg(&self.socket, slices, &mut SendAncillaryBuffer::default(), SendFlags::DONTWAIT) {
                Ok(n) => {
                    call.progress();
                    IoSlice::advance_slices(&mut slices, n);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if can_read(&self.socket, call)? {
                        self.held = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                        call.interrupted.set(true);
                        return Ok(());
                    }
                }
                // An upstream may refuse a large body early (413) and close; its answer can still be read.
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.deaf = true;
                    call.upload_over.set(true);
                    return Ok(());
                }
                Err(e) => return Err(io::Error::from(e).into()),
            }
        }
        Ok(())
    }

    /// Checks for an early answer, without waiting.
    fn listen(&mut self, call: &Call) -> Result<(), Error> {
        call.interrupted.set(false);
        while call.listening.get() {
            call.peeking.set(true);
            let read = self.read(call);
            call.peeking.set(false);
            self.unseen = !self.input.is_empty();
            let Some(response) = &self.response else { return Ok(()) };
            let over = match read {
                Ok(true) => response.broken().is_some() || is_last_word(response),
                // The next read reports the error.
                Ok(false) => true,
                Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => true,
            };
            // An early 2xx does not end the upload; its body is read later.
            call.listening.set(!over && response.status().is_none());
            if over {
                call.upload_over.set(true);
                call.spoiled.set(true);
                if call.reused.get() {
                    // On a reused connection this is left over from an earlier request.
                    call.unexpected.set(true);
                    return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
                }
            }
        }
        Ok(())
    }

    /// Reads more of the answer; false when the endpoint has closed.
    fn read(&mut self, call: &Call) -> Result<bool, Error> {
        if call.upload_over.get() {
            self.deaf = true;
        }
        if !call.peeking.get() {
            if !self.held.is_empty() {
                self.send(call, 0)?;
            }
            if call.stage() == Stage::Send {
                call.enter_stage(Stage::FirstByte, time::now());
            }
        }
        let mut raw = RAW.take();
        let open = self.receive(call, &mut raw).and_then(|()| self.take_in(&raw, call));
        RAW.set(raw);
        open
    }

    /// Reads what the socket has into `raw`; unless the call only peeks, waits for it.
    fn receive(&mut self, call: &Call, raw: &mut Vec<u8>) -> Result<(), Error> {
        let peeking = call.peeking.get();
        raw.clear();
        raw.reserve_exact(READ);
        loop {
            if call.is_cancelled() {
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
            }
            if !peeking && !self.may_have_more {
                let patience = call.patience(time::now()).ok_or(Error::Timeout(Timeout::RecvBody))?;
                if ready(&self.socket, PollFlags::IN, call.cancel.as_deref(), patience)?.is_empty() {
                    continue;
                }
            }
            match recv(&self.socket, spare_capacity(raw), RecvFlags::DONTWAIT) {
                Ok((n, _)) => {
                    self.may_have_more = n >= READ;
                    return Ok(());
                }
                Err(Errno::AGAIN | Errno::INTR) if !peeking => self.may_have_more = false,
                // ureq takes a reset for the end of a body without length, unless it has another kind.
                Err(e) if call.headed.get() => return Err(io::Error::other(io::Error::from(e)).into()),
                Err(e) => return Err(io::Error::from(e).into()),
            }
        }
    }

    /// Decrypts and checks what was read; no bytes are the end of the connection.
    fn take_in(&mut self, mut raw: &[u8], call: &Call) -> Result<bool, Error> {
        let Self { tls, response, input, held, .. } = self;
        let is_end = raw.is_empty();
        if !is_end && call.stage() != Stage::Connect {
            call.answered.set(true);
            if call.stage() == Stage::Body {
                call.progress();
            }
        }
        let Some(tls) = tls else {
            feed(response, raw, input);
            return Ok(!is_end);
        };
        loop {
            tls.read_tls(&mut raw)?;
            tls.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            let mut reader = tls.reader();
            let end = loop {
                match reader.fill_buf() {
                    Ok([]) => return Ok(false),
                    Ok(plain) => {
                        let length = plain.len();
                        feed(response, plain, input);
                        reader.consume(length);
                    }
                    Err(e) => break e,
                }
            };
            match end.kind() {
                io::ErrorKind::WouldBlock => {}
                // RFC 8446 6.1: an end without close_notify may be a truncation attack.
                _ if response.as_ref().is_some_and(Response::is_until_close) => {
                    return Err(io::Error::other(end).into());
                }
                _ => return Ok(false),
            }
            // Messages of TLS itself, such as a key update.
            while tls.wants_write() {
                tls.write_tls(held)?;
            }
            if raw.is_empty() {
                return Ok(true);
            }
        }
    }
}

fn feed(response: &mut Option<Response>, bytes: &[u8], input: &mut Vec<u8>) {
    match response {
        Some(response) => response.feed(bytes, input),
        None => input.extend_from_slice(bytes),
    }
}

impl Buffers for TcpTransport {
    fn output(&mut self) -> &mut [u8] {
        let wanted = current().map_or(READ, |call| call.output.get());
        if self.output.len() < wanted {
            self.output.resize(wanted, 0);
        }
        &mut self.output
    }

    fn input(&self) -> &[u8] {
        &self.input[self.at..]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        &mut []
    }

    fn input_appended(&mut self, _: usize) {}

    fn input_consume(&mut self, amount: usize) {
        self.moved = amount > 0;
        self.unseen = false;
        self.at += amount;
        if self.at == self.input.len() {
            self.at = 0;
            self.input.clear();
        }
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.output();
        // ureq reads a body into it only to send it in chunks.
        let is_chunked = current().is_some_and(|call| call.is_chunked.get());
        self.chunk.resize(if is_chunked { CHUNK } else { 0 }, 0);
        (&mut self.chunk, &mut self.output)
    }

    fn can_use_input(&self) -> bool {
        self.at < self.input.len() && (self.moved || self.unseen)
    }
}

impl Transport for TcpTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self
    }

    fn transmit_output(&mut self, mut amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let call = current().ok_or_else(|| io::Error::other("a write needs a call"))?;
        if call.stage() == Stage::Connect && self.response.is_some() {
            self.begin(&call);
        }
        if timeout.reason == Timeout::SendBody {
            if self.parts > 0 && !call.upload_over.get() {
                self.listen(&call)?;
            }
            self.parts = self.parts.saturating_add(1);
        }
        if call.upload_over.get() {
            return Ok(());
        }
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(&self.output[..std::mem::take(&mut amount)])?;
            while tls.wants_write() {
                tls.write_tls(&mut self.held)?;
            }
        }
        if timeout.reason == Timeout::SendRequest {
            self.held.extend_from_slice(&self.output[..amount]);
            return Ok(());
        }
        self.send(&call, amount)?;
        while call.interrupted.get() && !call.upload_over.get() {
            self.listen(&call)?;
            if !call.upload_over.get() {
                self.send(&call, 0)?;
            }
        }
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        let call = current().ok_or_else(|| io::Error::other("a read needs a call"))?;
        self.moved = false;
        if std::mem::take(&mut self.unseen) {
            return Ok(true);
        }
        let before = self.input.len();
        loop {
            if let Some(response) = &self.response
                && let Some(what) = response.broken()
            {
                if response.is_unexpected() && call.reused.get() {
                    call.unexpected.set(true);
                }
                return Err(io::Error::new(io::ErrorKind::InvalidData, what).into());
            }
            let open = self.read(&call)?;
            if !open && let Some(response) = &mut self.response {
                response.close(&mut self.input);
            }
            if !open || self.input.len() > before {
                return Ok(self.input.len() > before);
            }
        }
    }

    /// Asked when the connection becomes idle, right after the end of an answer was read, and when it is reused; only then
    /// is the socket asked.
    fn is_open(&mut self) -> bool {
        if !self.response.as_ref().is_some_and(Response::is_clean) {
            return false;
        }
        if !std::mem::replace(&mut self.idle, true) {
            self.chunk = Vec::new();
            self.output.truncate(IDLE);
            self.output.shrink_to(IDLE);
            self.input.shrink_to(IDLE);
            return !self.deaf && self.held.is_empty() && current().is_none_or(|call| !call.spoiled.get());
        }
        // Input would be an unsolicited answer, or the end of the connection.
        matches!(recv(&self.socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(Errno::AGAIN))
    }

    fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

/// Waits a short while until a socket is writable; true if it is readable instead.
fn can_read(socket: &TcpStream, call: &Call) -> Result<bool, Error> {
    let patience = call.patience(time::now()).ok_or(Error::Timeout(Timeout::SendBody))?;
    let listening = if call.listening.get() { PollFlags::IN } else { PollFlags::empty() };
    let seen = ready(socket, PollFlags::OUT | listening, call.cancel.as_deref(), patience)?;
    Ok(seen.contains(PollFlags::IN) && !seen.contains(PollFlags::OUT))
}

/// A refusal or a complete answer: the rest of the request no longer matters.
fn is_last_word(response: &Response) -> bool {
    response.is_done() || response.status().is_some_and(|status| status >= 300)
}
