//! The snapshot that a request reads, and the store that replaces it as a whole.

use crate::config::{self, Config};
use crate::routing::affinity::Affinity;
use crate::routing::catalog::{Catalog, Listing};
use crate::routing::endpoint::{Endpoint, Props};
use crate::routing::health_status::Observation;
use crate::routing::keys::KeyRing;
use crate::routing::scope::{Group, Scope};
use crate::routing::slots::Capacity;
use crate::util::cancel::{CancelToken, TICK};
use crate::util::lock::{lock, read, write};
use crate::util::lru::SharedLru;
use crate::util::time;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::borrow::Cow;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Unknown models cause a refresh of the model lists at most this often.
const REFRESH_EVERY: Duration = Duration::from_secs(2);
/// The longest wait for a refresh, so that an endpoint that hangs does not block workers.
const REFRESH_WAIT: Duration = Duration::from_secs(2);
/// Queued events for the health thread. Further ones are dropped: they only ask for a probe.
const MOST_EVENTS: usize = 256;
/// Remembered conversations; at most twice as many.
const CONVERSATIONS: usize = 512;

#[derive(Clone)]
pub struct Snapshot {
    pub config: Arc<Config>,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// Shared by successive snapshots until it changes.
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) key_ring: Arc<KeyRing>,
    pub(crate) groups: Vec<Arc<Group>>,
    /// Changes whenever an endpoint becomes available or the configuration is replaced.
    pub(crate) epoch: u64,
}

impl Snapshot {
    pub fn new(config: Arc<Config>, endpoints: Vec<Arc<Endpoint>>) -> Self {
        Self::after(None, config, endpoints)
    }

    fn after(before: Option<&KeyRing>, config: Arc<Config>, endpoints: Vec<Arc<Endpoint>>) -> Self {
        let key_ring = Arc::new(KeyRing::new(&config.keys, before));
        let catalog = Arc::new(Catalog::new(&endpoints, &config.models));
        let groups = grouped(&config, &endpoints);
        Self { config, endpoints, catalog, key_ring, groups, epoch: 0 }
    }

    #[must_use]
    pub(crate) fn with(&self, name: &str, change: impl FnOnce(&mut Endpoint)) -> Self {
        let mut next = self.clone();
        let Some(n) = self.endpoints.iter().position(|e| e.name() == name) else { return next };
        let (old, new) = (&self.endpoints[n], Arc::make_mut(&mut next.endpoints[n]));
        change(new);
        let is_same = Arc::ptr_eq(&new.config, &old.config);
        let states = |one: &Endpoint| (one.is_available(), one.is_asleep());
        if !is_same || states(new) != states(old) || new.models != old.models {
            next.catalog = Arc::new(Catalog::new(&next.endpoints, &next.config.models));
        }
        next.groups = grouped(&next.config, &next.endpoints);
        next
    }

    /// This snapshot under a new configuration. Endpoints keep their counters by name, and what was discovered about
    /// them as long as their address is the same.
    #[must_use]
    pub(crate) fn reconfigured(&self, config: Config) -> Self {
        let endpoints = config.endpoints.iter().map(|one| {
            let old = self.endpoints.iter().find(|old| old.name() == one.name);
            let mut endpoint = match old.filter(|old| old.config.base == one.base) {
                Some(old) if old.config.enabled == one.enabled => {
                    Endpoint { config: Arc::new(one.clone()), ..Endpoint::clone(old) }
                }
                // Its slots are kept: without a limit, all requests queued for it would be sent at once.
                Some(old) => {
                    let props = Props { slots: old.props.slots, ..Props::default() };
                    Endpoint { props: Arc::new(props), ..Endpoint::new(one.clone()) }
                }
                None => Endpoint::new(one.clone()),
            };
            if let Some(old) = old {
                endpoint.live = Arc::clone(&old.live);
            }
            Arc::new(endpoint)
        });
        let endpoints = endpoints.collect();
        Self::after(Some(&self.key_ring), Arc::new(config), endpoints)
    }

    pub(crate) fn listing(&self, scope: &Scope) -> Cow<'_, Listing> {
        if scope.is_all() {
            return Cow::Borrowed(&self.catalog.listing);
        }
        Cow::Owned(self.catalog.listing(&self.endpoints, &self.config.models, scope, |_| true))
    }

    pub(crate) fn enabled(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.iter().filter(|e| e.config.enabled)
    }

    /// A request can be answered now or after a wake-up.
    pub(crate) fn is_healthy(&self) -> bool {
        self.endpoints.iter().any(|e| e.is_available() || e.is_asleep())
    }
}

/// The endpoints of each group with its settings, in its order. Their counters are shared.
fn grouped(config: &Config, endpoints: &[Arc<Endpoint>]) -> Vec<Arc<Group>> {
    let group = |group: &config::Group| {
        let used = group.endpoints.iter().filter_map(|one| {
            let endpoint = endpoints.iter().find(|endpoint| endpoint.name() == one.endpoint)?;
            let view = group.view(&endpoint.config)?;
            Some(Arc::new(Endpoint { config: Arc::new(view), ..Endpoint::clone(endpoint) }))
        });
        Arc::new(Group { config: group.clone(), endpoints: used.collect() })
    };
    config.groups.iter().map(group).collect()
}

pub enum HealthEvent {
    /// A request found this out about an endpoint.
    Seen(String, Observation),
    /// A request would benefit from endpoints that are down: probe them soon.
    Wanted,
    /// Refresh all model lists.
    Refresh,
    /// Probe all endpoints and then call this.
    Force(Box<dyn FnOnce() + Send>),
    Stop,
}

/// The current snapshot, the state that outlives it, and the channel to the health thread.
pub struct SnapshotStore {
    current: RwLock<Arc<Snapshot>>,
    pub(crate) capacity: Arc<Capacity>,
    pub(crate) affinity: Affinity,
    /// The endpoint of each conversation (`X-Conversation-Id`).
    pub(crate) conversations: SharedLru<CONVERSATIONS, String>,
    writer: Mutex<()>,
    events: Sender<HealthEvent>,
    refresh: Mutex<Refresh>,
    refreshed: Condvar,
}

#[derive(Default)]
struct Refresh {
    running: Option<Instant>,
    last: Option<Instant>,
}

impl SnapshotStore {
    /// Publishes the first snapshot. The receiver is for the health thread.
    pub fn new(first: Snapshot) -> (Arc<Self>, Receiver<HealthEvent>) {
        let (events, inbox) = bounded(MOST_EVENTS);
        let store = Self {
            current: RwLock::new(Arc::new(first)),
            capacity: Arc::default(),
            affinity: Affinity::default(),
            conversations: SharedLru::default(),
            writer: Mutex::new(()),
            events,
            refresh: Mutex::default(),
            refreshed: Condvar::new(),
        };
        store.set_limits(&store.load());
        (Arc::new(store), inbox)
    }

    pub(crate) fn load(&self) -> Arc<Snapshot> {
        Arc::clone(&read(&self.current))
    }

    /// Replaces the snapshot by one made from it. Writers exclude each other, so no change is lost.
    pub(crate) fn update(&self, make: impl FnOnce(&Snapshot) -> Snapshot) {
        let _turn = lock(&self.writer);
        let old = self.load();
        let mut next = make(&old);
        let mut pairs = old.endpoints.iter().zip(&next.endpoints);
        let has_more = pairs.any(|(old, new)| new.is_available() && !old.is_available());
        next.epoch = old.epoch + u64::from(has_more || !Arc::ptr_eq(&old.config, &next.config));
        self.set_limits(&next);
        *write(&self.current) = Arc::new(next);
    }

    fn set_limits(&self, snapshot: &Snapshot) {
        self.capacity.resize(snapshot.endpoints.iter().map(|endpoint| (&*endpoint.live, endpoint.limit())));
    }

    /// Sends an event to the health thread without blocking. False if its queue is full; a forced check is then
    /// answered at once.
    pub(crate) fn notify(&self, event: HealthEvent) -> bool {
        match self.events.try_send(event).map_err(TrySendError::into_inner) {
            Ok(()) => return true,
            Err(HealthEvent::Force(answer)) => answer(),
            Err(_) => {}
        }
        false
    }

    /// Reports that a request would benefit from endpoints that are down. Uses a flag, so that frequent calls do not
    /// fill the queue.
    pub(crate) fn want(&self) {
        if self.events.len() < MOST_EVENTS / 2 {
            self.notify(HealthEvent::Wanted);
        }
    }

    /// Ends the health thread. Blocks until the event is queued, since it must not be lost.
    pub(crate) fn end_health(&self) {
        let _ = self.events.send_timeout(HealthEvent::Stop, REFRESH_EVERY);
    }

    /// Waits for a refresh of the model lists, which concurrent callers share. Returns at once if the last refresh is
    /// recent, or has been running for too long.
    pub(crate) fn refresh(&self, cancel: &CancelToken) {
        let mut state = lock(&self.refresh);
        let now = time::now();
        let is_fresh = state.last.is_some_and(|last| now.saturating_duration_since(last) < REFRESH_EVERY);
        let began = match state.running {
            Some(began) => began,
            None if is_fresh || !self.notify(HealthEvent::Refresh) => return,
            None => *state.running.insert(now),
        };
        while state.running == Some(began) {
            let remaining = (began + REFRESH_WAIT).saturating_duration_since(time::now());
            if remaining.is_zero() || cancel.is_cancelled() {
                return;
            }
            let waited = self.refreshed.wait_timeout(state, remaining.min(TICK));
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn refreshed(&self) {
        let mut state = lock(&self.refresh);
        (state.running, state.last) = (None, Some(time::now()));
        self.refreshed.notify_all();
    }
}
