//! The fixed pool: two lanes of workers over one design, and the way back of their connections.

use super::reply::{Back, Reply};
use super::request::Request;
use crate::base::lock::lock;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Enough for the deepest call chain (TLS) several times over; 64 of them are virtual memory only.
const STACK: usize = 512 << 10;

/// A complete request and the way to answer it.
pub struct Job {
    /// What was asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: Reply,
}

/// A bounded queue with its workers. Dropping the last sender ends them after what they hold.
pub struct Lane {
    queue: Option<Sender<Job>>,
    waiting: Receiver<Job>,
    workers: Vec<JoinHandle<()>>,
    busy: Arc<AtomicUsize>,
}

impl Lane {
    /// Starts up to `threads` workers named `NAME-N` over a queue of `backlog` jobs. Fewer start when
    /// the system allows fewer.
    ///
    /// # Errors
    /// Not even one thread could be started.
    pub fn start(
        name: &'static str,
        threads: usize,
        backlog: usize,
        work: Arc<dyn Fn(Job) + Send + Sync>,
    ) -> std::io::Result<Self> {
        let (queue, waiting) = bounded::<Job>(backlog);
        let busy = Arc::new(AtomicUsize::new(0));
        let mut workers = Vec::with_capacity(threads);
        for n in 0..threads {
            let (jobs, work, busy) = (waiting.clone(), Arc::clone(&work), Arc::clone(&busy));
            let builder = std::thread::Builder::new().name(format!("{name}-{n}")).stack_size(STACK);
            let spawned = builder.spawn(move || {
                while let Ok(job) = jobs.recv() {
                    busy.fetch_add(1, Ordering::Relaxed);
                    // The reply answers 500 or cuts when it is dropped by the unwinding; the hook has logged.
                    let _ = catch_unwind(AssertUnwindSafe(|| work(job)));
                    busy.fetch_sub(1, Ordering::Relaxed);
                }
            });
            match spawned {
                Ok(worker) => workers.push(worker),
                Err(e) if workers.is_empty() => return Err(e),
                Err(e) => {
                    log::warn!("only {n} of {threads} {name} workers could be started: {e}");
                    break;
                }
            }
        }
        Ok(Self { queue: Some(queue), waiting, workers, busy })
    }

    /// Hands a job over, or back when the queue is full.
    pub(super) fn offer(&self, job: Job) -> Result<(), Box<Job>> {
        let Some(queue) = &self.queue else {
            return Err(Box::new(job));
        };
        queue.try_send(job).map_err(|e| match e {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => Box::new(job),
        })
    }

    /// Takes out what no worker has taken yet.
    pub(super) fn unserved(&self) -> impl Iterator<Item = Job> + '_ {
        self.waiting.try_iter()
    }

    /// Workers that hold a job.
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// Lets the workers end after what they hold, and waits for them.
    pub fn close(&mut self) {
        self.queue = None;
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }

    /// Lets the workers end after what they hold, without waiting.
    pub fn abandon(&mut self) {
        self.queue = None;
        self.workers.clear();
    }
}

/// Connections on their way from workers back to the front.
pub(super) struct Returns {
    list: Mutex<Vec<Back>>,
    waker: mio::Waker,
}

impl Returns {
    pub fn new(waker: mio::Waker) -> Self {
        Self { list: Mutex::new(Vec::new()), waker }
    }

    /// Gives one back. The front is woken only if it could miss it: it sees an idle connection again
    /// when the client's next byte arrives, unless that byte was already announced (`seen`).
    pub fn give(&self, back: Back, seen: &AtomicBool) {
        let must_act = !back.keep || !back.rest.is_empty();
        lock(&self.list).push(back);
        if must_act || seen.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    pub fn wake(&self) {
        // It can only fail when the kernel is out of memory; the front also looks every second.
        let _ = self.waker.wake();
    }

    pub fn take(&self, into: &mut Vec<Back>) {
        std::mem::swap(&mut *lock(&self.list), into);
    }
}
