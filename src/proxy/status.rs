//! `/health` and the gauges of `/metrics`, from one snapshot.

use super::state::Proxy;
use crate::api::query::parameter;
use crate::http::response::Response;
use crate::observe::log_writer;
use crate::observe::metrics::{Family, Gauge};
use crate::proxy::context::RequestContext;
use crate::routing::endpoint::Endpoint;
use crate::routing::keys::ClientKey;
use crate::routing::scope::Scope;
use crate::routing::snapshot::Snapshot;
use crate::util::time;
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::sync::atomic::Ordering;

impl Proxy {
    pub(super) fn health(
        &self,
        context: &RequestContext,
        client_key: &ClientKey,
        response: &mut Response,
        query: Option<&str>,
    ) {
        let draining = self.draining.load(Ordering::SeqCst);
        let snapshot = self.shared.load();
        let strict = query.is_some_and(|query| parameter(query, "strict") == Some("1"));
        let unwell = draining || (strict && !snapshot.is_healthy());
        let status = if unwell { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        let health = health(&snapshot, &client_key.scope, self.shared.capacity.waiting(), draining);
        let may_see_all = snapshot.key_ring.is_open() || client_key.name.is_some() || client_key.admin;
        let answer = if may_see_all { health } else { public(&health) };
        context.json(response, status, answer.to_string().as_bytes());
    }
}

/// The `/health` body [S000-27..30], a superset of those of the older proxies.
pub(crate) fn health(snapshot: &Snapshot, scope: &Scope, waiting: usize, draining: bool) -> Value {
    let enabled: Vec<_> = snapshot.enabled().collect();
    let healthy = enabled.iter().filter(|e| e.health.is_healthy()).count();
    let status = match (draining, healthy) {
        (true, _) => "draining",
        (false, 0) if !enabled.iter().any(|e| e.is_asleep()) => "unhealthy",
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

/// The part for clients without a key: no names, no counts of models or requests.
pub(crate) fn public(health: &Value) -> Value {
    let answer = ["status", "healthy_endpoints", "total_endpoints", "version"];
    Value::Object(answer.iter().map(|key| ((*key).to_owned(), health[*key].clone())).collect())
}

fn endpoint(endpoint: &Endpoint, scope: &Scope) -> Value {
    let health = &endpoint.health;
    let mut models: Vec<&str> = endpoint.names().filter(|name| scope.has_model(name)).collect();
    models.dedup();
    json!({
        "healthy": health.is_healthy(),
        "lastCheck": health.last_check.map(time::iso),
        "errorCount": health.failures,
        "lastError": health.last_error,
        "state": endpoint.state().as_str(),
        "inFlight": endpoint.live.requests(),
        "slots": endpoint.live.load().limit,
        "models": models,
    })
}

/// Statistics that are not in the snapshot.
pub(crate) struct RuntimeStats {
    pub(crate) waiting: usize,
    pub(crate) busy: usize,
    pub(crate) connections: usize,
    pub(crate) reloaded: bool,
    /// Jobs by state.
    pub(crate) jobs: Vec<(&'static str, usize)>,
}

pub(crate) fn gauges(snapshot: &Snapshot, stats: &RuntimeStats) -> Vec<Gauge> {
    let mut gauges = vec![
        (Family::QueueLength, vec![], stats.waiting as f64),
        (Family::Connections, vec![], stats.connections as f64),
        (Family::WorkersBusy, vec![], stats.busy as f64),
        (Family::ReloadSuccess, vec![], f64::from(u8::from(stats.reloaded))),
        (Family::LogDropped, vec![], log_writer::dropped() as f64),
        (Family::BuildInfo, vec![env!("CARGO_PKG_VERSION").to_owned()], 1.0),
    ];
    for endpoint in snapshot.enabled() {
        let mut add = |family, value| gauges.push((family, vec![endpoint.name().to_owned()], value));
        add(Family::EndpointUp, f64::from(u8::from(endpoint.is_available())));
        add(Family::EndpointInFlight, f64::from(endpoint.live.requests()));
        if let Some(limit) = endpoint.live.load().limit {
            add(Family::EndpointSlots, f64::from(limit));
        }
    }
    gauges.extend(stats.jobs.iter().map(|(state, n)| (Family::Jobs, vec![(*state).to_owned()], *n as f64)));
    gauges
}
