//! The wire, through the public door: what goes in, what comes out, what an upstream gets to see.

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod admin_events;
mod admin_rules;
mod affinity;
mod cancel;
mod capacity;
mod catalog;
mod context;
mod door_bounds;
mod door_framing;
mod door_heads;
mod forwarding;
mod gateway;
mod headers;
mod health;
mod jobs;
mod jobs_faults;
mod json_faults;
mod keys;
mod metrics;
mod older;
mod older_faults;
mod os_faults;
mod outgoing;
mod page_rows;
mod pings;
mod reload;
mod retry;
mod routing;
mod seed_000;
mod seed_001;
mod seed_002;
mod seed_003;
mod seed_004;
mod staying_up;
mod strategies;
mod stream_faults;
mod stress;
mod uploads;
mod upstream_faults;
mod webhooks;
