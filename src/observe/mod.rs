//! What the outside may see of the inside: the process log and the access line. Nothing in here can fail a request or
//! make it wait.

pub mod access;
pub mod active;
mod entry;
mod escape;
pub mod exposition;
pub mod log_writer;
pub mod metrics;
