//! One request as a worker gets it.

use super::head::Head;
use super::upload::Upload;
use crate::util::budget::Held;
use crate::util::cancel::CancelToken;
use std::any::Any;
use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// Where a request came from, and in.
#[derive(Debug, Clone, Copy)]
pub struct From {
    pub peer: IpAddr,
    /// Which listener it came in by.
    pub(crate) listener: usize,
}

/// A head and a body, whole but for the `rest` of a large one. Nothing of the wire is left in it.
pub struct Request {
    pub head: Head,
    pub(crate) body: Body,
    /// What follows `body`, read as it is sent on; only where the desk wants that.
    pub(crate) rest: Option<RefCell<Upload>>,
    /// The address at the other end of the connection.
    pub(crate) peer: IpAddr,
    /// The same as text, made once for the connection.
    pub(crate) peer_text: Arc<str>,
    /// Which listener it came in by.
    pub(crate) listener: usize,
    /// When it was complete; with a `rest`, when that was left to the worker. All times of a request count from here.
    pub(crate) began: Instant,
    pub(crate) cancel: Arc<CancelToken>,
    /// What the handler decided by the head alone.
    pub(crate) decided: Option<Box<dyn Any + Send>>,
}

impl Request {
    pub(crate) fn from(&self) -> From {
        From { peer: self.peer, listener: self.listener }
    }

    /// A part of it has been sent and is not here any more: no other endpoint can get it whole.
    pub(crate) fn is_spent(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| !rest.borrow().is_untouched())
    }
}

/// Body bytes that are counted in a [`Budget`](crate::util::budget::Budget) as they arrive.
pub struct Body {
    bytes: Vec<u8>,
    held: Held,
}

impl Body {
    /// Empty, counted in `held` from now on.
    pub fn new(held: Held) -> Self {
        Self { bytes: Vec::new(), held }
    }

    /// Lets `write` append to the bytes, then counts what was added; `None` if the budget is spent.
    pub(crate) fn grow<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> Option<T> {
        let result = write(&mut self.bytes);
        // Capacity is what memory is really taken, so capacity is what counts.
        self.held.resize(self.bytes.capacity() as u64).then_some(result)
    }

    /// The bytes so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
