//! The client's door: heads and bodies in, answers out, and who has left. Knows nothing of models and upstreams.

mod accept;
mod conn;
pub mod door;
mod fields;
mod framing;
pub mod front;
pub mod head;
mod pace;
pub mod pool;
pub mod reply;
pub mod request;
mod request_line;
mod settle;
mod tally;
mod target;
mod unsent;
pub mod upload;

pub use crate::model::body;
