//! How fast a request body comes, and when that is too slow. Knows no sockets.

use crate::api::errors::{Failure, Kind};
use std::time::{Duration, Instant};

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
