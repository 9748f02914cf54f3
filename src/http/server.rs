//! The event loop: one thread that accepts connections, reads heads and bodies within their limits, and moves each
//! connection with a complete request (or the beginning of a large one) to a worker, which moves it back. Owns every
//! connection that no worker owns. Knows no routes: `connection` asks the handler about each complete head. Accepting is
//! in `accept`.

use super::connection::{Connection, State};
use super::handler::{Handler, PoolSize, ServerConfig, ServerHandle, refuse};
use super::limits::{OpenConnections, Rules};
use super::request::{Pool, Refused, Step};
use super::state::{ReturnQueue, ServerState, deregister, register};
use super::workers::{Exchange, WorkerPool};
use crate::api::errors::{Failure, Kind};
use crate::util::time;
use mio::{Events, Interest, Poll, Token};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

const WAKE: Token = Token(0);
/// Tokens 1..=LISTENERS are listeners, the rest connections.
pub(super) const LISTENERS: usize = 64;
const SCRATCH: usize = 64 << 10;
/// Failed polls in a row after which the loop gives up (FAULTS E9).
const MAX_FAILED_POLLS: u32 = 100;
/// The longest sleep, in case a wake-up fails.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// The longest sleep during a drain.
const DRAIN_TICK: Duration = Duration::from_millis(20);
/// How long a ready request waits for a running worker before an idle one is woken.
const READY_WAIT: Duration = Duration::from_millis(1);
/// Time for requests to end after `ServerHandle::stop`, which they notice within 250 ms.
const STOP: Duration = Duration::from_millis(500);

pub struct EventLoop {
    pub(super) poll: Poll,
    /// At most `LISTENERS`.
    pub(super) listeners: Vec<TcpListener>,
    /// Listeners with connections to accept, without duplicates.
    pub(super) waiting_listeners: VecDeque<usize>,
    pub(super) accept_pause: Option<(Instant, Duration)>,
    /// At most `ServerState::max_connections`, and one being refused.
    pub(super) connections: HashMap<Token, Box<Connection>>,
    next_token: usize,
    pub(super) rules: Arc<Rules>,
    handler: Arc<dyn Handler>,
    pub(super) shared: Arc<ServerState>,
    control: Backlog,
    proxy: Backlog,
    /// Connections with more to read, without duplicates.
    again: Vec<Token>,
    scratch: Vec<u8>,
    next_deadline: Option<Instant>,
}

/// A pool of workers and the connections that wait for one, first in, first out.
struct Backlog {
    workers: WorkerPool,
    /// Connections in `State::Queued`; at most `limit` while all workers are busy.
    waiting: VecDeque<Token>,
    limit: usize,
    /// Since when a ready request has not been taken. After `READY_WAIT` an idle worker is woken for it.
    ready_since: Option<Instant>,
}

impl Backlog {
    /// Wakes idle workers for requests that have been ready for `READY_WAIT`.
    fn wake_late(&mut self, now: Instant) {
        let since = self.workers.has_ready().then(|| *self.ready_since.get_or_insert(now));
        self.ready_since = since;
        if since.is_some_and(|since| now.saturating_duration_since(since) >= READY_WAIT) {
            self.workers.wake_ready();
        }
    }
}

/// mio asks for a backlog of 1,024 connections, std for 128.
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
        let returns = ReturnQueue::new(poll.registry().try_clone()?, mio::Waker::new(poll.registry(), WAKE)?);
        for (n, listener) in config.listeners.iter().enumerate().take(LISTENERS) {
            listener.set_nonblocking(true)?;
            register(poll.registry(), listener, Token(n + 1), Interest::READABLE)?;
        }
        let handler = config.handler;
        let rules = Arc::new(Rules::new(&config.server, config.budget, Arc::clone(&handler) as _));
        let shared = Arc::new(ServerState {
            rules: RwLock::new(Arc::clone(&rules)),
            open: Arc::new(OpenConnections::new(&config.server)),
            max_connections: config.max_connections,
            returns,
            draining: AtomicBool::new(false),
            stopping: Arc::default(),
            beats: AtomicU64::new(0),
        });
        let backlog = |name, size: PoolSize, pool| {
            let workers = WorkerPool::start(name, size, pool, &shared, &handler)?;
            io::Result::Ok(Backlog { workers, waiting: VecDeque::new(), limit: size.backlog, ready_since: None })
        };
        let control = backlog("control", config.control, Pool::Control)?;
        let proxy = backlog("proxy", config.proxy, Pool::Proxy)?;
        let server = Self {
            poll,
            waiting_listeners: (0..config.listeners.len().min(LISTENERS)).collect(),
            listeners: config.listeners,
            accept_pause: None,
            connections: HashMap::new(),
            next_token: LISTENERS + 1,
            rules,
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

    /// Serves until drained, or until polling fails for good. The workers end with it.
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
                    if failed == MAX_FAILED_POLLS {
                        break;
                    }
                }
                _ => failed = 0,
            }
            let now = time::now();
            self.shared.beats.fetch_add(1, Ordering::Relaxed);
            self.rules = self.shared.rules();
            // First, since this batch may have events for them.
            self.take_returned(now);
            for event in &events {
                match event.token() {
                    WAKE => {}
                    Token(n) if n <= LISTENERS => self.note_listener(n - 1),
                    token => self.guard(token, |server, token| server.on_event(token, event, now)),
                }
            }
            for token in std::mem::take(&mut self.again) {
                self.guard(token, |server, token| server.advance(token, now));
            }
            self.dispatch_waiting();
            self.accept(now);
            self.expire(now);
            self.control.wake_late(now);
            self.proxy.wake_late(now);
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
        if self.control.workers.has_ready() || self.proxy.workers.has_ready() {
            return Some(READY_WAIT);
        }
        let wait = |at: Instant| at.saturating_duration_since(now) + Duration::from_millis(1);
        let longest = if self.shared.is_draining() { DRAIN_TICK } else { LONGEST_SLEEP };
        let deadlines = self.next_deadline.into_iter().chain(self.accept_pause.map(|(at, _)| at));
        Some(deadlines.map(wait).min().map_or(longest, |wait| wait.min(longest)))
    }

    /// A panic closes this connection and nothing else; the panic hook has logged it.
    fn guard(&mut self, token: Token, act: impl FnOnce(&mut Self, Token)) {
        if catch_unwind(AssertUnwindSafe(|| act(self, token))).is_err() {
            self.close(token);
        }
    }

    pub(super) fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    pub(super) fn take_returned(&mut self, now: Instant) {
        for connection in self.shared.returns.take() {
            self.insert(connection, now);
        }
    }

    /// Parks a connection that was accepted or returned by a worker.
    pub(super) fn insert(&mut self, mut connection: Box<Connection>, now: Instant) {
        let token = connection.token;
        let interest = match connection.state {
            State::Flush { .. } => Interest::READABLE | Interest::WRITABLE,
            _ => Interest::READABLE,
        };
        if !std::mem::replace(&mut connection.is_registered, true)
            && register(self.poll.registry(), &*connection.stream, token, interest).is_err()
        {
            return;
        }
        // During a drain a returned connection is served what has already arrived, then closed.
        let look = connection.has_unread() || (self.shared.is_draining() && connection.is_idle());
        let is_queued = matches!(connection.state, State::Queued(_));
        self.connections.insert(token, connection);
        self.note_deadline(token);
        if is_queued {
            self.guard(token, |server, token| server.dispatch(token, now));
        } else if look {
            self.guard(token, |server, token| server.look(token, now));
        }
    }

    fn look(&mut self, token: Token, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.note_unread();
        }
        self.advance(token, now);
        let is_idle = self.connections.get(&token).is_some_and(|connection| connection.is_idle());
        if is_idle && self.shared.is_draining() {
            self.close(token);
        }
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Box<Connection>> {
        let mut connection = self.connections.remove(&token)?;
        if let State::Queued(request) = &connection.state {
            self.backlog(request.pool).waiting.retain(|other| *other != token);
        }
        deregister(self.poll.registry(), &*connection.stream);
        connection.is_registered = false;
        self.again.retain(|other| *other != token);
        Some(connection)
    }

    pub(super) fn close(&mut self, token: Token) {
        drop(self.remove(token));
    }

    fn on_event(&mut self, token: Token, event: &mio::event::Event, now: Instant) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        connection.closed |= event.is_read_closed() || event.is_error();
        connection.note_unread();
        match &connection.state {
            State::Queued(_) => self.drop_cancelled(token),
            State::Flush { .. } => self.flush(token, now),
            // It is already in `again`, and handled after these events.
            _ if self.again.contains(&token) => {}
            State::Head { .. } | State::Body(_) | State::Linger { .. } => self.advance(token, now),
        }
    }

    pub(super) fn advance(&mut self, token: Token, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&token) {
            let step = connection.advance(&mut self.scratch, now, &self.rules);
            self.act(token, step, now);
        }
    }

    fn act(&mut self, token: Token, step: Step, now: Instant) {
        match step {
            Step::Wait => self.note_deadline(token),
            Step::Again => {
                self.note_deadline(token);
                self.again.push(token);
            }
            Step::Close => self.close(token),
            Step::Serve(request) => {
                if let Some(connection) = self.connections.get_mut(&token) {
                    connection.state = State::Queued(request);
                }
                self.dispatch(token, now);
            }
            Step::Refuse(refused) => {
                if let Some(connection) = self.remove(token) {
                    self.answer_refusal(connection, &refused, now);
                }
            }
        }
    }

    pub(super) fn note_deadline(&mut self, token: Token) {
        if let Some(connection) = self.connections.get(&token) {
            self.next_deadline = Some(self.next_deadline.map_or(connection.deadline, |at| at.min(connection.deadline)));
        }
    }

    fn backlog(&mut self, pool: Pool) -> &mut Backlog {
        match pool {
            Pool::Control => &mut self.control,
            Pool::Proxy => &mut self.proxy,
        }
    }

    /// Gives a complete request to a worker, queues it, or refuses it.
    fn dispatch(&mut self, token: Token, now: Instant) {
        let state = self.connections.get(&token).map(|connection| &connection.state);
        let Some(State::Queued(request)) = state else { return };
        let backlog = self.backlog(request.pool);
        if backlog.waiting.len() < backlog.limit || backlog.workers.has_idle() {
            backlog.waiting.push_back(token);
            self.dispatch_waiting();
            // The client may have disconnected in an event that was already handled.
            return self.drop_cancelled(token);
        }
        let text = "All workers are busy and the backlog is full (server.workers, server.backlog).";
        let failure = Failure::new(Kind::Overloaded, text).retry_after(Duration::from_secs(1));
        self.refuse_queued(token, failure, now);
    }

    /// Gives queued requests to idle workers.
    fn dispatch_waiting(&mut self) {
        for pool in [Pool::Control, Pool::Proxy] {
            loop {
                let backlog = self.backlog(pool);
                // Set before `has_idle` is asked: a worker that becomes idle later wakes the loop.
                backlog.workers.set_waiting(backlog.waiting.len());
                let next = backlog.waiting.front().copied().filter(|_| backlog.workers.has_idle());
                let Some(exchange) = next.and_then(|token| self.take_queued(token)) else { break };
                self.backlog(pool).workers.offer(exchange);
            }
        }
    }

    fn take_queued(&mut self, token: Token) -> Option<Exchange> {
        let mut connection = self.remove(token)?;
        match std::mem::replace(&mut connection.state, State::Head { since: None }) {
            State::Queued(request) => Some(Exchange { connection, request }),
            _ => None,
        }
    }

    fn refuse_queued(&mut self, token: Token, failure: Failure, now: Instant) {
        if let Some(Exchange { connection, request }) = self.take_queued(token) {
            self.answer_refusal(connection, &request.refused(failure), now);
        }
    }

    /// Answers a refused request from this thread; the connection then lingers.
    pub(super) fn answer_refusal(&mut self, connection: Box<Connection>, refused: &Refused, now: Instant) {
        // The response gives the connection back even if this panics.
        let answer = AssertUnwindSafe(|| refuse(&*self.handler, &self.shared, connection, refused));
        if let Ok(Some(connection)) = catch_unwind(answer) {
            self.insert(connection, now);
        }
    }

    /// Drops a request that waits for a proxy worker if its client has disconnected. Control requests are answered on
    /// half-closed connections too.
    fn drop_cancelled(&mut self, token: Token) {
        let closed = self.connections.get(&token).filter(|connection| connection.closed);
        let has_hung_up = closed.is_some_and(
            |connection| matches!(&connection.state, State::Queued(request) if request.pool == Pool::Proxy),
        );
        if has_hung_up && let Some(Exchange { request, .. }) = self.take_queued(token) {
            self.handler.client_disconnected(&request);
        }
    }

    fn flush(&mut self, token: Token, now: Instant) {
        let draining = self.shared.is_draining();
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.flush(now, &self.rules, draining) {
            Ok(false) if connection.deadline > now => self.note_deadline(token),
            Ok(true) => {
                if let Some(connection) = self.remove(token) {
                    self.insert(connection, now);
                }
            }
            Ok(false) | Err(_) => self.close(token),
        }
    }

    fn expire(&mut self, now: Instant) {
        if self.next_deadline.is_none_or(|at| at > now) {
            return;
        }
        self.next_deadline = None;
        for token in self.connections.keys().copied().collect::<Vec<_>>() {
            if self.connections.get(&token).is_some_and(|connection| connection.deadline <= now) {
                self.guard(token, |server, token| server.expire_one(token, now));
            }
            self.note_deadline(token);
        }
    }

    fn expire_one(&mut self, token: Token, now: Instant) {
        match self.connections.get_mut(&token) {
            // The kernel reports a socket as writable only when much of its buffer is free, so the write is tried
            // again at the deadline.
            Some(connection) if matches!(connection.state, State::Flush { .. }) => self.flush(token, now),
            Some(connection) => {
                let step = connection.expire(now, &self.rules);
                self.act(token, step, now);
            }
            None => {}
        }
    }

    fn start_drain(&mut self, now: Instant) {
        self.listeners.clear();
        self.waiting_listeners.clear();
        for token in self.proxy.waiting.clone() {
            let failure = Failure::new(Kind::Draining, "The proxy is being stopped.");
            self.refuse_queued(token, failure.retry_after(Duration::from_secs(5)), now);
        }
        for token in self.connections.keys().copied().collect::<Vec<_>>() {
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            if connection.is_idle() {
                self.close(token);
            } else {
                connection.shorten_deadline(now);
                self.note_deadline(token);
            }
        }
    }
}
