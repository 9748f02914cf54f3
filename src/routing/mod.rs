//! Which endpoint serves which model, who may use it, and where a request goes. Pure except for its locks.

pub mod affinity;
pub(crate) mod candidate;
pub(crate) mod catalog;
pub(crate) mod endpoint;
pub(crate) mod health_status;
pub(crate) mod keys;
pub(crate) mod plan;
pub(crate) mod rate_limit;
pub(crate) mod recall;
pub(crate) mod resolve;
pub(crate) mod scope;
pub(crate) mod slots;
pub(crate) mod snapshot;
pub(crate) mod strategy;
