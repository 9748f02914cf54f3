//! Prometheus metrics. Requests are counted from their access records; gauges are computed on each scrape, so they
//! cannot drift.

use super::access::{AccessRecord, End};
use super::exposition::{self, Kind, SEPARATOR, Spec, Value};
use crate::api::answer::Tokens;
use crate::util::lock::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// Series per family; further ones are counted as `other`. Labels come from the configuration and the model catalog, so
/// only an oversized catalog gets there.
const MAX_SERIES: usize = 2_000;

macro_rules! families {
    ($($family:ident $kind:ident $name:literal $labels:tt $help:literal;)*) => {
        #[derive(Debug, Clone, Copy)]
        pub(crate) enum Family {
            $($family),*
        }

        const FAMILIES: &[Spec] = &[$(Spec { name: $name, kind: Kind::$kind, labels: &$labels, help: $help }),*];
    };
}

families! {
    UpstreamRequests Counter "llmproxy_upstream_requests_total" ["group", "upstream"]
        "Attempts sent to an endpoint.";
    UpstreamDuration Histogram "llmproxy_upstream_duration_seconds" ["group", "upstream"]
        "Time until the response headers of an endpoint.";
    UpstreamErrors Counter "llmproxy_upstream_errors_total" ["error", "group", "upstream"]
        "Attempts without a usable answer (request_error), requests without an available endpoint (select_error).";
    HttpRequests Counter "llmproxy_http_requests_total" ["forward", "method", "path"]
        "Requests answered.";
    HttpDuration Histogram "llmproxy_http_request_duration_seconds" ["forward", "method", "path"]
        "Time until the end of the answer.";
    HttpErrors Counter "llmproxy_http_request_errors_total" ["forward", "error", "status"]
        "Answers with a status of 400 or higher, of an endpoint (upstream_error) or the proxy (request_error).";
    RateLimited Counter "llmproxy_ratelimit_total" ["forward"]
        "Requests rejected with 429 by a rate limit of this proxy.";
    QueueWait Histogram "llmproxy_queue_wait_seconds" []
        "Time spent in the queue for a slot at an endpoint.";
    FirstByte Histogram "llmproxy_time_to_first_byte_seconds" ["endpoint", "model"]
        "Time until the first byte of the body of the answer.";
    Tokens Counter "llmproxy_tokens_total" ["endpoint", "model", "kind"]
        "Tokens as reported by endpoints: prompt (cached ones included), cached, completion.";
    TokensPerSecond Gauge "llmproxy_tokens_per_second" ["endpoint", "model"]
        "Generation speed of the last answer that reported one.";
    Retries Counter "llmproxy_retries_total" ["endpoint", "reason"]
        "Attempts that were retried.";
    ClientGone Counter "llmproxy_client_gone_total" ["stage"]
        "Clients that disconnected before the end.";
    UpstreamLost Counter "llmproxy_upstream_lost_total" ["endpoint"]
        "Answers that an endpoint did not finish.";
    EndpointUp Gauge "llmproxy_endpoint_up" ["endpoint"]
        "1 while the endpoint is available for requests.";
    EndpointInFlight Gauge "llmproxy_endpoint_in_flight" ["endpoint"]
        "Requests in progress at the endpoint.";
    EndpointSlots Gauge "llmproxy_endpoint_slots" ["endpoint"]
        "Slots of the endpoint, if known.";
    QueueLength Gauge "llmproxy_queue_length" []
        "Requests in the queue for a slot.";
    Connections Gauge "llmproxy_connections" []
        "Open client connections.";
    WorkersBusy Gauge "llmproxy_workers_busy" []
        "Workers that forward a request or wait in the queue.";
    Jobs Gauge "llmproxy_jobs" ["status"]
        "Jobs by status.";
    ReloadSuccess Gauge "llmproxy_reload_success" []
        "1 if the last reload of the configuration succeeded.";
    LogDropped Counter "llmproxy_log_dropped_total" []
        "Log lines dropped because the queue was full or writing failed.";
    BuildInfo Gauge "llmproxy_build_info" ["version"]
        "1, with the version.";
}

/// A value computed on a scrape.
pub(crate) type Gauge = (Family, Vec<String>, f64);

/// The counters of a process; they outlive reloads.
#[derive(Default)]
pub(crate) struct Metrics {
    /// The series of each family. One lock is enough: there are a few updates per request and none per chunk of a
    /// stream.
    families: Mutex<[BTreeMap<String, Value>; FAMILIES.len()]>,
}

impl Metrics {
    pub(crate) fn count(&self, family: Family, labels: &[&str]) {
        self.add(family, labels, 1.0);
    }

    pub(crate) fn add(&self, family: Family, labels: &[&str], by: f64) {
        self.with(family, labels, |value| value.add(by));
    }

    pub(crate) fn time(&self, family: Family, labels: &[&str], time: Duration) {
        self.with(family, labels, |value| value.observe(time.as_secs_f64()));
    }

    fn with(&self, family: Family, labels: &[&str], act: impl FnOnce(&mut Value)) {
        let spec = &FAMILIES[family as usize];
        debug_assert_eq!(labels.len(), spec.labels.len(), "{}", spec.name);
        let mut key = key(labels);
        let series = &mut lock(&self.families)[family as usize];
        if series.len() >= MAX_SERIES && !series.contains_key(&key) {
            key = self::key(&vec!["other"; labels.len()]);
        }
        act(series.entry(key).or_insert_with(|| Value::new(spec.kind)));
    }

    /// Counts a request to listener `forward`; `model` is its model if an endpoint is known to serve it.
    pub(crate) fn ended(&self, line: &AccessRecord, forward: &str, model: Option<&str>) {
        let (method, path) = (bounded_method(&line.method), line.row.label);
        self.count(Family::HttpRequests, &[forward, method, path]);
        self.time(Family::HttpDuration, &[forward, method, path], line.total);
        if line.status >= 400 && line.status != 499 {
            let error = if line.attempts > 0 { "upstream_error" } else { "request_error" };
            self.count(Family::HttpErrors, &[forward, error, &line.status.to_string()]);
            if line.status == 429 && line.attempts == 0 {
                self.count(Family::RateLimited, &[forward]);
            }
        }
        if let Some(queue) = line.queue {
            self.time(Family::QueueWait, &[], queue);
        }
        if line.end == End::ClientGone {
            let stage = match (line.attempts, line.first_byte) {
                (0, _) => "queued",
                (_, None) => "waiting",
                (_, Some(_)) => "answering",
            };
            self.count(Family::ClientGone, &[stage]);
        }
        let Some(endpoint) = line.endpoint.as_deref() else { return };
        let model = model.unwrap_or("other");
        if line.end == End::UpstreamLost {
            self.count(Family::UpstreamLost, &[endpoint]);
        }
        if let Some(first) = line.first_byte {
            self.time(Family::FirstByte, &[endpoint, model], first);
        }
        let Tokens { prompt, cached, completion, per_second, .. } = line.tokens;
        for (kind, tokens) in [("prompt", prompt), ("cached", cached), ("completion", completion)] {
            if let Some(tokens) = tokens {
                self.add(Family::Tokens, &[endpoint, model, kind], tokens as f64);
            }
        }
        if let Some(speed) = per_second.filter(|speed| speed.is_finite()) {
            self.with(Family::TokensPerSecond, &[endpoint, model], |value| value.set(speed));
        }
    }

    pub(crate) fn render(&self, now: &[Gauge]) -> String {
        let mut families = lock(&self.families).clone();
        for (family, labels, value) in now {
            families[*family as usize].insert(key(labels), Value::Number(*value));
        }
        let mut out = String::new();
        FAMILIES.iter().zip(&families).for_each(|(spec, series)| exposition::family(&mut out, spec, series));
        out
    }
}

/// The key of a series: its label values, each followed by a separator.
fn key(labels: &[impl AsRef<str>]) -> String {
    let mut key = String::with_capacity(64);
    for label in labels {
        label.as_ref().split(SEPARATOR).for_each(|part| key.push_str(part));
        key.push(SEPARATOR);
    }
    key
}

fn bounded_method(method: &str) -> &str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    if known.contains(&method) { method } else { "other" }
}

#[cfg(test)]
mod tests;
