//! Which endpoint serves which model, who may use it, and where a request goes. Pure but for its locks.

pub mod affinity;
pub mod catalog;
pub mod endpoint;
pub mod health_status;
pub mod keys;
pub mod plan;
pub mod rate_limit;
pub mod responses;
pub mod scope;
pub mod slots;
pub mod snapshot;
pub mod strategy;
