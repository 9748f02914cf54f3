//! When an endpoint is probed, and for what. Pure: time is an argument.

use super::probe::{Extra, Found, Listing, Slots, Task};
use crate::config::{self, Config, Probe};
use crate::routing::endpoint::{Endpoint, Live};
use crate::routing::health_status::{Observation, State};
use crate::routing::slots::Slot;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Interval while an endpoint loads its model.
const LOADING_INTERVAL: Duration = Duration::from_secs(1);
/// Interval while an endpoint is down: with the probe itself, it is back within 2 s of its readiness.
const DOWN_INTERVAL: Duration = Duration::from_millis(1900);
/// After being down this long, an endpoint is probed at the usual interval, and when a request could use it.
const DOWN_LONG: Duration = Duration::from_secs(60);
/// Shortest time between two requests for `/props`, `/slots`, or what other servers have instead (LLAMA-SERVER facts).
const EXTRAS_EVERY: Duration = Duration::from_secs(2);
/// Delay before the slots are first checked after a client disconnected. Many servers free them at once; llama-server
/// may take a second or more.
const SLOTS_DELAY: Duration = Duration::from_millis(100);
/// Shortest time between two list requests outside of rounds, whatever the TTL.
const LEAST_TTL: Duration = Duration::from_millis(100);
/// Longest time that an abandoned slot is held.
const LONGEST_HOLD: Duration = Duration::from_secs(60);
/// Failures within this time count as one.
const ONE_FAILURE: Duration = Duration::from_secs(1);

/// The schedule of one endpoint.
#[derive(Default)]
pub(super) struct Schedule {
    /// A changed configuration starts a new schedule.
    pub(super) config: Arc<config::Endpoint>,
    /// The last round that it takes part in, that its last probe was started in, and that is finished.
    round: u64,
    asked: u64,
    done: u64,
    running: bool,
    /// The next probe reads the list of models, whatever its age.
    reads_list: bool,
    /// `None`: at once.
    due: Option<Instant>,
    asked_at: Option<Instant>,
    listed_at: Option<Instant>,
    props_at: Option<Instant>,
    slots_at: Option<Instant>,
    has_no_props: bool,
    pub(super) bad_list: Option<String>,
    down_since: Option<Instant>,
    failed_at: Option<Instant>,
    /// A request failed while a probe was running, so that a success of the probe may be older than the failure.
    is_doubted: bool,
    pub(super) abandoned: AbandonedSlots,
}

impl Schedule {
    pub(super) fn new(config: Arc<config::Endpoint>, round: u64) -> Self {
        Self { config, round, ..Self::default() }
    }

    /// Takes part in a round, with a probe started after this.
    pub(crate) fn join(&mut self, round: u64, reads_list: bool, now: Instant) {
        (self.round, self.due) = (round, Some(now));
        self.reads_list |= reads_list;
    }

    pub(crate) fn is_done(&self, round: u64) -> bool {
        self.done >= round
    }

    /// A request could use the endpoint: if it is down, it is probed as often as in its first minute.
    pub(crate) fn want(&mut self, now: Instant) {
        if self.down_since.is_some() {
            self.due = self.due.min(Some(self.asked_at.map_or(now, |at| at + DOWN_INTERVAL)));
        }
    }

    /// A request reported something that a probe must confirm.
    pub(crate) fn doubt(&mut self, now: Instant) {
        self.is_doubted = self.running;
        self.due = self.due.min(Some(now + LOADING_INTERVAL));
    }

    /// The time of the next probe; `None` while one is running.
    pub(super) fn wakes_at(&self, config: &Config, endpoint: &Endpoint) -> Option<Instant> {
        let times = [self.due, self.list_due(config, endpoint), self.slots_due(endpoint)];
        times.into_iter().flatten().min().filter(|_| !self.running)
    }

    fn list_due(&self, config: &Config, endpoint: &Endpoint) -> Option<Instant> {
        let ttl = config.models_ttl();
        let alone = discovers(config, endpoint) && !ttl.is_zero() && endpoint.health.is_available();
        self.listed_at.filter(|_| alone).map(|at| at + ttl.max(LEAST_TTL))
    }

    fn slots_due(&self, endpoint: &Endpoint) -> Option<Instant> {
        let since = self.abandoned.since().filter(|_| endpoint.health.is_available())? + SLOTS_DELAY;
        Some(self.slots_at.map_or(since, |at| since.max(at + EXTRAS_EVERY)))
    }

    /// The probe that is due now, if any; the caller runs it.
    pub(super) fn take(&mut self, config: &Config, endpoint: &Arc<Endpoint>, now: Instant) -> Option<Task> {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let (probe, slots) = (self.due <= Some(now), is_due(self.slots_due(endpoint)));
        let list = is_due(self.list_due(config, endpoint))
            || (probe && discovers(config, endpoint) && self.is_list_wanted(config, endpoint));
        if self.running || !(probe || list || slots) {
            return None;
        }
        let path = match &self.config.probe {
            Probe::Default => Some(config.health_check.path.clone()),
            Probe::Path(path) => Some(path.clone()),
            Probe::Never => None,
        };
        let path = path.filter(|_| probe);
        if probe {
            (self.due, self.asked_at) = (Some(now + config.health_check.interval), Some(now));
            (self.asked, self.reads_list) = (self.round, false);
        }
        if path.is_none() && !list && !slots {
            self.finish();
            return None;
        }
        if slots {
            self.slots_at = Some(now);
        }
        self.running = true;
        let props_old = self.props_at.is_none_or(|at| now.saturating_duration_since(at) >= EXTRAS_EVERY);
        let timeout = config.health_check.timeout;
        let connect = self.config.timeouts.connect.map_or(timeout, |connect| connect.min(timeout));
        Some(Task {
            endpoint: Arc::clone(endpoint),
            props: path.is_some() && props_old && !self.has_no_props,
            path,
            list,
            slots,
            ours: self.abandoned.others(&endpoint.live),
            started: now,
            timeout,
            connect,
        })
    }

    /// Whether a probe also reads the list: if its round demands it, if there is none yet, if lists are not cached, or
    /// if the endpoint was down, since it may serve other models now.
    fn is_list_wanted(&self, config: &Config, endpoint: &Endpoint) -> bool {
        let is_back = self.config.probe != Probe::Never && !endpoint.health.answered;
        self.reads_list || self.listed_at.is_none() || config.models_ttl().is_zero() || is_back
    }

    /// The probe has ended or could not be started.
    pub(crate) fn finish(&mut self) {
        (self.running, self.done) = (false, self.asked);
    }

    /// Records the result of a probe; returns what it means for the endpoint's health.
    pub(super) fn record(&mut self, started: Instant, found: &Found) -> Option<Observation> {
        if !found.is_first {
            self.finish();
        }
        if found.list.is_some() {
            self.listed_at = Some(started);
        }
        match &found.list {
            Some(Listing::Models(_)) => self.bad_list = None,
            Some(Listing::Bad(why)) => self.bad_list = Some(why.clone()),
            Some(Listing::Failed) | None => {}
        }
        if found.props.is_some() {
            self.props_at = Some(started);
        }
        self.has_no_props |= matches!(found.props, Some(Extra::Unsupported));
        let is_outdated = std::mem::take(&mut self.is_doubted);
        match (found.seen.clone(), self.bad_list.clone()) {
            (Some(Observation::Up), _) if is_outdated => None,
            (Some(Observation::Up), Some(why)) => Some(self.no_list(why)),
            (None, Some(why)) if matches!(found.list, Some(Listing::Bad(_))) => Some(self.no_list(why)),
            (seen, _) => seen,
        }
    }

    fn no_list(&self, why: String) -> Observation {
        Observation::NoList { why, needed: self.config.models.is_empty() }
    }

    /// Whether an observation is the same failure as the last one, and must not be counted again.
    pub(crate) fn repeats(&mut self, seen: &Observation, interval: Duration, now: Instant) -> bool {
        if !seen.is_failure() {
            return false;
        }
        let window = ONE_FAILURE.min(interval / 2);
        let repeats = self.failed_at.is_some_and(|at| now.saturating_duration_since(at) < window);
        if !repeats {
            self.failed_at = Some(now);
        }
        repeats
    }

    /// Plans the next probe after an observation.
    pub(crate) fn reschedule(&mut self, endpoint: &Endpoint, now: Instant) {
        let health = &endpoint.health;
        if health.answered {
            self.failed_at = None;
        }
        if !health.is_available() {
            self.has_no_props = false;
        }
        let is_down = !health.is_available() || (endpoint.is_unheard() && health.state == State::Failing);
        if !is_down {
            self.down_since = None;
            return;
        }
        let since = *self.down_since.get_or_insert(now);
        if health.state == State::Loading {
            self.due = self.due.min(Some(now + LOADING_INTERVAL));
        } else if now.saturating_duration_since(since) < DOWN_LONG {
            self.due = self.due.min(Some(now + DOWN_INTERVAL));
        }
    }
}

/// Whether the endpoint's list is read. If the endpoint is never probed, only if nothing else names its models.
fn discovers(config: &Config, endpoint: &Endpoint) -> bool {
    endpoint.config.probe != Probe::Never || (endpoint.config.models.is_empty() && config.knows_models())
}

/// Slots of abandoned requests that the server may still be working on, the oldest first, and since when. They are held
/// so that no new request waits behind abandoned work.
#[derive(Default)]
pub(super) struct AbandonedSlots(Vec<(Slot, Instant)>);

impl AbandonedSlots {
    pub(super) fn hold(&mut self, slot: Slot, now: Instant) {
        self.0.push((slot, now));
    }

    fn since(&self) -> Option<Instant> {
        self.0.first().map(|(_, since)| *since)
    }

    /// The requests in progress at the endpoint without the abandoned ones.
    fn others(&self, live: &Live) -> usize {
        (live.in_flight() as usize).saturating_sub(self.0.len())
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.0.retain(|(_, since)| now.saturating_duration_since(*since) < LONGEST_HOLD);
    }

    /// The endpoint has restarted.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Releases the slots that the endpoint no longer uses. `slots` was requested at `started`, with `ours` other
    /// requests of this proxy in progress.
    pub(super) fn release(&mut self, live: &Live, ours: usize, started: Instant, slots: Slots) {
        // The lower of the counts before and after: any other request may have been missing when the server counted.
        let ours = ours.min(self.others(live));
        let working = match slots {
            Slots::Working(working) => working.saturating_sub(ours),
            Slots::Unknown => 0,
            Slots::Failed => return,
        };
        // The answer says nothing about slots abandoned later.
        let counted = self.0.iter().take_while(|(_, since)| *since <= started).count();
        self.0.drain(..counted.saturating_sub(working));
    }
}

#[cfg(test)]
mod tests;
