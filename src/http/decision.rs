//! What the head of a request decides, before its body is read and before a worker is taken.

use super::head::Head;
use super::request::From;
use crate::api::errors::Failure;
use std::any::Any;
use std::net::IpAddr;

/// Which workers a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Answered from memory: never waits behind streams.
    Control,
    Proxy,
}

pub struct HeadDecision {
    pub pool: Pool,
    /// Whose share of `server.bodyMemory` the request counts in: the client's address, behind a trusted proxy too. None
    /// is a trusted proxy that does not name its client.
    pub client: Option<IpAddr>,
    /// Why the request may not go on. Decided before a body is read and before a proxy worker is taken; what is answered
    /// from memory without a body is decided later.
    pub refusal: Option<Failure>,
    /// What else the handler found out, for itself: it comes back in [`Request::decided`](super::request::Request).
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
