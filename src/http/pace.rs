//! How fast a request body comes, and when that is too slow. Knows no sockets.

use crate::model::failure::{Failure, Kind};
use std::time::{Duration, Instant};

/// Slower than this (bytes a second), after `bodyTimeout`, is no honest client (FAULTS A18).
const SLOWEST: u64 = 500;

/// The arrivals of one body.
pub(super) struct Pace {
    limit: Duration,
    since: Instant,
    last: Instant,
    bytes: u64,
}

impl Pace {
    /// A body that begins now and may be silent for `limit` (`server.bodyTimeout`).
    pub fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, since: now, last: now, bytes: 0 }
    }

    /// More is wanted from now on: the time in which nobody asked was not the client's.
    pub fn ask(&mut self, now: Instant) {
        self.since += now.saturating_duration_since(self.last);
        self.last = now;
    }

    /// So many bytes came.
    pub fn moved(&mut self, bytes: usize, now: Instant) {
        self.last = now;
        self.bytes += bytes as u64;
    }

    /// When to look again: silence is noticed when it is over the limit, slowness about four times in that time.
    pub fn next_look(&self, now: Instant) -> Instant {
        (self.last + self.limit).min((self.since + self.limit).max(now + self.limit / 4))
    }

    /// The refusal of a body that is too slow.
    pub fn refusal(&self, now: Instant) -> Option<Failure> {
        let elapsed = now.saturating_duration_since(self.since);
        let is_slow =
            elapsed >= self.limit && u128::from(self.bytes) * 1000 < u128::from(SLOWEST) * elapsed.as_millis();
        let text = match now.saturating_duration_since(self.last) {
            silence if silence >= self.limit => "did not arrive in time",
            _ if is_slow => "came too slowly",
            _ => return None,
        };
        let text = format!("The request body {text} (limit: {:?} of silence, {SLOWEST} bytes/s).", self.limit);
        Some(Failure::new(Kind::RequestTimeout, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;

    // A18
    #[test]
    fn silence_and_slowness_are_both_refused_and_honest_clients_are_not() {
        let (start, second) = (clock::now(), Duration::from_secs(1));
        let mut pace = Pace::new(10 * second, start);
        assert_eq!(pace.next_look(start), start + 10 * second);
        for n in 1..=30 {
            pace.moved(500, start + n * second);
            assert!(pace.refusal(start + n * second).is_none(), "{n}");
        }
        assert!(pace.refusal(start + 31 * second).is_some(), "31 s for 15,000 bytes");
        pace.moved(1 << 20, start + 31 * second);
        assert!(pace.refusal(start + 40 * second).is_none());
        assert!(pace.refusal(start + 41 * second).is_some(), "silent for 10 s");
    }

    #[test]
    fn a_client_that_nobody_asked_is_not_slow() {
        let (start, second) = (clock::now(), Duration::from_secs(1));
        let mut pace = Pace::new(10 * second, start);
        pace.moved(1000, start + second);
        pace.ask(start + 100 * second);
        assert!(pace.refusal(start + 102 * second).is_none(), "1,000 bytes in 3 s");
        pace.moved(1, start + 109 * second);
        assert!(pace.refusal(start + 110 * second).is_some(), "1,001 bytes in 11 s");
    }
}
