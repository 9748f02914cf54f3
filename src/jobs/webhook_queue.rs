//! The webhooks to deliver and when; one at a time per target, so that no target delays another. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// A webhook to deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) id: Arc<str>,
    pub(crate) attempts: u32,
    /// Host and port; empty until the job is read for the first time after a start.
    pub(crate) target: Arc<str>,
}

/// Waiting calls. Bounded by the finished jobs: the call of a removed job is dropped when it is due.
#[derive(Default)]
pub(crate) struct WebhookQueue {
    targets: HashMap<Arc<str>, Target>,
    /// The targets that are not being called, by their next call.
    ready: BTreeSet<(Instant, Arc<str>)>,
    count: u64,
}

#[derive(Default)]
struct Target {
    waiting: BTreeMap<(Instant, u64), Call>,
    is_called: bool,
}

impl Target {
    fn due(&self) -> Option<Instant> {
        self.waiting.keys().next().filter(|_| !self.is_called).map(|(due, _)| *due)
    }
}

impl WebhookQueue {
    /// Adds the webhook of a finished job.
    pub(crate) fn put_new(&mut self, id: Arc<str>, target: Arc<str>, due: Instant) {
        self.put(Call { id, attempts: 0, target }, due);
    }

    /// Adds a call that is due at a time.
    pub(crate) fn put(&mut self, call: Call, due: Instant) {
        self.count += 1;
        let place = (due, self.count);
        self.change(&Arc::clone(&call.target), |target| drop(target.waiting.insert(place, call)));
    }

    /// The call that is due first; its target gets no other one until [`WebhookQueue::done`].
    pub(crate) fn take(&mut self, now: Instant) -> Option<Call> {
        let (_, target) = self.ready.first().filter(|(due, _)| *due <= now)?.clone();
        self.change(&target, |target| {
            target.is_called = true;
            target.waiting.pop_first().map(|(_, call)| call)
        })
    }

    /// A call has ended.
    pub(crate) fn done(&mut self, target: &Arc<str>) {
        self.change(target, |target| target.is_called = false);
    }

    /// When the next call is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.ready.first().map(|(due, _)| *due)
    }

    fn change<T>(&mut self, name: &Arc<str>, change: impl FnOnce(&mut Target) -> T) -> T {
        let target = self.targets.entry(Arc::clone(name)).or_default();
        let before = target.due();
        let result = change(target);
        let after = target.due();
        let is_over = target.waiting.is_empty() && !target.is_called;
        if before != after {
            before.map(|due| self.ready.remove(&(due, Arc::clone(name))));
            after.map(|due| self.ready.insert((due, Arc::clone(name))));
        }
        if is_over {
            self.targets.remove(name);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::time;
    use std::time::Duration;

    // U19
    #[test]
    fn one_target_is_called_once_at_a_time_and_others_go_ahead() {
        let (mut queue, now) = (WebhookQueue::default(), time::now());
        let call = |id: &str, target: &str| Call { id: id.into(), attempts: 0, target: target.into() };
        for (id, target) in [("1", "slow"), ("2", "slow"), ("3", "quick"), ("4", "slow")] {
            queue.put(call(id, target), now);
        }
        let ids = |queue: &mut WebhookQueue, now| {
            std::iter::from_fn(|| queue.take(now)).map(|call| call.id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(ids(&mut queue, now), ["3", "1"]);
        queue.done(&"quick".into());
        assert_eq!((queue.targets.len(), queue.next_due()), (1, None));
        queue.put(call("5", "quick"), now);
        assert_eq!(ids(&mut queue, now), ["5"]);
        // A try that failed comes after those that are due.
        queue.put(Call { attempts: 1, ..call("1", "slow") }, now + Duration::from_secs(1));
        for id in ["2", "4"] {
            queue.done(&"slow".into());
            assert_eq!(ids(&mut queue, now), [id]);
        }
        queue.done(&"slow".into());
        queue.done(&"quick".into());
        assert_eq!((ids(&mut queue, now).len(), queue.next_due()), (0, Some(now + Duration::from_secs(1))));
        assert_eq!(ids(&mut queue, now + Duration::from_secs(1)), ["1"]);
        queue.done(&"slow".into());
        assert!(queue.targets.is_empty() && queue.ready.is_empty());
    }
}
