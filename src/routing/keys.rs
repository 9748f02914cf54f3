//! Who asks: client keys, what each may see, and how much at once. Knows no headers.

use crate::config::{self, KeyText, RateLimit};
use crate::routing::rate_limit::{Bucket, Buckets, Quota};
use crate::routing::scope::Scope;
use crate::util::lock::lock;
use crate::util::secret::{Secret, same};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Wrong keys of one address (SPEC section 3): 20 a minute.
const GUESSES: RateLimit = RateLimit { per_second: 20.0 / 60.0, burst: 20 };

/// Every client key of a configuration. None = everybody may come in.
#[derive(Default)]
pub(crate) struct KeyRing {
    keys: Vec<Known>,
    wrong: Arc<Buckets>,
}

struct Known {
    config: config::ClientKey,
    scope: Arc<Scope>,
    use_of: Arc<Use>,
}

/// What a key is being used for; outlives reloads.
#[derive(Default)]
struct Use {
    at_once: AtomicU32,
    bucket: Mutex<Option<Bucket>>,
}

/// One who asks. Never holds the key.
#[derive(Clone)]
pub(crate) struct ClientKey {
    /// The key's name; none where no keys are configured.
    pub(crate) name: Option<Arc<str>>,
    pub(crate) scope: Arc<Scope>,
    pub(crate) background: bool,
    /// It may use the admin page.
    pub(crate) admin: bool,
    max_parallel: Option<u32>,
    rate_limit: Option<RateLimit>,
    use_of: Option<Arc<Use>>,
}

/// A right to be in progress, given back when dropped.
pub(crate) struct Permit(Option<Arc<Use>>);

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(used) = &self.0 {
            used.at_once.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl KeyRing {
    /// The callers of a configuration; counts go on by name.
    pub(crate) fn new(keys: &[config::ClientKey], before: Option<&Self>) -> Self {
        let use_of = |name: &str| {
            let old = before?.keys.iter().find(|known| known.config.name == name)?;
            Some(Arc::clone(&old.use_of))
        };
        let known = keys.iter().map(|key| Known {
            config: key.clone(),
            scope: Arc::new(Scope { models: key.models.clone(), endpoints: key.endpoints.clone(), group: None }),
            use_of: use_of(&key.name).unwrap_or_default(),
        });
        let wrong = before.map(|before| Arc::clone(&before.wrong)).unwrap_or_default();
        Self { keys: known.collect(), wrong }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whose key this is. Takes the same time whichever it is, or none.
    pub(crate) fn identify(&self, shown: &str) -> Option<ClientKey> {
        let digest = ring::digest::digest(&ring::digest::SHA256, shown.as_bytes());
        let shown = Secret::new(shown);
        let mut found = None;
        for known in &self.keys {
            let is_it = match &known.config.key {
                KeyText::Plain(key) => *key == shown,
                KeyText::Sha256(hash) => same(hash, digest.as_ref()),
            };
            if is_it {
                found = Some(known);
            }
        }
        found.map(Known::client_key)
    }

    /// What the key of this name may see, if there is one.
    pub(crate) fn scope_of(&self, name: &str) -> Option<Arc<Scope>> {
        self.keys.iter().find(|known| known.config.name == name).map(|known| Arc::clone(&known.scope))
    }

    /// A wrong key came from an address; how long it must wait if it has guessed too often.
    pub(crate) fn guessed(&self, peer: IpAddr, now: Instant) -> Option<Duration> {
        let left = self.wrong.take(peer, &GUESSES, now);
        (!left.granted).then_some(left.retry_after)
    }
}

impl Known {
    fn client_key(&self) -> ClientKey {
        ClientKey {
            name: Some(self.config.name.as_str().into()),
            scope: Arc::clone(&self.scope),
            background: self.config.background,
            admin: self.config.admin,
            max_parallel: self.config.max_parallel,
            rate_limit: self.config.rate_limit,
            use_of: Some(Arc::clone(&self.use_of)),
        }
    }
}

impl ClientKey {
    /// Who asks where nobody needs a key.
    pub(crate) fn anybody() -> Self {
        Self {
            name: None,
            scope: Arc::default(),
            background: false,
            admin: false,
            max_parallel: None,
            rate_limit: None,
            use_of: None,
        }
    }

    /// Who has the page's token: nothing is hidden from them.
    pub(crate) fn administrator() -> Self {
        Self { admin: true, ..Self::anybody() }
    }

    /// Whether the key opens only some models or endpoints.
    pub(crate) fn is_limited(&self) -> bool {
        !self.scope.models.is_empty() || !self.scope.endpoints.is_empty()
    }

    /// Takes one request out of the key's rate limit, if it has one.
    pub(crate) fn take(&self, now: Instant) -> Option<Quota> {
        let (limit, used) = (self.rate_limit?, self.use_of.as_ref()?);
        let mut bucket = lock(&used.bucket);
        Some(bucket.get_or_insert_with(|| Bucket::full(&limit, now)).take(&limit, now))
    }

    /// A right to be in progress; `None` when `maxParallel` are already.
    pub(crate) fn enter(&self) -> Option<Permit> {
        let Some(used) = &self.use_of else {
            return Some(Permit(None));
        };
        let before = used.at_once.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(Some(Arc::clone(used)));
        self.max_parallel.is_none_or(|most| before < most).then_some(permit)
    }
}

#[cfg(test)]
mod tests;
