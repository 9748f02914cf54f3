//! The rest of a large body, which a worker reads while it forwards it, within the time limits of every body; and those
//! limits.

use crate::api::chunked::Decoder;
use crate::api::errors::{Failure, Kind};
use crate::util::cancel::{CancelToken, PollFlags, ready};
use crate::util::time;
use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bodies up to this size are read whole first, so that several endpoints can be tried.
pub(super) const LARGE: usize = 1 << 20;
const SCRATCH: usize = 64 << 10;
/// Its connection serves no other request.
pub(crate) struct Upload {
    stream: Arc<TcpStream>,
    decoder: Decoder,
    min_rate: MinRate,
    cancel: Arc<CancelToken>,
    /// Raw input, one read.
    scratch: Vec<u8>,
    /// Decoded input, consumed up to `at`.
    ready: Vec<u8>,
    at: usize,
    state: State,
    _permit: Arc<()>,
}

enum State {
    Untouched,
    Coming,
    Over,
    Refused(Failure),
}

impl Upload {
    /// `permit` counts it in `Rules::uploads`.
    pub(super) fn new(stream: Arc<TcpStream>, decoder: Decoder, min_rate: MinRate, permit: Arc<()>) -> Self {
        let (cancel, state, scratch, ready) = (Arc::default(), State::Untouched, Vec::new(), Vec::new());
        Self { stream, decoder, min_rate, cancel, scratch, ready, at: 0, state, _permit: permit }
    }

    pub(super) fn cancel_with(&mut self, cancel: &Arc<CancelToken>) {
        self.cancel = Arc::clone(cancel);
    }

    /// Bytes to come, if the client declared a length.
    pub(crate) fn length(&self) -> Option<u64> {
        self.decoder.missing()
    }

    /// Nothing was read yet, so any endpoint can still get the whole body.
    pub(crate) fn is_untouched(&self) -> bool {
        matches!(self.state, State::Untouched)
    }

    /// Why it ended early, when the client is to blame.
    pub(crate) fn refusal(&self) -> Option<&Failure> {
        if let State::Refused(failure) = &self.state { Some(failure) } else { None }
    }

    fn refuse(&mut self, failure: Failure) -> io::Error {
        self.state = State::Refused(failure);
        io::ErrorKind::InvalidInput.into()
    }

    /// Waits for input within the limits of `MinRate`.
    fn wait(&mut self) -> io::Result<()> {
        let now = time::now();
        if let Some(failure) = self.min_rate.refusal(now) {
            return Err(self.refuse(failure));
        }
        let patience = self.min_rate.next_look(now).saturating_duration_since(now);
        ready(&*self.stream, PollFlags::IN, Some(&self.cancel), patience).map(drop)
    }

    fn fill(&mut self) -> io::Result<()> {
        self.scratch.resize(SCRATCH, 0);
        self.min_rate.ask(time::now());
        // Checked before each read, since chunk framing alone can keep the socket readable.
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

/// Minimum bytes per second over any window of `bodyTimeout` (FAULTS A18).
const SLOWEST: u64 = 500;
/// Steps of the sliding window: a body that turns slow is refused after 5/4 of `bodyTimeout` at the latest.
const STEPS: u32 = 4;

pub(super) struct MinRate {
    limit: Duration,
    last: Instant,
    /// When input was last asked for or came.
    watched: Instant,
    /// Start of the current step, and its bytes.
    step: Instant,
    bytes: u64,
    /// Bytes of the previous steps, oldest first. Steps before the start of the body count as fast enough.
    window: [u64; STEPS as usize],
    slow: bool,
}

impl MinRate {
    /// `limit` is `server.bodyTimeout`: the longest silence.
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        let window = [needed(limit); STEPS as usize];
        Self { limit, last: now, watched: now, step: now, bytes: 0, window, slow: false }
    }

    /// Input is wanted again; the time since the last input does not count against the client.
    pub(crate) fn ask(&mut self, now: Instant) {
        let pause = now.saturating_duration_since(self.watched);
        self.step += pause;
        self.last += pause;
        self.watched = now;
    }

    /// Counts decoded bytes; chunk framing is no progress.
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
        // An empty window is slow, so this ends after `STEPS` turns.
        while !self.slow && now >= self.step + step {
            self.step += step;
            self.window.rotate_left(1);
            self.window[STEPS as usize - 1] = std::mem::take(&mut self.bytes);
            self.slow = self.window.iter().sum::<u64>() < needed(self.limit);
        }
    }

    /// When to check again: at the end of the step or of the longest silence.
    pub(crate) fn next_look(&self, now: Instant) -> Instant {
        if self.slow { now } else { (self.last + self.limit).min(self.step + self.limit / STEPS) }
    }

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

/// Minimum bytes per window.
fn needed(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis()).map_or(u64::MAX, |ms| SLOWEST.saturating_mul(ms) / 1000).clamp(1, u64::MAX / 8)
}

#[cfg(test)]
mod tests;
