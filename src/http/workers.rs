//! The fixed pools of workers. A worker gets a connection with a complete request, answers it, and goes on with the next
//! request of that connection if it comes at once; else the connection goes back to the event loop.

use super::admission::Pool;
use super::connection::{Arrived, Connection, State, Step};
use super::handler::{self, Handler, PoolSize};
use super::request::Request;
use super::response::{Response, ResponseTo};
use super::state::ServerState;
use crate::util::cancel::ready;
use crate::util::lock::lock;
use crate::util::time;
use rustix::event::PollFlags;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

/// Enough for the deepest call chain (TLS) several times over; 64 of them are virtual memory only.
const STACK: usize = 512 << 10;
/// One read of a worker.
const SCRATCH: usize = 16 << 10;
/// How long a worker waits for the next request of its connection: the longest delay of another request that finds all
/// workers waiting like this.
const NEXT_REQUEST: Duration = Duration::from_millis(1);

/// A connection with its complete request.
pub(super) struct Exchange {
    pub(super) connection: Box<Connection>,
    pub(super) arrived: Box<Arrived>,
}

/// One pool. Closing it ends its workers after what they serve.
pub(super) struct WorkerPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    pool: Pool,
    server: Arc<ServerState>,
    handler: Arc<dyn Handler>,
    /// Each idle worker once, the one that worked last on top: its stack and caches are warm.
    idle: Mutex<Vec<Arc<Worker>>>,
    /// Requests that wait in the event loop for a worker of this pool.
    waiting: AtomicUsize,
    closed: AtomicBool,
}

#[derive(Default)]
struct Worker {
    exchange: Mutex<Option<Exchange>>,
    thread: OnceLock<Thread>,
}

impl WorkerPool {
    /// Starts workers named `NAME-N`; fewer when the system allows fewer.
    ///
    /// # Errors
    /// Not one can be started.
    pub(super) fn start(
        name: &'static str,
        size: PoolSize,
        pool: Pool,
        server: &Arc<ServerState>,
        handler: &Arc<dyn Handler>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            pool,
            server: Arc::clone(server),
            handler: Arc::clone(handler),
            idle: Mutex::new(Vec::with_capacity(size.threads)),
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let mut workers = Vec::with_capacity(size.threads);
        for n in 0..size.threads {
            let own = Arc::clone(&shared);
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
        Ok(Self { shared, workers })
    }

    /// Hands a request to an idle worker. Only the event loop does, after it saw one.
    pub(super) fn offer(&self, exchange: Exchange) {
        if let Some(worker) = lock(&self.shared.idle).pop() {
            *lock(&worker.exchange) = Some(exchange);
            worker.unpark();
        }
    }

    /// Whether a worker is idle.
    pub(super) fn has_idle(&self) -> bool {
        !lock(&self.shared.idle).is_empty()
    }

    /// So many requests wait now: the next worker that becomes idle wakes the event loop.
    pub(super) fn set_waiting(&self, requests: usize) {
        self.shared.waiting.store(requests, Ordering::SeqCst);
    }

    /// Lets the workers end after what they serve, and waits for them if so.
    pub(super) fn close(&mut self, waits: bool) {
        self.shared.closed.store(true, Ordering::SeqCst);
        for worker in lock(&self.shared.idle).drain(..) {
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

impl Shared {
    fn work(&self) {
        let me = Arc::new(Worker::default());
        let _ = me.thread.set(std::thread::current());
        let mut scratch = vec![0; SCRATCH];
        while let Some(exchange) = self.next(&me) {
            // The response answers 500 or aborts when the unwinding drops it; the hook has logged.
            let _ = catch_unwind(AssertUnwindSafe(|| self.serve(exchange, &mut scratch)));
        }
    }

    /// Waits for a connection; none when the pool is closed.
    fn next(&self, me: &Arc<Worker>) -> Option<Exchange> {
        lock(&self.idle).push(Arc::clone(me));
        // After it stands there, so that no request is left waiting.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.server.returns.wake();
        }
        loop {
            if let Some(exchange) = lock(&me.exchange).take() {
                return Some(exchange);
            }
            if self.closed.load(Ordering::SeqCst) {
                return None;
            }
            std::thread::park();
        }
    }

    /// Serves the requests of one connection, as long as they come at once.
    fn serve(&self, exchange: Exchange, scratch: &mut [u8]) {
        let Exchange { mut connection, mut arrived } = exchange;
        loop {
            let Some(mut back) = self.answer(connection, *arrived) else { return };
            match self.next_step(&mut back, scratch) {
                Step::Serve(next) if next.pool == self.pool => (connection, arrived) = (back, next),
                Step::Serve(next) => {
                    back.state = State::Queued(next);
                    return self.server.returns.give(back);
                }
                Step::Refuse(rejected) => {
                    if let Some(back) = handler::refuse(&*self.handler, &self.server, back, *rejected) {
                        self.server.returns.give(back);
                    }
                    return;
                }
                Step::Wait | Step::Again => return self.server.returns.give(back),
                Step::Close => return,
            }
        }
    }

    fn answer(&self, connection: Box<Connection>, arrived: Arrived) -> Option<Box<Connection>> {
        let Arrived { head, pool, decided, client, body, mut rest, began } = arrived;
        let (peer, peer_text, listener) = (connection.peer, Arc::clone(&connection.peer_text), connection.listener);
        let mut to = ResponseTo::head(Some(&head), client, pool == Pool::Proxy);
        to.keep &= rest.is_none();
        let mut response = Response::new(connection, &self.server, to);
        let cancel = Arc::clone(response.cancel());
        if let Some(rest) = &mut rest {
            rest.hear(&cancel);
        }
        let rest = rest.map(RefCell::new);
        let request = Request { head, body, rest, peer, peer_text, listener, began, cancel, decided };
        self.handler.serve(request, &mut response);
        response.give_back()
    }

    /// The next request of a connection that has its answer, if it comes now and no other request waits for a worker.
    fn next_step(&self, connection: &mut Connection, scratch: &mut [u8]) -> Step {
        let may_go_on = self.waiting.load(Ordering::SeqCst) == 0 && !self.server.is_draining();
        if !connection.is_idle() || !may_go_on {
            return Step::Wait;
        }
        if !connection.has_buffered() {
            match ready(&*connection.stream, PollFlags::IN, None, NEXT_REQUEST) {
                Ok(seen) if !seen.is_empty() => connection.note_unread(),
                _ => return Step::Wait,
            }
        }
        connection.advance(scratch, time::now(), &self.server.rules())
    }
}
