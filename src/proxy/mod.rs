//! One request from head to access line: which path it is, whether it may pass, where it goes, what comes back.

mod admit;
mod ask;
mod client;
mod first_byte;
mod forward;
pub mod gate;
pub mod key;
pub mod later;
mod outcome;
pub mod page;
pub mod parcel;
pub mod reception;
mod relay;
mod route;
pub mod serve;
mod stream;
mod tokens;
pub mod views;
pub mod visit;
mod weigh;
