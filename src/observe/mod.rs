//! What the outside may see of the inside: the process log and the access line. Nothing in here can fail a request or
//! make it wait.

pub mod access;
pub mod activity;
mod entry;
mod escape;
pub mod exposition;
pub mod logger;
pub mod metrics;
