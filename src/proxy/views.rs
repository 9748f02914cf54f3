//! What the proxy says about itself: `/health`. Read from one snapshot.

use crate::base::clock;
use crate::model::endpoint::Endpoint;
use crate::model::snapshot::Snapshot;
use serde_json::{Map, Value, json};

/// The `/health` body [S000-27..30], a superset of the older proxies' shapes.
pub fn health(snapshot: &Snapshot, waiting: usize, draining: bool) -> Value {
    let enabled: Vec<_> = snapshot.enabled().collect();
    let healthy = enabled.iter().filter(|e| e.standing.is_healthy()).count();
    let status = match (draining, healthy) {
        (true, _) => "draining",
        (false, 0) => "unhealthy",
        (false, _) => "healthy",
    };
    let endpoints: Map<String, Value> = enabled.iter().map(|e| (e.name().to_owned(), endpoint(e))).collect();
    json!({
        "status": status,
        "endpoints": endpoints,
        "healthy_endpoints": healthy,
        "total_endpoints": enabled.len(),
        "backends": enabled.len(),
        "queue": {"waiting": waiting, "length": snapshot.config.queue.length},
        "mode": snapshot.config.routing.strategy.as_str(),
        "version": env!("CARGO_PKG_VERSION"),
    })
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let standing = &endpoint.standing;
    let mut models: Vec<&str> = endpoint.names().collect();
    models.dedup();
    json!({
        "healthy": standing.is_healthy(),
        "lastCheck": standing.last_check.map(clock::iso),
        "errorCount": standing.failures,
        "lastError": standing.last_error,
        "state": standing.state.as_str(),
        "inFlight": endpoint.live.in_flight(),
        "slots": endpoint.live.load().limit,
        "models": models,
    })
}
