//! Things a test waits for: facts with a deadline, never time. Knows nothing of HTTP.

use crossbeam_channel::{Receiver, Sender, bounded};
use llmproxy::util::time;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long any fact may take on a loaded machine before the test says what is missing.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A value that other threads change and a test waits for.
pub struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    pub fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changed: Condvar::new() }
    }

    /// Changes the value and wakes all who wait.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Looks without changing.
    pub fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock())
    }

    /// Waits until `found` gives something.
    pub fn wait<R>(&self, what: &str, mut found: impl FnMut(&mut T) -> Option<R>) -> R {
        let end = time::now() + DEADLINE;
        let mut value = self.lock();
        loop {
            if let Some(result) = found(&mut value) {
                return result;
            }
            let left = end.saturating_duration_since(time::now());
            assert!(!left.is_zero(), "waited {DEADLINE:?} in vain for {what}");
            value = self.changed.wait_timeout(value, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that happens once; keeps when.
#[derive(Clone)]
pub struct Fact(Arc<Watched<Option<Instant>>>);

impl Fact {
    pub fn new() -> Self {
        Self(Arc::new(Watched::new(None)))
    }

    pub fn happen(&self) {
        self.0.update(|at| at.get_or_insert_with(time::now).to_owned());
    }

    pub fn happened(&self) -> bool {
        self.0.read(Option::is_some)
    }

    /// Waits for it and tells when it happened.
    pub fn wait(&self, what: &str) -> Instant {
        self.0.wait(what, |at| *at)
    }
}

/// A barrier in a script: closed until the test opens it, for everyone and for ever.
#[derive(Clone)]
pub struct Latch {
    key: Arc<Mutex<Option<Sender<()>>>>,
    closed: Receiver<()>,
}

impl Latch {
    pub fn new() -> Self {
        let (key, closed) = bounded(0);
        Self { key: Arc::new(Mutex::new(Some(key))), closed }
    }

    pub fn open(&self) {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Disconnected once the latch is open; for `select!`.
    pub fn channel(&self) -> &Receiver<()> {
        &self.closed
    }
}

/// How long something took.
pub fn timed<R>(act: impl FnOnce() -> R) -> (R, Duration) {
    let start = time::now();
    let result = act();
    (result, time::now() - start)
}

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
