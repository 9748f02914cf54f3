//! One request from head to access line: which path it is, whether it may pass, where it goes, what comes back.

mod admit;
mod ask;
mod client;
mod forward;
mod gate;
mod key;
pub mod later;
pub mod parcel;
pub mod reception;
mod relay;
mod route;
pub mod serve;
mod tokens;
mod views;
mod visit;
mod weigh;
