//! ureq's TCP transport: sends head and body together, and waits in a way that a disconnect, a time-out, a ping or an early
//! answer can end. Knows nothing of HTTP.

use super::call::{Call, Stage, current};
use super::connect::Addresses;
use crate::util::cancel::{PollFlags, ready};
use crate::util::time;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};
use std::io::{self, IoSlice};
use std::net::TcpStream;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Error, Timeout};

/// First in the chain of connectors; TLS and HTTP follow.
#[derive(Debug, Default)]
pub(super) struct TcpConnector {
    addresses: Addresses,
}

impl<In: Transport> Connector<In> for TcpConnector {
    type Out = Either<In, TcpTransport>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        if let Some(tunnel) = chained {
            return Ok(Some(Either::A(tunnel)));
        }
        let call = current().ok_or_else(|| io::Error::other("a connection needs a call"))?;
        let stream = self.addresses.connect(&call, &details.addrs)?;
        stream.set_nodelay(true)?;
        let config = details.config;
        let transport = TcpTransport {
            socket: stream,
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
            held: Vec::new(),
            may_have_more: false,
            deaf: false,
            calls: 0,
            idle: false,
        };
        Ok(Some(Either::B(transport)))
    }
}

#[derive(Debug)]
pub(super) struct TcpTransport {
    /// Non-blocking.
    socket: TcpStream,
    buffers: LazyBuffers,
    /// To be sent first: the head, until the first part of the body joins it or an answer is awaited; and the part of the
    /// body that was not written because the socket became readable.
    held: Vec<u8>,
    /// The last read filled its buffer, so the next one does not wait.
    may_have_more: bool,
    /// A write failed: the rest of the request is dropped; there may still be an answer.
    deaf: bool,
    calls: u32,
    idle: bool,
}

impl TcpTransport {
    fn begin(&mut self, call: &Call) {
        call.reused.set(self.calls > 0);
        call.enter_stage(Stage::Send, time::now());
        self.calls += 1;
        self.idle = false;
        self.deaf = false;
        self.may_have_more = false;
    }

    /// Writes `held`, then `amount` bytes of the output buffer. If that would block and the socket is readable, holds the
    /// rest and sets `call.interrupted`.
    fn send(&mut self, call: &Call, amount: usize) -> Result<(), Error> {
        let held = std::mem::take(&mut self.held);
        if self.deaf {
            return Ok(());
        }
        let output = &self.buffers.output()[..amount];
        let mut slices = [IoSlice::new(&held), IoSlice::new(output)];
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

    /// Reads, after a short wait unless the call only peeks; `None` if nothing came.
    fn receive(&mut self, call: &Call) -> Result<Option<usize>, Error> {
        let peeking = call.peeking.get();
        if !peeking && !self.may_have_more {
            let patience = call.patience(time::now()).ok_or(Error::Timeout(Timeout::RecvBody))?;
            let seen = ready(&self.socket, PollFlags::IN, call.cancel.as_deref(), patience)?;
            if seen.is_empty() || call.is_cancelled() {
                return Ok(None);
            }
        }
        let buffer = self.buffers.input_append_buf();
        let room = buffer.len();
        match recv(&self.socket, buffer, RecvFlags::DONTWAIT) {
            Ok((n, _)) => {
                self.may_have_more = n == room;
                Ok(Some(n))
            }
            Err(Errno::AGAIN | Errno::INTR) if !peeking => {
                self.may_have_more = false;
                Ok(None)
            }
            Err(e) => Err(io::Error::from(e).into()),
        }
    }
}

/// Waits a short while until a socket is writable; true if it is readable instead.
fn can_read(socket: &TcpStream, call: &Call) -> Result<bool, Error> {
    let patience = call.patience(time::now()).ok_or(Error::Timeout(Timeout::SendBody))?;
    let listening = if call.listening.get() { PollFlags::IN } else { PollFlags::empty() };
    let seen = ready(socket, PollFlags::OUT | listening, call.cancel.as_deref(), patience)?;
    Ok(seen.contains(PollFlags::IN) && !seen.contains(PollFlags::OUT))
}

impl Transport for TcpTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let call = current().ok_or_else(|| io::Error::other("a write needs a call"))?;
        // TLS and CONNECT come before the request.
        if call.stage() == Stage::Connect && timeout.reason != Timeout::Connect {
            self.begin(&call);
        }
        if timeout.reason == Timeout::SendRequest {
            let output = &self.buffers.output()[..amount];
            self.held.extend_from_slice(output);
            return Ok(());
        }
        self.send(&call, amount)
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        let call = current().ok_or_else(|| io::Error::other("a read needs a call"))?;
        let peeking = call.peeking.get();
        if call.upload_over.get() {
            self.deaf = true;
        }
        if !peeking && !self.held.is_empty() {
            self.send(&call, 0)?;
        }
        if !peeking && call.stage() == Stage::Send {
            call.enter_stage(Stage::FirstByte, time::now());
        }
        loop {
            if call.is_cancelled() {
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
            }
            match self.receive(&call) {
                Ok(None) => {}
                Ok(Some(n)) => {
                    self.buffers.input_appended(n);
                    if n > 0 && call.stage() != Stage::Connect {
                        call.answered.set(true);
                        if call.stage() == Stage::Body {
                            call.progress();
                        }
                    }
                    return Ok(n > 0);
                }
                // ureq takes a reset for the end of a body without length, unless it has another kind.
                Err(Error::Io(e)) if call.headed.get() => return Err(io::Error::other(e).into()),
                Err(e) => return Err(e),
            }
        }
    }

    /// Asked when the connection becomes idle, right after the end of an answer was read, and when it is reused; only then
    /// is the socket asked.
    fn is_open(&mut self) -> bool {
        if !std::mem::replace(&mut self.idle, true) {
            let clean = !self.deaf && self.held.is_empty() && self.buffers.input().is_empty();
            return clean && current().is_none_or(|call| !call.spoiled.get());
        }
        // Input would be an unsolicited answer, or the end of the connection.
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(recv(&self.socket, &mut [0; 1], flags), Err(Errno::AGAIN))
    }
}
