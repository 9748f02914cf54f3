//! The handler that answers requests, and the handle of a running server.

use super::connection::Connection;
use super::request::{Decide, Refused, Request};
use super::response::{Response, ResponseTo};
use super::state::ServerState;
use crate::config;
use crate::util::budget::Budget;
use crate::util::lock::write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub trait Handler: Decide {
    /// Answers a request on a worker. To let another thread finish it, detach the response.
    fn serve(&self, request: Request, response: &mut Response);
    /// Answers a request that the server or a full pool refuses, and logs it.
    fn refuse(&self, refused: &Refused, response: &mut Response);
    /// Logs a request whose client left before a worker took it.
    fn client_disconnected(&self, request: &Request);
}

/// Answers a refused request and returns its connection.
pub(super) fn refuse(
    handler: &dyn Handler,
    server: &Arc<ServerState>,
    connection: Box<Connection>,
    refused: &Refused,
) -> Option<Box<Connection>> {
    let to = ResponseTo { keep: false, ..ResponseTo::head(refused.head.as_ref(), refused.client, false) };
    let mut response = Response::new(connection, server, to);
    handler.refuse(refused, &mut response);
    response.give_back()
}

#[derive(Debug, Clone, Copy)]
pub struct PoolSize {
    pub threads: usize,
    pub backlog: usize,
}

pub struct ServerConfig {
    /// Bound listeners, at most 64.
    pub listeners: Vec<TcpListener>,
    pub server: config::Server,
    pub budget: Arc<Budget>,
    /// Connections allowed at once, after the descriptor limit.
    pub max_connections: usize,
    pub handler: Arc<dyn Handler>,
    pub control: PoolSize,
    pub proxy: PoolSize,
}

#[derive(Clone)]
pub struct ServerHandle {
    pub(super) shared: Arc<ServerState>,
}

impl ServerHandle {
    /// Closes listeners and idle connections; requests in progress go on.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.shared.returns.wake();
    }

    /// Cancels the requests that are still in progress.
    pub(crate) fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.returns.wake();
    }

    /// Replaces the limits of heads, bodies and times; `maxConnections`, `workers` and `bodyMemory` stay as they were.
    pub(crate) fn configure(&self, server: &config::Server) {
        let rules = self.shared.rules().with(server);
        *write(&self.shared.rules) = Arc::new(rules);
        self.shared.open.configure(server);
        self.shared.returns.wake();
    }

    pub fn connections(&self) -> usize {
        self.shared.open.count()
    }

    /// Turns of the event loop so far.
    pub(crate) fn beats(&self) -> u64 {
        self.shared.beats.load(Ordering::Relaxed)
    }

    /// Wakes the event loop.
    pub(crate) fn nudge(&self) {
        self.shared.returns.wake();
    }
}
