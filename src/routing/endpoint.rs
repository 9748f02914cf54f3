//! An endpoint as a request sees it: what the user configured, what was learnt, what is going on there.

use crate::api::model_list::Model;
use crate::config::{self, MaxConcurrent, Probe};
use crate::routing::health_status::{HealthStatus, State};
use crate::routing::strategy::Load;
use crate::util::lru::SharedLru;
use crate::util::time;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// What Ollama adds to a name without a tag.
pub(super) const LATEST: &str = ":latest";
/// Traffic within this time is a sign of life (SPEC section 6, busy).
const RECENT: Duration = Duration::from_secs(10);
/// The longest cool-down after a 429 (SPEC section 5).
const LONGEST_COOL_DOWN: Duration = Duration::from_secs(60);
/// Paths and models of one endpoint that are known not to stream; at most twice that.
const MOST_STREAMLESS: usize = 32;
/// A magic packet is sent to one endpoint at most this often, however many requests wait for it.
const PACKET_EVERY: Duration = Duration::from_secs(5);
/// Responses of one endpoint that are known for sure; at most twice that, in 150 KB.
const MOST_RESPONSES: usize = 4_096;

static START: LazyLock<Instant> = LazyLock::new(time::now);
/// Caches of all endpoints, counted so that no two lives of any have the same number.
static NEXT_CACHE: AtomicU32 = AtomicU32::new(0);

/// An endpoint in one snapshot. Cheap to copy and change one thing.
#[derive(Clone)]
pub struct Endpoint {
    pub config: Arc<config::Endpoint>,
    /// Counters that outlive snapshots and reloads.
    pub(crate) live: Arc<Live>,
    pub(crate) health: HealthStatus,
    /// What it listed last, if it ever did.
    pub(crate) models: Option<Arc<Vec<Model>>>,
    pub(crate) props: Arc<Props>,
}

/// What it told about itself, as far as it does.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Props {
    /// `total_slots`, `n_ctx` and `modalities.vision` of llama-server's `/props`.
    pub(crate) slots: Option<u32>,
    pub(crate) context: Option<u64>,
    pub(crate) vision: Option<bool>,
    /// The models in its memory, of servers that tell them apart (Ollama, LM Studio).
    pub(crate) loaded: Option<Vec<String>>,
}

impl Endpoint {
    pub fn new(config: config::Endpoint) -> Self {
        Self {
            config: Arc::new(config),
            live: Arc::new(Live::new()),
            health: HealthStatus::default(),
            models: None,
            props: Arc::default(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Enabled, and nothing known against it.
    pub(crate) fn is_available(&self) -> bool {
        self.config.enabled && self.health.is_available()
    }

    /// It is out, and can be woken or is on its way up.
    pub(crate) fn is_asleep(&self) -> bool {
        let may_come = matches!(self.health.state, State::Asleep | State::Loading) || self.live.is_waking();
        self.config.enabled && self.config.wake.is_some() && !self.health.is_available() && may_come
    }

    /// Its state as it is shown.
    pub(crate) fn state(&self) -> State {
        if self.is_asleep() && self.live.is_waking() { State::Waking } else { self.health.state }
    }

    /// What it serves is not known yet: it has never listed its models, and does not answer now.
    pub(crate) fn is_unheard(&self) -> bool {
        let is_silent = match self.config.probe {
            Probe::Never => self.health.state == State::Failing,
            _ => !self.health.answered,
        };
        self.config.enabled && self.config.models.is_empty() && self.models.is_none() && is_silent
    }

    /// Whether a model is in its memory, if it says so.
    pub(crate) fn has_loaded(&self, model: &str) -> Option<bool> {
        let is_model = |name: &String| name == model || name.strip_suffix(LATEST) == Some(model);
        self.props.loaded.as_ref().map(|names| names.iter().any(is_model))
    }

    /// Every name it serves: as configured, else as discovered with aliases.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let discovered = self.models.iter().filter(|_| self.config.models.is_empty()).flat_map(|m| m.iter());
        let discovered = discovered.flat_map(Model::names);
        self.config.models.iter().map(String::as_str).chain(discovered)
    }

    /// Requests that may be there at once: as configured, else one for each of llama-server's slots.
    pub(crate) fn limit(&self) -> Option<u32> {
        match self.config.max_concurrent {
            MaxConcurrent::Most(most) => Some(most),
            MaxConcurrent::Unlimited => None,
            MaxConcurrent::Auto => self.props.slots.filter(|&slots| slots > 0),
        }
    }

    /// The model for `auto`: `defaultModel`, else the first configured, else the first discovered.
    pub(crate) fn default_model(&self) -> Option<&str> {
        let configured = self.config.default_model.as_deref().or(self.config.models.first().map(String::as_str));
        configured.or_else(|| self.models.as_ref()?.first().map(|m| m.id.as_str()))
    }
}

/// What is going on at an endpoint. Shared by every snapshot that has it.
#[derive(Default)]
pub(crate) struct Live {
    /// Slots taken by our requests, abandoned ones included.
    in_flight: AtomicU32,
    abandoned: AtomicU32,
    /// `maxConcurrent`; 0 = none.
    limit: AtomicU32,
    /// Which life of its prompt cache this is: another one after every restart.
    cache: AtomicU32,
    /// Times in milliseconds since `START`, 0 = never: of the last byte that came from there,
    moved: AtomicU64,
    /// until which a request sent may stay unanswered,
    patience: AtomicU64,
    /// until which it is cooling down (`Retry-After` of a 429),
    cooling: AtomicU64,
    /// of the last connection that it refused,
    refused: AtomicU64,
    /// and of the last magic packet.
    packet: AtomicU64,
    /// Requests that send magic packets and wait.
    wakers: AtomicU32,
    streamless: SharedLru<MOST_STREAMLESS>,
    key: AtomicUsize,
    /// Seconds that a request keeps its slot.
    pub(super) held: Mean,
    /// Tokens of a prompt that it computes in a second.
    pub(crate) prompt_speed: Mean,
    /// Tokens that were generated, asked for, and found in its cache, as far as it says; for eyes only.
    tokens: [AtomicU64; 3],
    /// Ids of responses that it made (OpenAI's Responses API): what follows one must go to the server that keeps it.
    pub(crate) responses: SharedLru<MOST_RESPONSES>,
}

/// A mean in which old values fade; 0 before the first. For estimates: of two values added at once one may be lost.
#[derive(Default)]
pub(crate) struct Mean(AtomicU64);

impl Mean {
    pub(crate) fn add(&self, value: f64) {
        let old = self.get();
        let mean = if old > 0.0 { (3.0 * old + value) / 4.0 } else { value };
        self.0.store(mean.to_bits(), Relaxed);
    }

    pub(crate) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

fn millis(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(*START).as_millis()).unwrap_or(u64::MAX)
}

impl Live {
    pub(super) fn new() -> Self {
        LazyLock::force(&START);
        let live = Self::default();
        live.restarted();
        live
    }

    /// Counts one request. Only `Capacity` enters and leaves, under its lock.
    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(super) fn leave(&self, was_abandoned: bool) {
        self.abandoned.fetch_sub(u32::from(was_abandoned), Relaxed);
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// One request has ended here, but its slot stays taken.
    pub(super) fn abandon(&self) {
        self.abandoned.fetch_add(1, Relaxed);
    }

    pub(super) fn set_limit(&self, limit: Option<u32>) {
        self.limit.store(limit.unwrap_or(0), Relaxed);
    }

    /// Slots that our requests take, and how many there are.
    pub(crate) fn load(&self) -> Load {
        let limit = self.limit.load(Relaxed);
        Load { in_flight: self.in_flight(), limit: (limit > 0).then_some(limit) }
    }

    /// How long a request probably waits for a slot behind so many others, if its slots become free evenly.
    pub(super) fn expected_wait(&self, others: usize) -> Duration {
        let slots = self.load().limit.unwrap_or(1);
        Duration::from_secs_f64(self.held.get() * (2 * others + 1) as f64 / f64::from(2 * slots))
    }

    pub(crate) fn has_room(&self) -> bool {
        self.load().has_room()
    }

    /// Slots that our requests take, abandoned ones included.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Requests of ours that are there now.
    pub(crate) fn requests(&self) -> u32 {
        self.in_flight().saturating_sub(self.abandoned.load(Relaxed))
    }

    pub(crate) fn cache_id(&self) -> u32 {
        self.cache.load(Relaxed)
    }

    /// It was restarted: its prompt cache is empty.
    pub(crate) fn restarted(&self) {
        self.cache.store(NEXT_CACHE.fetch_add(1, Relaxed), Relaxed);
        self.streamless.clear();
    }

    /// A request was sent and may stay unanswered for `first_byte`.
    pub(crate) fn sent(&self, now: Instant, first_byte: Option<Duration>) {
        self.patience.fetch_max(millis(now + first_byte.unwrap_or(Duration::from_secs(86_400))), Relaxed);
    }

    pub(crate) fn moved(&self, now: Instant) {
        self.moved.store(millis(now).max(1), Relaxed);
    }

    /// Whether a probe that timed out means work rather than death: one of our requests is making
    /// progress there, or may still be waiting for its first byte.
    pub(crate) fn is_working(&self, now: Instant) -> bool {
        let (now, moved) = (millis(now), self.moved.load(Relaxed));
        let is_recent = moved > 0 && now.saturating_sub(moved) <= RECENT.as_millis() as u64;
        self.in_flight() > 0 && (is_recent || now < self.patience.load(Relaxed))
    }

    /// It answered 429 and said how long to wait; a minute at most is believed. A longer wait from before stays.
    pub(crate) fn cool_down(&self, now: Instant, wait: Duration) {
        self.cooling.fetch_max(millis(now + wait.min(LONGEST_COOL_DOWN)), Relaxed);
    }

    pub(crate) fn is_cooling(&self, now: Instant) -> bool {
        millis(now) < self.cooling.load(Relaxed)
    }

    /// A connection was refused: whatever listened there does not any more.
    pub(crate) fn note_refused(&self, now: Instant) {
        self.refused.store(millis(now).max(1), Relaxed);
    }

    pub(crate) fn refused_since(&self, then: Instant) -> bool {
        self.refused.load(Relaxed) > millis(then)
    }

    /// Whether a magic packet is due; it counts as sent then, so of several requests one sends it.
    pub(crate) fn takes_packet(&self, now: Instant) -> bool {
        let (now, last) = (millis(now).max(1), self.packet.load(Relaxed));
        let is_due = last == 0 || now.saturating_sub(last) >= PACKET_EVERY.as_millis() as u64;
        is_due && self.packet.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }

    /// A request waits for it to wake, until this is dropped.
    pub(crate) fn waking(self: &Arc<Self>) -> Waking {
        self.wakers.fetch_add(1, Relaxed);
        Waking(Arc::clone(self))
    }

    pub(crate) fn is_waking(&self) -> bool {
        self.wakers.load(Relaxed) > 0
    }

    /// It answered `"stream": true` with something else at this path, for this model.
    pub(crate) fn note_streamless(&self, path: &str, model: Option<&str>) {
        self.streamless.put((path, model), ());
    }

    pub(crate) fn is_streamless(&self, path: &str, model: Option<&str>) -> bool {
        self.streamless.get((path, model)).is_some()
    }

    pub(crate) fn count_tokens(&self, tokens: [u64; 3]) {
        for (sum, new) in self.tokens.iter().zip(tokens) {
            sum.fetch_add(new, Relaxed);
        }
    }

    /// Tokens since the start: generated, of prompts, and of these found in its cache.
    pub(crate) fn tokens(&self) -> [u64; 3] {
        self.tokens.each_ref().map(|sum| sum.load(Relaxed))
    }

    /// The first key to try among `keys`; in turn.
    pub(crate) fn next_key(&self, keys: usize) -> usize {
        if keys < 2 { 0 } else { self.key.fetch_add(1, Relaxed) % keys }
    }
}

pub(crate) struct Waking(Arc<Live>);

impl Drop for Waking {
    fn drop(&mut self) {
        self.0.wakers.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
