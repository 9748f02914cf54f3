//! The domain without I/O: what an endpoint is, who serves which model, what a client asked, what went wrong.

pub mod failure;
