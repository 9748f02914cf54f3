//! Client keys, their scopes and limits.

use crate::config::{self, KeyText, RateLimit};
use crate::routing::rate_limit::{Bucket, Buckets, Quota};
use crate::routing::scope::Scope;
use crate::util::lock::lock;
use crate::util::secret::same;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

/// Wrong keys per address and minute (SPEC section 3).
const GUESSES: RateLimit = RateLimit { per_second: 20.0 / 60.0, burst: 20 };

#[derive(Default)]
pub(crate) struct KeyRing {
    keys: Vec<(KeyText, ClientKey)>,
    wrong: Arc<Buckets>,
}

/// The counters of a key, kept across reloads.
#[derive(Default)]
struct Usage {
    in_progress: AtomicU32,
    bucket: Mutex<Option<Bucket>>,
}

/// The rights of a client. Does not contain the key.
#[derive(Clone, Default)]
pub(crate) struct ClientKey {
    /// `None` if no keys are configured.
    pub(crate) name: Option<Arc<str>>,
    pub(crate) scope: Arc<Scope>,
    pub(crate) background: bool,
    /// It may use the page.
    pub(crate) admin: bool,
    max_parallel: Option<u32>,
    rate_limit: Option<RateLimit>,
    usage: Arc<Usage>,
}

/// Counts towards `maxParallel` until dropped.
pub(crate) struct Permit(Arc<Usage>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_progress.fetch_sub(1, Ordering::Relaxed);
    }
}

impl KeyRing {
    /// The keys of a configuration. Counters are kept by name.
    pub(crate) fn new(keys: &[config::ClientKey], before: Option<&Self>) -> Self {
        let client_key = |key: &config::ClientKey| ClientKey {
            name: Some(key.name.as_str().into()),
            scope: Arc::new(Scope { models: key.models.clone(), endpoints: key.endpoints.clone(), group: None }),
            background: key.background,
            admin: key.admin,
            max_parallel: key.max_parallel,
            rate_limit: key.rate_limit,
            usage: before.and_then(|ring| Some(Arc::clone(&ring.named(&key.name)?.usage))).unwrap_or_default(),
        };
        let keys = keys.iter().map(|key| (key.key.clone(), client_key(key))).collect();
        Self { keys, wrong: before.map(|before| Arc::clone(&before.wrong)).unwrap_or_default() }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// Finds a key in constant time, whether it is known or not.
    pub(crate) fn identify(&self, shown: &str) -> Option<ClientKey> {
        let digest = ring::digest::digest(&ring::digest::SHA256, shown.as_bytes());
        let mut found = None;
        for (text, client_key) in &self.keys {
            let is_it = match text {
                KeyText::Plain(key) => same(key.reveal().as_bytes(), shown.as_bytes()),
                KeyText::Sha256(hash) => same(hash, digest.as_ref()),
            };
            if is_it {
                found = Some(client_key);
            }
        }
        found.cloned()
    }

    pub(crate) fn named(&self, name: &str) -> Option<&ClientKey> {
        self.keys.iter().map(|(_, client_key)| client_key).find(|known| known.name.as_deref() == Some(name))
    }

    /// Counts a wrong key from an address, and returns how long the address is locked out, if it is.
    pub(crate) fn guessed(&self, peer: IpAddr, now: Instant) -> Option<Duration> {
        let quota = self.wrong.take(peer, &GUESSES, now);
        (!quota.granted).then_some(quota.retry_after)
    }
}

/// The rights of a client where no key is required.
static ANYBODY: LazyLock<ClientKey> = LazyLock::new(ClientKey::default);

impl ClientKey {
    pub(crate) fn anybody() -> Self {
        ANYBODY.clone()
    }

    /// The rights that come with the page's token.
    pub(crate) fn administrator() -> Self {
        Self { admin: true, ..Self::anybody() }
    }

    pub(crate) fn is_limited(&self) -> bool {
        !self.scope.models.is_empty() || !self.scope.endpoints.is_empty()
    }

    pub(crate) fn take(&self, now: Instant) -> Option<Quota> {
        let limit = self.rate_limit?;
        let mut bucket = lock(&self.usage.bucket);
        Some(bucket.get_or_insert_with(|| Bucket::full(&limit, now)).take(&limit, now))
    }

    /// A right to be in progress; `None` when `maxParallel` are already.
    pub(crate) fn enter(&self) -> Option<Permit> {
        let before = self.usage.in_progress.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(Arc::clone(&self.usage));
        self.max_parallel.is_none_or(|most| before < most).then_some(permit)
    }
}

#[cfg(test)]
mod tests;
