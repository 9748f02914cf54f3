//! Submit now, read later: jobs that survive a power cut. The folder is the truth; the queue is an index of it.

mod address;
mod collect;
mod queue;
mod record;
mod requests;
mod runner;
mod spool;
pub mod validate;
mod webhook;

use self::queue::{Queue, StopReason};
use self::record::{Job, Record, State, owner_id};
use self::spool::Spool;
use self::webhook::WebhookQueue;
use crate::config::Jobs as Settings;
use crate::proxy::state::{JobStore, Proxy};
use crate::routing::snapshot::SnapshotStore;
use crate::util::cancel::CancelToken;
use crate::util::lock::lock;
use crate::util::time;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads that deliver webhooks (SPEC section 7).
const WEBHOOK_THREADS: usize = 4;
/// The pause after a panic.
const RECOVERY: Duration = Duration::from_secs(1);

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
    queue: Mutex<Queue>,
    changed: Condvar,
    webhooks: Mutex<WebhookQueue>,
    webhook_due: Condvar,
    stopped: Arc<CancelToken>,
}

/// Loads the jobs of the folder and starts the threads.
///
/// # Errors
/// The folder cannot be used, or the system is out of threads.
pub fn start(settings: &Settings, proxy: &Arc<Proxy>, shared: &Arc<SnapshotStore>) -> io::Result<Jobs> {
    let (spool, mut jobs) = Spool::open(&settings.dir)?;
    jobs.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    // After a crash between writing the finished job and removing the old file, both are there.
    jobs.dedup_by(|next, job| {
        let is_same = next.id == job.id;
        if is_same {
            let value = |job: &Job| (job.state.is_final(), !job.webhook_pending);
            if value(next) > value(job) {
                std::mem::swap(next, job);
            }
            spool.remove(next);
        }
        is_same
    });
    jobs.sort_unstable_by_key(|job| job.sequence);
    for job in &mut jobs {
        let was = job.clone();
        if job.has_short_owner() {
            match spool.read(job).and_then(|file| Ok(Record::read(&file)?.0.owner)) {
                Ok(owner) => job.owner = owner_id(owner.as_deref()),
                Err(error) => log::warn!("jobs: {job} keeps an owner that nobody has: {error}"),
            }
        }
        // It was running when the last process ended; it runs again, and that try counts.
        if job.state == State::Processing {
            job.state = State::Pending;
        }
        if *job != was {
            spool.rename(&was, job)?;
        }
    }
    jobs.shrink_to_fit();
    let queue = Queue::new(jobs);
    let [waiting, _, completed, failed] = queue.counts();
    log::info!("jobs: {waiting} waiting, {} finished in {}", completed + failed, spool.dir().display());
    let mut webhooks = WebhookQueue::default();
    let pending = queue.all().filter(|job| job.webhook_pending && job.state.is_final());
    pending.for_each(|job| webhooks.put_new(&job.id, "".into(), time::now()));
    let manager = Arc::new(JobManager {
        proxy: Arc::clone(proxy),
        shared: Arc::clone(shared),
        spool,
        most: settings.max_concurrent,
        queue: Mutex::new(queue),
        changed: Condvar::new(),
        webhooks: Mutex::new(webhooks),
        webhook_due: Condvar::new(),
        stopped: Arc::default(),
    });
    let mut jobs = Jobs { manager, threads: Vec::new() };
    for number in 0..jobs.manager.most {
        jobs.spawn(format!("job-{number}"), JobManager::run)?;
    }
    for number in 0..WEBHOOK_THREADS {
        jobs.spawn(format!("webhook-{number}"), JobManager::deliver_webhooks)?;
    }
    jobs.spawn("expire".into(), JobManager::expire_loop)?;
    let store: Arc<dyn JobStore> = Arc::clone(&jobs.manager) as _;
    proxy.set_job_store(Arc::downgrade(&store));
    Ok(jobs)
}

impl Jobs {
    fn spawn(&mut self, name: String, work: fn(&JobManager)) -> io::Result<()> {
        let manager = Arc::clone(&self.manager);
        let run = move || restart_on_panic(&manager.stopped, || work(&manager));
        self.threads.push(std::thread::Builder::new().name(name).spawn(run)?);
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
        let mut queue = self.manager.locked();
        while queue.active() > 0 {
            let rest = until.saturating_duration_since(time::now());
            if rest.is_zero() {
                queue.interrupt(StopReason::Stopping, |_, _| true);
                break;
            }
            queue = self.manager.wait(queue, rest);
        }
        drop(queue);
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

/// Runs work until it returns; after a panic (the hook has logged it) it is run again.
fn restart_on_panic(stopped: &CancelToken, work: impl Fn()) {
    while catch_unwind(AssertUnwindSafe(&work)).is_err() {
        stopped.wait_until(time::now() + RECOVERY, time::now);
    }
}

impl JobManager {
    fn locked(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>, time: Duration) -> MutexGuard<'a, Queue> {
        self.changed.wait_timeout(queue, time).unwrap_or_else(PoisonError::into_inner).0
    }

    fn settings(&self) -> Settings {
        self.shared.load().config.jobs.clone()
    }

    /// Finished jobs that ended before this second have expired.
    fn oldest(&self) -> u64 {
        seconds().saturating_sub(self.settings().retention.as_secs())
    }

    /// The file of a job. No lock is held while the disk works, so it may have the name that it had a moment ago, or will
    /// have in a moment.
    fn file(&self, job: &Job) -> io::Result<Vec<u8>> {
        let others = [
            job.clone(),
            job.to(State::Processing, job.number + 1),
            job.to(State::Pending, job.number.saturating_sub(1)),
        ];
        let mut read = others.iter().map(|job| self.spool.read(job));
        let is_there =
            |read: &io::Result<_>| read.as_ref().err().is_none_or(|error| error.kind() != ErrorKind::NotFound);
        read.find(is_there).unwrap_or_else(|| Err(ErrorKind::NotFound.into()))
    }

    /// Gives the file of a job its next name, and then the queue.
    fn rename(&self, from: &Job, to: &Job) -> io::Result<()> {
        self.spool.rename(from, to)?;
        self.locked().put(to.clone());
        Ok(())
    }

    /// Ends jobs that run too long, and removes expired ones.
    fn expire_loop(&self) {
        let mut queue = self.locked();
        while !queue.closed {
            let now = time::now();
            queue.interrupt(StopReason::Late, |_, until| until <= now);
            let expired = queue.expire(self.oldest(), 0);
            if !expired.is_empty() {
                drop(queue);
                expired.iter().for_each(|job| self.spool.remove(job));
                queue = self.locked();
                continue;
            }
            let pause = (self.settings().retention / 10).clamp(Duration::from_millis(100), Duration::from_secs(30));
            let end = queue.next_end().filter(|end| *end > now);
            queue = self.wait(queue, end.map_or(pause, |end| pause.min(end - now)));
        }
    }
}

/// There is no such file (it may have been renamed a moment ago), or no record in it; any other error may pass.
fn is_hopeless(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
}

/// Seconds since 1970; only for display and retention.
fn seconds() -> u64 {
    time::unix().as_secs()
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
