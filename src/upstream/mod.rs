//! The door to the network: one request out, one answer in, ended at once when the client leaves or
//! silence lasts too long. Knows endpoints by their configuration only, and nothing of clients' sockets.

mod call;
mod client;
mod connect;
mod error;
pub mod headers;
mod pool;
pub mod post;
mod resolver;
pub mod response;
mod tcp;
mod tls;
mod transport;

pub use call::{Stage, Watch};
pub use client::{BodyTail, UpstreamClient, UpstreamRequest, UpstreamResponse};
pub use error::{UpstreamError, UpstreamErrorKind};
pub use pool::ClientPool;
