//! Which jobs there are and in what order they run. Pure: no disk, no thread, no clock.

use super::record::{Name, State};
use crate::util::cancel::CancelToken;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// Finished jobs that are kept at most, whatever `retention` says: the oldest go first.
const MOST_FINISHED: usize = 200_000;
/// Bytes of all jobs together. Beyond it the oldest finished ones are removed; if that is not enough, new jobs are refused.
pub(crate) const MOST_BYTES: u64 = 8 << 30;

#[derive(Default)]
pub(crate) struct Queue {
    known: HashMap<Arc<str>, Entry>,
    /// By order of arrival, so that a position is found by binary search; bounded by `maxQueued`, and what a start finds.
    waiting: VecDeque<(u64, Arc<str>)>,
    /// Bounded by `maxConcurrent`.
    running: HashMap<Arc<str>, Running>,
    /// By the second they ended.
    finished: BTreeMap<(u64, u64), Arc<str>>,
    /// Of each owner, by order of arrival.
    owners: HashMap<Arc<str>, VecDeque<(u64, Arc<str>)>>,
    counts: [usize; 4],
    bytes: u64,
    last: u64,
}

struct Entry {
    sequence: u64,
    number: u64,
    bytes: u64,
    owner: Arc<str>,
    state: State,
    webhook_pending: bool,
}

#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) cancel: Arc<CancelToken>,
    pub(crate) until: Instant,
    pub(crate) reason: Option<StopReason>,
}

/// Why a job in progress was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    Cancelled,
    Late,
    /// The proxy is stopping; the job runs after the next start.
    Stopping,
}

impl Queue {
    /// Empty, with capacity for so many jobs.
    pub(crate) fn with_capacity(jobs: usize) -> Self {
        Self { known: HashMap::with_capacity(jobs), ..Self::default() }
    }

    /// Adds a job, new or from the disk; it replaces the entry of the same id.
    pub(crate) fn put(&mut self, name: &Name, bytes: u64) {
        self.take_out(&name.id);
        let Name { sequence, id, owner, state, number, webhook_pending } = name.clone();
        self.counts[state as usize] += 1;
        self.bytes += bytes;
        self.last = self.last.max(sequence);
        // All jobs of an owner share one copy of the name.
        let owner = self.owners.get_key_value(&owner).map_or(owner, |(known, _)| Arc::clone(known));
        insert(self.owners.entry(Arc::clone(&owner)).or_default(), sequence, &id);
        match state {
            State::Pending => insert(&mut self.waiting, sequence, &id),
            State::Completed | State::Error => {
                self.finished.insert((number, sequence), Arc::clone(&id));
            }
            State::Processing => {}
        }
        self.known.insert(id, Entry { sequence, number, bytes, owner, state, webhook_pending });
    }

    pub(crate) fn take_out(&mut self, id: &str) -> Option<Name> {
        let name = self.name(id)?;
        let entry = self.known.remove(id)?;
        self.counts[entry.state as usize] -= 1;
        self.bytes -= entry.bytes;
        match entry.state {
            State::Pending => remove(&mut self.waiting, entry.sequence),
            _ => drop(self.finished.remove(&(entry.number, entry.sequence))),
        }
        if let Some(all) = self.owners.get_mut(&entry.owner) {
            remove(all, entry.sequence);
            if all.is_empty() {
                self.owners.remove(&entry.owner);
            }
        }
        Some(name)
    }

    pub(crate) fn name(&self, id: &str) -> Option<Name> {
        let (id, entry) = self.known.get_key_value(id)?;
        let Entry { sequence, number, ref owner, state, webhook_pending, .. } = *entry;
        Some(Name { sequence, id: Arc::clone(id), owner: Arc::clone(owner), state, number, webhook_pending })
    }

    pub(crate) fn size(&self, id: &str) -> u64 {
        self.known.get(id).map_or(0, |entry| entry.bytes)
    }

    /// The sequence number of a job submitted in this millisecond.
    pub(crate) fn next_sequence(&mut self, millis: u64) -> u64 {
        self.last = (millis << 16).max(self.last + 1);
        self.last
    }

    /// Starts the job at the head of the queue, if there is one and fewer than `most` run.
    pub(super) fn start(&mut self, most: usize, run: impl FnOnce() -> Running) -> Option<Name> {
        if self.running.len() >= most {
            return None;
        }
        let (_, id) = self.waiting.front()?;
        let id = Arc::clone(id);
        self.running.insert(Arc::clone(&id), run());
        let name = self.name(&id)?;
        let bytes = self.known[&id].bytes;
        self.put(&name.to(State::Processing, name.number + 1), bytes);
        Some(name)
    }

    pub(crate) fn running(&self, id: &str) -> Option<&Running> {
        self.running.get(id)
    }

    /// Ends a job in progress. Of several reasons the first one counts.
    pub(crate) fn interrupt(&mut self, id: &str, reason: StopReason) {
        if let Some(running) = self.running.get_mut(id) {
            running.reason.get_or_insert(reason);
            running.cancel.cancel();
        }
    }

    /// Interrupts the running jobs whose deadline `late` accepts.
    pub(crate) fn interrupt_all(&mut self, reason: StopReason, late: impl Fn(Instant) -> bool) {
        for running in self.running.values_mut().filter(|running| late(running.until)) {
            running.reason.get_or_insert(reason);
            running.cancel.cancel();
        }
    }

    /// A job is no longer in progress; why it was interrupted, if it was.
    pub(crate) fn done(&mut self, id: &str) -> Option<StopReason> {
        self.running.remove(id)?.reason
    }

    pub(crate) fn active(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Its position in the queue, from 1; 0 once it runs or is about to.
    pub(crate) fn position(&self, id: &str, most: usize) -> usize {
        let Some(entry) = self.known.get(id).filter(|entry| entry.state == State::Pending) else {
            return 0;
        };
        let rank = place_of(&self.waiting, entry.sequence) + 1;
        rank.saturating_sub(most.saturating_sub(self.running.len()))
    }

    pub(crate) fn counts(&self) -> [usize; 4] {
        self.counts
    }

    /// Whether so many bytes more fit.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.bytes + bytes <= MOST_BYTES
    }

    /// The finished jobs that must go: those that ended before this second, and the oldest beyond the bounds.
    pub(crate) fn expired(&self, before: u64, bytes: u64) -> Vec<Arc<str>> {
        let (mut left, mut size) = (self.finished.len(), self.bytes + bytes);
        let mut out = Vec::new();
        for (&(ended, _), id) in &self.finished {
            if ended >= before && left <= MOST_FINISHED && size <= MOST_BYTES {
                break;
            }
            left -= 1;
            size = size.saturating_sub(self.known[id].bytes);
            out.push(Arc::clone(id));
        }
        out
    }

    /// The jobs of an owner that came before this one, the newest first.
    pub(crate) fn of(&self, owner: &str, before: u64) -> impl Iterator<Item = Name> {
        let all = self.owners.get(owner).into_iter();
        let all = all.flat_map(move |all| all.range(..place_of(all, before)).rev());
        all.filter_map(|(_, id)| self.name(id))
    }

    /// Finished jobs whose webhook is still to be delivered.
    pub(crate) fn webhook_pending(&self) -> impl Iterator<Item = Arc<str>> {
        let webhook_pending = self.known.iter().filter(|(_, entry)| entry.webhook_pending && entry.state.is_final());
        webhook_pending.map(|(id, _)| Arc::clone(id))
    }

    /// The earliest deadline of a job in progress.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.running.values().map(|running| running.until).min()
    }
}

/// The index of this number, or where it would be inserted.
fn place_of(list: &VecDeque<(u64, Arc<str>)>, sequence: u64) -> usize {
    list.partition_point(|(other, _)| *other < sequence)
}

fn insert(list: &mut VecDeque<(u64, Arc<str>)>, sequence: u64, id: &Arc<str>) {
    list.insert(place_of(list, sequence), (sequence, Arc::clone(id)));
}

fn remove(list: &mut VecDeque<(u64, Arc<str>)>, sequence: u64) {
    let at = place_of(list, sequence);
    if list.get(at).is_some_and(|(other, _)| *other == sequence) {
        list.remove(at);
    }
}

#[cfg(test)]
mod tests;
