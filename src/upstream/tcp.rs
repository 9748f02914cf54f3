//! The TCP transport under ureq: sends head and body together, and waits in a way that a client's leaving, a stage's
//! time-out, a ping or an early answer can end. Knows nothing of HTTP.

use super::call::{Call, Stage, current};
use super::connect::Addresses;
use crate::util::cancel::OnCancel;
use crate::util::time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};
use std::io::{self, IoSlice, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Weak};
use std::time::Duration;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Error, Timeout};

/// Opens TCP connections. First in the chain, TLS and HTTP come after it.
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
        let wire = TcpTransport {
            socket: Arc::new(Socket(stream)),
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
            held: Vec::new(),
            wait: None,
            deaf: false,
            calls: 0,
            idle: false,
        };
        call.attach(wire.line());
        Ok(Some(Either::B(wire)))
    }
}

/// A socket that another thread may shut down.
#[derive(Debug)]
struct Socket(TcpStream);

impl OnCancel for Socket {
    fn on_cancel(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

#[derive(Debug)]
pub(super) struct TcpTransport {
    socket: Arc<Socket>,
    buffers: LazyBuffers,
    /// What is to be sent before anything else: the head, until the first bytes of the body join it or an answer is
    /// awaited; and of a piece of the body what the socket did not take when something could be read.
    held: Vec<u8>,
    /// The read time-out that the kernel has.
    wait: Option<Duration>,
    /// A write failed: the rest of the request is dropped and the answer, if any, is read.
    deaf: bool,
    calls: u32,
    idle: bool,
}

impl TcpTransport {
    fn line(&self) -> Weak<dyn OnCancel> {
        let line: Arc<dyn OnCancel> = Arc::clone(&self.socket) as _;
        Arc::downgrade(&line)
    }

    fn begin(&mut self, call: &Call) {
        call.attach(self.line());
        call.reused.set(self.calls > 0);
        call.enter_stage(Stage::Send, time::now());
        self.calls += 1;
        self.idle = false;
        self.deaf = false;
    }

    /// Writes what is held, then the first `amount` bytes of the output buffer. When that must wait and something can be
    /// read, `call.interrupted` is set and the rest is held.
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
            // SIGPIPE is ignored in every Rust program.
            match sendmsg(&self.socket.0, slices, &mut SendAncillaryBuffer::default(), SendFlags::DONTWAIT) {
                Ok(n) => {
                    call.progress();
                    IoSlice::advance_slices(&mut slices, n);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if can_read(&self.socket.0, call)? {
                        self.held = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                        call.interrupted.set(true);
                        return Ok(());
                    }
                }
                // An upstream may refuse a large body early (413) and close: its answer is still to be read.
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

    /// Reads what is there, or waits for it as long as the kernel was told; `None` when nothing came.
    fn receive(&mut self, call: &Call) -> io::Result<Option<usize>> {
        let buffer = self.buffers.input_append_buf();
        let result = if call.peeking.get() {
            recv(&self.socket.0, buffer, RecvFlags::DONTWAIT).map(|(n, _)| n).map_err(io::Error::from)
        } else {
            (&self.socket.0).read(buffer)
        };
        match result {
            Err(e) if is_wait(&e) && !call.peeking.get() => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(None),
            result => result.map(Some),
        }
    }
}

/// Waits until a socket can be written to again, a while at most; tells whether it can be read from instead.
fn can_read(socket: &TcpStream, call: &Call) -> Result<bool, Error> {
    let patience = call.patience(time::now()).ok_or(Error::Timeout(Timeout::SendBody))?;
    let listening = if call.listening.get() { PollFlags::IN } else { PollFlags::empty() };
    let mut fds = [PollFd::new(socket, PollFlags::OUT | listening)];
    match poll(&mut fds, Timespec::try_from(patience).ok().as_ref()) {
        Err(e) if e != Errno::INTR => return Err(io::Error::from(e).into()),
        _ => {}
    }
    let ready = fds[0].revents();
    Ok(ready.contains(PollFlags::IN) && !ready.contains(PollFlags::OUT))
}

impl Transport for TcpTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let call = current().ok_or_else(|| io::Error::other("a write needs a call"))?;
        // TLS and CONNECT talk before the request does.
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
            if !peeking {
                let Some(wait) = call.patience(time::now()) else {
                    return Err(Error::Timeout(Timeout::RecvBody));
                };
                // Nearly always the same tick, so nearly never a system call.
                if self.wait != Some(wait) {
                    self.socket.0.set_read_timeout(Some(wait))?;
                    self.wait = Some(wait);
                }
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
                // ureq takes a reset for the proper end of a body that ends by close; under another kind not.
                Err(e) if call.headed.get() => return Err(io::Error::other(e).into()),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Asked when a connection goes back to the pool and when it is taken out. Going in, the socket was
    /// just read to the end of an answer; only coming out does the kernel know more.
    fn is_open(&mut self) -> bool {
        if !std::mem::replace(&mut self.idle, true) {
            let clean = !self.deaf && self.held.is_empty() && self.buffers.input().is_empty();
            return clean && current().is_none_or(|call| call.release());
        }
        if current().is_some_and(|call| call.fresh.get()) {
            return false;
        }
        // Bytes would be an answer that nobody asked for, an end a closed connection.
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(recv(&self.socket.0, &mut [0; 1], flags), Err(Errno::AGAIN))
    }
}

fn is_wait(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
