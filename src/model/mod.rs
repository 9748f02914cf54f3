//! The domain without I/O: what an endpoint is, who serves which model, what a client asked, what went wrong.

pub mod affinity;
pub mod body;
pub mod bucket;
pub mod caller;
pub mod capacity;
pub mod catalog;
pub mod chain;
pub mod endpoint;
pub mod failure;
pub mod list;
pub mod members;
pub mod multipart;
pub mod peek;
pub mod plan;
pub mod query;
pub mod responses;
mod scan;
pub mod scope;
pub mod snapshot;
pub mod standing;
pub mod strategy;
