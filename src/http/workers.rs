//! The fixed pool: two lanes of workers over one design, and the way back of their connections.

use super::request::Request;
use super::response::Response;
use crate::util::lock::lock;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread};

/// Enough for the deepest call chain (TLS) several times over; 64 of them are virtual memory only.
const STACK: usize = 512 << 10;

/// A complete request and the way to answer it.
pub struct Exchange {
    pub request: Request,
    pub response: Response,
}

/// A bounded queue with its workers. Closing it ends them after what they hold.
pub struct WorkerPool {
    shared: Arc<Queue>,
    workers: Vec<JoinHandle<()>>,
}

struct Queue {
    /// As many as `room` at first.
    jobs: Sender<Exchange>,
    waiting: Receiver<Exchange>,
    /// Jobs in the queue and with workers.
    held: AtomicUsize,
    /// Most jobs at once: one for each worker, and the backlog.
    room: AtomicUsize,
    /// Workers without a job, each once, the one that worked last on top: its stack and caches are warm.
    idle: Mutex<Vec<Thread>>,
    closed: AtomicBool,
}

impl WorkerPool {
    /// Starts up to `threads` workers named `NAME-N` over a queue of `backlog` jobs. Fewer start when
    /// the system allows fewer.
    pub fn start(
        name: &'static str,
        threads: usize,
        backlog: usize,
        work: Arc<dyn Fn(Exchange) + Send + Sync>,
    ) -> std::io::Result<Self> {
        let (jobs, waiting) = bounded::<Exchange>(threads + backlog);
        let shared = Arc::new(Queue {
            jobs,
            waiting,
            held: AtomicUsize::new(0),
            room: AtomicUsize::new(threads + backlog),
            idle: Mutex::new(Vec::with_capacity(threads)),
            closed: AtomicBool::new(false),
        });
        let mut workers = Vec::with_capacity(threads);
        for n in 0..threads {
            let (queue, work) = (Arc::clone(&shared), Arc::clone(&work));
            let builder = std::thread::Builder::new().name(format!("{name}-{n}")).stack_size(STACK);
            match builder.spawn(move || queue.serve(&*work)) {
                Ok(worker) => workers.push(worker),
                Err(e) if workers.is_empty() => return Err(e),
                Err(e) => {
                    log::warn!("only {n} of {threads} {name} workers could be started: {e}");
                    shared.room.store(n + backlog, Ordering::Relaxed);
                    break;
                }
            }
        }
        Ok(Self { shared, workers })
    }

    /// Hands a job over, or back when every worker is busy and the backlog is full.
    pub(super) fn offer(&self, job: Exchange) -> Result<(), Box<Exchange>> {
        let queue = &self.shared;
        if queue.held.fetch_add(1, Ordering::SeqCst) >= queue.room.load(Ordering::Relaxed) {
            queue.held.fetch_sub(1, Ordering::SeqCst);
            return Err(Box::new(job));
        }
        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) = queue.jobs.try_send(job) {
            queue.held.fetch_sub(1, Ordering::SeqCst);
            return Err(Box::new(job));
        }
        let idle = lock(&queue.idle).pop();
        if let Some(worker) = idle {
            worker.unpark();
        }
        Ok(())
    }

    /// Takes out what no worker has taken yet.
    pub(super) fn unserved(&self) -> Vec<Exchange> {
        let jobs: Vec<Exchange> = self.shared.waiting.try_iter().collect();
        self.shared.held.fetch_sub(jobs.len(), Ordering::SeqCst);
        jobs
    }

    /// Takes out the waiting jobs whose client has left; the others keep their order.
    pub(super) fn left(&self) -> Vec<Exchange> {
        if self.shared.waiting.is_empty() {
            return Vec::new();
        }
        let (left, stay): (Vec<Exchange>, Vec<Exchange>) =
            self.unserved().into_iter().partition(|j| j.request.cancel.is_cancelled());
        for job in stay {
            // Cannot be refused: its place was given back a moment ago, and only this thread offers.
            drop(self.offer(job));
        }
        left
    }

    /// Lets the workers end after what they hold, and waits for them.
    pub(crate) fn close(&mut self) {
        self.shared.close();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }

    /// Lets the workers end after what they hold, without waiting.
    pub(crate) fn abandon(&mut self) {
        self.shared.close();
        self.workers.clear();
    }
}

impl Queue {
    fn serve(&self, work: &dyn Fn(Exchange)) {
        while let Some(job) = self.next() {
            // The reply answers 500 or cuts when it is dropped by the unwinding; the hook has logged.
            let _ = catch_unwind(AssertUnwindSafe(|| work(job)));
            self.held.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The next job; none when the lane is closed. A channel's own blocking receive wakes the workers
    /// in turn and yields before it sleeps: measured, a third of a request's time on one core.
    fn next(&self) -> Option<Exchange> {
        loop {
            if let Ok(job) = self.waiting.try_recv() {
                return Some(job);
            }
            if self.closed.load(Ordering::SeqCst) {
                return None;
            }
            std::thread::yield_now();
            if let Ok(job) = self.waiting.try_recv() {
                return Some(job);
            }
            lock(&self.idle).push(std::thread::current());
            // A job or the end that came before we stood in the list woke nobody.
            if self.waiting.is_empty() && !self.closed.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.leave_idle();
        }
    }

    /// Takes this worker off the list, unless it was taken off to be woken. No job is left behind: whoever
    /// is woken looks into the queue, and so does whoever is about to sleep.
    fn leave_idle(&self) {
        let me = std::thread::current().id();
        let mut idle = lock(&self.idle);
        if let Some(at) = idle.iter().rposition(|worker| worker.id() == me) {
            idle.remove(at);
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for worker in lock(&self.idle).drain(..) {
            worker.unpark();
        }
    }
}
