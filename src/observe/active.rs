//! What is going on, for eyes and never for decisions: the requests in progress, and the last that ended.

use super::access::AccessRecord;
use super::escape;
use crate::api::answer::Tokens;
use crate::util::cancel::CancelToken;
use crate::util::lock::lock;
use crate::util::time;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// Requests that have ended and are still shown.
const RECENT: usize = 200;
/// Characters of a name that are shown.
const SHOWN: usize = 128;

/// Requests in progress, at most one for each worker and job, and the last that ended.
#[derive(Default)]
pub(crate) struct Activity {
    off: AtomicBool,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    running: BTreeMap<String, Arc<ActiveRequest>>,
    recent: VecDeque<Ended>,
    ended: u64,
}

struct Ended {
    number: u64,
    at: SystemTime,
    record: Arc<AccessRecord>,
    /// By somebody at the page.
    stopped: bool,
}

pub(crate) struct ActiveRequest {
    id: String,
    client: IpAddr,
    key: Option<Arc<str>>,
    path: String,
    model: Option<String>,
    began: Instant,
    cancel: Arc<CancelToken>,
    endpoint: Mutex<Option<Arc<str>>>,
    /// Milliseconds from the beginning, and one.
    first_byte: AtomicU64,
    events: AtomicU64,
    /// Milliseconds from the beginning to the first event, and one.
    first_event: AtomicU64,
    stopped: AtomicBool,
}

pub(crate) struct Started<'a> {
    pub(crate) id: &'a str,
    pub(crate) client: IpAddr,
    pub(crate) key: Option<Arc<str>>,
    pub path: &'a str,
    pub(crate) model: Option<&'a str>,
    pub(crate) began: Instant,
    pub(crate) cancel: &'a Arc<CancelToken>,
}

/// Shows a request until it is dropped.
pub(crate) struct Shown<'a> {
    activity: &'a Activity,
    active: Arc<ActiveRequest>,
}

impl Shown<'_> {
    pub(crate) fn active(&self) -> Arc<ActiveRequest> {
        Arc::clone(&self.active)
    }
}

impl std::ops::Deref for Shown<'_> {
    type Target = ActiveRequest;

    fn deref(&self) -> &ActiveRequest {
        &self.active
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if self.active.is_shown() {
            lock(&self.activity.now).running.remove(&self.active.id);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl ActiveRequest {
    pub(crate) fn is_shown(&self) -> bool {
        !self.id.is_empty()
    }

    /// It is at this endpoint now.
    pub(crate) fn at(&self, endpoint: &str) {
        if self.is_shown() {
            *lock(&self.endpoint) = Some(endpoint.into());
        }
    }

    /// Bytes of an answer came, `events` of a stream in them.
    pub(crate) fn moved(&self, now: Instant, events: u64) {
        let after = millis(now.saturating_duration_since(self.began)).saturating_add(1);
        let first = |of: &AtomicU64| of.compare_exchange(0, after, Ordering::Relaxed, Ordering::Relaxed);
        let _ = first(&self.first_byte);
        if events > 0 {
            let _ = first(&self.first_event);
        }
        self.events.fetch_add(events, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Events a second since the first one; one event has no speed yet.
    fn speed(&self, now: Instant) -> Option<f64> {
        let since = self.first_event.load(Ordering::Relaxed).checked_sub(1)?;
        let passed =
            millis(now.saturating_duration_since(self.began)).checked_sub(since).filter(|passed| *passed > 0)?;
        let more = self.events.load(Ordering::Relaxed).checked_sub(1).filter(|more| *more > 0)?;
        Some((more as f64 * 10_000.0 / passed as f64).round() / 10.0)
    }

    fn view(&self, now: Instant) -> Value {
        let first = self.first_byte.load(Ordering::Relaxed).checked_sub(1);
        json!({
            "id": self.id, "client": self.client.to_string(), "key": self.key.as_deref(), "path": self.path, "model": self.model,
            "endpoint": lock(&self.endpoint).as_deref(), "age_ms": millis(now.saturating_duration_since(self.began)),
            "first_byte_ms": first, "tokens": self.events.load(Ordering::Relaxed), "tokens_per_second": self.speed(now), "stopping": self.is_stopped(),
        })
    }
}

impl Activity {
    /// Notes nothing until somebody may look.
    pub(crate) fn unwatched() -> Self {
        Self { off: AtomicBool::new(true), ..Self::default() }
    }

    /// From now on somebody may look.
    pub(crate) fn watch(&self) {
        self.off.store(false, Ordering::Relaxed);
    }

    pub(crate) fn begin(&self, begins: &Started<'_>) -> Shown<'_> {
        let mut active = ActiveRequest {
            id: String::new(),
            client: begins.client,
            key: begins.key.clone(),
            path: String::new(),
            model: None,
            began: begins.began,
            cancel: Arc::clone(begins.cancel),
            endpoint: Mutex::new(None),
            first_byte: AtomicU64::new(0),
            events: AtomicU64::new(0),
            first_event: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        };
        if self.off.load(Ordering::Relaxed) {
            return Shown { activity: self, active: Arc::new(active) };
        }
        active.path = escape::cut(begins.path, SHOWN).to_owned();
        active.model = begins.model.map(|model| escape::cut(model, SHOWN).to_owned());
        let mut now = lock(&self.now);
        // Clients may give two requests one name.
        let names = std::iter::once(begins.id.to_owned()).chain((2..).map(|n| format!("{}~{n}", begins.id)));
        active.id = names.into_iter().find(|name| !now.running.contains_key(name)).unwrap_or_default();
        let active = Arc::new(active);
        now.running.insert(active.id.clone(), Arc::clone(&active));
        Shown { activity: self, active }
    }

    /// Ends a request as if its client had left; false if there is none of this id.
    pub(crate) fn stop(&self, id: &str) -> bool {
        let Some(active) = lock(&self.now).running.get(id).cloned() else {
            return false;
        };
        active.stopped.store(true, Ordering::Relaxed);
        active.cancel.cancel();
        true
    }

    pub(crate) fn ended(&self, record: &Arc<AccessRecord>) {
        if self.off.load(Ordering::Relaxed) || record.is_polled() {
            return;
        }
        let at = time::wall();
        let mut now = lock(&self.now);
        let stopped = now.running.get(&record.request_id).is_some_and(|active| active.is_stopped());
        now.ended += 1;
        if now.recent.len() == RECENT {
            now.recent.pop_front();
        }
        let number = now.ended;
        now.recent.push_back(Ended { number, at, record: Arc::clone(record), stopped });
    }

    /// Requests in progress, the oldest first.
    pub(crate) fn running(&self) -> Vec<Value> {
        let at = time::now();
        let mut all: Vec<_> = lock(&self.now).running.values().cloned().collect();
        all.sort_by_key(|active| active.began);
        all.iter().map(|active| active.view(at)).collect()
    }

    /// Requests that ended after this one, the oldest first, and the number of the last.
    pub(crate) fn recent(&self, after: u64) -> (Vec<Value>, u64) {
        let now = lock(&self.now);
        let new = now.recent.iter().filter(|ended| ended.number > after).map(Ended::view);
        (new.collect(), now.ended)
    }
}

impl Ended {
    fn view(&self) -> Value {
        let record = &*self.record;
        let Tokens { prompt, cached, completion, per_second } = record.tokens;
        json!({
            "seq": self.number, "at": time::iso(self.at), "id": record.request_id, "client": record.client.to_string(),
            "key": record.key.as_deref(), "method": record.method, "path": escape::cut(&record.path, SHOWN),
            "model": record.model.as_deref().map(|model| escape::cut(model, SHOWN)), "endpoint": record.endpoint,
            "reason": record.reason, "status": record.status, "attempts": record.attempts,
            "queue_ms": record.queue.map(millis), "first_byte_ms": record.first_byte.map(millis),
            "total_ms": millis(record.total), "bytes": record.bytes, "tokens_in": prompt, "tokens_cached": cached,
            "tokens_out": completion, "tokens_per_second": per_second,
            "end": if self.stopped { "stopped" } else { record.end.as_str() },
        })
    }
}
