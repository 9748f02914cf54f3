//! Files that are written whole, what errors of a disk mean, and how many threads may wait for one.

use crate::util::lock::lock;
use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;

/// Threads that work with the disk at once: fewer than there are control threads, so that a slow disk delays no `/health`.
const AT_ONCE: usize = 2;
/// What waits for one of them at most.
const WAITING: usize = 64;

/// Something to do; told `false`, it is to be refused.
type Work = Box<dyn FnOnce(bool) + Send>;

/// Lets few threads at once work with the disk. What comes meanwhile is left to them, and its thread is free again.
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

/// Puts a file in its place, whole or not at all: it is written under another name, synced, and renamed. Only its owner
/// may read it.
pub(crate) fn write_whole(path: &Path, unfinished: &Path, pieces: &[impl AsRef<[u8]>]) -> io::Result<()> {
    let written = private().write(true).create(true).truncate(true).open(unfinished).and_then(|mut file| {
        pieces.iter().try_for_each(|piece| file.write_all(piece.as_ref()))?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(unfinished, path)).inspect_err(|_| drop(fs::remove_file(unfinished)))
}

/// Files that are made can be read by their owner only.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Whether an error says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

#[cfg(test)]
mod tests;
