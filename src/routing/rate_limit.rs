//! Rate limits: token buckets, one or one for each client address. Time is an argument.

use crate::config::RateLimit;
use crate::util::budget::subnet_key;
use crate::util::lock::lock;
use crate::util::lru::Lru;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Addresses remembered for sure. Where more than this appear, those that were forgotten start anew.
const ADDRESSES: usize = 4_096;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    tokens: f64,
    at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Quota {
    pub(crate) granted: bool,
    /// Requests at once after a pause.
    pub(crate) limit: u32,
    /// Requests that would be granted now.
    pub(crate) remaining: u32,
    /// Until the bucket is full again.
    pub(crate) reset: Duration,
    /// Until one more is granted; zero when one would be now.
    pub(crate) retry_after: Duration,
}

impl Bucket {
    pub(crate) fn full(limit: &RateLimit, now: Instant) -> Self {
        Self { tokens: f64::from(limit.burst), at: now }
    }

    pub(crate) fn take(&mut self, limit: &RateLimit, now: Instant) -> Quota {
        let burst = f64::from(limit.burst);
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * limit.per_second;
        self.tokens = (self.tokens + earned).min(burst);
        self.at = self.at.max(now);
        // A token may be a rounding error short after exactly `retry_after`.
        let granted = self.tokens >= 1.0 - 1e-9;
        if granted {
            self.tokens = (self.tokens - 1.0).max(0.0);
        }
        let time_for = |tokens: f64| Duration::from_secs_f64((tokens / limit.per_second).clamp(0.0, 1e9));
        Quota {
            granted,
            limit: limit.burst,
            remaining: self.tokens as u32,
            reset: time_for(burst - self.tokens),
            retry_after: time_for(1.0 - self.tokens),
        }
    }
}

/// A bucket for each client address; IPv6 by /64. Bounded however many appear.
#[derive(Default)]
pub(crate) struct Buckets(Mutex<Lru<IpAddr, Bucket, ADDRESSES>>);

impl Buckets {
    pub(crate) fn take(&self, peer: IpAddr, limit: &RateLimit, now: Instant) -> Quota {
        let mut buckets = lock(&self.0);
        buckets.get_or_insert_with(subnet_key(peer), || Bucket::full(limit, now)).take(limit, now)
    }
}

#[cfg(test)]
mod tests;
