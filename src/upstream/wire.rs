//! The TCP transport under ureq: dials, sends head and body together, and waits in a way that a client's
//! leaving, a stage's time-out or a ping can end. Knows nothing of HTTP.

use super::call::{Call, Stage, TICK, current};
use crate::base::clock;
use crate::base::gone::HangUp;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Weak};
use std::time::Duration;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Error, Timeout};

/// Opens TCP connections. First in the chain, TLS comes after it.
#[derive(Debug)]
pub(super) struct Dial;

impl<In: Transport> Connector<In> for Dial {
    type Out = Either<In, Wire>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        if let Some(tunnel) = chained {
            return Ok(Some(Either::A(tunnel)));
        }
        let call = current().ok_or_else(|| io::Error::other("a connection needs a call"))?;
        let stream = dial(&call, &details.addrs)?;
        stream.set_nodelay(true)?;
        let config = details.config;
        let wire = Wire {
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

/// Tries every address. Each gets its share of the time, in slices: the only way to hear, while
/// connecting, that the client has left. A lost SYN is repeated by the kernel after a second anyway.
fn dial(call: &Call, addrs: &[SocketAddr]) -> Result<TcpStream, Error> {
    let mut last = Error::HostNotFound;
    for (n, addr) in addrs.iter().enumerate() {
        let others_wait = n + 1 < addrs.len();
        loop {
            if call.is_cancelled() {
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
            }
            let Some(wait) = call.patience(clock::now()) else {
                return Err(Error::Timeout(Timeout::Connect));
            };
            match TcpStream::connect_timeout(addr, wait) {
                Ok(stream) => return Ok(stream),
                Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                    last = Error::Timeout(Timeout::Connect);
                    if others_wait {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    last = e.into();
                    break;
                }
            }
        }
    }
    Err(last)
}

/// A socket that another thread may shut down.
#[derive(Debug)]
struct Socket(TcpStream);

impl HangUp for Socket {
    fn hang_up(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// One upstream connection.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Arc<Socket>,
    buffers: LazyBuffers,
    /// The head, until the first bytes of the body join it or an answer is awaited.
    held: Vec<u8>,
    /// The read time-out that the kernel has.
    wait: Option<Duration>,
    /// A write failed: the rest of the request is dropped and the answer, if any, is read.
    deaf: bool,
    calls: u32,
    idle: bool,
}

impl Wire {
    fn line(&self) -> Weak<dyn HangUp> {
        let line: Arc<dyn HangUp> = Arc::clone(&self.socket) as _;
        Arc::downgrade(&line)
    }

    fn begin(&mut self, call: &Call) {
        call.attach(self.line());
        call.reused.set(self.calls > 0);
        call.enter_stage(Stage::Send, clock::now());
        self.calls += 1;
        self.idle = false;
        self.deaf = false;
    }

    /// Writes what is held, then the first `amount` bytes of the output buffer.
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
            match (&self.socket.0).write_vectored(slices) {
                Ok(n) => {
                    call.progress();
                    IoSlice::advance_slices(&mut slices, n);
                }
                Err(e) if is_wait(&e) => {
                    if call.patience(clock::now()).is_none() {
                        return Err(Error::Timeout(Timeout::SendBody));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // An upstream may refuse a large body early (413) and close: its answer is still to be read.
                Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    self.deaf = true;
                    return Ok(());
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let call = current().ok_or_else(|| io::Error::other("a write needs a call"))?;
        // TLS and CONNECT talk before the request does.
        if call.stage() == Stage::Connect && timeout.reason != Timeout::Connect {
            self.begin(&call);
        }
        if self.calls == 1 && self.wait.is_none() {
            self.socket.0.set_write_timeout(Some(TICK))?;
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
        if !self.held.is_empty() {
            self.send(&call, 0)?;
        }
        if call.stage() == Stage::Send {
            call.enter_stage(Stage::FirstByte, clock::now());
        }
        loop {
            if call.is_cancelled() {
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
            }
            let Some(wait) = call.patience(clock::now()) else {
                return Err(Error::Timeout(Timeout::RecvBody));
            };
            // Nearly always the same tick, so nearly never a system call.
            if self.wait != Some(wait) {
                self.socket.0.set_read_timeout(Some(wait))?;
                self.wait = Some(wait);
            }
            match (&self.socket.0).read(self.buffers.input_append_buf()) {
                Ok(n) => {
                    self.buffers.input_appended(n);
                    if n > 0 && call.stage() != Stage::Connect {
                        call.answered.set(true);
                        if call.stage() == Stage::Body {
                            call.progress();
                        }
                    }
                    return Ok(n > 0);
                }
                Err(e) if is_wait(&e) || e.kind() == io::ErrorKind::Interrupted => {}
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
            return !self.deaf && current().is_none_or(|call| call.release());
        }
        if current().is_some_and(|call| call.fresh.get()) {
            return false;
        }
        let stream = &self.socket.0;
        if stream.set_nonblocking(true).is_err() {
            return false;
        }
        // Bytes would be an answer that nobody asked for, an end a closed connection.
        let quiet = matches!(stream.peek(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock);
        quiet && stream.set_nonblocking(false).is_ok()
    }
}

fn is_wait(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
