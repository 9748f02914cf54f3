//! What errors of a disk mean, and how many threads may wait for one.

use crate::util::lock::lock;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// Threads that work with the disk at once: fewer than there are control threads, so that a slow disk delays no `/health`.
const AT_ONCE: usize = 2;
const WAITING: usize = 64;

/// Called with `true` it does its work, with `false` it refuses it.
type Work = Box<dyn FnOnce(bool) + Send>;

/// Lets few threads at once work with the disk. They do what comes meanwhile too, so that its thread is free again.
#[derive(Default)]
pub(crate) struct DiskQueue(Mutex<Turns>);

#[derive(Default)]
struct Turns {
    active: usize,
    waiting: VecDeque<Work>,
}

impl DiskQueue {
    /// Does it now, leaves it to a thread that is at work, or refuses it.
    pub(crate) fn run(&self, mut work: Work) {
        let mut turns = lock(&self.0);
        if turns.active == AT_ONCE {
            if turns.waiting.len() == WAITING {
                drop(turns);
                return work(false);
            }
            return turns.waiting.push_back(work);
        }
        turns.active += 1;
        drop(turns);
        loop {
            // A panic is one request's 500; the hook has logged.
            let _ = catch_unwind(AssertUnwindSafe(|| work(true)));
            let mut turns = lock(&self.0);
            match turns.waiting.pop_front() {
                Some(next) => work = next,
                None => return turns.active -= 1,
            }
        }
    }
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

#[cfg(test)]
mod tests;
