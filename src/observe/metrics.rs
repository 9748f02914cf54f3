//! What is counted and measured, for Prometheus. Knows requests only by what their access line tells; gauges that
//! others own are handed in when somebody looks, so they cannot drift.

use super::access::{AccessRecord, End};
use super::exposition::{self, Gauge, Kind, Spec, Value};
use crate::api::answer::Tokens;
use crate::util::lock::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// Series of one family; beyond it they are counted under `other`. Labels come from the configuration and the
/// catalogue, so only a catalogue without measure gets there.
const MOST_SERIES: usize = 2_000;

/// Families that are kept; what each is stands in `FAMILIES`, in the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    UpstreamRequests,
    UpstreamDuration,
    UpstreamErrors,
    HttpRequests,
    HttpDuration,
    HttpErrors,
    RateLimited,
    QueueWait,
    FirstByte,
    Tokens,
    TokensPerSecond,
    Retries,
    ClientGone,
    UpstreamLost,
}

const FAMILIES: [Spec; 14] = [
    Spec::new(
        "llmproxy_upstream_requests_total",
        Kind::Counter,
        &["group", "upstream"],
        "Attempts sent to an endpoint.",
    ),
    Spec::new(
        "llmproxy_upstream_duration_seconds",
        Kind::Histogram,
        &["group", "upstream"],
        "Time until the head of an endpoint's answer.",
    ),
    Spec::new(
        "llmproxy_upstream_errors_total",
        Kind::Counter,
        &["error", "group", "upstream"],
        "Attempts without a usable answer (request_error), and requests for which no endpoint could be selected (select_error).",
    ),
    Spec::new("llmproxy_http_requests_total", Kind::Counter, &["forward", "method", "path"], "Requests answered."),
    Spec::new(
        "llmproxy_http_request_duration_seconds",
        Kind::Histogram,
        &["forward", "method", "path"],
        "Time until the end of an answer.",
    ),
    Spec::new(
        "llmproxy_http_request_errors_total",
        Kind::Counter,
        &["forward", "error", "status"],
        "Answers of 400 and more: an endpoint's (upstream_error) or ours (request_error).",
    ),
    Spec::new(
        "llmproxy_ratelimit_total",
        Kind::Counter,
        &["forward"],
        "Requests refused with 429 by a rate limit of this proxy.",
    ),
    Spec::new("llmproxy_queue_wait_seconds", Kind::Histogram, &[], "Time in the queue for a slot at an endpoint."),
    Spec::new(
        "llmproxy_time_to_first_byte_seconds",
        Kind::Histogram,
        &["endpoint", "model"],
        "Time until the first byte of an answer's body.",
    ),
    Spec::new(
        "llmproxy_tokens_total",
        Kind::Counter,
        &["endpoint", "model", "kind"],
        "Tokens as endpoints count them: prompt (cached ones included), cached, completion.",
    ),
    Spec::new(
        "llmproxy_tokens_per_second",
        Kind::Gauge,
        &["endpoint", "model"],
        "Generation speed of the last answer that reported one.",
    ),
    Spec::new(
        "llmproxy_retries_total",
        Kind::Counter,
        &["endpoint", "reason"],
        "Attempts that were followed by another.",
    ),
    Spec::new("llmproxy_client_gone_total", Kind::Counter, &["stage"], "Clients that disconnected before the end."),
    Spec::new("llmproxy_upstream_lost_total", Kind::Counter, &["endpoint"], "Answers of endpoints that broke off."),
];

/// The counters of a process; they outlive reloads.
pub(crate) struct Metrics {
    /// One lock: a handful of updates for each request, none for a piece of a stream.
    families: Mutex<Families>,
}

struct Families {
    /// By labels, each followed by `exposition::SEPARATOR`.
    series: Vec<BTreeMap<String, Value>>,
    /// The labels of an update, kept so that no update allocates.
    key: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { families: Mutex::new(Families { series: vec![BTreeMap::new(); FAMILIES.len()], key: String::new() }) }
    }
}

/// Where a request came in, with labels that are bounded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Labels<'a> {
    pub(crate) forward: &'a str,
    pub path: &'static str,
    /// Its model, if anybody is known to serve it.
    pub(crate) model: Option<&'a str>,
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
        let mut families = lock(&self.families);
        let Families { series, key } = &mut *families;
        let series = &mut series[family as usize];
        let write = |key: &mut String, labels: &mut dyn Iterator<Item = &str>| {
            key.clear();
            for label in labels {
                key.extend(label.chars().filter(|c| *c != exposition::SEPARATOR));
                key.push(exposition::SEPARATOR);
            }
        };
        write(key, &mut labels.iter().copied());
        if series.len() >= MOST_SERIES && !series.contains_key(key) {
            write(key, &mut labels.iter().map(|_| "other"));
        }
        match series.get_mut(key) {
            Some(value) => act(value),
            None => act(series.entry(key.clone()).or_insert_with(|| Value::new(spec.kind))),
        }
    }

    pub(crate) fn ended(&self, line: &AccessRecord, at: Labels<'_>) {
        let method = bounded_method(&line.method);
        self.count(Family::HttpRequests, &[at.forward, method, at.path]);
        self.time(Family::HttpDuration, &[at.forward, method, at.path], line.total);
        if line.status >= 400 && line.status != 499 {
            let error = if line.attempts > 0 { "upstream_error" } else { "request_error" };
            self.count(Family::HttpErrors, &[at.forward, error, &line.status.to_string()]);
            if line.status == 429 && line.attempts == 0 {
                self.count(Family::RateLimited, &[at.forward]);
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
        let model = at.model.unwrap_or("other");
        if line.end == End::UpstreamLost {
            self.count(Family::UpstreamLost, &[endpoint]);
        }
        if let Some(first) = line.first_byte {
            self.time(Family::FirstByte, &[endpoint, model], first);
        }
        let Tokens { prompt, cached, completion, per_second } = line.tokens;
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
        let families = lock(&self.families).series.clone();
        let mut out = String::new();
        for (spec, series) in FAMILIES.iter().zip(&families) {
            exposition::family(&mut out, spec, series);
        }
        now.iter().for_each(|gauge| exposition::gauge(&mut out, gauge));
        out
    }
}

fn bounded_method(method: &str) -> &str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    if known.contains(&method) { method } else { "other" }
}

#[cfg(test)]
mod tests;
