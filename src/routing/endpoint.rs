//! An endpoint as a request sees it: its configuration, what was discovered about it, and its counters.

use crate::api::model_list::Model;
use crate::config::{self, MaxConcurrent, Probe};
use crate::routing::health_status::{HealthStatus, State};
use crate::routing::strategy::Load;
use crate::util::lru::SharedLru;
use crate::util::time;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Ollama's default tag.
pub(super) const LATEST: &str = ":latest";
/// An endpoint that sent a byte this recently is alive (SPEC section 6, busy).
const RECENT: Duration = Duration::from_secs(10);
/// The longest cool-down after a 429 (SPEC section 5).
const LONGEST_COOL_DOWN: Duration = Duration::from_secs(60);
/// Remembered paths and models per endpoint that do not stream; at most twice as many.
const MOST_STREAMLESS: usize = 32;
/// The least time between two magic packets to an endpoint, however many requests wait for it.
const PACKET_EVERY: Duration = Duration::from_secs(5);
/// Remembered responses per endpoint; at most twice as many, in 150 KB.
const MOST_RESPONSES: usize = 4_096;

static START: LazyLock<Instant> = LazyLock::new(time::now);
/// The next cache id. No two endpoints share one, and an endpoint gets a new one when it restarts.
static NEXT_CACHE: AtomicU32 = AtomicU32::new(0);

/// An endpoint in one snapshot. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint {
    pub config: Arc<config::Endpoint>,
    /// Shared by all snapshots, kept across reloads.
    pub(crate) live: Arc<Live>,
    pub(crate) health: HealthStatus,
    /// Its latest model list; `None` before the first one.
    pub(crate) models: Option<Arc<Vec<Model>>>,
    pub(crate) props: Arc<Props>,
}

/// What the endpoint reports about itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Props {
    /// `total_slots`, `n_ctx` and `modalities.vision` of llama-server's `/props`.
    pub(crate) slots: Option<u32>,
    pub(crate) context: Option<u64>,
    pub(crate) vision: Option<bool>,
    /// The models in memory, if the server tells (Ollama, LM Studio).
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

    pub(crate) fn is_available(&self) -> bool {
        self.config.enabled && self.health.is_available()
    }

    /// Unreachable, but it can be woken or is being woken.
    pub(crate) fn is_asleep(&self) -> bool {
        let may_come = matches!(self.health.state, State::Asleep | State::Loading) || self.live.is_waking();
        self.config.enabled && self.config.wake.is_some() && !self.health.is_available() && may_come
    }

    /// The state shown on the page and in `/health`.
    pub(crate) fn state(&self) -> State {
        if self.is_asleep() && self.live.is_waking() { State::Waking } else { self.health.state }
    }

    /// It has never listed its models and is unavailable, so what it serves is unknown.
    pub(crate) fn is_unheard(&self) -> bool {
        let is_silent = match self.config.probe {
            Probe::Never => self.health.state == State::Failing,
            _ => !self.health.answered,
        };
        self.config.enabled && self.config.models.is_empty() && self.models.is_none() && is_silent
    }

    /// `None` if the server does not tell.
    pub(crate) fn has_loaded(&self, model: &str) -> Option<bool> {
        let is_model = |name: &String| name == model || name.strip_suffix(LATEST) == Some(model);
        self.props.loaded.as_ref().map(|names| names.iter().any(is_model))
    }

    /// Every model name it serves: those configured, or else those discovered, with aliases.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let discovered = self.models.iter().filter(|_| self.config.models.is_empty()).flat_map(|m| m.iter());
        let discovered = discovered.flat_map(Model::names);
        self.config.models.iter().map(String::as_str).chain(discovered)
    }

    /// `maxConcurrent`, or else the number of llama-server's slots.
    pub(crate) fn limit(&self) -> Option<u32> {
        match self.config.max_concurrent {
            MaxConcurrent::Most(most) => Some(most),
            MaxConcurrent::Unlimited => None,
            MaxConcurrent::Auto => self.props.slots.filter(|&slots| slots > 0),
        }
    }

    /// The model for `auto`: `defaultModel`, or else the first configured, or else the first discovered.
    pub(crate) fn default_model(&self) -> Option<&str> {
        let configured = self.config.default_model.as_deref().or(self.config.models.first().map(String::as_str));
        configured.or_else(|| self.models.as_ref()?.first().map(|m| m.id.as_str()))
    }
}

/// The counters of an endpoint.
#[derive(Default)]
pub(crate) struct Live {
    /// Slots taken, including abandoned ones.
    in_flight: AtomicU32,
    abandoned: AtomicU32,
    /// `maxConcurrent`; 0 = none.
    limit: AtomicU32,
    /// See [`NEXT_CACHE`].
    cache: AtomicU32,
    /// The following are milliseconds since `START`, 0 for never. The last byte received from it.
    moved: AtomicU64,
    /// A request sent may remain unanswered until then.
    patience: AtomicU64,
    /// It is cooling down until then (`Retry-After` of a 429).
    cooling: AtomicU64,
    /// The last refused connection.
    refused: AtomicU64,
    /// The last magic packet.
    packet: AtomicU64,
    /// Requests that are waking it.
    wakers: AtomicU32,
    streamless: SharedLru<MOST_STREAMLESS>,
    key: AtomicUsize,
    /// The mean time a request holds a slot, in seconds.
    pub(super) held: Mean,
    /// Prompt tokens computed per second.
    pub(crate) prompt_speed: Mean,
    /// See [`Live::tokens`]; shown on the page only.
    tokens: [AtomicU64; 4],
    /// Ids of its responses (OpenAI's Responses API). Requests that refer to one must go to the server that stores it.
    pub(crate) responses: SharedLru<MOST_RESPONSES>,
}

/// An exponential moving average; 0 before the first value. A value may be lost when two threads add at once.
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

    /// Takes a slot. Called only by `Capacity`, under its lock.
    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(super) fn leave(&self, was_abandoned: bool) {
        self.abandoned.fetch_sub(u32::from(was_abandoned), Relaxed);
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// A request has ended, but its slot remains taken.
    pub(super) fn abandon(&self) {
        self.abandoned.fetch_add(1, Relaxed);
    }

    pub(super) fn set_limit(&self, limit: Option<u32>) {
        self.limit.store(limit.unwrap_or(0), Relaxed);
    }

    pub(crate) fn load(&self) -> Load {
        let limit = self.limit.load(Relaxed);
        Load { in_flight: self.in_flight(), limit: (limit > 0).then_some(limit) }
    }

    /// The expected wait for a slot behind `ahead` others, assuming that slots become free at an even rate.
    pub(super) fn expected_wait(&self, others: usize) -> Duration {
        let slots = self.load().limit.unwrap_or(1);
        Duration::from_secs_f64(self.held.get() * (2 * others + 1) as f64 / f64::from(2 * slots))
    }

    pub(crate) fn has_room(&self) -> bool {
        self.load().has_room()
    }

    /// Including abandoned slots.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Requests in progress, without abandoned slots.
    pub(crate) fn requests(&self) -> u32 {
        self.in_flight().saturating_sub(self.abandoned.load(Relaxed))
    }

    pub(crate) fn cache_id(&self) -> u32 {
        self.cache.load(Relaxed)
    }

    /// The server was restarted, so its prompt cache is empty.
    pub(crate) fn restarted(&self) {
        self.cache.store(NEXT_CACHE.fetch_add(1, Relaxed), Relaxed);
        self.streamless.clear();
    }

    /// A request was sent and may remain unanswered for `first_byte`.
    pub(crate) fn sent(&self, now: Instant, first_byte: Option<Duration>) {
        self.patience.fetch_max(millis(now + first_byte.unwrap_or(Duration::from_secs(86_400))), Relaxed);
    }

    pub(crate) fn moved(&self, now: Instant) {
        self.moved.store(millis(now).max(1), Relaxed);
    }

    /// Whether a probe may have timed out because the server is busy: one of our requests is making progress, or may
    /// still be waiting for its first byte.
    pub(crate) fn is_working(&self, now: Instant) -> bool {
        let (now, moved) = (millis(now), self.moved.load(Relaxed));
        let is_recent = moved > 0 && now.saturating_sub(moved) <= RECENT.as_millis() as u64;
        self.in_flight() > 0 && (is_recent || now < self.patience.load(Relaxed))
    }

    /// Starts the cool-down after a 429, of at most a minute. Never shortens one.
    pub(crate) fn cool_down(&self, now: Instant, wait: Duration) {
        self.cooling.fetch_max(millis(now + wait.min(LONGEST_COOL_DOWN)), Relaxed);
    }

    pub(crate) fn is_cooling(&self, now: Instant) -> bool {
        millis(now) < self.cooling.load(Relaxed)
    }

    /// A connection was refused, so the server is not running.
    pub(crate) fn note_refused(&self, now: Instant) {
        self.refused.store(millis(now).max(1), Relaxed);
    }

    pub(crate) fn refused_since(&self, then: Instant) -> bool {
        self.refused.load(Relaxed) > millis(then)
    }

    /// Whether a magic packet is due. Returns true to one of several callers, which must send it.
    pub(crate) fn takes_packet(&self, now: Instant) -> bool {
        let (now, last) = (millis(now).max(1), self.packet.load(Relaxed));
        let is_due = last == 0 || now.saturating_sub(last) >= PACKET_EVERY.as_millis() as u64;
        is_due && self.packet.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }

    /// The endpoint counts as waking until the guard is dropped.
    pub(crate) fn waking(self: &Arc<Self>) -> Waking {
        self.wakers.fetch_add(1, Relaxed);
        Waking(Arc::clone(self))
    }

    pub(crate) fn is_waking(&self) -> bool {
        self.wakers.load(Relaxed) > 0
    }

    /// It ignored `"stream": true` at this path, for this model.
    pub(crate) fn note_streamless(&self, path: &str, model: Option<&str>) {
        self.streamless.put((path, model), ());
    }

    pub(crate) fn is_streamless(&self, path: &str, model: Option<&str>) -> bool {
        self.streamless.get((path, model)).is_some()
    }

    pub(crate) fn count_tokens(&self, tokens: [u64; 4]) {
        for (sum, new) in self.tokens.iter().zip(tokens) {
            sum.fetch_add(new, Relaxed);
        }
    }

    /// Generated, prompt and cached tokens since the start, as reported, and the prompt tokens of answers that report
    /// cached tokens.
    pub(crate) fn tokens(&self) -> [u64; 4] {
        self.tokens.each_ref().map(|sum| sum.load(Relaxed))
    }

    /// The index of the next API key, in turn.
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
