//! A client that has left: set once by whoever notices, heard at once by whoever works for that client.

use crate::util::lock::lock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

/// Something that can be interrupted from another thread: a socket that a worker is blocked on.
pub trait OnCancel: Send + Sync {
    /// Ends blocked reads and writes at once. Must not block itself.
    fn on_cancel(&self);
}

/// The flag of one request. Once the client has left it never comes back.
#[derive(Default)]
pub struct CancelToken {
    left: AtomicBool,
    upstream: Mutex<Option<Weak<dyn OnCancel>>>,
    changed: Condvar,
}

impl CancelToken {
    /// The client has left: hangs up what is attached and wakes who waits.
    pub fn cancel(&self) {
        // Under the lock: a line that was detached in time must not be hung up by a leave under way.
        let mut upstream = lock(&self.upstream);
        self.left.store(true, Ordering::SeqCst);
        self.changed.notify_all();
        if let Some(line) = upstream.take().and_then(|weak| weak.upgrade()) {
            line.on_cancel();
        }
    }

    /// Whether the client has left.
    pub fn is_cancelled(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }

    /// From now on a leaving client hangs this up; at once if it has left already.
    pub fn attach(&self, line: Weak<dyn OnCancel>) {
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
    pub fn detach(&self) {
        lock(&self.upstream).take();
    }

    /// Waits until the client leaves or `until` comes; tells whether it has left.
    pub fn wait_until(&self, until: Instant, now: impl Fn() -> Instant) -> bool {
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
mod tests {
    use super::*;
    use crate::util::time;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Line(AtomicUsize);

    impl OnCancel for Line {
        fn on_cancel(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn weak(line: &Arc<Line>) -> Weak<dyn OnCancel> {
        let line: Arc<dyn OnCancel> = Arc::clone(line) as _;
        Arc::downgrade(&line)
    }

    #[test]
    fn a_leaving_client_hangs_up_what_is_attached_once() {
        let (gone, line) = (CancelToken::default(), Arc::new(Line::default()));
        gone.attach(weak(&line));
        gone.cancel();
        gone.cancel();
        assert_eq!(line.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_line_attached_too_late_is_hung_up_at_once() {
        let (gone, line) = (CancelToken::default(), Arc::new(Line::default()));
        gone.cancel();
        gone.attach(weak(&line));
        assert_eq!(line.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_detached_line_is_left_alone() {
        let (gone, line) = (CancelToken::default(), Arc::new(Line::default()));
        gone.attach(weak(&line));
        gone.detach();
        gone.cancel();
        assert_eq!(line.0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_wait_ends_when_the_client_leaves() {
        let gone = Arc::new(CancelToken::default());
        let other = Arc::clone(&gone);
        let leaver = std::thread::spawn(move || other.cancel());
        assert!(gone.wait_until(time::now() + Duration::from_secs(60), time::now));
        leaver.join().expect("the leaver does not panic");
    }
}
