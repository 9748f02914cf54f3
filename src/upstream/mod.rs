//! Outgoing requests: one request, one answer, ended at once when the client disconnects or a time-out passes. Knows only
//! the configuration of endpoints.

mod call;
mod client;
mod connect;
mod error;
pub(crate) mod headers;
mod idle;
mod pool;
#[cfg(feature = "jobs")]
pub(crate) mod post;
mod resolver;
pub mod response;
mod tls;
mod transport;

pub(crate) use call::{Stage, Watch};
pub(crate) use client::{BodyTail, UpstreamClient, UpstreamRequest, UpstreamResponse};
pub(crate) use error::{UpstreamError, UpstreamErrorKind};
pub(crate) use pool::ClientPool;
