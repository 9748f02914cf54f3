//! Submit now, read later: jobs that survive a power cut. The folder is the truth, the queue is what is known of it; who
//! works on a job holds it in `running`.

mod address;
mod check;
mod collect;
mod queue;
mod record;
mod runner;
mod spool;
mod views;
mod webhook;

use self::queue::{Queue, Running, Why};
use self::record::{Name, Record, State, Trouble, owner_number};
use self::spool::Spool;
use crate::base::clock;
use crate::base::dice;
use crate::base::disk::is_full;
use crate::base::gone::Gone;
use crate::base::lock::lock;
use crate::config::Jobs as Settings;
use crate::model::failure::{Failure, Kind};
use crate::model::members::Members;
use crate::model::plan;
use crate::model::snapshot::Shared;
use crate::proxy::later::{Later, Parcel, Told};
use crate::proxy::serve::Proxy;
use crossbeam_channel::{Receiver, Sender, unbounded};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;
use std::io;
use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Come again when the line of jobs is full.
const COME_BACK: Duration = Duration::from_secs(30);

/// The running threads of the room.
pub struct Jobs {
    office: Arc<Office>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads of the room share.
struct Office {
    proxy: Arc<Proxy>,
    shared: Arc<Shared>,
    spool: Spool,
    /// Jobs at once, fixed at the start.
    most: usize,
    floor: Mutex<Floor>,
    changed: Condvar,
    /// Ids of jobs that somebody is to be told of: at most one message for each job there is.
    news: Sender<Arc<str>>,
    /// Nobody is told any more.
    hushed: Arc<Gone>,
}

#[derive(Default)]
struct Floor {
    queue: Queue,
    closed: bool,
}

/// Takes up what lies in the folder, and starts to work.
///
/// # Errors
/// The folder cannot be used, or the system is out of threads.
pub fn start(settings: &Settings, proxy: &Arc<Proxy>, shared: &Arc<Shared>) -> io::Result<Jobs> {
    let (spool, stored) = Spool::open(&settings.dir)?;
    let mut queue = Queue::default();
    for stored in stored {
        let name = match stored.name.state {
            // It was running when the last process ended: once more, which counts.
            State::Processing => stored.name.to(State::Pending, stored.name.number),
            _ => stored.name.clone(),
        };
        // A crash between writing the end and removing the beginning leaves both.
        match queue.name(&name.id) {
            Some(other) if other.state.is_final() && (!other.owed || !name.state.is_final()) => {
                spool.remove(&stored.name);
                continue;
            }
            Some(other) => spool.remove(&other),
            None if name != stored.name => spool.rename(&stored.name, &name)?,
            None => {}
        }
        queue.put(&name, stored.bytes);
    }
    let [waiting, _, completed, failed] = queue.counts();
    log::info!("jobs: {waiting} waiting, {} finished in {}", completed + failed, spool.dir().display());
    let (news, told) = unbounded();
    for id in queue.owed() {
        let _ = news.send(id);
    }
    let office = Arc::new(Office {
        proxy: Arc::clone(proxy),
        shared: Arc::clone(shared),
        spool,
        most: settings.max_concurrent,
        floor: Mutex::new(Floor { queue, closed: false }),
        changed: Condvar::new(),
        news,
        hushed: Arc::default(),
    });
    Jobs::hire(office, told)
}

/// There is no such file (it may have been renamed a moment ago), or no record in it; any other error may pass.
fn is_hopeless(error: &io::Error) -> bool {
    matches!(error.kind(), NotFound | InvalidData | UnexpectedEof)
}

impl Jobs {
    fn hire(office: Arc<Office>, told: Receiver<Arc<str>>) -> io::Result<Self> {
        let mut jobs = Self { office, threads: Vec::new() };
        let spawn = |name: String, work: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name).spawn(work);
        for number in 0..jobs.office.most {
            let office = Arc::clone(&jobs.office);
            jobs.threads.push(spawn(format!("job-{number}"), Box::new(move || office.run()))?);
        }
        let office = Arc::clone(&jobs.office);
        jobs.threads.push(spawn("jobs".into(), Box::new(move || office.keep_house()))?);
        let office = Arc::clone(&jobs.office);
        jobs.threads.push(spawn("webhook".into(), Box::new(move || webhook::tell(&office, &told)))?);
        let keeper: Arc<dyn Later> = Arc::clone(&jobs.office) as _;
        jobs.office.proxy.hire(Arc::downgrade(&keeper));
        Ok(jobs)
    }

    /// No job is started any more; those that run may finish.
    pub fn close(&self) {
        self.office.floor().closed = true;
        self.office.changed.notify_all();
    }

    /// Waits for the jobs that run until a time, then puts them back into the line.
    pub fn stop(&mut self, until: Instant) {
        self.close();
        let mut floor = self.office.floor();
        while floor.queue.active() > 0 {
            let rest = until.saturating_duration_since(clock::now());
            if rest.is_zero() {
                floor.queue.interrupt_all(Why::Stopping, |_| true);
                break;
            }
            floor = self.office.wait(floor, rest);
        }
        drop(floor);
        // What is not told now is told after the next start.
        self.office.hushed.leave();
        let _ = self.office.news.send("".into());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.stop(clock::now());
    }
}

impl Office {
    fn floor(&self) -> MutexGuard<'_, Floor> {
        lock(&self.floor)
    }

    fn wait<'a>(&self, floor: MutexGuard<'a, Floor>, time: Duration) -> MutexGuard<'a, Floor> {
        match self.changed.wait_timeout(floor, time) {
            Ok((floor, _)) => floor,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }

    fn settings(&self) -> Settings {
        self.shared.load().config.jobs.clone()
    }

    /// The record of a job. No lock is held while the disk works, so its file may have the name that it had a moment ago,
    /// or will have in a moment.
    fn record(&self, name: &Name) -> io::Result<Record> {
        let before = name.number.saturating_sub(1);
        let others = [
            name.clone(),
            name.to(State::Processing, name.number + 1),
            name.to(State::Processing, before),
            name.to(State::Pending, before),
        ];
        for name in &others {
            match self.spool.read(name) {
                Err(error) if error.kind() == NotFound => {}
                read => return serde_json::from_slice(&read?).map_err(io::Error::from),
            }
        }
        Err(NotFound.into())
    }

    /// The job of an owner, unless its time is over.
    fn known(&self, floor: &Floor, id: &str, owner: Option<&str>) -> Option<Name> {
        let name = floor.queue.name(id).filter(|name| name.owner == owner_number(owner))?;
        let oldest = seconds().saturating_sub(self.settings().retention.as_secs());
        (!name.state.is_final() || name.number >= oldest).then_some(name)
    }

    /// Forgets finished jobs whose time is over, or that take room which `bytes` more need; their files, to be removed.
    fn sweep(&self, floor: &mut Floor, bytes: u64) -> Vec<Name> {
        let oldest = seconds().saturating_sub(self.settings().retention.as_secs());
        let expired = floor.queue.expired(oldest, bytes);
        expired.iter().filter_map(|id| floor.queue.take_out(id)).collect()
    }

    /// Ends jobs whose time is over, and forgets finished ones.
    fn keep_house(&self) {
        let mut floor = self.floor();
        while !floor.closed {
            let now = clock::now();
            floor.queue.interrupt_all(Why::Late, |until| until <= now);
            let old = self.sweep(&mut floor, 0);
            if !old.is_empty() {
                drop(floor);
                old.iter().for_each(|name| self.spool.remove(name));
                floor = self.floor();
                continue;
            }
            let pause = (self.settings().retention / 10).clamp(Duration::from_millis(100), Duration::from_secs(30));
            let end = floor.queue.next_end().filter(|end| *end > now);
            let pause = end.map_or(pause, |end| pause.min(end - now));
            floor = self.wait(floor, pause);
        }
    }
}

/// Seconds since 1970; only for what is shown and for how long is kept.
fn seconds() -> u64 {
    millis() / 1000
}

fn millis() -> u64 {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Later for Office {
    fn submit(&self, parcel: &Parcel<'_>) -> Result<Told, Failure> {
        let settings = self.settings();
        let members = Members::read(parcel.body)?;
        let details = check::check(parcel.path, &members, &settings.webhooks);
        if !details.is_empty() {
            return Ok(Told::json(StatusCode::BAD_REQUEST, &check::refusal(&details)));
        }
        let text = |name: &str| members.get(name).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        if let Some(model) = text("model").filter(|model| !model.is_empty() && !parcel.scope.has_model(model)) {
            return Err(plan::not_found(&self.shared.load(), &model, parcel.scope));
        }
        let id: Arc<str> = dice::request_id().into();
        let record = Record {
            version: 1,
            id: id.to_string(),
            owner: parcel.owner.map(str::to_owned),
            group: parcel.scope.group.as_ref().map(|group| group.config.name.clone()),
            path: parcel.path.to_owned(),
            webhook: text("webhookUrl"),
            request: serde_json::value::RawValue::from_string(members.without("webhookUrl"))
                .map_err(|_| Failure::new(Kind::Internal, "The body cannot be kept."))?,
            response: None,
            error: None,
            delivery: None,
        };
        let bytes =
            serde_json::to_vec(&record).map_err(|_| Failure::new(Kind::Internal, "The body cannot be kept."))?;
        let name = self.reserve(&settings, &id, parcel.owner, bytes.len() as u64)?;
        // Outside of the lock: the disk may take its time.
        if let Err(error) = self.spool.write(&name, &bytes) {
            log::error!("jobs: a job cannot be kept in {}: {error}", self.spool.dir().display());
            let (kind, text) = match is_full(&error) {
                true => (Kind::StorageFull, "The disk is full; the job was not taken."),
                false => (Kind::Internal, "The job cannot be stored; the log has the details."),
            };
            return Err(Failure::new(kind, text));
        }
        let mut floor = self.floor();
        floor.queue.put(&name, bytes.len() as u64);
        let (position, active) = (floor.queue.position(&id, self.most), floor.queue.active());
        drop(floor);
        self.changed.notify_all();
        let body = json!({"request_id": &*id, "status": "pending", "queue_position": position, "active_requests": active + usize::from(position == 0)});
        let mut told = Told::json(StatusCode::ACCEPTED, &body);
        if let Ok(place) = HeaderValue::from_str(&format!("/v1/chat/completions/{id}")) {
            told.fields.push((header::LOCATION, place));
        }
        if parcel.preferred {
            let applied = HeaderName::from_static("preference-applied");
            told.fields.push((applied, HeaderValue::from_static("respond-async")));
        }
        Ok(told)
    }

    fn look(&self, id: &str, owner: Option<&str>) -> Told {
        // The file may get another name while we look.
        for _ in 0..10 {
            let floor = self.floor();
            let Some(name) = self.known(&floor, id, owner) else { break };
            let (position, active) = (floor.queue.position(id, self.most), floor.queue.active());
            drop(floor);
            match self.record(&name) {
                Ok(record) => return views::job(&name, &record, position, active),
                Err(error) if is_hopeless(&error) => {}
                Err(_) => return views::unreadable(),
            }
        }
        views::not_found()
    }

    fn cancel(&self, id: &str, owner: Option<&str>) -> Told {
        let mut floor = self.floor();
        let Some(name) = self.known(&floor, id, owner) else {
            return views::not_found();
        };
        match name.state {
            State::Processing => floor.queue.interrupt(id, Why::Cancelled),
            _ => drop(floor.queue.take_out(id)),
        }
        drop(floor);
        match (name.state, self.record(&name)) {
            (State::Processing, _) => {}
            (State::Pending, Ok(mut record)) => {
                record.error = Some(Trouble::cancelled(0));
                self.finish(&name, &record, State::Error, &Gone::default());
            }
            _ => self.spool.remove(&name),
        }
        self.changed.notify_all();
        log::info!("job {id}: cancelled by its owner");
        views::cancelled(&name)
    }

    fn list(&self, owner: Option<&str>) -> Told {
        let floor = self.floor();
        let names = floor.queue.of(owner_number(owner), views::MOST_LISTED);
        let oldest = seconds().saturating_sub(self.settings().retention.as_secs());
        let names = names.into_iter().filter(|name| !name.state.is_final() || name.number >= oldest);
        let listed = names.map(|name| {
            let position = floor.queue.position(&name.id, self.most);
            (name, position)
        });
        views::list(&listed.collect::<Vec<_>>(), floor.queue.counts())
    }

    fn counts(&self) -> [(&'static str, usize); 4] {
        let counts = self.floor().queue.counts();
        State::ALL.map(|state| (state.as_str(), counts[state as usize]))
    }
}

impl Office {
    /// A name for a new job, if there is room for one more.
    fn reserve(&self, settings: &Settings, id: &Arc<str>, owner: Option<&str>, bytes: u64) -> Result<Name, Failure> {
        let mut floor = self.floor();
        if floor.closed {
            return Err(Failure::new(Kind::Draining, "The proxy is being stopped."));
        }
        if floor.queue.waiting() >= settings.max_queued {
            let text = "As many jobs wait as may (jobs.maxQueued); hand it in again later.";
            return Err(Failure::new(Kind::Overloaded, text).retry_after(COME_BACK));
        }
        let old = self.sweep(&mut floor, bytes);
        let has_room = floor.queue.has_room(bytes);
        let sequence = floor.queue.next_sequence(millis());
        drop(floor);
        old.iter().for_each(|name| self.spool.remove(name));
        if !has_room {
            return Err(Failure::new(Kind::StorageFull, "There is no room for more jobs; hand it in again later."));
        }
        let owner = owner_number(owner);
        Ok(Name { sequence, id: Arc::clone(id), owner, state: State::Pending, number: 0, owed: false })
    }
}
