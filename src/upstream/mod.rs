//! Outgoing requests: one request out, one answer in, ended at once when the client hangs up or a time-out passes. Knows
//! endpoints by their configuration only.

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
mod tcp;
mod tls;
mod transport;

pub(crate) use call::{Stage, Watch};
pub(crate) use client::{BodyTail, UpstreamClient, UpstreamRequest, UpstreamResponse};
pub(crate) use error::{UpstreamError, UpstreamErrorKind};
pub(crate) use pool::ClientPool;
