//! What the outside may see of the inside: the process log and the access line. Nothing in here can fail a request or
//! make it wait.

pub(crate) mod access;
pub(crate) mod active;
mod entry;
pub(crate) mod escape;
pub(crate) mod exposition;
pub(crate) mod log_writer;
pub(crate) mod metrics;
