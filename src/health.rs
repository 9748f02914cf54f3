//! The one thread that probes. It owns every standing and every catalogue; requests only send it notices.
//! Probes run beside it, each on a thread with a deadline, so a hanging endpoint delays no other.

use crate::base::clock;
use crate::config::{Probe, Timeouts};
use crate::model::catalog::models_of;
use crate::model::endpoint::{Endpoint, Model};
use crate::model::snapshot::{Notice, Shared, Snapshot};
use crate::model::standing::{Observation, Standing, State};
use crate::upstream::{Answer, Channel, Fault, Net, Order, Trouble, headers};
use crossbeam_channel::{Receiver, Sender, bounded, select};
use http::{Method, StatusCode};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// An endpoint that loads its model is asked again after this.
const LOADING_AGAIN: Duration = Duration::from_secs(1);
/// llama-server's `/props` is asked at most this often (LLAMA-SERVER facts).
const EXTRAS_EVERY: Duration = Duration::from_secs(2);
/// The start waits for the first round at most this long.
const FIRST_ROUND: Duration = Duration::from_secs(2);
/// Bytes of one answer to a probe that are read.
const MOST: usize = 8 << 20;
/// Waiting force-checks; more are answered at once with what is known.
const MOST_WAITING: usize = 64;

/// The running health thread.
pub struct Health {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Starts probing and waits for the first round, but never longer than two seconds.
///
/// # Errors
/// The thread could not be started.
pub fn start(shared: &Arc<Shared>, inbox: Receiver<Notice>, net: Arc<Net>) -> std::io::Result<Health> {
    let (done, first) = bounded(1);
    let keeper = Keeper {
        shared: Arc::clone(shared),
        net,
        results: bounded(256),
        probes: HashMap::new(),
        waiting: Vec::new(),
        refreshing: false,
        first: Some(done),
    };
    let thread = std::thread::Builder::new().name("health".into()).spawn(move || keeper.run(&inbox))?;
    let _ = first.recv_timeout(FIRST_ROUND);
    Ok(Health { shared: Arc::clone(shared), thread: Some(thread) })
}

impl Health {
    /// Ends the thread; a probe in progress is not waited for.
    pub fn stop(&mut self) {
        self.shared.end_health();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What one probe found.
struct Found {
    name: String,
    seen: Option<Observation>,
    models: Option<Vec<Model>>,
    extras: Option<(Option<u32>, Option<u64>)>,
}

/// What is planned for an endpoint.
struct Schedule {
    running: bool,
    due: Instant,
    extras_at: Option<Instant>,
    /// Asked for again while a probe was running.
    again: bool,
}

/// A probe's task, as its thread gets it.
struct Task {
    endpoint: Arc<Endpoint>,
    path: Option<String>,
    list: bool,
    extras: bool,
    timeout: Duration,
}

type Waiting = Box<dyn FnOnce() + Send>;

struct Keeper {
    shared: Arc<Shared>,
    net: Arc<Net>,
    results: (Sender<Found>, Receiver<Found>),
    probes: HashMap<String, Schedule>,
    waiting: Vec<Waiting>,
    refreshing: bool,
    first: Option<Sender<()>>,
}

impl Keeper {
    fn run(mut self, inbox: &Receiver<Notice>) {
        self.probe_due(true, true);
        self.settle();
        loop {
            let results = self.results.1.clone();
            let wait = self.next_due().saturating_duration_since(clock::now());
            select! {
                recv(results) -> found => if let Ok(found) = found { self.take_in(found) },
                recv(inbox) -> notice => match notice {
                    Ok(Notice::Stop) | Err(_) => return,
                    Ok(notice) => self.act(notice),
                },
                default(wait) => self.probe_due(false, false),
            }
            self.settle();
        }
    }

    fn act(&mut self, notice: Notice) {
        match notice {
            Notice::Seen(name, seen) => {
                let down = matches!(seen, Observation::Down(_) | Observation::Refused(_));
                self.observe(&name, seen);
                // One dead endpoint is a reason to look at all, once.
                if down && self.probes.values().all(|p| !p.running) {
                    self.probe_due(true, false);
                } else if let Some(probe) = self.probes.get_mut(&name) {
                    probe.due = clock::now() + LOADING_AGAIN;
                }
            }
            Notice::Refresh => {
                self.refreshing = true;
                self.probe_due(true, true);
            }
            Notice::Force(answer) if self.waiting.len() < MOST_WAITING => {
                self.waiting.push(answer);
                self.probe_due(true, true);
            }
            Notice::Force(answer) => answer(),
            Notice::Stop => {}
        }
    }

    /// When nothing is being asked any more, those who waited for it are answered.
    fn settle(&mut self) {
        if self.probes.values().any(|probe| probe.running) {
            return;
        }
        if std::mem::take(&mut self.refreshing) {
            self.shared.refreshed();
        }
        for answer in self.waiting.drain(..) {
            answer();
        }
        if let Some(first) = self.first.take() {
            let _ = first.try_send(());
        }
    }

    fn next_due(&self) -> Instant {
        let due = self.probes.values().filter(|probe| !probe.running).map(|probe| probe.due);
        due.min().unwrap_or_else(|| clock::now() + LOADING_AGAIN)
    }

    /// Starts the probes whose time has come, or all; `list` reads the models too, whatever their age.
    fn probe_due(&mut self, all: bool, list: bool) {
        let snapshot = self.shared.load();
        self.probes.retain(|name, _| snapshot.enabled().any(|e| e.name() == name));
        for endpoint in snapshot.enabled() {
            let now = clock::now();
            let fresh = Schedule { running: false, due: now, extras_at: None, again: false };
            let probe = self.probes.entry(endpoint.name().to_owned()).or_insert(fresh);
            if probe.running {
                // Its answer may be older than the question: ask once more after it.
                probe.again |= list;
                continue;
            }
            if !all && probe.due > now {
                continue;
            }
            probe.due = now + snapshot.config.health_check.interval;
            let task = task(&snapshot, endpoint, probe, list, now);
            if task.extras {
                probe.extras_at = Some(now);
            }
            if task.path.is_some() || task.list {
                probe.running = spawn(&self.net, &self.results.0, task);
            }
        }
    }

    fn take_in(&mut self, found: Found) {
        let now = clock::now();
        let again = match self.probes.get_mut(&found.name) {
            Some(probe) => {
                probe.running = false;
                if found.seen == Some(Observation::Loading) {
                    probe.due = now + LOADING_AGAIN;
                }
                std::mem::take(&mut probe.again)
            }
            None => return,
        };
        if let Some(seen) = found.seen {
            self.observe(&found.name, seen);
        }
        if found.models.is_some() || found.extras.is_some() {
            self.shared.update(|old| {
                old.with(&found.name, |endpoint| {
                    if let Some(models) = found.models {
                        endpoint.models = Some(Arc::new(models));
                        endpoint.listed_at = Some(now);
                    }
                    if let Some((slots, context)) = found.extras {
                        endpoint.slots = slots.or(endpoint.slots);
                        endpoint.context = context.or(endpoint.context);
                    }
                })
            });
        }
        if again {
            if let Some(probe) = self.probes.get_mut(&found.name) {
                probe.due = now;
            }
            self.probe_due(false, true);
        }
    }

    fn observe(&self, name: &str, seen: Observation) {
        let (mut change, at) = (None, clock::wall());
        self.shared.update(|old| {
            let threshold = old.config.health_check.failure_threshold;
            old.with(name, |endpoint| {
                if seen.is_restart() {
                    endpoint.live.restarted();
                }
                let standing = match endpoint.config.probe {
                    Probe::Never => unprobed(endpoint, seen, at),
                    _ => endpoint.standing.observe(seen, threshold, at),
                };
                if standing.state != endpoint.standing.state {
                    change = Some((endpoint.standing.state, standing.clone()));
                }
                endpoint.standing = standing;
            })
        });
        if let Some((before, now)) = change {
            let why = now.last_error.as_deref().unwrap_or("it answers");
            let level = if now.state == State::Unhealthy { log::Level::Warn } else { log::Level::Info };
            log::log!(level, "endpoint {name}: {} -> {}: {why}", before.as_str(), now.state.as_str());
        }
    }
}

/// The standing of one that no probe would ever bring back: it is not taken out for good, it rests for a while (see
/// `proxy/forward.rs`), and the next request finds out.
fn unprobed(endpoint: &Endpoint, seen: Observation, at: SystemTime) -> Standing {
    let seen = match seen {
        Observation::Loading => Observation::Down("the model is being loaded".into()),
        other => other,
    };
    endpoint.standing.observe(seen, u32::MAX, at)
}

/// Starts a probe; false when the system is out of threads: the endpoint is asked when its next turn comes.
fn spawn(net: &Arc<Net>, results: &Sender<Found>, task: Task) -> bool {
    let (net, results) = (Arc::clone(net), results.clone());
    let work = move || {
        let found = ask(&net, &task);
        let _ = results.send(found);
    };
    let spawned = std::thread::Builder::new().name("probe".into()).stack_size(512 << 10).spawn(work);
    spawned.inspect_err(|e| log::warn!("a probe could not be started: {e}")).is_ok()
}

/// What to ask an endpoint now.
fn task(snapshot: &Snapshot, endpoint: &Arc<Endpoint>, probe: &Schedule, list: bool, now: Instant) -> Task {
    let config = &snapshot.config;
    let path = match &endpoint.config.probe {
        Probe::Never => None,
        Probe::Default => Some(config.health_check.path.clone()),
        Probe::Path(path) => Some(path.clone()),
    };
    let age = endpoint.listed_at.map(|at| now.saturating_duration_since(at));
    let stale = age.is_none_or(|age| age >= config.models_ttl());
    let extras_old = probe.extras_at.is_none_or(|at| now.saturating_duration_since(at) >= EXTRAS_EVERY);
    let discovers = match endpoint.config.probe {
        Probe::Never => endpoint.config.models.is_empty() && config.knows_models(),
        _ => true,
    };
    Task {
        endpoint: Arc::clone(endpoint),
        path,
        list: discovers && (list || stale),
        extras: endpoint.config.probe != Probe::Never && extras_old,
        timeout: config.health_check.timeout,
    }
}

/// Asks one endpoint everything the task names; its time-out bounds all of it.
fn ask(net: &Net, task: &Task) -> Found {
    let name = task.endpoint.name().to_owned();
    let mut found = Found { name, seen: None, models: None, extras: None };
    let channel = match net.channel(&task.endpoint.config) {
        Ok(channel) => channel,
        Err(fault) => return Found { seen: Some(Observation::Down(fault.cause)), ..found },
    };
    let until = clock::now() + task.timeout;
    let mut listed = None;
    if let Some(path) = &task.path {
        let answer = get(&channel, task, path, until);
        if is_list(path) {
            listed = answer.as_ref().ok().cloned();
        }
        let seen = judge(answer, &task.endpoint);
        let up = seen == Observation::Up;
        found.seen = Some(seen);
        if !up {
            return found;
        }
    }
    if task.list {
        let answer = listed.map_or_else(|| get(&channel, task, "/v1/models", until), Ok);
        let list = answer.ok().filter(|(status, _)| status.is_success());
        found.models = list.and_then(|(_, body)| models_of(&serde_json::from_slice(&body).ok()?));
    }
    if task.extras {
        let props = get(&channel, task, "/props", until).ok().filter(|(status, _)| status.is_success());
        let props: Option<Value> = props.and_then(|(_, body)| serde_json::from_slice(&body).ok());
        found.extras = props.map(|props| {
            let slots = props["total_slots"].as_u64().and_then(|slots| u32::try_from(slots).ok());
            (slots, props["default_generation_settings"]["n_ctx"].as_u64())
        });
    }
    found
}

fn is_list(path: &str) -> bool {
    path == "/v1/models" || path == "/models"
}

/// What an answer to a probe means (SPEC section 6).
fn judge(answer: Result<(StatusCode, Vec<u8>), Fault>, endpoint: &Endpoint) -> Observation {
    match answer {
        Ok((status, _)) if status.is_success() => Observation::Up,
        Ok((StatusCode::SERVICE_UNAVAILABLE, body)) if body.windows(13).any(|w| w == b"Loading model") => {
            Observation::Loading
        }
        Ok((status, _)) => Observation::Down(format!("answered {}", status.as_u16())),
        Err(Fault { trouble: Trouble::Timeout(_), .. }) if endpoint.live.is_working(clock::now()) => Observation::Busy,
        Err(Fault { trouble: Trouble::Timeout(_), .. }) => Observation::Down("did not answer in time".into()),
        Err(fault) if fault.trouble == Trouble::Refused => {
            endpoint.live.note_refused(clock::now());
            Observation::Refused(fault.cause)
        }
        Err(fault) => Observation::Down(fault.cause),
    }
}

fn get(channel: &Channel, task: &Task, path: &str, until: Instant) -> Result<(StatusCode, Vec<u8>), Fault> {
    let total = until.saturating_duration_since(clock::now()).max(Duration::from_millis(1));
    let order = Order {
        method: Method::GET,
        path,
        raw: false,
        headers: headers::own(&task.endpoint.config),
        body: [&[], &[], &[]],
        rest: None,
        timeouts: Timeouts { connect: None, first_byte: None, idle: None, total: Some(total) },
        gone: None,
        watch: None,
    };
    let mut answer = channel.send(&order)?;
    Ok((answer.status, read_all(&mut answer)?))
}

fn read_all(answer: &mut Answer) -> Result<Vec<u8>, Fault> {
    let (mut body, mut piece) = (Vec::new(), vec![0; 16 << 10]);
    loop {
        match answer.read(&mut piece)? {
            0 => return Ok(body),
            n if body.len() + n <= MOST => body.extend_from_slice(&piece[..n]),
            _ => return Err(Fault { trouble: Trouble::Garbled, cause: "the answer is too long".into() }),
        }
    }
}
