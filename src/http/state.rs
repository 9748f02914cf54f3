//! What the event loop and its workers share.

use super::connection::Connection;
use super::limits::{OpenConnections, Rules};
use crate::util::lock::{lock, read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

pub(super) struct ServerState {
    pub(super) rules: RwLock<Arc<Rules>>,
    pub(super) open: Arc<OpenConnections>,
    pub(super) returns: ReturnQueue,
    pub(super) draining: AtomicBool,
    /// Requests in progress end as if their clients had left: every `CancelToken` looks at it.
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) beats: AtomicU64,
}

impl ServerState {
    pub(super) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&read(&self.rules))
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }
}

/// Connections on their way from workers back to the event loop. Each connection is there once at most.
pub(super) struct ReturnQueue {
    /// None once the loop has ended: what comes back then is closed.
    connections: Mutex<Option<Vec<Box<Connection>>>>,
    waker: mio::Waker,
}

impl ReturnQueue {
    pub(super) fn new(waker: mio::Waker) -> Self {
        Self { connections: Mutex::new(Some(Vec::new())), waker }
    }

    pub(super) fn give(&self, connection: Box<Connection>) {
        if let Some(connections) = &mut *lock(&self.connections) {
            connections.push(connection);
        }
        self.wake();
    }

    pub(super) fn wake(&self) {
        // It can only fail when the kernel is out of memory; the event loop also looks every second.
        let _ = self.waker.wake();
    }

    pub(super) fn take(&self) -> Vec<Box<Connection>> {
        lock(&self.connections).as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Closes what is there and what still comes.
    pub(super) fn close(&self) {
        lock(&self.connections).take();
    }
}
