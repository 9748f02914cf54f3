//! One request from its head to its access line.

pub(crate) mod auth;
#[cfg(feature = "jobs")]
pub(crate) mod background;
mod body;
pub(crate) mod context;
pub(crate) mod cors;
mod downstream;
mod first_byte;
mod forward;
pub(crate) mod job_store;
pub(crate) mod listener;
mod outcome;
mod relay;
mod retry;
mod select;
pub(crate) mod serve;
pub(crate) mod state;
pub(crate) mod status;
mod wake;
