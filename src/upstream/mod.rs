//! The door to the network: one request out, one answer in, ended at once when the client leaves or
//! silence lasts too long. Knows endpoints by their configuration only, and nothing of clients' sockets.

mod call;
mod channel;
mod connect;
pub mod courier;
mod error;
pub mod headers;
mod names;
mod net;
pub mod response;
mod tls;
mod transport;
mod wire;

pub use call::{Stage, Watch};
pub use channel::{Answer, Channel, Order, Rest};
pub use error::{Fault, Trouble};
pub use net::Net;
