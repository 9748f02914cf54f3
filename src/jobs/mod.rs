//! Submit now, read later: jobs that survive a power cut. The folder is the truth; the queue is an index of it, with
//! the jobs in progress in `running`.

mod address;
mod collect;
mod queue;
mod record;
mod requests;
mod runner;
mod spool;
pub mod validate;
mod views;
mod webhook;
mod webhook_queue;

use self::queue::{Queue, Running, StopReason};
use self::record::{Name, Record, State, owner_id};
use self::spool::{ROOM, Spool, Stored};
use self::webhook_queue::WebhookQueue;
use crate::config::Jobs as Settings;
use crate::proxy::state::JobStore;
use crate::proxy::state::Proxy;
use crate::routing::snapshot::SnapshotStore;
use crate::util::cancel::CancelToken;
use crate::util::lock::lock;
use crate::util::time;
use std::io;
use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Threads that deliver webhooks (SPEC section 7).
const WEBHOOK_THREADS: usize = 4;
/// The pause after a panic.
const RECOVERY: Duration = Duration::from_secs(1);

/// The threads of this module.
pub struct Jobs {
    manager: Arc<JobManager>,
    threads: Vec<JoinHandle<()>>,
}

/// What those threads share.
struct JobManager {
    proxy: Arc<Proxy>,
    shared: Arc<SnapshotStore>,
    spool: Spool,
    /// Jobs that run at once; fixed at the start.
    most: usize,
    state: Mutex<QueueState>,
    changed: Condvar,
    /// Webhooks that wait to be delivered.
    webhooks: Mutex<WebhookQueue>,
    webhook_due: Condvar,
    stopped: Arc<CancelToken>,
}

#[derive(Default)]
struct QueueState {
    queue: Queue,
    closed: bool,
}

/// Loads the jobs of the folder and starts the threads.
///
/// # Errors
/// The folder cannot be used, or the system is out of threads.
pub fn start(settings: &Settings, proxy: &Arc<Proxy>, shared: &Arc<SnapshotStore>) -> io::Result<Jobs> {
    let (spool, mut stored) = Spool::open(&settings.dir)?;
    // In order, so that each is inserted at an end.
    stored.sort_unstable_by_key(|stored| stored.name.sequence);
    stored.shrink_to_fit();
    let mut queue = Queue::with_capacity(stored.len());
    for mut stored in stored {
        widen_owner(&spool, &mut stored);
        let name = match stored.name.state {
            // It was running when the last process ended; it runs again, and that try counts.
            State::Processing => stored.name.to(State::Pending, stored.name.number),
            _ => stored.name.clone(),
        };
        // After a crash between writing the finished job and removing the old file, both are there.
        match queue.name(&name.id) {
            Some(other) if other.state.is_final() && (!other.webhook_pending || !name.state.is_final()) => {
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
    queue.webhook_pending().for_each(|id| webhooks.put_new(id, "".into(), time::now()));
    let manager = Arc::new(JobManager {
        proxy: Arc::clone(proxy),
        shared: Arc::clone(shared),
        spool,
        most: settings.max_concurrent,
        state: Mutex::new(QueueState { queue, closed: false }),
        changed: Condvar::new(),
        webhooks: Mutex::new(webhooks),
        webhook_due: Condvar::new(),
        stopped: Arc::default(),
    });
    Jobs::start_threads(manager)
}

/// A file of the first release has only the beginning of its owner's hash; it is renamed.
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

/// Runs work until it returns; after a panic (the hook has logged it) it is run again.
fn restart_on_panic(stopped: &CancelToken, work: impl Fn()) {
    while catch_unwind(AssertUnwindSafe(&work)).is_err() {
        stopped.wait_until(time::now() + RECOVERY, time::now);
    }
}

/// There is no such file (it may have been renamed a moment ago), or no record in it; any other error may pass.
fn is_hopeless(error: &io::Error) -> bool {
    matches!(error.kind(), NotFound | InvalidData | UnexpectedEof)
}

impl Jobs {
    fn start_threads(manager: Arc<JobManager>) -> io::Result<Self> {
        let mut jobs = Self { manager, threads: Vec::new() };
        for number in 0..jobs.manager.most {
            jobs.spawn(format!("job-{number}"), JobManager::run)?;
        }
        for number in 0..WEBHOOK_THREADS {
            jobs.spawn(format!("webhook-{number}"), JobManager::deliver_webhooks)?;
        }
        jobs.spawn("expire".into(), JobManager::expire_loop)?;
        let keeper: Arc<dyn JobStore> = Arc::clone(&jobs.manager) as _;
        jobs.manager.proxy.set_job_store(Arc::downgrade(&keeper));
        Ok(jobs)
    }

    fn spawn(&mut self, name: String, work: fn(&JobManager)) -> io::Result<()> {
        let manager = Arc::clone(&self.manager);
        self.threads.push(
            std::thread::Builder::new()
                .name(name)
                .spawn(move || restart_on_panic(&manager.stopped, || work(&manager)))?,
        );
        Ok(())
    }

    /// No job is started any more; those that run may finish.
    pub(crate) fn close(&self) {
        self.manager.locked().closed = true;
        self.manager.changed.notify_all();
    }

    /// Waits for running jobs until a time; then puts them back into the queue.
    pub(crate) fn stop(&mut self, until: Instant) {
        self.close();
        let mut locked = self.manager.locked();
        while locked.queue.active() > 0 {
            let rest = until.saturating_duration_since(time::now());
            if rest.is_zero() {
                locked.queue.interrupt_all(StopReason::Stopping, |_| true);
                break;
            }
            locked = self.manager.wait(locked, rest);
        }
        drop(locked);
        // A webhook that was not delivered is delivered after the next start.
        self.manager.stopped.cancel();
        self.manager.webhook_due.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.stop(time::now());
    }
}

impl JobManager {
    fn locked(&self) -> MutexGuard<'_, QueueState> {
        lock(&self.state)
    }

    fn wait<'a>(&self, locked: MutexGuard<'a, QueueState>, time: Duration) -> MutexGuard<'a, QueueState> {
        match self.changed.wait_timeout(locked, time) {
            Ok((locked, _)) => locked,
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

    /// The memory that reading the file of a job takes.
    fn room(&self, name: &Name) -> u64 {
        self.locked().queue.size(&name.id) + ROOM as u64
    }

    /// Removes finished jobs that expired or whose space `bytes` more need; returns their files, which the caller removes.
    fn sweep(&self, locked: &mut QueueState, bytes: u64) -> Vec<Name> {
        let oldest = seconds().saturating_sub(self.settings().retention.as_secs());
        let expired = locked.queue.expired(oldest, bytes);
        expired.iter().filter_map(|id| locked.queue.take_out(id)).collect()
    }

    /// Ends jobs that run too long, and removes expired ones.
    fn expire_loop(&self) {
        let mut locked = self.locked();
        while !locked.closed {
            let now = time::now();
            locked.queue.interrupt_all(StopReason::Late, |until| until <= now);
            let old = self.sweep(&mut locked, 0);
            if !old.is_empty() {
                drop(locked);
                old.iter().for_each(|name| self.spool.remove(name));
                locked = self.locked();
                continue;
            }
            let pause = (self.settings().retention / 10).clamp(Duration::from_millis(100), Duration::from_secs(30));
            let end = locked.queue.next_end().filter(|end| *end > now);
            let pause = end.map_or(pause, |end| pause.min(end - now));
            locked = self.wait(locked, pause);
        }
    }
}

/// Seconds since 1970; only for display and retention.
fn seconds() -> u64 {
    millis() / 1000
}

fn millis() -> u64 {
    let since = time::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    // S8
    #[test]
    fn a_thread_goes_on_after_a_panic() {
        let (over, times) = (CancelToken::default(), Cell::new(0));
        over.cancel();
        restart_on_panic(&over, || {
            times.set(times.get() + 1);
            assert!(times.get() == 3, "on purpose");
        });
        assert_eq!(times.get(), 3);
    }
}
