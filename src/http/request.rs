//! One request: the decision about its head, what a worker gets, and what is refused before that.

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

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub struct From {
    /// The address at the other end of the connection.
    pub peer: IpAddr,
    /// Index of the listener.
    pub(crate) listener: usize,
}

/// Which workers a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Answered from memory; never waits behind streams.
    Control,
    Proxy,
}

/// Made from the head alone, before the body is read and before a worker is taken.
pub struct HeadDecision {
    pub pool: Pool,
    /// The client whose share of `server.bodyMemory` the body counts in, also behind a trusted proxy; `None` if that proxy
    /// does not name its client.
    pub client: Option<IpAddr>,
    /// Requests without a body that are answered from memory are checked later instead.
    pub refusal: Option<Failure>,
    /// Comes back to the handler in [`Request::decided`].
    pub decided: Option<Decided>,
}

pub type Decided = Box<dyn Any + Send>;

/// Decides about heads, each once.
pub trait Decide: Send + Sync + 'static {
    fn decide(&self, head: &Head, from: From) -> HeadDecision;
    /// Whether a large body is forwarded while it arrives.
    fn passes_on(&self, head: &Head, listener: usize) -> bool;
}

/// A head and its body; the `rest` of a large body may still be arriving.
pub struct Request {
    pub head: Head,
    pub(crate) from: From,
    /// The peer's address as text, made once for the connection.
    pub(crate) peer_text: Arc<str>,
    pub(crate) pool: Pool,
    /// See [`HeadDecision::client`].
    pub(crate) client: Option<IpAddr>,
    pub(crate) decided: Option<Decided>,
    pub(crate) body: Body,
    /// What follows `body`: read while it is forwarded, see [`Decide::passes_on`].
    pub(crate) rest: Option<RefCell<Upload>>,
    /// When it was complete, or the rest was left to the worker. All times of a request count from here.
    pub(crate) began: Instant,
    pub(crate) cancel: Arc<CancelToken>,
}

impl Request {
    /// Part of the `rest` was read, so no other endpoint can get the whole body.
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
    /// `None` if it could not be parsed.
    pub head: Option<Head>,
    pub(super) client: Option<IpAddr>,
    pub(crate) failure: Failure,
    /// When the head was complete; without a head, when its first byte came.
    pub(crate) began: Instant,
}

/// What a connection needs next.
pub(super) enum Step {
    Wait,
    /// There is more to read, after other connections had their turn.
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
