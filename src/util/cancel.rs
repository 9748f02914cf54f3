//! A client that has left: set once by whoever notices, heard at once by whoever works for that client.

use crate::util::lock::lock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

/// Something that can be interrupted from another thread: a socket that a worker is blocked on.
pub(crate) trait OnCancel: Send + Sync {
    /// Ends blocked reads and writes at once. Must not block itself.
    fn on_cancel(&self);
}

/// The flag of one request. Once the client has left it never comes back.
#[derive(Default)]
pub(crate) struct CancelToken {
    left: AtomicBool,
    upstream: Mutex<Option<Weak<dyn OnCancel>>>,
    changed: Condvar,
}

impl CancelToken {
    /// The client has left: hangs up what is attached and wakes who waits.
    pub(crate) fn cancel(&self) {
        // Under the lock: a line that was detached in time must not be hung up by a leave under way.
        let mut upstream = lock(&self.upstream);
        self.left.store(true, Ordering::SeqCst);
        self.changed.notify_all();
        if let Some(line) = upstream.take().and_then(|weak| weak.upgrade()) {
            line.on_cancel();
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }

    /// From now on a leaving client hangs this up; at once if it has left already.
    pub(crate) fn attach(&self, line: Weak<dyn OnCancel>) {
        let mut upstream = lock(&self.upstream);
        if self.is_cancelled() {
            drop(upstream);
            if let Some(line) = line.upgrade() {
                line.on_cancel();
            }
        } else {
            *upstream = Some(line);
        }
    }

    /// Nothing is to be hung up any more: the line goes back to its pool.
    pub(crate) fn detach(&self) {
        lock(&self.upstream).take();
    }

    /// Waits until the client leaves or `until` comes; tells whether it has left.
    pub(crate) fn wait_until(&self, until: Instant, now: impl Fn() -> Instant) -> bool {
        let mut upstream = lock(&self.upstream);
        while !self.is_cancelled() {
            let rest = until.saturating_duration_since(now());
            if rest == Duration::ZERO {
                break;
            }
            upstream = match self.changed.wait_timeout(upstream, rest) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        self.is_cancelled()
    }
}

#[cfg(test)]
mod tests;
