//! The wire, through the public port: what goes in, what comes out, what an upstream gets to see.

#[path = "../support/mod.rs"]
mod support;

#[cfg(all(feature = "admin", feature = "jobs"))]
mod admin;
#[cfg(all(feature = "admin", feature = "jobs"))]
mod admin_events;
#[cfg(all(feature = "admin", feature = "jobs"))]
mod admin_faults;
#[cfg(all(feature = "admin", feature = "jobs"))]
mod admin_rules;
mod affinity;
mod answers;
mod beside;
mod browsers;
mod cancel;
mod capacity;
mod catalog;
mod context;
mod conversations;
mod discovery;
mod failover;
mod first_byte;
mod forwarding;
mod gateway;
mod ghosts;
mod handler_panics;
mod header_table;
mod headers;
mod health;
mod health_faults;
#[cfg(feature = "jobs")]
mod jobs;
#[cfg(feature = "jobs")]
mod jobs_bounds;
#[cfg(feature = "jobs")]
mod jobs_faults;
mod json_faults;
mod keys;
mod lists;
mod metrics;
#[cfg(all(feature = "admin", feature = "jobs"))]
mod older;
mod older_faults;
mod os_faults;
mod outgoing;
#[cfg(all(feature = "admin", feature = "jobs"))]
mod page_rows;
mod paths;
mod pings;
#[cfg(all(feature = "admin", feature = "jobs"))]
mod recomputed;
mod refusals;
mod reload;
mod retry;
mod routing;
mod seed_000;
#[cfg(all(feature = "admin", feature = "jobs"))]
mod seed_001;
#[cfg(all(feature = "admin", feature = "jobs"))]
mod seed_002;
#[cfg(all(feature = "admin", feature = "jobs"))]
mod seed_003;
#[cfg(all(feature = "admin", feature = "jobs"))]
mod seed_004;
mod server_bounds;
mod server_framing;
mod server_heads;
mod slow_bodies;
mod staying_up;
mod strategies;
mod stream_ends;
mod stream_faults;
mod stress;
mod tls;
mod tokens;
#[cfg(feature = "admin")]
mod trust;
#[cfg(feature = "jobs")]
mod unread;
mod uploads;
mod upstream_faults;
mod wake;
mod wake_rules;
mod warm;
#[cfg(feature = "jobs")]
mod webhooks;
