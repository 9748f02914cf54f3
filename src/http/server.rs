//! The event loop: one thread that accepts, reads heads and bodies of parked connections within bounds, hands
//! complete requests (or the beginning of an upload) to the lanes, and hears a client hang up while a worker
//! serves it. Knows no routes.

use super::head::{Head, Version};
use super::request::Request;
use crate::api::errors::{Failure, Kind};
use crate::http::connection::{Arrived, Conn, Rules, State, Step};
use crate::http::handler::{Handler, Pool, Refused, ServerConfig, ServerHandle, ServerState};
use crate::http::limits::PerIpLimit;
use crate::http::response::{Line, Response, ReturnQueue, Returned};
use crate::http::workers::{Exchange, WorkerPool};
use crate::util::cancel::CancelToken;
use crate::util::lock::lock;
use crate::util::time;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const WAKE: Token = Token(0);
/// Tokens 1..=LISTENERS are listeners, the rest connections.
pub(super) const LISTENERS: usize = 64;
const SCRATCH: usize = 64 << 10;
/// So many waits that failed in a row are not going to succeed (FAULTS E9).
const HOPELESS: u32 = 100;
/// The longest sleep while a worker may give a connection back without waking us.
const GLANCE: Duration = Duration::from_secs(1);

/// The front's own state; lives on its thread.
pub struct EventLoop {
    pub(super) poll: Poll,
    /// At most `LISTENERS`.
    pub(super) listeners: Vec<TcpListener>,
    /// Those that may have more connections; each once.
    pub(super) waiting_listeners: VecDeque<usize>,
    pub(super) accept_pause: Option<(Instant, Duration)>,
    /// At most `max_connections`, and one that is being told so.
    pub(super) conns: Vec<Option<Conn>>,
    /// Empty places in `conns`; each once.
    pub(super) free: Vec<usize>,
    pub(super) per_ip: PerIpLimit,
    pub(super) rules: Rules,
    pub(super) max_connections: usize,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) control: WorkerPool,
    pub(super) proxy: WorkerPool,
    pub(super) shared: Arc<ServerState>,
    /// Room for what workers give back: one at most for each connection.
    pub(super) returned: Vec<Returned>,
    /// A client left while its request was with a worker, or waited for one.
    pub(super) leavers: bool,
    /// Connections that have more to be read than one turn allows; each once.
    pub(super) again: Vec<usize>,
    pub(super) scratch: Vec<u8>,
    pub(super) next_deadline: Option<Instant>,
    pub(super) served: usize,
}

/// A listener with room for a burst: mio asks for a queue of 1,024 connections, std for 128.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    mio::net::TcpListener::bind(addr).map(TcpListener::from)
}

impl EventLoop {
    /// Prepares the loop; nothing is accepted before [`EventLoop::run`].
    ///
    /// # Errors
    /// The kernel refuses an epoll or kqueue, or a listener cannot be made non-blocking.
    pub fn new(config: ServerConfig) -> io::Result<(Self, ServerHandle)> {
        let poll = Poll::new()?;
        let returns = Arc::new(ReturnQueue::new(mio::Waker::new(poll.registry(), WAKE)?));
        for (n, listener) in config.listeners.iter().enumerate().take(LISTENERS) {
            listener.set_nonblocking(true)?;
            poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), Token(n + 1), Interest::READABLE)?;
        }
        let shared = Arc::new(ServerState {
            returns,
            bounds: Mutex::new(None),
            draining: AtomicBool::new(false),
            hurry: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            beats: AtomicU64::new(0),
        });
        let server = &config.server;
        let front = Self {
            poll,
            waiting_listeners: (0..config.listeners.len()).collect(),
            listeners: config.listeners,
            accept_pause: None,
            conns: Vec::new(),
            free: Vec::new(),
            per_ip: PerIpLimit::new(server.per_client, server.trusted_proxies.clone()),
            rules: Rules::new(server, config.budget, Arc::clone(&config.handler)),
            max_connections: config.max_connections,
            handler: config.handler,
            control: config.control,
            proxy: config.proxy,
            shared: Arc::clone(&shared),
            returned: Vec::new(),
            leavers: false,
            again: Vec::new(),
            scratch: vec![0; SCRATCH],
            next_deadline: None,
            served: 0,
        };
        Ok((front, ServerHandle { shared }))
    }

    /// Serves until drained, or until the system does not tell any more what comes in. Workers end with it.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let (mut drained, mut failed) = (false, 0);
        loop {
            let now = time::now();
            match self.poll.poll(&mut events, self.patience(now)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    failed += 1;
                    if failed == 1 {
                        log::error!("waiting for connections: {e}");
                    }
                    if failed == HOPELESS {
                        return;
                    }
                }
                _ => failed = 0,
            }
            let now = time::now();
            self.shared.beats.fetch_add(1, Ordering::Relaxed);
            self.take_back(now);
            if let Some(server) = lock(&self.shared.bounds).take() {
                self.rules.obey(&server);
                self.per_ip.limit(server.per_client, server.trusted_proxies);
            }
            for event in &events {
                match event.token() {
                    WAKE => {}
                    Token(n) if n <= LISTENERS => self.note_listener(n - 1),
                    Token(n) => {
                        let slot = n - LISTENERS - 1;
                        self.guard(slot, |front| front.on_event(slot, event, now));
                    }
                }
            }
            // A connection whose event was just noted may have come back meanwhile (see `ReturnQueue::give`).
            self.take_back(now);
            if std::mem::take(&mut self.leavers) {
                for Exchange { request, response } in self.proxy.left() {
                    // The reply gives the connection back even if this panics.
                    drop(catch_unwind(AssertUnwindSafe(|| self.handler.left(&request, response))));
                }
            }
            for slot in std::mem::take(&mut self.again) {
                if let Some(conn) = self.conns.get_mut(slot).and_then(Option::as_mut) {
                    conn.again = false;
                }
                self.guard(slot, |front| front.advance(slot, now));
            }
            // Last, so that no event of this batch can meet a reused slot.
            self.accept(now);
            self.expire(now);
            if self.shared.draining.load(Ordering::SeqCst) {
                if !std::mem::replace(&mut drained, true) {
                    self.start_drain(now);
                }
                if self.shared.hurry.load(Ordering::SeqCst) {
                    self.end_all();
                    break;
                }
                if self.shared.connections.load(Ordering::Relaxed) == 0 {
                    self.control.close();
                    self.proxy.close();
                    break;
                }
            }
        }
    }

    fn patience(&self, now: Instant) -> Option<Duration> {
        if !self.again.is_empty() || (self.accept_pause.is_none() && !self.waiting_listeners.is_empty()) {
            return Some(Duration::ZERO);
        }
        let mut until = self.next_deadline;
        if let Some((at, _)) = self.accept_pause {
            until = Some(until.map_or(at, |u| u.min(at)));
        }
        let wait = until.map(|at| at.saturating_duration_since(now) + Duration::from_millis(1));
        if self.served > 0 { Some(wait.map_or(GLANCE, |w| w.min(GLANCE))) } else { wait }
    }

    /// A panic while one connection is looked at is the end of that connection and of nothing else (the hook has logged).
    pub(super) fn guard(&mut self, slot: usize, act: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| act(self))).is_ok() {
            return;
        }
        // One that is served comes back by its reply, which unwinding has dropped or a worker holds.
        let conn = self.conns.get(slot).and_then(Option::as_ref);
        if conn.is_some_and(|conn| !matches!(conn.state, State::Served { .. })) {
            self.close(slot);
        }
    }

    fn on_event(&mut self, slot: usize, event: &mio::event::Event, now: Instant) {
        let Some(conn) = self.conns.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        if event.is_read_closed() || event.is_error() {
            conn.closed = true;
        }
        conn.note_unread();
        match &conn.state {
            State::Served { cancel, seen } => {
                seen.store(true, Ordering::SeqCst);
                if conn.closed && !cancel.is_cancelled() {
                    cancel.cancel();
                    self.leavers = true;
                }
            }
            State::Flush { .. } => self.flush(slot, now),
            // It has its turn anyway, after the others.
            _ if conn.again => {}
            State::Head { .. } | State::Body(_) | State::Linger { .. } => self.advance(slot, now),
        }
    }

    pub(super) fn advance(&mut self, slot: usize, now: Instant) {
        let Some(conn) = self.conns.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        // A connection put off for its next turn may have been served meanwhile; then it is not ours to read.
        if matches!(conn.state, State::Served { .. } | State::Flush { .. }) {
            return conn.note_unread();
        }
        let step = conn.advance(&mut self.scratch, now, &self.rules);
        self.act(slot, step);
    }

    fn act(&mut self, slot: usize, step: Step) {
        match step {
            Step::Wait => self.note_deadline(slot),
            Step::Again => {
                self.note_deadline(slot);
                if let Some(conn) = self.conns.get_mut(slot).and_then(Option::as_mut)
                    && !std::mem::replace(&mut conn.again, true)
                {
                    self.again.push(slot);
                }
            }
            Step::Close => self.close(slot),
            Step::Serve(arrived) => self.serve(slot, *arrived),
            Step::Refuse(head, failure, began) => self.refuse(slot, head.as_deref(), failure, began),
        }
    }

    pub(super) fn note_deadline(&mut self, slot: usize) {
        if let Some(conn) = self.conns.get(slot).and_then(Option::as_ref) {
            self.next_deadline = Some(self.next_deadline.map_or(conn.deadline, |at| at.min(conn.deadline)));
        }
    }

    /// Lends the connection to a worker.
    fn lend(&mut self, slot: usize, head: Option<&Head>, may_block: bool) -> Option<(Response, Arc<CancelToken>)> {
        let conn = self.conns.get_mut(slot).and_then(Option::as_mut)?;
        let cancel = Arc::new(CancelToken::default());
        // What lies unread in the kernel gives no new event: the event loop must look when it gets it back.
        let seen = Arc::new(AtomicBool::new(conn.has_unread()));
        if conn.closed {
            cancel.cancel();
            self.leavers = true;
        }
        let client = head.map_or(Some(conn.peer), |head| self.handler.client(head, conn.from()));
        conn.state = State::Served { cancel: Arc::clone(&cancel), seen: Arc::clone(&seen) };
        self.served += 1;
        let line = Line {
            stream: Arc::clone(&conn.stream),
            token: slot,
            returns: Arc::clone(&self.shared.returns),
            cancel: Arc::clone(&cancel),
            seen,
            write_timeout: self.rules.write_timeout,
            may_block,
            held: self.rules.budget.hold(client),
        };
        let keep = head.is_some_and(|h| h.keep_alive) && !self.shared.draining.load(Ordering::SeqCst);
        let version = head.map_or(Version::Http11, |h| h.version);
        let head_only = head.is_some_and(|h| h.method == http::Method::HEAD);
        Some((Response::new(line, version, head_only, keep), cancel))
    }

    fn serve(&mut self, slot: usize, arrived: Arrived) {
        let Arrived { head, body, mut rest, began } = arrived;
        let Some(conn) = self.conns.get(slot).and_then(Option::as_ref) else {
            return;
        };
        let pool = self.handler.pool(&head, conn.listener);
        let Some((mut response, cancel)) = self.lend(slot, Some(&head), pool == Pool::Proxy) else {
            return;
        };
        if let Some(rest) = &mut rest {
            rest.hear(&cancel);
            response.close_after();
        }
        let Some(conn) = self.conns.get(slot).and_then(Option::as_ref) else {
            return;
        };
        let request = Request {
            head,
            body,
            rest: rest.map(RefCell::new),
            peer: conn.peer,
            peer_text: Arc::clone(&conn.peer_text),
            listener: conn.listener,
            began,
            cancel,
        };
        let pool = if pool == Pool::Proxy { &self.proxy } else { &self.control };
        if let Err(job) = pool.offer(Exchange { request, response }) {
            let text = "All workers are busy and the backlog is full (server.workers, server.backlog).";
            let failure = Failure::new(Kind::Overloaded, text).retry_after(Duration::from_secs(1));
            self.turn_away(*job, failure);
        }
    }

    fn turn_away(&self, job: Exchange, failure: Failure) {
        let Exchange { request, mut response } = job;
        response.never_block();
        let refused = Refused { from: request.from(), head: Some(&request.head), failure, began: request.began };
        self.handler.refuse(refused, response);
    }

    /// Answers from here and closes; nothing reaches an upstream.
    pub(super) fn refuse(&mut self, slot: usize, head: Option<&Head>, failure: Failure, began: Instant) {
        let Some((mut response, _)) = self.lend(slot, head, false) else {
            return;
        };
        response.close_after();
        let Some(conn) = self.conns.get(slot).and_then(Option::as_ref) else {
            return;
        };
        self.handler.refuse(Refused { from: conn.from(), head, failure, began }, response);
    }

    pub(super) fn close(&mut self, slot: usize) {
        let Some(conn) = self.conns.get_mut(slot).and_then(Option::take) else {
            return;
        };
        if let State::Served { cancel, .. } = &conn.state {
            cancel.cancel();
            self.served -= 1;
        }
        let _ = self.poll.registry().deregister(&mut SourceFd(&conn.stream.as_raw_fd()));
        self.per_ip.leave(conn.peer);
        self.again.retain(|other| *other != slot);
        self.free.push(slot);
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
    }

    fn expire(&mut self, now: Instant) {
        if self.next_deadline.is_none_or(|at| at > now) {
            return;
        }
        self.next_deadline = None;
        for slot in 0..self.conns.len() {
            let Some(conn) = self.conns[slot].as_mut() else {
                continue;
            };
            if conn.deadline <= now {
                self.guard(slot, |front| front.expire_one(slot, now));
            }
            if self.conns[slot].as_ref().is_some_and(|c| !matches!(c.state, State::Served { .. })) {
                self.note_deadline(slot);
            }
        }
    }

    fn expire_one(&mut self, slot: usize, now: Instant) {
        match self.conns.get_mut(slot).and_then(Option::as_mut) {
            // The kernel tells of room only when there is much: a slow reader may have taken some.
            Some(conn) if matches!(conn.state, State::Flush { .. }) => self.flush(slot, now),
            Some(conn) => {
                let step = conn.expire(now, &self.rules);
                self.act(slot, step);
            }
            None => {}
        }
    }

    fn start_drain(&mut self, now: Instant) {
        self.listeners.clear();
        self.waiting_listeners.clear();
        for job in self.proxy.unserved() {
            let failure =
                Failure::new(Kind::Draining, "The proxy is being stopped.").retry_after(Duration::from_secs(5));
            drop(catch_unwind(AssertUnwindSafe(|| self.turn_away(job, failure))));
        }
        for slot in 0..self.conns.len() {
            let Some(conn) = self.conns[slot].as_mut() else { continue };
            if conn.is_idle() {
                self.close(slot);
            } else {
                conn.hasten(now);
                self.note_deadline(slot);
            }
        }
    }

    fn end_all(&mut self) {
        for slot in 0..self.conns.len() {
            self.close(slot);
        }
        self.control.abandon();
        self.proxy.abandon();
    }
}
