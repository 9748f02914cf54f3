//! Token buckets for rate limits. Time is an argument.

use crate::config::RateLimit;
use crate::util::budget::subnet_key;
use crate::util::lock::lock;
use crate::util::lru::Lru;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Remembered addresses. Beyond that the oldest are forgotten and start with a full bucket.
const ADDRESSES: usize = 4_096;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    tokens: f64,
    at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Quota {
    pub(crate) granted: bool,
    /// The burst after a pause.
    pub(crate) limit: u32,
    /// The number of requests that would be granted now.
    pub(crate) remaining: u32,
    /// The time until the bucket is full.
    pub(crate) reset: Duration,
    /// The time until the next request is granted; zero if it would be now.
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
        // After exactly `retry_after` a rounding error may be missing.
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

/// One bucket per client address, or per /64 for IPv6. Bounded.
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
