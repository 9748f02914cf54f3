//! The process log, access lines, metrics, and the data of the page. Nothing here can fail a request or make it wait.

pub(crate) mod access;
pub(crate) mod active;
pub(crate) mod escape;
pub(crate) mod exposition;
pub(crate) mod log_writer;
pub(crate) mod metrics;

use std::collections::VecDeque;

/// Items in a [`History`].
const KEPT: usize = 200;
/// Characters shown of a model or path, which clients choose.
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

    /// The items after number `seen`, the oldest first.
    fn after(&self, seen: u64) -> impl Iterator<Item = (u64, &T)> {
        let first = self.last - self.items.len() as u64 + 1;
        (first..).zip(&self.items).filter(move |(number, _)| *number > seen)
    }
}
