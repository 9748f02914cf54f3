//! One request as a worker gets it, and the memory budget its body is counted in.

use super::door::From;
use super::head::Head;
use super::upload::Upload;
use crate::base::gone::Gone;
use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A head and a body, whole but for the `rest` of a large one. Nothing of the wire is left in it.
pub struct Request {
    /// Method, target and fields.
    pub head: Head,
    /// The decoded body.
    pub body: Body,
    /// What follows `body`, read as it is sent on; only where the desk wants that.
    pub rest: Option<RefCell<Upload>>,
    /// The address at the other end of the connection.
    pub peer: IpAddr,
    /// The same as text, made once for the connection.
    pub peer_text: Arc<str>,
    /// Which listener it came in by.
    pub listener: usize,
    /// When its first byte came.
    pub began: Instant,
    /// Set when the client leaves.
    pub gone: Arc<Gone>,
}

impl Request {
    /// Where it came from.
    pub fn from(&self) -> From {
        From { peer: self.peer, listener: self.listener }
    }

    /// A part of it has been sent and is not here any more: no other endpoint can get it whole.
    pub fn is_spent(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| !rest.borrow().is_untouched())
    }
}

/// Body bytes that are paid for out of a [`Budget`] as they arrive.
pub struct Body {
    bytes: Vec<u8>,
    paid: u64,
    budget: Arc<Budget>,
}

/// `server.bodyMemory`: the bytes of all request bodies together.
pub struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    /// An empty body that draws on this budget.
    pub fn body(self: &Arc<Self>) -> Body {
        Body { bytes: Vec::new(), paid: 0, budget: Arc::clone(self) }
    }

    fn take(&self, bytes: u64) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let fits = before + bytes <= self.limit;
        if !fits {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }
}

impl Body {
    /// Lets `write` append to the bytes, then pays for what was added; `None` if the budget is spent.
    pub fn grow<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> Option<T> {
        let result = write(&mut self.bytes);
        // Capacity is what memory is really taken, so capacity is what is paid.
        let owed = self.bytes.capacity() as u64 - self.paid;
        if owed > 0 && !self.budget.take(owed) {
            return None;
        }
        self.paid += owed;
        Some(result)
    }

    /// The bytes so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.paid, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_one_budget_and_give_it_back() {
        let budget = Budget::new(1000);
        let mut first = budget.body();
        assert!(first.grow(|b| b.reserve_exact(900)).is_some());
        let mut second = budget.body();
        assert!(second.grow(|b| b.reserve_exact(200)).is_none(), "900 + 200 is over 1000");
        drop((first, second));
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
        assert!(budget.body().grow(|b| b.reserve_exact(1000)).is_some());
    }
}
