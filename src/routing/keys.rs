//! Client keys: what each may see, and how much at once. Knows no headers.

use crate::config::{self, KeyText, RateLimit};
use crate::routing::rate_limit::{Bucket, Buckets, Quota};
use crate::routing::scope::Scope;
use crate::util::lock::lock;
use crate::util::secret::same;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

/// Wrong keys of one address (SPEC section 3): 20 a minute.
const GUESSES: RateLimit = RateLimit { per_second: 20.0 / 60.0, burst: 20 };

#[derive(Default)]
pub(crate) struct KeyRing {
    keys: Vec<(KeyText, ClientKey)>,
    wrong: Arc<Buckets>,
}

/// What a key is being used for; outlives reloads.
#[derive(Default)]
struct Usage {
    in_progress: AtomicU32,
    bucket: Mutex<Option<Bucket>>,
}

/// The rights of a client. Never holds the key.
#[derive(Clone, Default)]
pub(crate) struct ClientKey {
    /// The key's name; none where no keys are configured.
    pub(crate) name: Option<Arc<str>>,
    pub(crate) scope: Arc<Scope>,
    pub(crate) background: bool,
    /// It may use the admin page.
    pub(crate) admin: bool,
    max_parallel: Option<u32>,
    rate_limit: Option<RateLimit>,
    usage: Arc<Usage>,
}

/// A right to be in progress, given back when dropped.
pub(crate) struct Permit(Arc<Usage>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_progress.fetch_sub(1, Ordering::Relaxed);
    }
}

impl KeyRing {
    /// The keys of a configuration; counts go on by name.
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

    /// Whose key this is. Takes the same time whichever it is, or none.
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

    /// A wrong key came from an address; how long it must wait if it has guessed too often.
    pub(crate) fn guessed(&self, peer: IpAddr, now: Instant) -> Option<Duration> {
        let quota = self.wrong.take(peer, &GUESSES, now);
        (!quota.granted).then_some(quota.retry_after)
    }
}

/// Of a client where no key is needed; made once, since most requests need one.
static ANYBODY: LazyLock<ClientKey> = LazyLock::new(ClientKey::default);

impl ClientKey {
    pub(crate) fn anybody() -> Self {
        ANYBODY.clone()
    }

    /// Of the page's token: nothing is hidden.
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
