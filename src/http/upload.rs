//! What of a large body is still with its client: a worker reads it while it sends it on. Waits, within the
//! bounds that collected bodies have too.

use crate::api::chunked::Decoder;
use crate::api::errors::Failure;
use crate::http::min_rate::MinRate;
use crate::util::cancel::{CancelToken, PollFlags, ready};
use crate::util::time;
use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;

/// So much of a body is collected before it is large: up to here any endpoint can still be tried.
pub(super) const LARGE: usize = 1 << 20;
const SCRATCH: usize = 64 << 10;
/// The rest of one body. Its connection serves no other request.
pub(crate) struct Upload {
    stream: Arc<TcpStream>,
    decoder: Decoder,
    min_rate: MinRate,
    cancel: Arc<CancelToken>,
    /// As they came, room for one read.
    scratch: Vec<u8>,
    /// Decoded, at most one read of it, and read up to `at`.
    ready: Vec<u8>,
    at: usize,
    state: State,
    _place: Arc<()>,
}

enum State {
    Untouched,
    Coming,
    Over,
    Refused(Failure),
}

impl Upload {
    /// `place` counts it among those at once.
    pub(super) fn new(stream: Arc<TcpStream>, decoder: Decoder, min_rate: MinRate, place: Arc<()>) -> Self {
        let (cancel, state, scratch, ready) = (Arc::default(), State::Untouched, Vec::new(), Vec::new());
        Self { stream, decoder, min_rate, cancel, scratch, ready, at: 0, state, _place: place }
    }

    /// Ends when this is cancelled.
    pub(super) fn cancel_with(&mut self, cancel: &Arc<CancelToken>) {
        self.cancel = Arc::clone(cancel);
    }

    /// Bytes to come, if the client told.
    pub(crate) fn length(&self) -> Option<u64> {
        self.decoder.missing()
    }

    /// Nothing of it was read, so that it can still go anywhere.
    pub(crate) fn is_untouched(&self) -> bool {
        matches!(self.state, State::Untouched)
    }

    /// Why it broke off, when that was the client's fault.
    pub(crate) fn refusal(&self) -> Option<&Failure> {
        if let State::Refused(failure) = &self.state { Some(failure) } else { None }
    }

    fn refuse(&mut self, failure: Failure) -> io::Error {
        self.state = State::Refused(failure);
        io::ErrorKind::InvalidInput.into()
    }

    /// Waits for bytes, as long as their client may be silent.
    fn wait(&mut self) -> io::Result<()> {
        let now = time::now();
        if let Some(failure) = self.min_rate.refusal(now) {
            return Err(self.refuse(failure));
        }
        let patience = self.min_rate.next_look(now).saturating_duration_since(now);
        ready(&*self.stream, PollFlags::IN, Some(&self.cancel), patience).map(drop)
    }

    /// The next bytes of the socket into `ready`.
    fn fill(&mut self) -> io::Result<()> {
        self.scratch.resize(SCRATCH, 0);
        self.min_rate.ask(time::now());
        // Bytes that frame the body keep the socket busy, so slowness is looked for before each read.
        if let Some(failure) = self.min_rate.refusal(time::now()) {
            return Err(self.refuse(failure));
        }
        let came = loop {
            if self.cancel.is_cancelled() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            match (&*self.stream).read(&mut self.scratch) {
                Ok(0) => {
                    self.cancel.cancel();
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                Ok(n) => break n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.cancel.cancel();
                    return Err(e);
                }
            }
        };
        self.at = 0;
        self.ready.clear();
        let fed = self.decoder.feed(&self.scratch[..came], &mut self.ready);
        self.min_rate.moved(self.ready.len(), time::now());
        match fed {
            Ok(progress) => self.state = if progress.complete { State::Over } else { State::Coming },
            Err(failure) => return Err(self.refuse(failure)),
        }
        Ok(())
    }
}

impl Read for Upload {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.ready.len() {
            match &self.state {
                State::Over => return Ok(0),
                State::Refused(_) => return Err(io::ErrorKind::InvalidInput.into()),
                State::Untouched => self.state = State::Coming,
                State::Coming => {}
            }
            self.fill()?;
        }
        let n = (&self.ready[self.at..]).read(buf)?;
        self.at += n;
        Ok(n)
    }
}
