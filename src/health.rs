//! The one thread that decides about endpoints. It owns every standing and every catalogue; requests only send it
//! notices. Probes run beside it, each on a thread with a deadline, so a hanging endpoint delays no other.

mod ghosts;
mod probe;
mod schedule;

use crate::config::{Config, Probe};
use crate::routing::health_status::{HealthStatus, Observation, State};
use crate::routing::slots::Slot;
use crate::routing::snapshot::{HealthEvent, SnapshotStore};
use crate::upstream::ClientPool;
use crate::util::time;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use ghosts::Ghosts;
use probe::{Found, Listing, Props, Task};
use schedule::{Schedule, View};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// The start waits for the first round at most this long.
const FIRST_ROUND: Duration = Duration::from_secs(2);
/// Rounds that were asked for begin at most this often.
const FORCED_EVERY: Duration = Duration::from_secs(2);
/// Rounds that failed requests trigger begin at most this often.
const TRIGGERED_EVERY: Duration = Duration::from_secs(1);
/// The longest sleep when nothing is due.
const IDLE: Duration = Duration::from_secs(1);
/// Waiting force-checks; more are answered at once with what is known.
const MOST_WAITING: usize = 64;
pub(crate) struct Health {
    shared: Arc<SnapshotStore>,
    thread: Option<JoinHandle<()>>,
}

/// Starts probing and waits for the first round, but never longer than two seconds.
pub(crate) fn start(
    shared: &Arc<SnapshotStore>,
    inbox: Receiver<HealthEvent>,
    clients: &Arc<ClientPool>,
) -> std::io::Result<Health> {
    let (done, first) = bounded(1);
    let mut keeper = Keeper {
        abandoned: shared.capacity.abandoned(),
        shared: Arc::clone(shared),
        clients: Arc::new(clients.for_probes()),
        results: bounded(256),
        schedules: HashMap::new(),
        ghosts: Ghosts::default(),
        round: 1,
        first: Some(done),
        refreshing: None,
        waiting: Vec::new(),
        force_at: None,
        forced_at: None,
        triggered_at: None,
    };
    let thread = std::thread::Builder::new().name("health".into()).spawn(move || {
        // The thread outlives a panic of its own too: without it nothing would ever come back.
        while catch_unwind(AssertUnwindSafe(|| keeper.run(&inbox))).is_err() {
            log::error!("the health thread panicked and goes on");
            std::thread::park_timeout(IDLE);
        }
    })?;
    let _ = first.recv_timeout(FIRST_ROUND);
    Ok(Health { shared: Arc::clone(shared), thread: Some(thread) })
}

impl Health {
    /// Ends the thread; a probe in progress is not waited for.
    pub(crate) fn stop(&mut self) {
        self.shared.end_health();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Waiting = Box<dyn FnOnce() + Send>;

struct Keeper {
    shared: Arc<SnapshotStore>,
    /// Without a pool: every probe connects anew.
    clients: Arc<ClientPool>,
    results: (Sender<Found>, Receiver<Found>),
    abandoned: Receiver<Slot>,
    schedules: HashMap<String, Schedule>,
    ghosts: Ghosts,
    /// Rounds so far; the first one begins by itself.
    round: u64,
    first: Option<Sender<()>>,
    /// The round that requests for unknown models wait for.
    refreshing: Option<u64>,
    /// Force-checks, with their round once it has begun.
    waiting: Vec<(Option<u64>, Waiting)>,
    force_at: Option<Instant>,
    forced_at: Option<Instant>,
    triggered_at: Option<Instant>,
}

impl Keeper {
    fn run(&mut self, inbox: &Receiver<HealthEvent>) {
        loop {
            // After each message, not only in silence: a flood of notices must not keep probes from being due.
            let wakes = self.ask_due();
            self.settle();
            let (results, abandoned) = (self.results.1.clone(), self.abandoned.clone());
            select! {
                recv(results) -> found => if let Ok(found) = found { self.take_in(found) },
                recv(abandoned) -> slot => if let Ok(slot) = slot { self.hold(slot) },
                recv(inbox) -> event => match event {
                    Ok(HealthEvent::Stop) | Err(_) => return,
                    Ok(event) => self.act(event),
                },
                default(wakes.saturating_duration_since(time::now())) => {}
            }
        }
    }

    fn act(&mut self, event: HealthEvent) {
        let now = time::now();
        match event {
            HealthEvent::Seen(name, seen) => {
                let failed = matches!(seen, Observation::Down(_) | Observation::Refused(_));
                if let Some(schedule) = self.schedules.get_mut(&name) {
                    schedule.doubt(now);
                }
                self.observe(&name, seen, false);
                let is_rare = self.triggered_at.is_none_or(|at| now.saturating_duration_since(at) >= TRIGGERED_EVERY);
                if failed && is_rare {
                    self.triggered_at = Some(now);
                    self.begin_round(false);
                }
            }
            HealthEvent::Wanted => self.schedules.values_mut().for_each(|schedule| schedule.want(now)),
            HealthEvent::Refresh => self.refreshing = Some(self.begin_round(true)),
            HealthEvent::Force(answer) if self.waiting.len() < MOST_WAITING => {
                self.waiting.push((None, answer));
                let next = self.forced_at.map_or(now, |at| at + FORCED_EVERY);
                self.force_at.get_or_insert(next);
            }
            HealthEvent::Force(answer) => answer(),
            HealthEvent::Stop => {}
        }
    }

    /// Every enabled endpoint is asked, side by side.
    fn begin_round(&mut self, reads_list: bool) -> u64 {
        self.round += 1;
        let now = time::now();
        self.schedules.values_mut().for_each(|schedule| schedule.join(self.round, reads_list, now));
        self.round
    }

    /// Whoever waited for a round is answered when all endpoints are through with it.
    fn settle(&mut self) {
        let is_over = |round: u64| self.schedules.values().all(|schedule| schedule.is_done(round));
        if self.first.is_some() && is_over(1) {
            self.first = None;
        }
        if self.refreshing.is_some_and(is_over) {
            self.shared.refreshed();
        }
        self.refreshing = self.refreshing.filter(|&round| !is_over(round));
        let (answered, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(round, _)| round.is_some_and(is_over));
        self.waiting = waiting;
        let answered: Vec<(Option<u64>, Waiting)> = answered;
        answered.into_iter().for_each(|(_, answer)| answer());
    }

    /// Starts the probes whose time has come; returns when to look again.
    fn ask_due(&mut self) -> Instant {
        let (snapshot, now) = (self.shared.load(), time::now());
        if self.force_at.is_some_and(|at| at <= now) {
            (self.force_at, self.forced_at) = (None, Some(now));
            let round = self.begin_round(true);
            self.waiting.iter_mut().for_each(|(own, _)| *own = own.or(Some(round)));
        }
        self.ghosts.expire(now);
        self.schedules.retain(|name, _| snapshot.enabled().any(|endpoint| endpoint.name() == name));
        let mut wakes = self.force_at.map_or(now + IDLE, |at| at.min(now + IDLE));
        for endpoint in snapshot.enabled() {
            let fresh = || Schedule::new(Arc::clone(&endpoint.config), self.round, now);
            let schedule = self.schedules.entry(endpoint.name().to_owned()).or_insert_with(fresh);
            if schedule.config != endpoint.config {
                *schedule = fresh();
            }
            let (ghosts, abandoned) = self.ghosts.at(&endpoint.live);
            let view = View { config: &snapshot.config, endpoint, ghosts, abandoned };
            if let Some(task) = schedule.take(view, now)
                && !spawn(&self.clients, &self.results.0, task)
            {
                schedule.fail_to_ask();
            }
            wakes = schedule.wakes_at(view).map_or(wakes, |at| wakes.min(at));
        }
        wakes
    }

    fn take_in(&mut self, found: Found) {
        let name = found.endpoint.name().to_owned();
        // It may be gone, or another one by now.
        let Some(schedule) = self.schedules.get_mut(&name).filter(|known| known.config == found.endpoint.config) else {
            return;
        };
        let bad_before = schedule.bad_list().is_some();
        let seen = schedule.note(&found);
        if let Some(why) = schedule.bad_list().filter(|_| !bad_before) {
            log::warn!("endpoint {name}: {why}");
        }
        if let Some(slots) = found.slots {
            self.ghosts.free(&found.endpoint.live, found.ours, found.started, slots);
        }
        if let Some(Listing::Models(models)) = found.list {
            let models = Some(Arc::new(models));
            self.shared.update(|old| old.with(&name, |endpoint| endpoint.models = models));
        }
        let reported = match found.props {
            Some(Props::LocalResponse { slots, context }) => Some((slots, context)),
            Some(Props::Unsupported) => Some((None, None)),
            Some(Props::Failed) | None => None,
        };
        if let Some(reported) = reported.filter(|reported| *reported != (found.endpoint.slots, found.endpoint.context))
        {
            self.shared.update(|old| old.with(&name, |endpoint| (endpoint.slots, endpoint.context) = reported));
        }
        if let Some(seen) = seen {
            self.observe(&name, seen, true);
        }
    }

    /// Keeps a slot taken whose server may still be working.
    fn hold(&mut self, slot: Slot) {
        let snapshot = self.shared.load();
        // Only llama-server tells which of its slots work.
        if snapshot.enabled().any(|endpoint| slot.is_at(&endpoint.live) && endpoint.slots.is_some()) {
            self.ghosts.hold(slot, time::now());
        }
    }

    /// Changes what is thought of an endpoint.
    fn observe(&mut self, name: &str, seen: Observation, by_probe: bool) {
        let (now, at, is_restart) = (time::now(), time::wall(), seen.is_restart());
        let Some(schedule) = self.schedules.get_mut(name) else { return };
        let (mut change, mut restarted) = (None, None);
        self.shared.update(|old| {
            let Config { health_check, .. } = &*old.config;
            let repeats = schedule.repeats(&seen, health_check.interval, now);
            old.with(name, |endpoint| {
                let before = if repeats { endpoint.health.uncounted() } else { endpoint.health.clone() };
                let health = match endpoint.config.probe {
                    Probe::Never => unprobed(&before, seen, at),
                    _ if by_probe || seen == Observation::Loading => {
                        before.observe(seen, health_check.failure_threshold, at)
                    }
                    // No request waits for further failures: it is out at once, until a probe succeeds.
                    _ => before.observe(seen, health_check.failure_threshold, at).taken_out(),
                };
                if is_restart {
                    endpoint.live.restarted();
                    restarted = Some(Arc::clone(&endpoint.live));
                }
                if health.state != before.state {
                    change = Some((before.state, health.clone()));
                }
                endpoint.health = health;
                schedule.settle(endpoint, now);
            })
        });
        if let Some(live) = restarted {
            self.ghosts.forget(&live);
        }
        if let Some((before, now)) = change {
            let why = match now.state {
                State::Busy => "probe timed out while requests are in progress",
                _ => now.last_error.as_deref().unwrap_or("probe succeeded"),
            };
            let level = if now.is_available() { log::Level::Info } else { log::Level::Warn };
            log::log!(level, "endpoint {name}: {} -> {}: {why}", before.as_str(), now.state.as_str());
        }
    }
}

/// The standing of one that no probe would ever bring back: it is not taken out for good, it rests for a while (see
/// `proxy/forward.rs`), and the next request finds out.
fn unprobed(before: &HealthStatus, seen: Observation, at: SystemTime) -> HealthStatus {
    let seen = match seen {
        Observation::Loading => Observation::Down("the model is being loaded".into()),
        other => other,
    };
    before.observe(seen, u32::MAX, at)
}

/// Starts a probe; false when the system is out of threads: the endpoint is asked when its next turn comes.
fn spawn(clients: &Arc<ClientPool>, results: &Sender<Found>, task: Task) -> bool {
    let (clients, results) = (Arc::clone(clients), results.clone());
    let work = move || {
        let found = probe::guarded(&task, |task| probe::ask(&clients, task));
        let _ = results.send(found);
    };
    let spawned = std::thread::Builder::new().name("probe".into()).stack_size(512 << 10).spawn(work);
    spawned.inspect_err(|e| log::warn!("a probe could not be started: {e}")).is_ok()
}
