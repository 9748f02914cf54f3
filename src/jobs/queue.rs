//! Which jobs there are and in what order they run. Pure: no disk, no thread, no clock.

use super::record::{Job, Owner, State};
use crate::util::cancel::CancelToken;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// Finished jobs that are kept at most, whatever `retention` says: the oldest go first.
const MOST_FINISHED: usize = 200_000;
/// Bytes of all jobs together. Beyond it the oldest finished ones are removed; if that is not enough, new jobs are refused.
pub(crate) const MOST_BYTES: u64 = 8 << 30;

#[derive(Default)]
pub(crate) struct Queue {
    /// In the order of arrival.
    jobs: VecDeque<Job>,
    /// Sequence numbers by id.
    ids: HashMap<Arc<str>, u64>,
    /// Sequence numbers, in order; bounded by `maxQueued`, and what a start finds.
    waiting: VecDeque<u64>,
    /// Of these, those whose endpoints were asleep, with the epoch of the snapshot then: not started before another one.
    parked: HashMap<u64, u64>,
    pub(super) epoch: u64,
    /// Bounded by `maxConcurrent`.
    running: HashMap<Arc<str>, Running>,
    /// Sequence numbers by the second they ended.
    finished: BTreeSet<(u64, u64)>,
    counts: [usize; 4],
    bytes: u64,
    last: u64,
    /// No job is started or taken any more.
    pub(crate) closed: bool,
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
    /// With these jobs, which come in order.
    pub(crate) fn new(jobs: Vec<Job>) -> Self {
        let (ids, jobs) = (HashMap::with_capacity(jobs.len()), VecDeque::from(jobs));
        let mut queue = Self { jobs, ids, ..Self::default() };
        (0..queue.jobs.len()).for_each(|at| queue.list(at));
        queue
    }

    /// Adds a job, or replaces the one with its id.
    pub(crate) fn put(&mut self, job: Job) {
        let at = match self.index(&job.id) {
            Some(at) => {
                self.unlist(at);
                self.jobs[at] = job;
                at
            }
            None => {
                let at = self.jobs.partition_point(|other| other.sequence < job.sequence);
                self.jobs.insert(at, job);
                at
            }
        };
        self.list(at);
    }

    pub(crate) fn remove(&mut self, id: &str) -> Option<Job> {
        let at = self.index(id)?;
        self.unlist(at);
        self.ids.remove(id);
        self.jobs.remove(at)
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Job> {
        self.index(id).map(|at| &self.jobs[at])
    }

    fn index(&self, id: &str) -> Option<usize> {
        self.find(*self.ids.get(id)?, |job| *job.id == *id)
    }

    fn find(&self, sequence: u64, is_wanted: impl Fn(&Job) -> bool) -> Option<usize> {
        let first = self.jobs.partition_point(|job| job.sequence < sequence);
        (first..self.jobs.len()).find(|at| is_wanted(&self.jobs[*at]))
    }

    fn list(&mut self, at: usize) {
        let job = &self.jobs[at];
        self.ids.insert(Arc::clone(&job.id), job.sequence);
        self.counts[job.state as usize] += 1;
        self.bytes += job.bytes;
        self.last = self.last.max(job.sequence);
        if job.state.is_final() {
            self.parked.remove(&job.sequence);
        }
        match job.state {
            State::Pending => {
                let rank = self.waiting.partition_point(|other| *other < job.sequence);
                self.waiting.insert(rank, job.sequence);
            }
            State::Completed | State::Error => drop(self.finished.insert((job.number, job.sequence))),
            State::Processing => {}
        }
    }

    fn unlist(&mut self, at: usize) {
        let job = &self.jobs[at];
        self.counts[job.state as usize] -= 1;
        self.bytes -= job.bytes;
        match job.state {
            State::Pending => {
                self.parked.remove(&job.sequence);
                self.waiting.remove(self.rank(job.sequence));
            }
            _ => drop(self.finished.remove(&(job.number, job.sequence))),
        }
    }

    /// The sequence number of a job submitted in this millisecond.
    pub(crate) fn next_sequence(&mut self, millis: u64) -> u64 {
        self.last = (millis << 16).max(self.last + 1);
        self.last
    }

    /// Starts the first job of the queue that is not parked, if fewer than `most` run; returns it as it was.
    pub(super) fn start(&mut self, most: usize, run: impl FnOnce() -> Running) -> Option<Job> {
        let is_due = |one: &&u64| self.parked.get(*one) != Some(&self.epoch);
        let first = *self.waiting.iter().find(is_due).filter(|_| self.running.len() < most)?;
        let job = self.jobs[self.find(first, |job| job.state == State::Pending)?].clone();
        self.running.insert(Arc::clone(&job.id), run());
        self.put(job.to(State::Processing, job.number + 1));
        Some(job)
    }

    /// Parks a job in progress, which then goes back into the queue.
    pub(super) fn park(&mut self, job: &Job, epoch: u64) {
        self.parked.insert(job.sequence, epoch);
    }

    pub(super) fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Ends the jobs in progress that `which` accepts by id and deadline. Of several reasons the first one counts.
    pub(crate) fn interrupt(&mut self, reason: StopReason, which: impl Fn(&str, Instant) -> bool) {
        for (_, running) in self.running.iter_mut().filter(|(id, running)| which(id, running.until)) {
            running.reason.get_or_insert(reason);
            running.cancel.cancel();
        }
    }

    pub(crate) fn stop_reason(&self, id: &str) -> Option<StopReason> {
        self.running.get(id)?.reason
    }

    /// Its slot is free, unless the job was started anew meanwhile.
    pub(crate) fn done(&mut self, id: &str, cancel: &Arc<CancelToken>) {
        if self.running.get(id).is_some_and(|running| Arc::ptr_eq(&running.cancel, cancel)) {
            self.running.remove(id);
        }
    }

    pub(crate) fn active(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Its position in the queue, from 1; 0 once it runs or is about to.
    pub(crate) fn position(&self, job: &Job, most: usize) -> usize {
        match job.state {
            State::Pending => (self.rank(job.sequence) + 1).saturating_sub(most.saturating_sub(self.running.len())),
            _ => 0,
        }
    }

    /// How many jobs wait that came before this one.
    fn rank(&self, sequence: u64) -> usize {
        self.waiting.partition_point(|other| *other < sequence)
    }

    pub(crate) fn counts(&self) -> [usize; 4] {
        self.counts
    }

    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.bytes + bytes <= MOST_BYTES
    }

    /// Takes out the finished jobs that must go: those that ended before this second, and the oldest beyond the bounds.
    pub(crate) fn expire(&mut self, before: u64, bytes: u64) -> Vec<Job> {
        let mut expired = Vec::new();
        while let Some(&(ended, sequence)) = self.finished.first() {
            if ended >= before && self.finished.len() <= MOST_FINISHED && self.has_room(bytes) {
                break;
            }
            let Some(at) = self.find(sequence, |job| job.state.is_final()) else { break };
            let id = Arc::clone(&self.jobs[at].id);
            expired.extend(self.remove(&id));
        }
        expired
    }

    /// The jobs of an owner that came before this one, the newest first.
    pub(crate) fn of(&self, owner: Owner, before: u64) -> impl Iterator<Item = &Job> {
        let earlier = self.jobs.range(..self.jobs.partition_point(|job| job.sequence < before));
        earlier.rev().filter(move |job| job.owner == owner)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter()
    }

    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.running.values().map(|running| running.until).min()
    }
}

#[cfg(test)]
mod tests;
