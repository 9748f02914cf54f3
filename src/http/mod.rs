//! The public port: reads requests, writes answers, notices disconnects. Knows nothing of models and upstreams.

mod accept;
mod connection;
mod fields;
mod framing;
pub mod handler;
pub mod head;
mod limits;
pub mod request;
mod request_line;
pub mod response;
pub mod server;
mod state;
mod unsent;
pub(crate) mod upload;
mod workers;
