//! The public port: heads and bodies in, answers out, and which clients have disconnected. Knows nothing of models and upstreams.

mod accept;
mod connection;
pub mod decision;
mod fields;
mod framing;
pub mod handler;
pub mod head;
mod limits;
mod min_rate;
pub mod request;
mod request_line;
pub mod response;
pub mod server;
mod state;
mod step;
mod target;
mod unsent;
pub(crate) mod upload;
mod workers;
