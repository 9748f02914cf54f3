//! How fast a request body comes, and when that is too slow. Knows no sockets.

use crate::api::errors::{Failure, Kind};
use std::time::{Duration, Instant};

/// Fewer bytes a second than this, over any window of `bodyTimeout`, are too slow (FAULTS A18).
const SLOWEST: u64 = 500;
/// The window moves on in so many steps, so a body that turns slow is refused after 5/4 of `bodyTimeout` at the latest.
const STEPS: u32 = 4;

/// The arrivals of one body.
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
    pub fn new(limit: Duration, now: Instant) -> Self {
        let window = [needed(limit); STEPS as usize];
        Self { limit, last: now, watched: now, step: now, bytes: 0, window, slow: false }
    }

    /// More is wanted from now on: the time in which nobody asked was not the client's.
    pub fn ask(&mut self, now: Instant) {
        let pause = now.saturating_duration_since(self.watched);
        self.step += pause;
        self.last += pause;
        self.watched = now;
    }

    /// So many bytes of the body itself came. What frames them is no progress.
    pub fn moved(&mut self, bytes: usize, now: Instant) {
        self.watched = now;
        if bytes > 0 {
            self.last = now;
            self.bytes += bytes as u64;
        }
        self.pass(now);
    }

    /// Moves the window on.
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
    pub fn next_look(&self, now: Instant) -> Instant {
        if self.slow { now } else { (self.last + self.limit).min(self.step + self.limit / STEPS) }
    }

    /// The refusal of a body that is too slow.
    pub fn refusal(&mut self, now: Instant) -> Option<Failure> {
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
mod tests {
    use super::*;
    use crate::util::time;

    const SECOND: Duration = Duration::from_secs(1);

    /// The second in which a body is refused that brings `bytes(n)` in its n-th second.
    fn refused(bytes: impl Fn(u32) -> usize) -> Option<u32> {
        let start = time::now();
        let mut pace = MinRate::new(10 * SECOND, start);
        (1..=200).find(|n| {
            let now = start + *n * SECOND;
            pace.moved(bytes(*n), now);
            let refused = pace.refusal(now).is_some();
            assert_eq!(refused, pace.next_look(now) <= now, "a refusal is not waited for");
            refused
        })
    }

    // A18
    #[test]
    fn silence_and_slowness_are_both_refused_and_honest_clients_are_not() {
        assert_eq!(refused(|_| 500), None);
        assert_eq!(refused(|_| 0), Some(10));
        assert_eq!(refused(|_| 499), Some(10));
        assert_eq!(refused(|n| if n % 5 == 0 { 2500 } else { 0 }), None, "four silent seconds, then what is due");
    }

    // U38
    #[test]
    fn what_came_before_buys_no_time() {
        assert!(refused(|n| if n == 1 { 32 << 20 } else { 1 }).is_some_and(|n| n <= 14));
        assert!(refused(|n| if n == 1 { 32 << 20 } else { usize::from(n % 9 == 0) }).is_some_and(|n| n <= 14));
        assert!(refused(|n| if n <= 100 { 1 << 20 } else { 100 }).is_some_and(|n| n <= 113));
        assert_eq!(refused(|n| if n == 1 { 32 << 20 } else { 0 }), Some(11), "silence counts to the moment");
    }

    // U38
    #[test]
    fn framing_is_no_progress() {
        let start = time::now();
        let mut pace = MinRate::new(10 * SECOND, start);
        pace.moved(9000, start);
        for n in 1..25 {
            pace.ask(start + (n - 1) * SECOND * 2 / 5);
            pace.moved(0, start + n * SECOND * 2 / 5);
        }
        assert!(pace.refusal(start + 9 * SECOND).is_none());
        assert!(pace.refusal(start + 10 * SECOND).is_some());
    }

    #[test]
    fn a_client_that_nobody_asked_is_not_slow() {
        let start = time::now();
        let mut pace = MinRate::new(10 * SECOND, start);
        pace.moved(1000, start + SECOND);
        pace.ask(start + 100 * SECOND);
        assert!(pace.refusal(start + 102 * SECOND).is_none(), "1,000 bytes in 3 s");
        pace.moved(1, start + 109 * SECOND);
        assert!(pace.refusal(start + 112 * SECOND).is_some(), "1,001 bytes in 13 s");
    }
}
