//! What the event loop and its workers share.

use super::connection::Connection;
use super::limits::{OpenConnections, Rules};
use crate::util::lock::{lock, read};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token, Waker};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

pub(super) struct ServerState {
    pub(super) rules: RwLock<Arc<Rules>>,
    pub(super) open: Arc<OpenConnections>,
    pub(super) max_connections: usize,
    pub(super) returns: ReturnQueue,
    pub(super) draining: AtomicBool,
    /// Cancels every request: part of each `CancelToken`.
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) beats: AtomicU64,
}

impl ServerState {
    pub(super) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&read(&self.rules))
    }

    /// There is one connection more than there may be.
    pub(super) fn is_full(&self) -> bool {
        self.open.count() > self.max_connections
    }

    /// New connections may soon take the place of idle ones, which only the event loop can close.
    pub(super) fn is_crowded(&self) -> bool {
        2 * self.open.count() > self.max_connections
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }
}

/// Reports events from now on, and input that has already arrived.
pub(super) fn register(registry: &Registry, socket: &impl AsRawFd, token: Token, interest: Interest) -> io::Result<()> {
    registry.register(&mut SourceFd(&socket.as_raw_fd()), token, interest)
}

pub(super) fn deregister(registry: &Registry, socket: &impl AsRawFd) {
    let _ = registry.deregister(&mut SourceFd(&socket.as_raw_fd()));
}

/// Connections on their way from workers back to the event loop.
#[allow(clippy::vec_box, reason = "connections move between threads as one pointer")]
pub(super) struct ReturnQueue {
    /// `None` once the loop has ended; connections that are returned then are closed.
    connections: Mutex<Option<Vec<Box<Connection>>>>,
    registry: Registry,
    waker: Waker,
}

impl ReturnQueue {
    pub(super) fn new(registry: Registry, waker: Waker) -> Self {
        Self { connections: Mutex::new(Some(Vec::new())), registry, waker }
    }

    /// Returns a connection. One that only waits for its client does not wake the event loop: its next event does, and
    /// deadlines are checked every second.
    pub(super) fn give(&self, mut connection: Box<Connection>) {
        let parked = (connection.is_parked() && !connection.has_unread()).then(|| Arc::clone(&connection.stream));
        let token = connection.token;
        connection.is_registered = parked.is_some();
        match &mut *lock(&self.connections) {
            Some(connections) => connections.push(connection),
            None => return,
        }
        match parked {
            // Once it is in the queue, so that its event finds it. If registering fails, its deadline closes it.
            Some(stream) => drop(register(&self.registry, &*stream, token, Interest::READABLE)),
            None => self.wake(),
        }
    }

    pub(super) fn wake(&self) {
        // Fails only when the kernel is out of memory; the event loop also looks every second.
        let _ = self.waker.wake();
    }

    #[allow(clippy::vec_box, reason = "see ReturnQueue")]
    pub(super) fn take(&self) -> Vec<Box<Connection>> {
        lock(&self.connections).as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Closes these connections and all that are returned later.
    pub(super) fn close(&self) {
        lock(&self.connections).take();
    }
}
