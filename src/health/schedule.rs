//! When an endpoint is asked what. Pure: time is an argument.

use super::probe::{Extra, Found, Listing, Slots, Task};
use crate::config::{self, Config, Probe};
use crate::routing::endpoint::{Endpoint, Live};
use crate::routing::health_status::{Observation, State};
use crate::routing::slots::Slot;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An endpoint that loads its model is asked again after this.
const LOADING_AGAIN: Duration = Duration::from_secs(1);
/// One that is down is asked again after this: it is back within 2 s of its readiness, the probe included.
const DOWN_AGAIN: Duration = Duration::from_millis(1900);
/// After this long down, only the interval counts, and requests that could use it.
const DOWN_LONG: Duration = Duration::from_secs(60);
/// `/props` and `/slots` of llama-server, and what other servers tell instead, are asked at most this often (LLAMA-SERVER facts).
const EXTRAS_EVERY: Duration = Duration::from_secs(2);
/// The first look at the slots of a server whose client left: many free them at once. llama-server takes a second or more.
const NOTICES_AFTER: Duration = Duration::from_millis(100);
/// Lists are never asked more often than this between rounds, however short their TTL.
const LEAST_TTL: Duration = Duration::from_millis(100);
/// An abandoned slot is given back after this.
const LONGEST_GHOST: Duration = Duration::from_secs(60);
/// Failures closer together than this are one failure.
const ONE_FAILURE: Duration = Duration::from_secs(1);

/// What is planned for an endpoint.
pub(super) struct Schedule {
    /// The endpoint as it is asked; another configuration starts anew.
    pub(super) config: Arc<config::Endpoint>,
    /// The last round it takes part in, the one its last probe was started in, and the last one it is through with.
    round: u64,
    asked: u64,
    done: u64,
    running: bool,
    /// The round reads the models, whatever their age.
    reads_list: bool,
    due: Instant,
    asked_at: Option<Instant>,
    listed_at: Option<Instant>,
    props_at: Option<Instant>,
    slots_at: Option<Instant>,
    has_no_props: bool,
    pub(super) bad_list: Option<String>,
    down_since: Option<Instant>,
    failed_at: Option<Instant>,
    /// A request found it dead while the probe was running: the probe may have seen it before that.
    is_doubted: bool,
    pub(super) ghosts: Ghosts,
}

impl Schedule {
    /// Of an endpoint that is asked at once.
    pub(super) fn new(config: Arc<config::Endpoint>, round: u64, now: Instant) -> Self {
        Self {
            config,
            round,
            asked: 0,
            done: 0,
            running: false,
            reads_list: false,
            due: now,
            asked_at: None,
            listed_at: None,
            props_at: None,
            slots_at: None,
            has_no_props: false,
            bad_list: None,
            down_since: None,
            failed_at: None,
            is_doubted: false,
            ghosts: Ghosts::default(),
        }
    }

    /// Takes part in a round; a probe that is running already does not count for it.
    pub(crate) fn join(&mut self, round: u64, reads_list: bool, now: Instant) {
        (self.round, self.due) = (round, now);
        self.reads_list |= reads_list;
    }

    pub(crate) fn is_done(&self, round: u64) -> bool {
        self.done >= round
    }

    /// A request could use it: one that is down is asked again, but not more often than in its first minute.
    pub(crate) fn want(&mut self, now: Instant) {
        if self.down_since.is_some() {
            self.due = self.due.min(self.asked_at.map_or(now, |at| at + DOWN_AGAIN));
        }
    }

    /// A request found out something that a probe is to look into.
    pub(crate) fn doubt(&mut self, now: Instant) {
        self.is_doubted = self.running;
        self.due = self.due.min(now + LOADING_AGAIN);
    }

    /// When it is to be asked next; not while it is being asked.
    pub(super) fn wakes_at(&self, config: &Config, endpoint: &Endpoint) -> Option<Instant> {
        let times = [Some(self.due), self.list_due(config, endpoint), self.slots_due(endpoint)];
        times.into_iter().flatten().min().filter(|_| !self.running)
    }

    fn list_due(&self, config: &Config, endpoint: &Endpoint) -> Option<Instant> {
        let ttl = config.models_ttl();
        let alone = discovers(config, endpoint) && !ttl.is_zero() && endpoint.health.is_available();
        self.listed_at.filter(|_| alone).map(|at| at + ttl.max(LEAST_TTL))
    }

    fn slots_due(&self, endpoint: &Endpoint) -> Option<Instant> {
        let since = self.ghosts.since().filter(|_| endpoint.health.is_available())? + NOTICES_AFTER;
        Some(self.slots_at.map_or(since, |at| since.max(at + EXTRAS_EVERY)))
    }

    /// The probe that is due now, if any; the caller runs it.
    pub(super) fn take(&mut self, config: &Config, endpoint: &Arc<Endpoint>, now: Instant) -> Option<Task> {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let (probe, slots) = (self.due <= now, is_due(self.slots_due(endpoint)));
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
            (self.due, self.asked_at) = (now + config.health_check.interval, Some(now));
            (self.asked, self.reads_list) = (self.round, false);
        }
        if path.is_none() && !list && !slots {
            self.done = self.asked;
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
            ours: (endpoint.live.in_flight() as usize).saturating_sub(self.ghosts.len()),
            started: now,
            timeout,
            connect,
        })
    }

    /// A list is read with a probe in a round that reads lists, when there is none yet, when each round reads one, and
    /// of a server that was away, since it may serve something else now.
    fn is_list_wanted(&self, config: &Config, endpoint: &Endpoint) -> bool {
        let is_back = self.config.probe != Probe::Never && !endpoint.health.answered;
        self.reads_list || self.listed_at.is_none() || config.models_ttl().is_zero() || is_back
    }

    pub(crate) fn fail_to_ask(&mut self) {
        (self.running, self.done) = (false, self.asked);
    }

    /// Notes what was found and when to ask again; returns what that means for the endpoint's health.
    pub(super) fn note(&mut self, started: Instant, found: &Found) -> Option<Observation> {
        if !found.is_first {
            (self.running, self.done) = (false, self.asked);
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

    /// Whether a failure is another sight of the last one, so that both count once.
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

    /// Its health has changed, or was confirmed: when to ask again.
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
            self.due = self.due.min(now + LOADING_AGAIN);
        } else if now.saturating_duration_since(since) < DOWN_LONG {
            self.due = self.due.min(now + DOWN_AGAIN);
        }
    }
}

/// Whether it is asked for its models; where nothing is probed, only if that is where they are known from.
fn discovers(config: &Config, endpoint: &Endpoint) -> bool {
    endpoint.config.probe != Probe::Never || (endpoint.config.models.is_empty() && config.knows_models())
}

/// Slots of an endpoint whose requests were given up while the server may still be working on them, and since when, in
/// order of age: no request is sent to wait behind abandoned work. At most one for each slot that there is.
#[derive(Default)]
pub(super) struct Ghosts(Vec<(Slot, Instant)>);

impl Ghosts {
    pub(super) fn hold(&mut self, slot: Slot, now: Instant) {
        self.0.push((slot, now));
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn since(&self) -> Option<Instant> {
        self.0.first().map(|(_, since)| *since)
    }

    /// Gives back what was held long enough, whatever the server says.
    pub(super) fn expire(&mut self, now: Instant) {
        self.0.retain(|(_, since)| now.saturating_duration_since(*since) < LONGEST_GHOST);
    }

    /// The endpoint has restarted: nothing works there any more.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Gives slots back that the endpoint, asked at `started`, showed free. `ours` are our other requests there then.
    pub(super) fn free(&mut self, live: &Live, ours: usize, started: Instant, slots: Slots) {
        // One that was there only before or only after the question may not be among those that work.
        let ours = ours.min((live.in_flight() as usize).saturating_sub(self.len()));
        let working = match slots {
            Slots::Working(working) => working.saturating_sub(ours),
            Slots::Unknown => 0,
            Slots::Failed => return,
        };
        // What was abandoned after the question is not answered by it.
        let asked = self.0.iter().take_while(|(_, since)| *since <= started).count();
        self.0.drain(..asked.saturating_sub(working));
    }
}

#[cfg(test)]
mod tests;
