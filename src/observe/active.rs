//! Requests in progress, and the last ones that ended, as the page shows them.

use super::access::AccessRecord;
use super::{History, SHOWN, escape};
use crate::util::cancel::CancelToken;
use crate::util::lock::lock;
use crate::util::time;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// Keeps nothing until `watch` is called.
#[derive(Default)]
pub(crate) struct Activity {
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    running: BTreeMap<String, Arc<ActiveRequest>>,
    recent: History<Ended>,
}

struct Ended {
    at: SystemTime,
    record: Arc<AccessRecord>,
    /// By an administrator.
    stopped: bool,
}

pub(crate) struct ActiveRequest {
    /// Empty while nothing is kept for the page.
    id: String,
    client: IpAddr,
    key: Option<Arc<str>>,
    path: String,
    model: Option<String>,
    began: Instant,
    cancel: Arc<CancelToken>,
    progress: Mutex<Progress>,
    stopped: AtomicBool,
}

/// Times are relative to the start of the request.
#[derive(Default)]
struct Progress {
    endpoint: Option<Arc<str>>,
    first_byte: Option<Duration>,
    events: u64,
    first_event: Option<Duration>,
}

/// Keeps a request in the list until dropped.
pub(crate) struct Shown<'a> {
    activity: &'a Activity,
    pub(crate) active: Arc<ActiveRequest>,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if let Some(kept) = &mut *lock(&self.activity.kept) {
            kept.running.remove(&self.active.id);
        }
    }
}

impl ActiveRequest {
    pub(crate) fn is_shown(&self) -> bool {
        !self.id.is_empty()
    }

    /// The request is sent to this endpoint now.
    pub(crate) fn at(&self, endpoint: &str) {
        if self.is_shown() {
            lock(&self.progress).endpoint = Some(endpoint.into());
        }
    }

    /// A part of the answer was received, with `events` events of a stream.
    pub(crate) fn moved(&self, now: Instant, events: u64) {
        let age = now.saturating_duration_since(self.began);
        let mut progress = lock(&self.progress);
        progress.first_byte.get_or_insert(age);
        if events > 0 {
            progress.first_event.get_or_insert(age);
        }
        progress.events += events;
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn view(&self, now: Instant) -> Value {
        let age = now.saturating_duration_since(self.began);
        let Progress { endpoint, first_byte, events, first_event } = &*lock(&self.progress);
        // Measured from the first event, so it takes two.
        let passed = first_event.map(|first| age.saturating_sub(first).as_secs_f64()).filter(|passed| *passed >= 1e-3);
        let speed = passed.filter(|_| *events > 1).map(|passed| ((events - 1) as f64 * 10.0 / passed).round() / 10.0);
        json!({
            "id": self.id, "client": self.client.to_string(), "key": self.key.as_deref(), "path": self.path,
            "model": self.model, "endpoint": endpoint.as_deref(), "age_ms": age.as_millis() as u64,
            "first_byte_ms": first_byte.map(|time| time.as_millis() as u64), "tokens": events,
            "tokens_per_second": speed, "stopping": self.is_stopped(),
        })
    }
}

impl Activity {
    pub(crate) fn watch(&self) {
        lock(&self.kept).get_or_insert(Kept { running: BTreeMap::new(), recent: History::new() });
    }

    pub(crate) fn begin(
        &self,
        record: &AccessRecord,
        model: Option<&str>,
        began: Instant,
        cancel: &Arc<CancelToken>,
    ) -> Shown<'_> {
        let mut kept = lock(&self.kept);
        let shown = |text: &str| kept.as_ref().map(|_| escape::cut(text, SHOWN).to_owned());
        let is_free = |id: &String| kept.as_ref().is_some_and(|kept| !kept.running.contains_key(id));
        // Clients may send the same request id twice.
        let id = &record.request_id;
        let ids = std::iter::once(id.clone()).chain((2..).map(|n| format!("{id}~{n}")));
        let active = Arc::new(ActiveRequest {
            id: kept.as_ref().and_then(|_| ids.into_iter().find(is_free)).unwrap_or_default(),
            client: record.client,
            key: record.key.clone(),
            path: shown(&record.path).unwrap_or_default(),
            model: model.and_then(shown),
            began,
            cancel: Arc::clone(cancel),
            progress: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        if let Some(kept) = &mut *kept {
            kept.running.insert(active.id.clone(), Arc::clone(&active));
        }
        Shown { activity: self, active }
    }

    /// Ends a request as if its client had disconnected; false if there is none of this id.
    pub(crate) fn stop(&self, id: &str) -> bool {
        let active = lock(&self.kept).as_ref().and_then(|kept| kept.running.get(id).cloned());
        if let Some(active) = &active {
            active.stopped.store(true, Ordering::Relaxed);
            active.cancel.cancel();
        }
        active.is_some()
    }

    pub(crate) fn ended(&self, record: &Arc<AccessRecord>) {
        if let Some(kept) = lock(&self.kept).as_mut().filter(|_| !record.is_polled()) {
            let stopped = kept.running.get(&record.request_id).is_some_and(|active| active.is_stopped());
            kept.recent.push(Ended { at: time::wall(), record: Arc::clone(record), stopped });
        }
    }

    /// Requests in progress, the oldest first.
    pub(crate) fn running(&self) -> Vec<Value> {
        let at = time::now();
        let mut all: Vec<_> = lock(&self.kept).iter().flat_map(|kept| kept.running.values().cloned()).collect();
        all.sort_by_key(|active| active.began);
        all.iter().map(|active| active.view(at)).collect()
    }

    /// Requests that ended after number `after`, the oldest first, and the number of the last one.
    pub(crate) fn recent(&self, after: u64) -> (Vec<Value>, u64) {
        let kept = lock(&self.kept);
        let Some(Kept { recent, .. }) = &*kept else { return (Vec::new(), 0) };
        let view = |(number, ended): (u64, &Ended)| {
            let renamed = |name| if name == "request_id" { "id" } else { name };
            let fields = ended.record.fields().map(|(name, value)| (renamed(name).to_owned(), json!(value)));
            let mut view = Value::Object(fields.collect::<Map<_, _>>());
            view["seq"] = number.into();
            view["at"] = time::iso(ended.at).into();
            if let Some(why) = ended.record.recomputed {
                view["recomputed"] = why.to_string().into();
            }
            if ended.stopped {
                view["end"] = "stopped".into();
            }
            view
        };
        (recent.after(after).map(view).collect(), recent.last)
    }
}
