//! The outermost transport, which ureq uses: TLS if the endpoint has it, and the check of answers before ureq parses them.
//! While a request is being sent it looks for an early answer.

use super::call::{Call, Stage, current};
use super::response::Response;
use http::uri::Authority;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::fmt;
use std::io::{self, BufRead, Write};
use std::sync::Arc;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, NextTimeout, Transport, TransportAdapter,
};
use ureq::{Error, Timeout};

/// One chunk of a request body of unknown length.
const CHUNK: usize = 16 << 10;

/// Buffer kept by an idle connection.
const IDLE: usize = 4 << 10;

pub(super) struct Http {
    /// The endpoint's; connections to an outgoing proxy are not checked.
    pub(crate) authority: Authority,
    pub(crate) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

impl<In: Transport> Connector<In> for Http {
    type Out = Either<In, Checked<In>>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let Some(inner) = chained else { return Ok(None) };
        if details.uri.authority() != Some(&self.authority) {
            return Ok(Some(Either::A(inner)));
        }
        let mut io = TransportAdapter::new(inner, Arc::clone(&details.current_time));
        io.set_timeout(details.timeout);
        let tls = match &self.tls {
            None => None,
            Some((config, name)) => {
                let mut tls = ClientConnection::new(Arc::clone(config), name.clone()).map_err(io::Error::other)?;
                while tls.is_handshaking() {
                    tls.complete_io(&mut io)?;
                }
                Some(Box::new(tls))
            }
        };
        Ok(Some(Either::B(Checked {
            io,
            tls,
            response: Response::new(false),
            input: Vec::new(),
            at: 0,
            moved: false,
            unseen: false,
            scratch: Vec::new(),
            chunks: 0,
        })))
    }
}

/// A connection whose answers are checked.
pub(super) struct Checked<T: Transport> {
    io: TransportAdapter<T>,
    tls: Option<Box<ClientConnection>>,
    response: Response,
    /// Checked input, consumed up to `at`.
    input: Vec<u8>,
    at: usize,
    /// ureq consumed input since the last wait.
    moved: bool,
    /// There is input that ureq has not seen.
    unseen: bool,
    scratch: Vec<u8>,
    /// Parts of the body sent.
    chunks: u32,
}

impl<T: Transport> fmt::Debug for Checked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checked").field("tls", &self.tls.is_some()).finish()
    }
}

impl<T: Transport> Checked<T> {
    fn begin(&mut self, call: &Call) {
        self.response = Response::new(call.is_head);
        self.input.clear();
        self.at = 0;
        self.chunks = 0;
    }

    /// Reads more of the answer; false when the endpoint has closed.
    fn read(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.io.set_timeout(timeout);
        let Some(tls) = &mut self.tls else {
            let inner = self.io.get_mut();
            let open = inner.maybe_await_input(timeout)?;
            let buffers = inner.buffers();
            let raw = buffers.input();
            let length = raw.len();
            self.response.feed(raw, &mut self.input);
            buffers.input_consume(length);
            return Ok(open);
        };
        loop {
            let mut reader = tls.reader();
            match reader.fill_buf() {
                Ok([]) => return Ok(false),
                Ok(plain) => {
                    let length = plain.len();
                    self.response.feed(plain, &mut self.input);
                    reader.consume(length);
                    return Ok(true);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // RFC 8446 6.1: an end without close_notify may be a truncation attack.
                Err(e) if self.response.is_until_close() => return Err(io::Error::other(e).into()),
                Err(_) => return Ok(false),
            }
            tls.read_tls(&mut self.io)?;
            tls.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            // Messages of TLS itself, such as a key update.
            while tls.wants_write() {
                tls.write_tls(&mut self.io)?;
            }
        }
    }

    /// Checks for an early answer, without waiting.
    fn listen(&mut self, call: &Call, timeout: NextTimeout) -> Result<(), Error> {
        call.interrupted.set(false);
        while call.listening.get() {
            call.peeking.set(true);
            let read = self.read(timeout);
            call.peeking.set(false);
            self.unseen = !self.input.is_empty();
            let over = match read {
                Ok(true) => self.response.broken().is_some() || is_last_word(&self.response),
                // The next read reports the error.
                Ok(false) => true,
                Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => true,
            };
            // An early 2xx does not end the upload; its body is read later.
            call.listening.set(!over && self.response.status().is_none());
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

    fn write(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.io.set_timeout(timeout);
        let inner = self.io.get_mut();
        let Some(tls) = &mut self.tls else { return inner.transmit_output(amount, timeout) };
        tls.writer().write_all(&inner.buffers().output()[..amount])?;
        while tls.wants_write() {
            tls.write_tls(&mut self.io)?;
        }
        Ok(())
    }
}

impl<T: Transport> Buffers for Checked<T> {
    fn output(&mut self) -> &mut [u8] {
        self.io.get_mut().buffers().output()
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
        self.scratch.resize(CHUNK, 0);
        (&mut self.scratch, self.io.get_mut().buffers().output())
    }

    fn can_use_input(&self) -> bool {
        self.at < self.input.len() && (self.moved || self.unseen)
    }
}

impl<T: Transport> Transport for Checked<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let call = current().ok_or_else(|| io::Error::other("a write needs a call"))?;
        if call.stage() == Stage::Connect {
            self.begin(&call);
        }
        if timeout.reason == Timeout::SendBody {
            if self.chunks > 0 && !call.upload_over.get() {
                self.listen(&call, timeout)?;
            }
            self.chunks = self.chunks.saturating_add(1);
        }
        if call.upload_over.get() {
            return Ok(());
        }
        self.write(amount, timeout)?;
        while call.interrupted.get() && !call.upload_over.get() {
            self.listen(&call, timeout)?;
            if !call.upload_over.get() {
                self.io.get_mut().transmit_output(0, timeout)?;
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let call = current().ok_or_else(|| io::Error::other("a read needs a call"))?;
        self.moved = false;
        if std::mem::take(&mut self.unseen) {
            return Ok(true);
        }
        let before = self.input.len();
        loop {
            if let Some(what) = self.response.broken() {
                if self.response.is_unexpected() && call.reused.get() {
                    call.unexpected.set(true);
                }
                return Err(io::Error::new(io::ErrorKind::InvalidData, what).into());
            }
            let open = self.read(timeout)?;
            if !open {
                self.response.close(&mut self.input);
            }
            if !open || self.input.len() > before {
                return Ok(self.input.len() > before);
            }
        }
    }

    fn is_open(&mut self) -> bool {
        let unread = self.tls.as_mut().is_some_and(|tls| matches!(tls.reader().fill_buf(), Ok([_, ..])));
        self.input.shrink_to(IDLE);
        !unread && self.response.is_clean() && self.io.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

/// A refusal or a complete answer: the rest of the request no longer matters.
fn is_last_word(response: &Response) -> bool {
    response.is_done() || response.status().is_some_and(|status| status >= 300)
}
