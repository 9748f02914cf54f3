//! The event loop: one thread that accepts connections, reads heads and bodies within their limits, and moves each
//! connection with a complete request (or the beginning of a large one) to a worker, which moves it back. Owns every
//! connection that no worker owns. Knows no routes.

use super::admission::Pool;
use super::connection::{Arrived, Connection, Rejected, State, Step};
use super::handler::{Handler, ServerConfig, ServerHandle, refuse};
use super::limits::{OpenConnections, Rules};
use super::state::{ReturnQueue, ServerState};
use super::workers::{Exchange, WorkerPool};
use crate::api::errors::{Failure, Kind};
use crate::util::time;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

const WAKE: Token = Token(0);
/// Tokens 1..=LISTENERS are listeners, the rest connections.
pub(super) const LISTENERS: usize = 64;
const SCRATCH: usize = 64 << 10;
/// After so many failed waits in a row no wait is going to succeed (FAULTS E9).
const HOPELESS: u32 = 100;
/// The longest sleep: how soon a waker that failed is made up for.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// The longest sleep while the proxy is being stopped.
const DRAIN_TICK: Duration = Duration::from_millis(20);
/// How long requests have for their end after `ServerHandle::stop`; they see it within 250 ms.
const STOP: Duration = Duration::from_millis(500);

/// The event loop's own state; lives on its thread.
pub struct EventLoop {
    pub(super) poll: Poll,
    /// At most `LISTENERS`.
    pub(super) listeners: Vec<TcpListener>,
    /// Those that may have more connections; each once.
    pub(super) waiting_listeners: VecDeque<usize>,
    pub(super) accept_pause: Option<(Instant, Duration)>,
    /// At most `max_connections`, and one that is being told so.
    pub(super) connections: Vec<Option<Box<Connection>>>,
    /// Empty places in `connections`; each once.
    free: Vec<usize>,
    pub(super) rules: Arc<Rules>,
    pub(super) max_connections: usize,
    handler: Arc<dyn Handler>,
    pub(super) shared: Arc<ServerState>,
    control: Backlog,
    proxy: Backlog,
    /// Connections that have more to be read than one turn allows; each once.
    again: Vec<usize>,
    scratch: Vec<u8>,
    next_deadline: Option<Instant>,
}

/// A pool of workers, and the connections that wait for one, in the order they came.
struct Backlog {
    workers: WorkerPool,
    /// Each is `State::Queued`; at most `limit`.
    waiting: VecDeque<usize>,
    limit: usize,
}

/// A listener with room for a burst: mio asks for a queue of 1,024 connections, std for 128.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    mio::net::TcpListener::bind(addr).map(TcpListener::from)
}

impl EventLoop {
    /// Prepares the loop and starts the workers; nothing is accepted before [`EventLoop::run`].
    ///
    /// # Errors
    /// The kernel refuses an epoll or kqueue or every thread, or a listener cannot be made non-blocking.
    pub fn new(config: ServerConfig) -> io::Result<(Self, ServerHandle)> {
        let poll = Poll::new()?;
        let returns = ReturnQueue::new(mio::Waker::new(poll.registry(), WAKE)?);
        for (n, listener) in config.listeners.iter().enumerate().take(LISTENERS) {
            listener.set_nonblocking(true)?;
            poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), Token(n + 1), Interest::READABLE)?;
        }
        let handler = config.handler;
        let rules = Arc::new(Rules::new(&config.server, config.budget, Arc::clone(&handler) as _));
        let shared = Arc::new(ServerState {
            rules: RwLock::new(Arc::clone(&rules)),
            open: Arc::new(OpenConnections::new(&config.server)),
            returns,
            draining: AtomicBool::new(false),
            stopping: Arc::default(),
            beats: AtomicU64::new(0),
        });
        let backlog = |name, size: super::handler::PoolSize, pool| {
            let workers = WorkerPool::start(name, size, pool, &shared, &handler)?;
            io::Result::Ok(Backlog { workers, waiting: VecDeque::new(), limit: size.backlog })
        };
        let (control, proxy) =
            (backlog("control", config.control, Pool::Control)?, backlog("proxy", config.proxy, Pool::Proxy)?);
        let server = Self {
            poll,
            waiting_listeners: (0..config.listeners.len()).collect(),
            listeners: config.listeners,
            accept_pause: None,
            connections: Vec::new(),
            free: Vec::new(),
            rules,
            max_connections: config.max_connections,
            handler,
            shared: Arc::clone(&shared),
            control,
            proxy,
            again: Vec::new(),
            scratch: vec![0; SCRATCH],
            next_deadline: None,
        };
        Ok((server, ServerHandle { shared }))
    }

    /// Serves until drained, or until the system no longer tells what comes in. The workers end with it.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let (mut drained, mut stop_by, mut failed) = (false, None, 0);
        loop {
            match self.poll.poll(&mut events, self.patience(time::now())) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    failed += 1;
                    if failed == 1 {
                        log::error!("waiting for connections: {e}");
                    }
                    if failed == HOPELESS {
                        break;
                    }
                }
                _ => failed = 0,
            }
            let now = time::now();
            self.shared.beats.fetch_add(1, Ordering::Relaxed);
            self.rules = self.shared.rules();
            for event in &events {
                match event.token() {
                    WAKE => {}
                    Token(n) if n <= LISTENERS => self.note_listener(n - 1),
                    Token(n) => self.guard(n - LISTENERS - 1, |server, slot| server.on_event(slot, event, now)),
                }
            }
            for slot in std::mem::take(&mut self.again) {
                self.guard(slot, |server, slot| server.advance(slot, now));
            }
            self.dispatch_waiting();
            // Last, so that no event of this batch can meet a reused slot.
            for connection in self.shared.returns.take() {
                self.insert(connection, now);
            }
            self.accept(now);
            self.expire(now);
            if self.shared.is_draining() {
                if !std::mem::replace(&mut drained, true) {
                    self.start_drain(now);
                }
                if self.shared.stopping.load(Ordering::SeqCst) {
                    self.connections.clear();
                    stop_by.get_or_insert(now + STOP);
                }
                if self.shared.open.count() == 0 || stop_by.is_some_and(|by| by <= now) {
                    break;
                }
            }
        }
        self.shared.returns.close();
        let all_ended = self.shared.open.count() == 0;
        self.control.workers.close(all_ended);
        self.proxy.workers.close(all_ended);
    }

    fn patience(&self, now: Instant) -> Option<Duration> {
        if !self.again.is_empty() || (self.accept_pause.is_none() && !self.waiting_listeners.is_empty()) {
            return Some(Duration::ZERO);
        }
        let wait = |at: Instant| at.saturating_duration_since(now) + Duration::from_millis(1);
        let longest = if self.shared.is_draining() { DRAIN_TICK } else { LONGEST_SLEEP };
        let deadlines = self.next_deadline.into_iter().chain(self.accept_pause.map(|(at, _)| at));
        Some(deadlines.map(wait).min().map_or(longest, |wait| wait.min(longest)))
    }

    /// A panic while one connection is looked at is the end of that connection and of nothing else (the hook has logged).
    fn guard(&mut self, slot: usize, act: impl FnOnce(&mut Self, usize)) {
        if catch_unwind(AssertUnwindSafe(|| act(self, slot))).is_err() {
            self.close(slot);
        }
    }

    /// A connection that was accepted, or that a worker gave back. The kernel tells of what is there to be read already.
    pub(super) fn insert(&mut self, connection: Box<Connection>, now: Instant) {
        let fd = connection.stream.as_raw_fd();
        let interest = match connection.state {
            State::Flush { .. } => Interest::READABLE | Interest::WRITABLE,
            _ => Interest::READABLE,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        // While the proxy is being stopped nothing is waited for that has not come yet.
        let look = connection.has_unread() || (self.shared.is_draining() && connection.is_idle());
        let is_queued = matches!(connection.state, State::Queued(_));
        self.connections[slot] = Some(connection);
        if self.poll.registry().register(&mut SourceFd(&fd), Token(slot + LISTENERS + 1), interest).is_err() {
            self.close(slot);
        } else if is_queued {
            self.guard(slot, |server, slot| server.dispatch(slot, now));
        } else {
            self.note_deadline(slot);
            if look {
                self.guard(slot, |server, slot| server.look(slot, now));
            }
        }
    }

    fn look(&mut self, slot: usize, now: Instant) {
        if let Some(connection) = self.connections[slot].as_mut() {
            connection.note_unread();
        }
        self.advance(slot, now);
        let is_idle = self.connections[slot].as_ref().is_some_and(|connection| connection.is_idle());
        if is_idle && self.shared.is_draining() {
            self.close(slot);
        }
    }

    /// Takes a connection out, to be moved on or closed.
    pub(super) fn remove(&mut self, slot: usize) -> Option<Box<Connection>> {
        let connection = self.connections.get_mut(slot).and_then(Option::take)?;
        if let State::Queued(arrived) = &connection.state {
            self.backlog(arrived.pool).waiting.retain(|other| *other != slot);
        }
        let _ = self.poll.registry().deregister(&mut SourceFd(&connection.stream.as_raw_fd()));
        self.again.retain(|other| *other != slot);
        self.free.push(slot);
        Some(connection)
    }

    pub(super) fn close(&mut self, slot: usize) {
        drop(self.remove(slot));
    }

    fn on_event(&mut self, slot: usize, event: &mio::event::Event, now: Instant) {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        connection.closed |= event.is_read_closed() || event.is_error();
        connection.note_unread();
        match &connection.state {
            State::Queued(_) if connection.closed => self.left(slot),
            State::Queued(_) => {}
            State::Flush { .. } => self.flush(slot, now),
            // It has its turn anyway, after the others.
            _ if self.again.contains(&slot) => {}
            State::Head { .. } | State::Body(_) | State::Linger { .. } => self.advance(slot, now),
        }
    }

    pub(super) fn advance(&mut self, slot: usize, now: Instant) {
        if let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) {
            let step = connection.advance(&mut self.scratch, now, &self.rules);
            self.act(slot, step, now);
        }
    }

    fn act(&mut self, slot: usize, step: Step, now: Instant) {
        match step {
            Step::Wait => self.note_deadline(slot),
            Step::Again => {
                self.note_deadline(slot);
                self.again.push(slot);
            }
            Step::Close => self.close(slot),
            Step::Serve(arrived) => {
                if let Some(connection) = self.connections[slot].as_mut() {
                    connection.state = State::Queued(arrived);
                }
                self.dispatch(slot, now);
            }
            Step::Refuse(rejected) => {
                if let Some(connection) = self.remove(slot) {
                    self.answer_refusal(connection, *rejected, now);
                }
            }
        }
    }

    pub(super) fn note_deadline(&mut self, slot: usize) {
        if let Some(connection) = self.connections.get(slot).and_then(Option::as_ref) {
            self.next_deadline = Some(self.next_deadline.map_or(connection.deadline, |at| at.min(connection.deadline)));
        }
    }

    fn backlog(&mut self, pool: Pool) -> &mut Backlog {
        match pool {
            Pool::Control => &mut self.control,
            Pool::Proxy => &mut self.proxy,
        }
    }

    /// Moves a connection with a complete request to a worker, lets it wait for one, or refuses it.
    fn dispatch(&mut self, slot: usize, now: Instant) {
        let Some(State::Queued(arrived)) = self.connections[slot].as_ref().map(|connection| &connection.state) else {
            return;
        };
        let backlog = self.backlog(arrived.pool);
        if backlog.waiting.len() < backlog.limit || backlog.workers.has_idle() {
            backlog.waiting.push_back(slot);
            return self.dispatch_waiting();
        }
        let text = "All workers are busy and the backlog is full (server.workers, server.backlog).";
        let failure = Failure::new(Kind::Overloaded, text).retry_after(Duration::from_secs(1));
        self.refuse_queued(slot, failure, now);
    }

    /// Gives waiting connections to workers, as far as there are idle ones.
    fn dispatch_waiting(&mut self) {
        for pool in [Pool::Control, Pool::Proxy] {
            loop {
                let backlog = self.backlog(pool);
                // Before the look at the idle workers: one that becomes idle after it wakes the loop.
                backlog.workers.set_waiting(backlog.waiting.len());
                let next = backlog.waiting.front().copied().filter(|_| backlog.workers.has_idle());
                let Some((mut connection, arrived)) = next.and_then(|slot| self.take_queued(slot)) else { break };
                connection.state = State::Head { since: None };
                self.backlog(pool).workers.offer(Exchange { connection, arrived });
            }
        }
    }

    fn take_queued(&mut self, slot: usize) -> Option<(Box<Connection>, Box<Arrived>)> {
        let mut connection = self.remove(slot)?;
        match std::mem::replace(&mut connection.state, State::Head { since: None }) {
            State::Queued(arrived) => Some((connection, arrived)),
            _ => None,
        }
    }

    fn refuse_queued(&mut self, slot: usize, failure: Failure, now: Instant) {
        if let Some((connection, arrived)) = self.take_queued(slot) {
            self.answer_refusal(connection, arrived.rejected(failure), now);
        }
    }

    /// Answers from here and closes; nothing reaches an upstream.
    pub(super) fn answer_refusal(&mut self, connection: Box<Connection>, rejected: Rejected, now: Instant) {
        // The response gives the connection back even if this panics.
        let refused = AssertUnwindSafe(|| refuse(&*self.handler, &self.shared, connection, rejected));
        if let Ok(Some(connection)) = catch_unwind(refused) {
            self.insert(connection, now);
        }
    }

    /// The client left before a worker took its request.
    fn left(&mut self, slot: usize) {
        if let Some((connection, arrived)) = self.take_queued(slot) {
            self.handler.left(&arrived.head, connection.from(), arrived.began);
        }
    }

    fn flush(&mut self, slot: usize, now: Instant) {
        let draining = self.shared.is_draining();
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        match connection.flush(now, &self.rules, draining) {
            Ok(false) if connection.deadline > now => self.note_deadline(slot),
            Ok(true) => {
                if let Some(connection) = self.remove(slot) {
                    self.insert(connection, now);
                }
            }
            Ok(false) | Err(_) => self.close(slot),
        }
    }

    fn expire(&mut self, now: Instant) {
        if self.next_deadline.is_none_or(|at| at > now) {
            return;
        }
        self.next_deadline = None;
        for slot in 0..self.connections.len() {
            if self.connections[slot].as_ref().is_some_and(|connection| connection.deadline <= now) {
                self.guard(slot, |server, slot| server.expire_one(slot, now));
            }
            self.note_deadline(slot);
        }
    }

    fn expire_one(&mut self, slot: usize, now: Instant) {
        match self.connections[slot].as_mut() {
            // The kernel tells of room only when there is much: a slow reader may have taken some.
            Some(connection) if matches!(connection.state, State::Flush { .. }) => self.flush(slot, now),
            Some(connection) => {
                let step = connection.expire(now, &self.rules);
                self.act(slot, step, now);
            }
            None => {}
        }
    }

    fn start_drain(&mut self, now: Instant) {
        self.listeners.clear();
        self.waiting_listeners.clear();
        for slot in self.proxy.waiting.clone() {
            let failure = Failure::new(Kind::Draining, "The proxy is being stopped.");
            self.refuse_queued(slot, failure.retry_after(Duration::from_secs(5)), now);
        }
        for slot in 0..self.connections.len() {
            let Some(connection) = self.connections[slot].as_mut() else { continue };
            if connection.is_idle() {
                self.close(slot);
            } else {
                connection.hasten(now);
                self.note_deadline(slot);
            }
        }
    }
}
