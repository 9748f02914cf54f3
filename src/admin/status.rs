//! The status that the page shows, as JSON.

use super::Admin;
use crate::config::Config;
use crate::observe::log_writer;
use crate::routing::endpoint::Endpoint;
use crate::routing::health_status::State;
use crate::util::lock::lock;
use crate::util::time;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::sync::Arc;

impl Admin {
    /// The whole status, except for ended requests and log lines up to the numbers in `seen`.
    pub(super) fn status(&self, seen: &Value) -> Value {
        let snapshot = self.shared.load();
        let stats = self.proxy.stats();
        let after = |name: &str| seen[name].as_u64().unwrap_or(0);
        let (recent, last_recent) = self.proxy.activity().recent(after("recent"));
        let (log, last_log) = log_writer::tail(after("log"));
        let base = self.manager.base();
        let switched = self.manager.page.as_ref().map(|page| lock(&page.switched).clone()).unwrap_or_default();
        // Hides endpoints that only a disabled backend of a route names.
        let is_known = |name: &str| base.endpoints.iter().any(|one| one.name == name) || switched.contains_key(name);
        let shown = |one: &&Arc<Endpoint>| one.config.enabled || is_known(one.name());
        let running = self.proxy.activity().running();
        let speed = |name: &str| -> f64 {
            let there = running.iter().filter(|one| one["endpoint"] == name);
            // The sum of nothing would be -0.0.
            there.filter_map(|one| one["tokens_per_second"].as_f64()).fold(0.0, |sum, speed| sum + speed)
        };
        let endpoints: Vec<_> =
            snapshot.endpoints.iter().filter(shown).map(|one| view(one, speed(one.name()))).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "time": time::iso(time::wall()),
            "healthy": snapshot.is_healthy(),
            "strategy": snapshot.config.routing.strategy.as_str(),
            "queue": stats.waiting,
            "busy": stats.busy,
            "workers": snapshot.config.server.workers,
            "connections": stats.connections,
            "reload_success": stats.reloaded,
            "log_dropped": log_writer::dropped(),
            "keys": !snapshot.key_ring.is_open(),
            "apart": snapshot.config.admin.port.is_some(),
            "jobs": stats.jobs.iter().map(|(state, n)| ((*state).to_owned(), json!(n))).collect::<Map<_, _>>(),
            "endpoints": endpoints,
            "models": models(&snapshot.config, &base, &snapshot.endpoints),
            "running": running,
            "recent": recent,
            "log": log,
            "seen": {"recent": last_recent, "log": last_log},
        })
    }
}

fn view(endpoint: &Endpoint, speed: f64) -> Value {
    let health = &endpoint.health;
    let base = &endpoint.config.base;
    let [generated, prompt, cached, of_prompt] = endpoint.live.tokens();
    let cached_share = (of_prompt > 0).then(|| (100.0 * cached as f64 / of_prompt as f64).round().min(100.0));
    let state = if endpoint.config.enabled { endpoint.state().as_str() } else { "off" };
    let why = match endpoint.state() {
        _ if !endpoint.config.enabled => Some("switched off".to_owned()),
        State::Asleep => Some("the next chat request wakes it".to_owned()),
        State::Waking => health.last_error.as_ref().map(|last| format!("requests are waiting for it ({last})")),
        State::Busy => Some("probe timed out while requests are in progress".to_owned()),
        _ if endpoint.live.is_cooling(time::now()) => {
            Some(health.last_error.clone().unwrap_or("answered 429; not used until its Retry-After has passed".into()))
        }
        _ => health.last_error.clone(),
    };
    json!({
        "name": endpoint.name(), "address": format!("{}:{}", base.host, base.port), "enabled": endpoint.config.enabled,
        "state": state, "why": why, "failures": health.failures, "last_check": health.last_check.map(time::iso),
        "slots": endpoint.limit(), "in_flight": endpoint.live.requests(), "weight": endpoint.config.weight,
        "context": endpoint.props.context, "tokens_per_second": speed, "generated": generated, "prompt": prompt,
        "cached": cached, "cached_share": cached_share, "models": endpoint.names().collect::<Vec<_>>(),
    })
}

/// Every model with its endpoints and its source: the configuration, the page, or the endpoints' lists.
fn models(config: &Config, base: &Config, endpoints: &[Arc<Endpoint>]) -> Vec<Value> {
    let serving = |name: &str| -> Vec<&str> {
        let serves = |one: &&Arc<Endpoint>| one.config.enabled && one.names().any(|other| other == name);
        endpoints.iter().filter(serves).map(|one| one.name()).collect()
    };
    let mut out = Vec::new();
    for route in &config.models {
        let source = match base.models.iter().find(|other| other.name == route.name) {
            Some(other) if other == route => "configuration",
            Some(_) => "page, overrides the configuration",
            None => "page",
        };
        let backends = match route.is_discovered() {
            true => serving(&route.name),
            false => route.backends.iter().filter(|one| one.enabled).map(|one| one.endpoint.as_str()).collect(),
        };
        let strategy = route.strategy.unwrap_or(config.routing.strategy).as_str();
        let row = |id: String| json!({"id": id, "source": source, "strategy": strategy, "endpoints": backends});
        out.extend(route.names().map(row));
    }
    let strategy = config.routing.strategy.as_str();
    let mut known: HashSet<&str> = config.models.iter().map(|route| &*route.name).collect();
    for name in endpoints.iter().filter(|one| one.config.enabled).flat_map(|one| one.names()) {
        if known.insert(name) {
            out.push(json!({"id": name, "source": "endpoints", "strategy": strategy, "endpoints": serving(name)}));
        }
    }
    out
}
