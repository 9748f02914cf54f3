//! One request from head to access line: which path it is, whether it may pass, where it goes, what comes back.

pub mod admin_handler;
pub mod auth;
pub mod background;
mod body;
pub mod context;
pub mod cors;
mod downstream;
mod first_byte;
mod forward;
pub mod job_store;
pub mod listener;
mod outcome;
mod paths;
mod relay;
mod retry;
mod select;
pub mod serve;
pub mod status;
