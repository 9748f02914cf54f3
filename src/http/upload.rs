//! What of a large body is still with its client: a worker reads it while it sends it on. Waits, within the bounds that
//! collected bodies have too; how slow any body may come is decided here.

use crate::api::chunked::Decoder;
use crate::api::errors::{Failure, Kind};
use crate::util::cancel::{CancelToken, PollFlags, ready};
use crate::util::time;
use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// Fewer bytes a second than this, over any window of `bodyTimeout`, are too slow (FAULTS A18).
const SLOWEST: u64 = 500;
/// The window moves on in so many steps, so a body that turns slow is refused after 5/4 of `bodyTimeout` at the latest.
const STEPS: u32 = 4;

pub(super) struct MinRate {
    limit: Duration,
    /// When the last byte of the body came.
    last: Instant,
    /// Until when its arrival was watched.
    watched: Instant,
    /// When the current step began, and the bytes that came in it.
    step: Instant,
    bytes: u64,
    /// Bytes of the steps before it, the oldest first. Those before the beginning count as fast enough.
    window: [u64; STEPS as usize],
    slow: bool,
}

impl MinRate {
    /// A body that begins now and may be silent for `limit` (`server.bodyTimeout`).
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        let window = [needed(limit); STEPS as usize];
        Self { limit, last: now, watched: now, step: now, bytes: 0, window, slow: false }
    }

    /// More is wanted from now on: the time in which nobody asked was not the client's.
    pub(crate) fn ask(&mut self, now: Instant) {
        let pause = now.saturating_duration_since(self.watched);
        self.step += pause;
        self.last += pause;
        self.watched = now;
    }

    /// So many bytes of the body itself came. What frames them is no progress.
    pub(crate) fn moved(&mut self, bytes: usize, now: Instant) {
        self.watched = now;
        if bytes > 0 {
            self.last = now;
            self.bytes += bytes as u64;
        }
        self.pass(now);
    }

    fn pass(&mut self, now: Instant) {
        let step = self.limit / STEPS;
        // A window without bytes is slow, so this ends after `STEPS` turns.
        while !self.slow && now >= self.step + step {
            self.step += step;
            self.window.rotate_left(1);
            self.window[STEPS as usize - 1] = std::mem::take(&mut self.bytes);
            self.slow = self.window.iter().sum::<u64>() < needed(self.limit);
        }
    }

    /// When to look again: at the end of the longest silence and of each step.
    pub(crate) fn next_look(&self, now: Instant) -> Instant {
        if self.slow { now } else { (self.last + self.limit).min(self.step + self.limit / STEPS) }
    }

    /// The refusal of a body that is too slow.
    pub(crate) fn refusal(&mut self, now: Instant) -> Option<Failure> {
        self.pass(now);
        let text = match now.saturating_duration_since(self.last) {
            silence if silence >= self.limit => "did not arrive in time",
            _ if self.slow => "came too slowly",
            _ => return None,
        };
        let text = format!("The request body {text} (limit: {:?} of silence, {SLOWEST} bytes/s).", self.limit);
        Some(Failure::new(Kind::RequestTimeout, text))
    }
}

/// Bytes that a window must bring, at least one.
fn needed(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis()).map_or(u64::MAX, |ms| SLOWEST.saturating_mul(ms) / 1000).clamp(1, u64::MAX / 8)
}

#[cfg(test)]
mod tests;
