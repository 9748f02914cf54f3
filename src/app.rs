//! Wires the modules together: binds, starts every thread, and stops them in an order that loses nothing.

use crate::admin::Admin;
use crate::config::Config;
use crate::health::{self, Health};
use crate::http::handler::{PoolSize, ServerConfig, ServerHandle};
use crate::http::server::{self, EventLoop};
use crate::jobs::{self, Jobs};
use crate::proxy::state::{ListenerKind, ListenerState, Proxy};
use crate::reload::{ConfigManager, PageChanges, Read};
use crate::routing::endpoint::Endpoint;
use crate::routing::snapshot::{Snapshot, SnapshotStore};
use crate::upstream::ClientPool;
use crate::util::budget::Budget;
use crate::util::time;
use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

/// Control answers come from memory; a few threads serve any number of clients.
const CONTROL_WORKERS: usize = 4;
const CONTROL_BACKLOG: usize = 256;
/// Descriptors that are not client connections: files, listeners, epoll, idle upstream connections.
const SPARE_DESCRIPTORS: u64 = 64;

/// `sysexits.h`: an address cannot be listened on.
const OS_ERROR: u8 = 71;
/// `sysexits.h`: the configuration is wrong.
pub(crate) const CONFIG: u8 = 78;

/// An exit code and its reason.
#[derive(Debug)]
pub struct Failed(pub(crate) u8, pub(crate) String);

impl Failed {
    pub(crate) fn new(code: u8, why: impl Display) -> Self {
        Self(code, why.to_string())
    }

    /// The system gave no thread or no epoll.
    fn system(error: io::Error) -> Self {
        Self(1, format!("cannot start: {error}"))
    }

    fn routes(why: String) -> Self {
        Self(CONFIG, why)
    }
}

/// A proxy that serves until it is stopped. Dropping it stops it too.
pub struct Running {
    addrs: Vec<SocketAddr>,
    handle: ServerHandle,
    /// Disconnected when the event loop has ended.
    ended: Option<Receiver<()>>,
    config_manager: Arc<ConfigManager>,
    admin: Option<Arc<Admin>>,
    health: Health,
    jobs: Option<Jobs>,
}

/// Binds the main listener and starts to serve.
///
/// # Errors
/// The address cannot be bound, or the system is out of threads.
pub fn start(config: Config) -> Result<Running, Failed> {
    start_in(config, Surroundings::default())
}

/// What the process finds around it.
#[derive(Default)]
pub(crate) struct Surroundings {
    /// The main listener, when systemd has bound it.
    pub(crate) listener: Option<TcpListener>,
    pub(crate) files: Option<u64>,
    pub(crate) read: Option<Read>,
}

pub(crate) fn start_in(config: Config, surroundings: Surroundings) -> Result<Running, Failed> {
    let Surroundings { mut listener, files, read } = surroundings;
    let main = (ListenerKind::Main, "main", &config.server.host, config.server.port);
    let listed = config.listeners.iter().map(|one| (ListenerKind::Listed, one.name.as_str(), &one.host, one.port));
    let page = config.admin.port.filter(|_| config.admin.enabled);
    let page = page.map(|port| (ListenerKind::Admin, "admin", &config.admin.host, port));
    let (mut listeners, mut addrs, mut listener_states) = (Vec::new(), Vec::new(), Vec::new());
    for (kind, name, host, port) in std::iter::once(main).chain(listed).chain(page) {
        let listener = listener.take().map_or_else(|| bind(host, port), Ok)?;
        let addr = listener.local_addr().map_err(Failed::system)?;
        listener_states.push(ListenerState::new(kind, name, host, addr));
        addrs.push(addr);
        listeners.push(listener);
    }
    let server = config.server.clone();
    let endpoints = config.endpoints.iter().map(|e| Arc::new(Endpoint::new(e.clone()))).collect();
    let (shared, inbox) = SnapshotStore::new(Snapshot::new(Arc::new(config.clone()), endpoints));
    let clients = Arc::new(ClientPool::new(server.workers));
    let budget = Budget::new(server.body_memory, server.max_body);
    // Before the workers, which may use up the threads: with a few workers it can still serve.
    let (hand_over, take_over) = bounded::<EventLoop>(1);
    let (alive, ended) = bounded::<()>(0);
    let serve = move || {
        let _alive = alive;
        take_over.into_iter().for_each(EventLoop::run);
    };
    std::thread::Builder::new().name("server".into()).spawn(serve).map_err(Failed::system)?;
    let proxy = Arc::new(Proxy::new(Arc::clone(&shared), Arc::clone(&clients), listener_states, Arc::clone(&budget)));
    let page = config.admin.enabled.then(|| PageChanges::open(&config)).transpose().map_err(Failed::routes)?;
    let config_manager = ConfigManager::new(proxy, shared, config, page, read);
    let ConfigManager { proxy, shared, .. } = &*config_manager;
    // The page's routes are in force before the first request.
    config_manager.apply(None).map_err(Failed::routes)?;
    proxy.warn_of_open_listeners();
    let health = health::start(shared, inbox, &clients).map_err(Failed::system)?;
    let server_config = ServerConfig {
        listeners,
        max_connections: connections(server.max_connections, server.workers, files),
        handler: Arc::clone(proxy) as _,
        control: PoolSize { threads: CONTROL_WORKERS, backlog: CONTROL_BACKLOG },
        proxy: PoolSize { threads: server.workers, backlog: server.backlog },
        server: server.clone(),
        budget: Arc::clone(&budget),
    };
    let (ready, handle) = EventLoop::new(server_config).map_err(Failed::system)?;
    proxy.meet(handle.clone());
    let settings = shared.load().config.jobs.clone();
    let jobs = settings.enabled.then(|| jobs::start(&settings, proxy, shared)).transpose();
    let jobs = jobs.map_err(|e| Failed(1, format!("jobs.dir {} cannot be used: {e}", settings.dir.display())))?;
    let _ = config_manager.server_handle.set(handle.clone());
    let admin = config_manager.page.as_ref().map(|_| Admin::start(&config_manager));
    // Never full: nothing else is sent.
    let _ = hand_over.send(ready);
    Ok(Running { addrs, handle, ended: Some(ended), config_manager, admin, health, jobs })
}

/// `maxConnections`, lowered so that connections to endpoints still find descriptors.
fn connections(wanted: usize, workers: usize, files: Option<u64>) -> usize {
    let Some(files) = files else { return wanted };
    let room = files.saturating_sub(SPARE_DESCRIPTORS + workers as u64).max(16);
    let fits = usize::try_from(room).unwrap_or(usize::MAX);
    if fits < wanted {
        log::warn!("server.maxConnections lowered from {wanted} to {fits}: only {files} files may be open (ulimit -n)");
    }
    wanted.min(fits)
}

fn bind(host: &str, port: u16) -> Result<TcpListener, Failed> {
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let fail = |e: io::Error| {
        let why = match e.kind() {
            io::ErrorKind::AddrInUse if port == 8080 => {
                "it is in use. llama-server uses 8080 too; give one of them another port (--port)"
            }
            io::ErrorKind::AddrInUse => "it is in use; stop what listens there or choose another --port",
            io::ErrorKind::PermissionDenied => "not allowed; ports below 1024 need a privilege, choose a higher one",
            _ => &e.to_string(),
        };
        Failed(OS_ERROR, format!("cannot listen on {shown}: {why}"))
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for addr in (host, port).to_socket_addrs().map_err(fail)? {
        match server::listen(addr) {
            Ok(listener) => return Ok(listener),
            Err(e) => last = e,
        }
    }
    Err(fail(last))
}

impl Running {
    pub fn addr(&self) -> SocketAddr {
        self.addrs[0]
    }

    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The page's address with the token that was made for it; `None` with a configured token, or without the page.
    pub fn admin_link(&self) -> Option<String> {
        let admin = &self.config_manager.shared.load().config.admin;
        let token = admin.token.as_ref().filter(|token| admin.enabled && **token == self.config_manager.token)?;
        // The page's own listener is bound last.
        let mut addr = if admin.port.is_some() { *self.addrs.last()? } else { self.addrs[0] };
        match addr.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        Some(format!("http://{addr}/admin/#token={}", token.reveal()))
    }

    pub(crate) fn server_handle(&self) -> &ServerHandle {
        &self.handle
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.config_manager.shared.load()
    }

    /// Puts another configuration in force: new requests see it, those in progress keep the old one. Returns what
    /// takes effect only after a restart.
    ///
    /// # Errors
    /// The page's file of routes does not fit it; the old one stays in force.
    pub fn reload(&self, config: Config) -> Result<Vec<&'static str>, String> {
        self.config_manager.reload(config)
    }

    /// Reads the configuration again; the log tells what came of it.
    pub(crate) fn reload_file(&self) {
        let _ = self.config_manager.reload_file();
    }

    /// Whether the event loop has ended by itself: nothing is served any more.
    pub(crate) fn has_died(&self) -> bool {
        self.ended.as_ref().is_none_or(|ended| ended.try_recv() == Err(TryRecvError::Disconnected))
    }

    /// Drains: no new connections, requests in progress finish within `drainTimeout`, then all ends.
    pub fn stop(mut self) {
        self.drain();
    }

    fn drain(&mut self) {
        let Some(ended) = self.ended.take() else { return };
        let longest = self.config_manager.shared.load().config.server.drain_timeout;
        let until = time::now() + longest;
        if let Some(jobs) = &self.jobs {
            jobs.close();
        }
        if let Some(admin) = &self.admin {
            admin.close();
        }
        self.config_manager.proxy.drain();
        self.handle.drain();
        if ended.recv_timeout(longest) == Err(RecvTimeoutError::Timeout) {
            log::warn!("requests still in progress after server.drainTimeout are ended");
            self.handle.stop();
            let _ = ended.recv_timeout(Duration::from_secs(1));
        }
        if let Some(mut jobs) = self.jobs.take() {
            jobs.stop(until);
        }
        self.health.stop();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.drain();
    }
}
