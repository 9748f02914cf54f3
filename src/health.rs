//! The health thread: the only one that changes health states and model lists. Requests send it events. Each probe runs
//! on a thread of its own with a deadline, so that a hanging endpoint does not delay the others.

mod probe;
mod schedule;

use crate::config::Probe;
use crate::routing::endpoint::Props;
use crate::routing::health_status::{Observation, State};
use crate::routing::slots::Slot;
use crate::routing::snapshot::{HealthEvent, SnapshotStore};
use crate::upstream::ClientPool;
use crate::util::time;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use probe::{Extra, Found, Listing, Task};
use schedule::Schedule;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the start waits for the first round.
const FIRST_ROUND: Duration = Duration::from_secs(2);
/// The shortest time between rounds on demand, and between rounds triggered by failed requests.
const FORCED_EVERY: Duration = Duration::from_secs(2);
const TRIGGERED_EVERY: Duration = Duration::from_secs(1);
/// The longest sleep.
const IDLE: Duration = Duration::from_secs(1);
/// Health checks on demand that may wait; further ones are answered at once from the last state.
const MAX_WAITING: usize = 64;

pub(crate) struct Health {
    shared: Arc<SnapshotStore>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the thread and waits for the first round, at most [`FIRST_ROUND`].
pub(crate) fn start(
    shared: &Arc<SnapshotStore>,
    inbox: Receiver<HealthEvent>,
    clients: &Arc<ClientPool>,
) -> std::io::Result<Health> {
    let (done, first) = bounded::<()>(1);
    let mut monitor = Monitor {
        abandoned: shared.capacity.abandoned(),
        shared: Arc::clone(shared),
        clients: Arc::new(clients.for_probes()),
        results: bounded(256),
        schedules: HashMap::new(),
        round: 1,
        waiting: vec![(Some(1), Box::new(move || drop(done)))],
        forced_at: None,
        triggered_at: None,
    };
    let thread = std::thread::Builder::new().name("health".into()).spawn(move || {
        // Without this thread no endpoint would ever become healthy again.
        while catch_unwind(AssertUnwindSafe(|| monitor.run(&inbox))).is_err() {
            log::error!("the health thread panicked and continues");
            std::thread::park_timeout(IDLE);
        }
    })?;
    let _ = first.recv_timeout(FIRST_ROUND);
    Ok(Health { shared: Arc::clone(shared), thread: Some(thread) })
}

impl Health {
    /// Stops the thread without waiting for probes in progress.
    pub(crate) fn stop(&mut self) {
        self.shared.end_health();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Report = (Arc<Task>, Found);
type Waiting = Box<dyn FnOnce() + Send>;

struct Monitor {
    shared: Arc<SnapshotStore>,
    /// Without connection pools, so that every probe opens a new connection.
    clients: Arc<ClientPool>,
    results: (Sender<Report>, Receiver<Report>),
    abandoned: Receiver<Slot>,
    schedules: HashMap<String, Schedule>,
    /// Number of the last round. A new schedule takes part in it, and so starts the first one.
    round: u64,
    /// Callbacks for the end of a round, with its number once it has begun.
    waiting: Vec<(Option<u64>, Waiting)>,
    forced_at: Option<Instant>,
    triggered_at: Option<Instant>,
}

impl Monitor {
    fn run(&mut self, inbox: &Receiver<HealthEvent>) {
        loop {
            // After each event, not only when idle: a flood of events must not delay probes.
            let wakes = self.start_probes();
            self.answer_waiting();
            let (results, abandoned) = (self.results.1.clone(), self.abandoned.clone());
            select! {
                recv(results) -> found => if let Ok((task, found)) = found { self.on_report(&task, found) },
                recv(abandoned) -> slot => if let Ok(slot) = slot { self.hold(slot) },
                recv(inbox) -> event => match event {
                    Ok(HealthEvent::Stop) | Err(_) => return,
                    Ok(event) => self.on_event(event),
                },
                default(wakes.saturating_duration_since(time::now())) => {}
            }
        }
    }

    fn on_event(&mut self, event: HealthEvent) {
        let now = time::now();
        match event {
            HealthEvent::Seen(name, seen) => {
                let failed = seen.is_failure();
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
            HealthEvent::Refresh => {
                let (round, shared) = (self.begin_round(true), Arc::clone(&self.shared));
                self.waiting.push((Some(round), Box::new(move || shared.refreshed())));
            }
            HealthEvent::Force(answer) if self.waiting.len() < MAX_WAITING => self.waiting.push((None, answer)),
            HealthEvent::Force(answer) => answer(),
            HealthEvent::Stop => {}
        }
    }

    /// Begins to probe all enabled endpoints at the same time; returns the number of the round.
    fn begin_round(&mut self, reads_list: bool) -> u64 {
        self.round += 1;
        let now = time::now();
        self.schedules.values_mut().for_each(|schedule| schedule.join(self.round, reads_list, now));
        self.round
    }

    fn answer_waiting(&mut self) {
        let is_over = |round: u64| self.schedules.values().all(|schedule| schedule.is_done(round));
        for (_, answer) in self.waiting.extract_if(.., |(round, _)| round.is_some_and(is_over)) {
            answer();
        }
    }

    /// Starts the probes that are due; returns when to check again.
    fn start_probes(&mut self) -> Instant {
        let (snapshot, now) = (self.shared.load(), time::now());
        let mut wakes = now + IDLE;
        if self.waiting.iter().any(|(round, _)| round.is_none()) {
            match self.forced_at.map(|at| at + FORCED_EVERY).filter(|at| *at > now) {
                Some(at) => wakes = wakes.min(at),
                None => {
                    self.forced_at = Some(now);
                    let round = self.begin_round(true);
                    self.waiting.iter_mut().for_each(|(own, _)| *own = own.or(Some(round)));
                }
            }
        }
        self.schedules.retain(|name, _| snapshot.enabled().any(|endpoint| endpoint.name() == name));
        for endpoint in snapshot.enabled() {
            let fresh = || Schedule::new(Arc::clone(&endpoint.config), self.round);
            let schedule = self.schedules.entry(endpoint.name().to_owned()).or_insert_with(fresh);
            if schedule.config != endpoint.config {
                schedule.abandoned = std::mem::replace(schedule, fresh()).abandoned;
            }
            schedule.abandoned.expire(now);
            if let Some(task) = schedule.take(&snapshot.config, endpoint, now)
                && !spawn(&self.clients, &self.results.0, task)
            {
                schedule.finish();
            }
            wakes = schedule.wakes_at(&snapshot.config, endpoint).map_or(wakes, |at| wakes.min(at));
        }
        wakes
    }

    fn on_report(&mut self, task: &Task, found: Found) {
        let endpoint = &task.endpoint;
        let name = endpoint.name();
        // A reload may have removed or changed the endpoint.
        let Some(schedule) = self.schedules.get_mut(name).filter(|known| known.config == endpoint.config) else {
            return;
        };
        let had_bad_list = schedule.bad_list.is_some();
        let seen = schedule.record(task.started, &found);
        if let Some(why) = schedule.bad_list.as_ref().filter(|_| !had_bad_list) {
            log::warn!("endpoint {name}: {why}");
        }
        if let Some(slots) = found.slots {
            schedule.abandoned.release(&endpoint.live, task.ours, task.started, slots);
        }
        if let Some(Listing::Models(models)) = found.list {
            self.shared.update(|old| old.with(name, |endpoint| endpoint.models = Some(Arc::new(models))));
        }
        let props = match found.props {
            Some(Extra::Known(props)) => Some(props),
            Some(Extra::Unsupported) => Some(Props::default()),
            Some(Extra::Failed) | None => None,
        };
        if let Some(props) = props.filter(|props| *props != *endpoint.props) {
            self.shared.update(|old| old.with(name, |endpoint| endpoint.props = Arc::new(props)));
        }
        if let Some(seen) = seen {
            self.observe(name, seen, true);
        }
    }

    /// Keeps the slot of an abandoned request while the server may still be working on it. Only llama-server reports
    /// which of its slots are in use; at other servers the slot is released.
    fn hold(&mut self, slot: Slot) {
        let snapshot = self.shared.load();
        let mut at = snapshot.enabled().filter(|endpoint| slot.is_at(&endpoint.live) && endpoint.props.slots.is_some());
        if let Some(schedule) = at.next().and_then(|endpoint| self.schedules.get_mut(endpoint.name())) {
            schedule.abandoned.hold(slot, time::now());
        }
    }

    fn observe(&mut self, name: &str, seen: Observation, by_probe: bool) {
        let (now, at) = (time::now(), time::wall());
        let Some(schedule) = self.schedules.get_mut(name) else { return };
        let mut change = None;
        self.shared.update(|old| {
            let settings = &old.config.health_check;
            let repeats = schedule.repeats(&seen, settings.interval, now);
            old.with(name, |endpoint| {
                if seen.is_restart() {
                    endpoint.live.restarted();
                    schedule.abandoned.clear();
                }
                let before = if repeats { endpoint.health.uncounted() } else { endpoint.health.clone() };
                let never_probed = endpoint.config.probe == Probe::Never;
                // A failed request takes an endpoint out at once, until a probe succeeds. An endpoint that is never
                // probed is only avoided for a while (see `proxy/forward.rs`).
                let is_out = !never_probed && !by_probe && seen != Observation::Loading;
                let is_asleep = endpoint.config.wake.is_some() && seen.is_unreachable();
                let threshold = if never_probed { u32::MAX } else { settings.failure_threshold };
                let seen = match seen {
                    Observation::Loading if never_probed => Observation::Down("the model is being loaded".into()),
                    seen => seen,
                };
                let health = before.observe(seen, threshold, at);
                endpoint.health = match is_out {
                    _ if is_asleep => health.asleep(),
                    true => health.taken_out(),
                    false => health,
                };
                if endpoint.health.state != before.state {
                    change = Some((before.state, endpoint.health.clone()));
                }
                schedule.reschedule(endpoint, now);
            })
        });
        if let Some((before, now)) = change {
            let why = match now.state {
                State::Busy => "probe timed out while requests are in progress",
                _ => now.last_error.as_deref().unwrap_or("probe succeeded"),
            };
            let is_fine = now.is_available() || now.state == State::Asleep;
            let level = if is_fine { log::Level::Info } else { log::Level::Warn };
            log::log!(level, "endpoint {name}: {} -> {}: {why}", before.as_str(), now.state.as_str());
        }
    }
}

/// Starts a probe; false if the system is out of threads.
fn spawn(clients: &Arc<ClientPool>, results: &Sender<Report>, task: Task) -> bool {
    let (clients, results) = (Arc::clone(clients), results.clone());
    let work = move || {
        let task = Arc::new(task);
        let report = |found| drop(results.send((Arc::clone(&task), found)));
        report(probe::guarded(&task, || probe::ask(&clients, &task, report)));
    };
    let spawned = std::thread::Builder::new().name("probe".into()).stack_size(512 << 10).spawn(work);
    spawned.inspect_err(|error| log::warn!("cannot start a probe: {error}")).is_ok()
}
