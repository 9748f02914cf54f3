//! A TCP relay in front of a toy's tiny_http server. It notices when a client disconnects, and can abort connections:
//! tiny_http hides its sockets and never closes a kept connection by itself, so it can do neither. Knows no HTTP.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Open connections of one toy. Each costs four descriptors and three threads; two toys stay far below the
/// usual limit of 1,024 descriptors.
const CONNECTIONS: usize = 64;

/// A loopback address whose connections are relayed to `inner`; dropping it closes them all.
pub(crate) struct Relay {
    addr: SocketAddr,
    links: Arc<Links>,
    thread: Option<JoinHandle<()>>,
}

/// Every open connection, by the address under which tiny_http sees it.
pub(crate) struct Links {
    inner: SocketAddr,
    open: Mutex<HashMap<SocketAddr, Arc<Link>>>,
    closing: AtomicBool,
}

/// One connection: the client's socket and the one to tiny_http.
pub(crate) struct Link {
    client: TcpStream,
    inner: TcpStream,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    /// The client closed it or its sending side: llama-server takes a half-close for a disconnect too.
    ClientGone,
    Aborted,
}

impl Relay {
    /// Listens on a free loopback port.
    pub(crate) fn open(inner: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let links = Arc::new(Links { inner, open: Mutex::default(), closing: AtomicBool::new(false) });
        let own = Arc::clone(&links);
        let thread = thread::Builder::new().name("demo-accept".into()).spawn(move || own.accept(&listener))?;
        Ok(Self { addr, links, thread: Some(thread) })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The connections, for the server behind the relay.
    pub(crate) fn links(&self) -> Arc<Links> {
        Arc::clone(&self.links)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.links.closing.store(true, SeqCst);
        // Only a connection wakes a blocked accept; if none can be made, the thread lives until the process ends.
        let woken = TcpStream::connect(self.addr).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
        self.links.abort_all_but(None);
    }
}

impl Links {
    /// The connection that tiny_http calls `peer`.
    pub(crate) fn find(&self, peer: SocketAddr) -> Option<Arc<Link>> {
        self.lock().get(&peer).cloned()
    }

    pub(crate) fn abort_all_but(&self, kept: Option<&Arc<Link>>) {
        let open: Vec<_> = self.lock().values().cloned().collect();
        for link in open.iter().filter(|link| kept.is_none_or(|kept| !Arc::ptr_eq(kept, link))) {
            link.abort();
        }
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let (_never, pause) = std::sync::mpsc::channel::<()>();
        for client in listener.incoming() {
            if self.closing.load(SeqCst) {
                return;
            }
            match client {
                // A connection that cannot be served is closed: the client sees a server that went away.
                Ok(client) => drop(self.join(client)),
                // Out of descriptors: others will be closed.
                Err(_) => drop(pause.recv_timeout(Duration::from_millis(100))),
            }
        }
    }

    fn join(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        if self.lock().len() >= CONNECTIONS {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let inner = TcpStream::connect(self.inner)?;
        client.set_nodelay(true)?;
        inner.set_nodelay(true)?;
        let peer = inner.local_addr()?;
        let link = Arc::new(Link { client, inner, state: Mutex::new(State::Open), changed: Condvar::new() });
        // Known before the first byte goes in, so tiny_http has no request whose link is unknown.
        self.lock().insert(peer, Arc::clone(&link));
        let links = Arc::clone(self);
        let relay = move || {
            thread::scope(|scope| {
                let up = thread::Builder::new().name("demo-up".into());
                if up.spawn_scoped(scope, || link.relay(&link.client, &link.inner)).is_err() {
                    link.abort();
                }
                link.relay(&link.inner, &link.client);
            });
            links.lock().remove(&peer);
        };
        thread::Builder::new().name("demo-down".into()).spawn(relay).map(drop).inspect_err(|_| {
            self.lock().remove(&peer);
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Link>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Waits until the connection ends, for `time` at most; its state.
    pub(crate) fn wait(&self, time: Duration) -> State {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, time, |state| *state == State::Open);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Closes both sides at once, whatever is under way.
    pub(crate) fn abort(&self) {
        self.end(State::Aborted);
    }

    fn relay(&self, mut from: &TcpStream, mut to: &TcpStream) {
        // A failed read and a failed write mean the same: one side is gone, so the other is closed too.
        let _ = io::copy(&mut from, &mut to);
        self.end(State::ClientGone);
    }

    fn end(&self, how: State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == State::Open {
            *state = how;
            let _ = self.client.shutdown(Shutdown::Both);
            let _ = self.inner.shutdown(Shutdown::Both);
            self.changed.notify_all();
        }
    }
}
