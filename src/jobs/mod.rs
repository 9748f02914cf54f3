//! Submit now, read later: jobs that survive a power cut. The folder is the truth, the queue is what is known of it; who
//! works on a job holds it in `running`.

mod address;
pub mod check;
mod collect;
mod queue;
mod record;
mod runner;
mod spool;
mod views;
mod webhook;
mod webhook_queue;

use self::queue::{Queue, Running, Why};
use self::record::{Name, Record, State, Trouble, owner_id, pieces, size};
use self::spool::{ROOM, Spool, Stored};
use self::views::Page;
use self::webhook_queue::WebhookQueue;
use crate::base::budget::Held;
use crate::base::clock;
use crate::base::dice;
use crate::base::disk::is_full;
use crate::base::gone::Gone;
use crate::base::lock::lock;
use crate::config::Jobs as Settings;
use crate::model::failure::{Failure, Kind};
use crate::model::members::{Members, WEBHOOK};
use crate::model::plan;
use crate::model::snapshot::Shared;
use crate::proxy::later::{Later, Parcel, Told};
use crate::proxy::serve::Proxy;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;
use std::io;
use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Come again when the line of jobs is full.
const COME_BACK: Duration = Duration::from_secs(30);
/// Threads that tell of ends (SPEC section 7).
const WEBHOOK_THREADS: usize = 4;
/// A thread that panicked goes on after this.
const RECOVERY: Duration = Duration::from_secs(1);

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
    /// Whom to tell of which ends.
    webhooks: Mutex<WebhookQueue>,
    webhook_due: Condvar,
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
    let (spool, mut stored) = Spool::open(&settings.dir)?;
    // In order, so that each is the last one in its line.
    stored.sort_unstable_by_key(|stored| stored.name.sequence);
    let mut queue = Queue::default();
    for mut stored in stored {
        widen_owner(&spool, &mut stored);
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
    let mut webhooks = WebhookQueue::default();
    queue.owed().for_each(|id| webhooks.put_new(id, "".into(), clock::now()));
    let office = Arc::new(Office {
        proxy: Arc::clone(proxy),
        shared: Arc::clone(shared),
        spool,
        most: settings.max_concurrent,
        floor: Mutex::new(Floor { queue, closed: false }),
        changed: Condvar::new(),
        webhooks: Mutex::new(webhooks),
        webhook_due: Condvar::new(),
        hushed: Arc::default(),
    });
    Jobs::hire(office)
}

/// Gives a job of the first release the whole of its owner's name.
fn widen_owner(spool: &Spool, stored: &mut Stored) {
    if !stored.name.has_short_owner() {
        return;
    }
    let whole = spool.read(&stored.name).and_then(|file| {
        let name = Name { owner: owner_id(Record::read(&file)?.0.owner.as_deref()), ..stored.name.clone() };
        spool.rename(&stored.name, &name).map(|()| name)
    });
    match whole {
        Ok(name) => stored.name = name,
        Err(error) => log::warn!("jobs: {} keeps an owner that nobody has: {error}", stored.name),
    }
}

/// Does work that ends by itself; a panic (the hook has logged it) only interrupts it.
fn survive(hushed: &Gone, work: impl Fn()) {
    while catch_unwind(AssertUnwindSafe(&work)).is_err() {
        hushed.wait_until(clock::now() + RECOVERY, clock::now);
    }
}

/// There is no such file (it may have been renamed a moment ago), or no record in it; any other error may pass.
fn is_hopeless(error: &io::Error) -> bool {
    matches!(error.kind(), NotFound | InvalidData | UnexpectedEof)
}

impl Jobs {
    fn hire(office: Arc<Office>) -> io::Result<Self> {
        let mut jobs = Self { office, threads: Vec::new() };
        for number in 0..jobs.office.most {
            jobs.spawn(format!("job-{number}"), Office::run)?;
        }
        for number in 0..WEBHOOK_THREADS {
            jobs.spawn(format!("webhook-{number}"), Office::tell)?;
        }
        jobs.spawn("expire".into(), Office::keep_house)?;
        let keeper: Arc<dyn Later> = Arc::clone(&jobs.office) as _;
        jobs.office.proxy.hire(Arc::downgrade(&keeper));
        Ok(jobs)
    }

    fn spawn(&mut self, name: String, work: fn(&Office)) -> io::Result<()> {
        let office = Arc::clone(&self.office);
        self.threads
            .push(std::thread::Builder::new().name(name).spawn(move || survive(&office.hushed, || work(&office)))?);
        Ok(())
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
        self.office.webhook_due.notify_all();
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

    /// The file of a job. No lock is held while the disk works, so it may have the name that it had a moment ago, or will
    /// have in a moment.
    fn file(&self, name: &Name) -> io::Result<Vec<u8>> {
        let before = name.number.saturating_sub(1);
        let others = [
            name.clone(),
            name.to(State::Processing, name.number + 1),
            name.to(State::Processing, before),
            name.to(State::Pending, before),
        ];
        let read = |name| match self.spool.read(name) {
            Err(error) if error.kind() == NotFound => None,
            read => Some(read),
        };
        others.iter().find_map(read).unwrap_or_else(|| Err(NotFound.into()))
    }

    /// What the file of a job takes while it is looked at.
    fn room(&self, name: &Name) -> u64 {
        self.floor().queue.size(&name.id) + ROOM as u64
    }

    /// The job of an owner, unless its time is over.
    fn known(&self, floor: &Floor, id: &str, owner: Option<&str>) -> Option<Name> {
        let name = floor.queue.name(id).filter(|name| *name.owner == *owner_id(owner))?;
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

/// Too much is held for clients already.
fn busy() -> Failure {
    let text = "Too much is being sent to clients (server.bodyMemory); ask again.";
    Failure::new(Kind::Overloaded, text).retry_after(Duration::from_secs(1))
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
        let text = |name: &str| members.get(name).and_then(check::text);
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
            webhook: text(WEBHOOK),
            error: None,
            delivery: None,
        };
        let head = record.head();
        let pieces = pieces(&head, members.without_webhook().map(str::as_bytes), None);
        let bytes = size(&pieces);
        let name = self.reserve(&settings, &id, parcel.owner, bytes)?;
        // Outside of the lock: the disk may take its time.
        if let Err(error) = self.spool.write(&name, &pieces) {
            log::error!("jobs: a job cannot be kept in {}: {error}", self.spool.dir().display());
            let (kind, text) = match is_full(&error) {
                true => (Kind::StorageFull, "The disk is full; the job was not taken."),
                false => (Kind::Internal, "The job cannot be stored; the log has the details."),
            };
            return Err(Failure::new(kind, text));
        }
        let mut floor = self.floor();
        floor.queue.put(&name, bytes);
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

    fn look(&self, id: &str, owner: Option<&str>, held: &mut Held) -> Result<Told, Failure> {
        // The file may get another name while we look.
        for _ in 0..10 {
            let floor = self.floor();
            let Some(name) = self.known(&floor, id, owner) else { break };
            let (position, active) = (floor.queue.position(id, self.most), floor.queue.active());
            drop(floor);
            if !held.resize(self.room(&name)) {
                return Err(busy());
            }
            let seen = self.file(&name).and_then(|file| views::job(&name, file, position, active));
            match seen {
                // It may have been written anew meanwhile, with its answer.
                Ok(told) if held.resize(told.body.capacity() as u64) => return Ok(told),
                Ok(_) => return Err(busy()),
                Err(error) if is_hopeless(&error) => {}
                Err(_) => return Ok(views::unreadable()),
            }
        }
        Ok(views::not_found())
    }

    fn cancel(&self, id: &str, owner: Option<&str>, held: &mut Held) -> Result<Told, Failure> {
        let mut floor = self.floor();
        let Some(name) = self.known(&floor, id, owner) else {
            return Ok(views::not_found());
        };
        if name.state == State::Pending && !held.resize(floor.queue.size(id) + ROOM as u64) {
            return Err(busy());
        }
        match name.state {
            State::Processing => floor.queue.interrupt(id, Why::Cancelled),
            _ => drop(floor.queue.take_out(id)),
        }
        drop(floor);
        let file = if name.state == State::Pending { self.file(&name).ok() } else { None };
        match file.as_deref().and_then(|file| Record::read(file).ok()) {
            Some((mut record, bodies)) => {
                record.error = Some(Trouble::cancelled(0));
                // Nobody waits here for a disk that gets better.
                let impatient = Gone::default();
                impatient.leave();
                self.finish(&name, &record, bodies.request.get().as_bytes(), None, &impatient);
            }
            None if name.state == State::Processing => {}
            None => self.spool.remove(&name),
        }
        self.changed.notify_all();
        log::info!("job {id}: cancelled by its owner");
        Ok(views::cancelled(&name))
    }

    fn list(&self, owner: Option<&str>, query: &str) -> Told {
        let page = Page::of(query);
        let owner = owner_id(owner);
        let oldest = seconds().saturating_sub(self.settings().retention.as_secs());
        let floor = self.floor();
        let after = page.after.map(|id| floor.queue.name(id).filter(|name| name.owner == owner));
        let before = match after {
            None => u64::MAX,
            Some(Some(name)) => name.sequence,
            Some(None) => return views::not_found(),
        };
        let names = floor.queue.of(&owner, before);
        let mut names = names.filter(|name| !name.state.is_final() || name.number >= oldest);
        let place = |name: Name| (floor.queue.position(&name.id, self.most), name);
        let listed: Vec<_> = names.by_ref().take(page.limit).map(place).collect();
        let (has_more, counts) = (names.next().is_some(), floor.queue.counts());
        drop(names);
        drop(floor);
        views::list(&listed, has_more, counts)
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
        let owner = owner_id(owner);
        Ok(Name { sequence, id: Arc::clone(id), owner, state: State::Pending, number: 0, owed: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    // S8
    #[test]
    fn a_thread_goes_on_after_a_panic() {
        let (over, times) = (Gone::default(), Cell::new(0));
        over.leave();
        survive(&over, || {
            times.set(times.get() + 1);
            assert!(times.get() == 3, "on purpose");
        });
        assert_eq!(times.get(), 3);
    }
}
