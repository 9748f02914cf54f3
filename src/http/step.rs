//! What a look at a connection led to: a request that a worker can answer, one that is refused, or nothing yet.

use super::decision::{Decided, Pool};
use super::head::Head;
use super::request::Body;
use super::upload::Upload;
use crate::api::errors::Failure;
use std::net::IpAddr;
use std::time::Instant;

/// A request that a worker can begin with.
pub(super) struct Arrived {
    pub head: Head,
    pub(crate) pool: Pool,
    pub(crate) decided: Option<Decided>,
    /// See [`HeadDecision::client`].
    pub(crate) client: Option<IpAddr>,
    pub(crate) body: Body,
    /// What follows `body`.
    pub(crate) rest: Option<Upload>,
    pub(crate) began: Instant,
}

/// What a look at a connection led to.
pub(super) enum Step {
    Wait,
    /// There is more to read, but others wait too.
    Again,
    Serve(Box<Arrived>),
    /// An answer that ends the connection.
    Refuse(Box<Rejected>),
    Close,
}

/// A request that is refused before a worker sees it.
pub(super) struct Rejected {
    /// As far as it was understood.
    pub head: Option<Head>,
    pub(crate) client: Option<IpAddr>,
    pub(crate) failure: Failure,
    pub(crate) began: Instant,
}

impl Arrived {
    pub(super) fn rejected(self, failure: Failure) -> Rejected {
        let Self { head, client, began, .. } = self;
        Rejected { head: Some(head), client, failure, began }
    }
}
