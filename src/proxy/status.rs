//! `/health` and the gauges of `/metrics`, from one snapshot.

use super::state::Proxy;
use crate::api::query::parameter;
use crate::http::response::Response;
use crate::observe::exposition::Gauge;
use crate::observe::log_writer;
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
        "state": health.state.as_str(),
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
    let by_endpoint = |value: &dyn Fn(&Endpoint) -> Option<f64>| {
        let series = snapshot.enabled().filter_map(|e| Some((vec![("endpoint", e.name().to_owned())], value(e)?)));
        series.collect::<Vec<_>>()
    };
    let gauge = |name, help, series| Gauge { name, help, is_counter: false, series };
    let one = |name, help, value: f64| gauge(name, help, vec![(vec![], value)]);
    let up = |e: &Endpoint| Some(f64::from(u8::from(e.is_available())));
    vec![
        gauge("llmproxy_endpoint_up", "1 while requests may be sent there.", by_endpoint(&up)),
        gauge(
            "llmproxy_endpoint_in_flight",
            "Requests in progress at the endpoint.",
            by_endpoint(&|e| Some(f64::from(e.live.requests()))),
        ),
        gauge(
            "llmproxy_endpoint_slots",
            "Slots of the endpoint, where known.",
            by_endpoint(&|e| e.live.load().limit.map(f64::from)),
        ),
        one("llmproxy_queue_length", "Requests in the queue for a slot.", stats.waiting as f64),
        one("llmproxy_connections", "Open client connections.", stats.connections as f64),
        one("llmproxy_workers_busy", "Requests being forwarded or queued.", stats.busy as f64),
        gauge(
            "llmproxy_jobs",
            "Jobs by status.",
            stats.jobs.iter().map(|(state, n)| (vec![("status", (*state).to_owned())], *n as f64)).collect(),
        ),
        one(
            "llmproxy_reload_success",
            "1 if the last reload of the configuration succeeded.",
            f64::from(u8::from(stats.reloaded)),
        ),
        Gauge {
            name: "llmproxy_log_dropped_total",
            help: "Log lines that found no room or could not be written.",
            is_counter: true,
            series: vec![(vec![], log_writer::dropped() as f64)],
        },
        gauge(
            "llmproxy_build_info",
            "1, with the version.",
            vec![(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1.0)],
        ),
    ]
}
