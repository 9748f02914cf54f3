//! What the server asks of its request handler, and what others may ask of a running server.

use super::head::Head;
use super::request::{From, Request};
use crate::api::errors::Failure;
use crate::config;
use crate::http::response::{Response, ReturnQueue};
use crate::http::workers::WorkerPool;
use crate::util::budget::Budget;
use crate::util::lock::lock;
use std::net::{IpAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Which workers a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Answered from memory: never waits behind streams.
    Control,
    Proxy,
}

/// Decides about requests; the server only reads and writes them.
pub trait Handler: Send + Sync + 'static {
    /// Whether a request may go on: asked before a body follows, and before it reaches the proxy lane.
    fn admit(&self, head: &Head, from: From) -> Result<(), Failure>;
    /// Whether a body that turns out large is to be sent on as it comes.
    fn passes_on(&self, head: &Head, listener: usize) -> bool;
    /// Whom to count what is held for a request: the client's address, behind a trusted proxy too. None is a trusted
    /// proxy that does not tell.
    fn client(&self, _head: &Head, from: From) -> Option<IpAddr> {
        Some(from.peer)
    }
    /// The lane of a request, by its head.
    fn pool(&self, head: &Head, listener: usize) -> Pool;
    /// Answers a request that the server or a full pool refuses, and logs it.
    fn refuse(&self, refused: Refused<'_>, response: Response);
    /// Ends a request whose client left before a worker took it, and logs it.
    fn left(&self, request: &Request, response: Response);
}

/// A request that is not served.
pub struct Refused<'a> {
    pub(crate) from: From,
    /// The head, as far as it was understood.
    pub head: Option<&'a Head>,
    pub(crate) failure: Failure,
    /// When its head was complete, or without a head when its first byte came.
    pub(crate) began: Instant,
}

/// What the event loop needs to run.
pub struct ServerConfig {
    /// Bound listeners, at most 64.
    pub listeners: Vec<TcpListener>,
    pub server: config::Server,
    pub budget: Arc<Budget>,
    /// Connections allowed at once, after the descriptor limit.
    pub max_connections: usize,
    pub handler: Arc<dyn Handler>,
    pub control: WorkerPool,
    pub proxy: WorkerPool,
}

/// What others may see and ask of a running front.
#[derive(Clone)]
pub struct ServerHandle {
    pub(super) shared: Arc<ServerState>,
}

pub(super) struct ServerState {
    pub(crate) returns: Arc<ReturnQueue>,
    /// Bounds that replace the ones in force.
    pub(crate) bounds: Mutex<Option<config::Server>>,
    pub(crate) draining: AtomicBool,
    pub(crate) hurry: AtomicBool,
    pub(crate) connections: AtomicUsize,
    pub(crate) beats: AtomicU64,
}

impl ServerHandle {
    /// Closes listeners and idle connections; requests in progress go on.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.shared.returns.wake();
    }

    /// Ends what is still in progress, as if every client had left.
    pub(crate) fn hurry(&self) {
        self.shared.hurry.store(true, Ordering::SeqCst);
        self.shared.returns.wake();
    }

    /// From now on these bounds of heads, bodies and times count; how many connections and bytes there may
    /// be in all stays as it was.
    pub(crate) fn obey(&self, server: &config::Server) {
        *lock(&self.shared.bounds) = Some(server.clone());
        self.shared.returns.wake();
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Grows as long as the event loop turns.
    pub(crate) fn beats(&self) -> u64 {
        self.shared.beats.load(Ordering::Relaxed)
    }

    /// Makes the loop turn once.
    pub(crate) fn nudge(&self) {
        self.shared.returns.wake();
    }
}
