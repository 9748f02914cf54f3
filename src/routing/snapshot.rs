//! All that one request may read, and the store that replaces it as a whole.

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

/// An unknown model asks the endpoints again at most this often.
const REFRESH_EVERY: Duration = Duration::from_secs(2);
/// Requests wait for a refresh until this long after it began: an endpoint that hangs holds no workers.
const REFRESH_WAIT: Duration = Duration::from_secs(2);
/// Events that may wait for the health thread; more are dropped, since each only asks it to look.
const MOST_EVENTS: usize = 256;
/// Conversations whose endpoint is known: as many as were begun lately, and at most twice that.
const CONVERSATIONS: usize = 512;

#[derive(Clone)]
pub struct Snapshot {
    pub config: Arc<Config>,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// Shared by snapshots as long as it does not change.
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) key_ring: Arc<KeyRing>,
    pub(crate) groups: Vec<Arc<Group>>,
    /// Another one whenever an endpoint becomes available or the configuration changes.
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

    /// This snapshot under another configuration: endpoints keep by name what is going on there, and what is known of
    /// them as long as they are at the same address.
    #[must_use]
    pub(crate) fn reconfigured(&self, config: Config) -> Self {
        let endpoints = config.endpoints.iter().map(|one| {
            let old = self.endpoints.iter().find(|old| old.name() == one.name);
            let mut endpoint = match old.filter(|old| old.config.base == one.base) {
                Some(old) if old.config.enabled == one.enabled => {
                    Endpoint { config: Arc::new(one.clone()), ..Endpoint::clone(old) }
                }
                // Its slots stay as many: without a limit all that is queued for it would be sent.
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

    /// A request can be answered now, or by an endpoint that is woken for it.
    pub(crate) fn is_healthy(&self) -> bool {
        self.endpoints.iter().any(|e| e.is_available() || e.is_asleep())
    }
}

/// The endpoints of each group under its conditions, in its order; what goes on there is shared.
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
    /// A real request found this out about an endpoint.
    Seen(String, Observation),
    /// A request could use endpoints that are down: ask them again soon.
    Wanted,
    /// Ask every endpoint for its models now.
    Refresh,
    /// Probe everything now and call this when it is done.
    Force(Box<dyn FnOnce() + Send>),
    Stop,
}

/// The current snapshot, what outlives it, and the channel to the thread that keeps it true.
pub struct SnapshotStore {
    current: RwLock<Arc<Snapshot>>,
    pub(crate) capacity: Arc<Capacity>,
    pub(crate) affinity: Affinity,
    /// Which endpoint has the conversation that its client calls so (`X-Conversation-Id`).
    pub(crate) conversations: SharedLru<CONVERSATIONS, String>,
    writer: Mutex<()>,
    events: Sender<HealthEvent>,
    refresh: Mutex<Refresh>,
    refreshed: Condvar,
}

#[derive(Default)]
struct Refresh {
    /// When the one in progress began.
    running: Option<Instant>,
    last: Option<Instant>,
}

impl SnapshotStore {
    /// Publishes a first snapshot; the receiver is for the health thread.
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

    /// Replaces the snapshot by one made from it. Writers take turns, so none undoes another.
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

    /// Sends to the health thread, without ever waiting for it. False if its inbox is full; whoever waits for a round is
    /// answered at once then.
    pub(crate) fn notify(&self, event: HealthEvent) -> bool {
        match self.events.try_send(event).map_err(TrySendError::into_inner) {
            Ok(()) => return true,
            Err(HealthEvent::Force(answer)) => answer(),
            Err(_) => {}
        }
        false
    }

    /// Reports that endpoints that are down could be of use. Sent often, so never in the way of other events.
    pub(crate) fn want(&self) {
        if self.events.len() < MOST_EVENTS / 2 {
            self.notify(HealthEvent::Wanted);
        }
    }

    /// Ends the health thread: the one event that is waited for, since it must not get lost.
    pub(crate) fn end_health(&self) {
        let _ = self.events.send_timeout(HealthEvent::Stop, REFRESH_EVERY);
    }

    /// Waits until the catalogue was read anew, shared by all who wait; at once if that was done a moment ago, or if it
    /// has taken too long already.
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
