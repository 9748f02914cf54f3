//! The fixed worker pools. A worker gets a connection with a complete request, answers it, and continues with the next
//! request of that connection if it arrives at once; otherwise the connection returns to the event loop. While enough
//! workers are running, a new request waits until one of them blocks or ends, so that few threads do most of the work.

use super::connection::{Connection, State};
use super::handler::{self, Handler, PoolSize};
use super::request::{Pool, Request, Step};
use super::response::{Response, ResponseTo};
use super::state::ServerState;
use crate::util::cancel::{PollFlags, WaitObserver, observe_waits, ready};
use crate::util::lock::lock;
use crate::util::time;
use std::collections::VecDeque;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

/// Several times the deepest call chain (TLS). Unused stack is virtual memory only.
const STACK: usize = 512 << 10;
/// One read of a worker.
const SCRATCH: usize = 16 << 10;
/// How long a worker waits for the next request of its connection; bounds the delay of other requests when all workers
/// wait like this.
const NEXT_REQUEST: Duration = Duration::from_millis(1);
/// Workers that wait like this at once; measured: with more, their caches get cold.
const MAX_LINGERING: usize = 16;

/// A connection with its complete request.
pub(super) struct Exchange {
    pub(super) connection: Box<Connection>,
    pub(super) request: Box<Request>,
}

pub(super) struct WorkerPool {
    state: Arc<PoolState>,
    workers: Vec<JoinHandle<()>>,
}

struct PoolState {
    pool: Pool,
    server: Arc<ServerState>,
    handler: Arc<dyn Handler>,
    queue: Mutex<Queue>,
    /// Length of `queue.ready`.
    ready: AtomicUsize,
    /// Workers that are not blocked on a client or an endpoint.
    running: AtomicUsize,
    /// Workers that wait for the next request of their connection.
    lingering: AtomicUsize,
    /// Requests that wait in the event loop for a worker of this pool.
    waiting: AtomicUsize,
    /// Cores plus one; measured: with more, they evict each other's caches.
    max_running: usize,
    closed: AtomicBool,
}

#[derive(Default)]
struct Queue {
    /// Requests with an idle worker but no free core: never more than idle workers.
    ready: VecDeque<Exchange>,
    /// Each idle worker once; the last one to work is on top, since its stack and caches are warm.
    idle: Vec<Arc<Worker>>,
}

#[derive(Default)]
struct Worker {
    thread: OnceLock<Thread>,
}

impl WorkerPool {
    /// Starts workers named `NAME-N`; fewer when the system allows fewer.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(
        name: &'static str,
        size: PoolSize,
        pool: Pool,
        server: &Arc<ServerState>,
        handler: &Arc<dyn Handler>,
    ) -> std::io::Result<Self> {
        let state = Arc::new(PoolState {
            pool,
            server: Arc::clone(server),
            handler: Arc::clone(handler),
            queue: Mutex::default(),
            ready: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            lingering: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            max_running: std::thread::available_parallelism().map_or(1, NonZero::get) + 1,
            closed: AtomicBool::new(false),
        });
        let mut workers = Vec::with_capacity(size.threads);
        for n in 0..size.threads {
            let own = Arc::clone(&state);
            let builder = std::thread::Builder::new().name(format!("{name}-{n}")).stack_size(STACK);
            match builder.spawn(move || own.work()) {
                Ok(worker) => workers.push(worker),
                Err(e) if workers.is_empty() => return Err(e),
                Err(e) => {
                    log::warn!("only {n} of {} {name} workers could be started: {e}", size.threads);
                    break;
                }
            }
        }
        Ok(Self { state, workers })
    }

    /// Gives a request to an idle worker. Called by the event loop only, after `has_idle`.
    pub(super) fn offer(&self, exchange: Exchange) {
        let mut queue = lock(&self.state.queue);
        queue.ready.push_back(exchange);
        self.state.ready.store(queue.ready.len(), Ordering::SeqCst);
        drop(queue);
        self.state.wake_one();
    }

    /// Whether there is an idle worker for one more request.
    pub(super) fn has_idle(&self) -> bool {
        let queue = lock(&self.state.queue);
        queue.idle.len() > queue.ready.len()
    }

    /// Whether requests wait although there are idle workers.
    pub(super) fn has_ready(&self) -> bool {
        self.state.ready.load(Ordering::SeqCst) > 0
    }

    /// Wakes an idle worker for each of them.
    pub(super) fn wake_ready(&self) {
        let mut queue = lock(&self.state.queue);
        for _ in 0..queue.ready.len() {
            self.state.wake(&mut queue);
        }
    }

    /// Number of requests queued in the event loop; while there are any, a worker that becomes idle wakes it.
    pub(super) fn set_waiting(&self, requests: usize) {
        self.state.waiting.store(requests, Ordering::SeqCst);
    }

    /// Ends the workers after their current requests; `waits` for that.
    pub(super) fn close(&mut self, waits: bool) {
        self.state.closed.store(true, Ordering::SeqCst);
        for worker in lock(&self.state.queue).idle.drain(..) {
            worker.unpark();
        }
        for worker in self.workers.drain(..).filter(|_| waits) {
            let _ = worker.join();
        }
    }
}

impl Worker {
    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl WaitObserver for PoolState {
    fn begin(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.wake_one();
    }

    fn end(&self) {
        self.running.fetch_add(1, Ordering::SeqCst);
    }
}

impl PoolState {
    fn work(self: &Arc<Self>) {
        let me = Arc::new(Worker::default());
        let _ = me.thread.set(std::thread::current());
        observe_waits(Arc::clone(self) as _);
        let mut scratch = Vec::new();
        self.running.fetch_add(1, Ordering::SeqCst);
        while let Some(exchange) = self.next(&me) {
            // Unwinding drops the response, which answers 500 or aborts; the panic hook has logged.
            let _ = catch_unwind(AssertUnwindSafe(|| self.serve(exchange, &mut scratch)));
        }
    }

    /// Waits for the next request; `None` when the pool is closed.
    fn next(&self, me: &Arc<Worker>) -> Option<Exchange> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(exchange) = queue.ready.pop_front() {
                self.ready.store(queue.ready.len(), Ordering::SeqCst);
                return Some(exchange);
            }
            if self.closed.load(Ordering::SeqCst) {
                return None;
            }
            queue.idle.push(Arc::clone(me));
            self.running.fetch_sub(1, Ordering::SeqCst);
            drop(queue);
            // Once it is on the list, so that no request is missed.
            if self.waiting.load(Ordering::SeqCst) > 0 {
                self.server.returns.wake();
            }
            loop {
                std::thread::park();
                queue = lock(&self.queue);
                // A wake-up takes the worker off the list and counts it as running.
                if !queue.idle.iter().any(|idle| Arc::ptr_eq(idle, me)) {
                    break;
                }
                drop(queue);
            }
        }
    }

    /// Wakes a worker if a request is ready and few workers are running.
    fn wake_one(&self) {
        if self.ready.load(Ordering::SeqCst) > 0 && self.running.load(Ordering::SeqCst) < self.max_running {
            self.wake(&mut lock(&self.queue));
        }
    }

    fn wake(&self, queue: &mut Queue) {
        let worker = if queue.ready.is_empty() { None } else { queue.idle.pop() };
        if let Some(worker) = worker {
            self.running.fetch_add(1, Ordering::SeqCst);
            worker.unpark();
        }
    }

    /// Serves the requests of one connection while they arrive without delay.
    fn serve(&self, exchange: Exchange, scratch: &mut Vec<u8>) {
        let Exchange { mut connection, mut request } = exchange;
        loop {
            let Some(mut back) = self.answer(connection, *request) else { return };
            match self.next_step(&mut back, scratch) {
                Step::Serve(next) if next.pool == self.pool => (connection, request) = (back, next),
                Step::Serve(next) => {
                    back.state = State::Queued(next);
                    return self.server.returns.give(back);
                }
                Step::Refuse(refused) => {
                    if let Some(back) = handler::refuse(&*self.handler, &self.server, back, &refused) {
                        self.server.returns.give(back);
                    }
                    return;
                }
                Step::Wait | Step::Again => return self.server.returns.give(back),
                Step::Close => return,
            }
        }
    }

    fn answer(&self, connection: Box<Connection>, mut request: Request) -> Option<Box<Connection>> {
        let mut to = ResponseTo::head(Some(&request.head), request.client, self.pool == Pool::Proxy);
        to.keep &= request.rest.is_none();
        let mut response = Response::new(connection, &self.server, to);
        request.cancel = Arc::clone(response.cancel());
        if let Some(rest) = &mut request.rest {
            rest.get_mut().cancel_with(&request.cancel);
        }
        self.handler.serve(request, &mut response);
        response.give_back()
    }

    /// The next request of an answered connection, if it arrives at once and no other request waits for a worker.
    fn next_step(&self, connection: &mut Connection, scratch: &mut Vec<u8>) -> Step {
        let others_wait = self.waiting.load(Ordering::SeqCst) + self.ready.load(Ordering::SeqCst) > 0;
        if !connection.is_idle() || others_wait || self.server.is_crowded() || self.server.is_draining() {
            return Step::Wait;
        }
        if !connection.has_buffered() {
            let lingering = self.lingering.fetch_add(1, Ordering::SeqCst);
            let timeout = if lingering < MAX_LINGERING { NEXT_REQUEST } else { Duration::ZERO };
            let seen = ready(&*connection.stream, PollFlags::IN, None, timeout);
            self.lingering.fetch_sub(1, Ordering::SeqCst);
            match seen {
                Ok(seen) if !seen.is_empty() => connection.note_unread(),
                _ => return Step::Wait,
            }
        }
        // Allocated on first use.
        scratch.resize(SCRATCH, 0);
        connection.advance(scratch, time::now(), &self.server.rules())
    }
}
