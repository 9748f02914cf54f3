//! The process log, the access line, metrics, and what the page shows. Nothing in here can fail a request or make it wait.

pub(crate) mod access;
pub(crate) mod active;
pub(crate) mod escape;
pub(crate) mod exposition;
pub(crate) mod log_writer;
pub(crate) mod metrics;

use std::collections::VecDeque;

/// Items of a kind that are kept for the page.
const KEPT: usize = 200;
/// Characters of a model or path that are shown: clients choose them.
const SHOWN: usize = 128;

/// The last items, numbered from 1.
pub(crate) struct History<T> {
    items: VecDeque<T>,
    last: u64,
}

impl<T> History<T> {
    const fn new() -> Self {
        Self { items: VecDeque::new(), last: 0 }
    }

    fn push(&mut self, item: T) {
        if self.items.len() == KEPT {
            self.items.pop_front();
        }
        self.items.push_back(item);
        self.last += 1;
    }

    /// Those after this number, the oldest first.
    fn after(&self, seen: u64) -> impl Iterator<Item = (u64, &T)> {
        let first = self.last - self.items.len() as u64 + 1;
        (first..).zip(&self.items).filter(move |(number, _)| *number > seen)
    }
}
