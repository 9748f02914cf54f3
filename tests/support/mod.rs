//! What the wire tests stand on: fake upstreams, a raw client, the proxy in-process and as a program.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod blackhole;
pub mod client;
pub mod fact;
pub mod packets;
pub mod program;
pub mod proxy;
pub mod received;
pub mod script;
pub mod upstream;
