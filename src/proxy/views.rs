//! What the proxy says about itself: `/health`. Read from one snapshot.

use crate::base::clock;
use crate::model::endpoint::Endpoint;
use crate::model::scope::Scope;
use crate::model::snapshot::Snapshot;
use serde_json::{Map, Value, json};

/// The `/health` body [S000-27..30], a superset of the older proxies' shapes.
pub fn health(snapshot: &Snapshot, scope: &Scope, waiting: usize, draining: bool) -> Value {
    let enabled: Vec<_> = snapshot.enabled().collect();
    let healthy = enabled.iter().filter(|e| e.standing.is_healthy()).count();
    let status = match (draining, healthy) {
        (true, _) => "draining",
        (false, 0) => "unhealthy",
        (false, _) => "healthy",
    };
    let endpoints: Map<String, Value> = enabled
        .iter()
        .filter(|e| scope.has_endpoint(e.name()))
        .map(|e| (e.name().to_owned(), endpoint(e, scope)))
        .collect();
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

/// What everybody may know of it: no names, no counts of models or requests.
pub fn outline(health: &Value) -> Value {
    let told = ["status", "healthy_endpoints", "total_endpoints", "version"];
    Value::Object(told.iter().map(|key| ((*key).to_owned(), health[*key].clone())).collect())
}

fn endpoint(endpoint: &Endpoint, scope: &Scope) -> Value {
    let standing = &endpoint.standing;
    let mut models: Vec<&str> = endpoint.names().filter(|name| scope.has_model(name)).collect();
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
