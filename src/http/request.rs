//! One request: what its head decides, what a worker gets of it, and what is refused before a worker sees it.

use super::head::Head;
use super::upload::Upload;
use crate::api::errors::Failure;
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
    /// The address at the other end of the connection.
    pub peer: IpAddr,
    /// Which listener it came in by.
    pub(crate) listener: usize,
}

/// Which workers a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Answered from memory: never waits behind streams.
    Control,
    Proxy,
}

/// What the head of a request decides, before its body is read and before a worker is taken.
pub struct HeadDecision {
    pub pool: Pool,
    /// Whose share of `server.bodyMemory` the request counts in: the client's address, behind a trusted proxy too. None
    /// is a trusted proxy that does not name its client.
    pub client: Option<IpAddr>,
    /// Why the request may not go on. Decided before a body is read and before a proxy worker is taken; what is answered
    /// from memory without a body is decided later.
    pub refusal: Option<Failure>,
    /// What else the handler found out, for itself: it comes back in [`Request::decided`].
    pub decided: Option<Decided>,
}

/// Something of the handler's.
pub type Decided = Box<dyn Any + Send>;

/// Decides about heads, each once.
pub trait Decide: Send + Sync + 'static {
    fn decide(&self, head: &Head, from: From) -> HeadDecision;
    /// Whether a body that turns out large is forwarded as it comes.
    fn passes_on(&self, head: &Head, listener: usize) -> bool;
}

/// A head and a body, whole but for the `rest` of a large one. Nothing of the wire is left in it.
pub struct Request {
    pub head: Head,
    pub(crate) from: From,
    /// The peer's address as text, made once for the connection.
    pub(crate) peer_text: Arc<str>,
    pub(crate) pool: Pool,
    /// See [`HeadDecision::client`].
    pub(crate) client: Option<IpAddr>,
    /// What the handler decided by the head alone.
    pub(crate) decided: Option<Decided>,
    pub(crate) body: Body,
    /// What follows `body`, read as it is sent on; only where the handler wants that.
    pub(crate) rest: Option<RefCell<Upload>>,
    /// When it was complete; with a `rest`, when that was left to the worker. All times of a request count from here.
    pub(crate) began: Instant,
    pub(crate) cancel: Arc<CancelToken>,
}

impl Request {
    /// A part of it has been sent and is not here any more: no other endpoint can get it whole.
    pub(crate) fn is_spent(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| !rest.borrow().is_untouched())
    }

    pub(super) fn refused(self, failure: Failure) -> Refused {
        Refused { from: self.from, head: Some(self.head), client: self.client, failure, began: self.began }
    }
}

/// A request that is refused before a worker sees it.
pub struct Refused {
    pub(crate) from: From,
    /// As far as it was understood.
    pub head: Option<Head>,
    pub(super) client: Option<IpAddr>,
    pub(crate) failure: Failure,
    /// When its head was complete, or without a head when its first byte came.
    pub(crate) began: Instant,
}

/// What a look at a connection led to.
pub(super) enum Step {
    Wait,
    /// There is more to read, but others wait too.
    Again,
    Serve(Box<Request>),
    /// An answer that ends the connection.
    Refuse(Box<Refused>),
    Close,
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
