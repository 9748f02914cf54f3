//! Wires the modules together: binds, starts every thread, and stops them in an order that loses nothing.

use crate::admin::{Admin, Unusable};
use crate::config::{Config, Problem};
use crate::health::{self, Health};
use crate::http::handler::{PoolSize, ServerConfig, ServerHandle};
use crate::http::server::{self, EventLoop};
use crate::jobs::{self, Jobs};
use crate::proxy::state::Proxy;
use crate::proxy::state::{ListenerKind, ListenerState};
use crate::reload::ConfigManager;
use crate::routing::endpoint::Endpoint;
use crate::routing::snapshot::{Snapshot, SnapshotStore};
use crate::upstream::ClientPool;
use crate::util::budget::Budget;
use crate::util::secret::Secret;
use crate::util::{random, time};
use crossbeam_channel::bounded;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Control answers come from memory; a few threads serve any number of clients.
const CONTROL_WORKERS: usize = 4;
const CONTROL_BACKLOG: usize = 256;
/// Descriptors that are not client connections: files, listeners, epoll, idle upstream connections.
const SPARE_DESCRIPTORS: u64 = 64;

#[derive(Debug)]
pub enum StartError {
    /// The address cannot be listened on.
    Bind(String, io::Error),
    /// The folder of jobs cannot be used.
    Jobs(PathBuf, io::Error),
    /// The page's file of routes cannot be used.
    Routes(Unusable),
    /// The page's routes do not fit the configuration.
    ConfigControl(String),
    /// The system gave no thread or no epoll.
    System(io::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bind(addr, e) if e.kind() == io::ErrorKind::AddrInUse && addr.ends_with(":8080") => write!(
                f,
                "cannot listen on {addr}: it is in use. llama-server uses 8080 too; give one of them another port (--port)"
            ),
            Self::Bind(addr, e) if e.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "cannot listen on {addr}: it is in use; stop what listens there or choose another --port")
            }
            Self::Routes(Unusable::File(path, e)) => {
                write!(f, "admin.routesFile {} cannot be used: {e}", path.display())
            }
            Self::Routes(Unusable::Routes(problems)) => f.write_str(&Problem::lines(problems)),
            Self::ConfigControl(why) => f.write_str(why),
            Self::Jobs(dir, e) => write!(f, "jobs.dir {} cannot be used: {e}", dir.display()),
            Self::Bind(addr, e) if e.kind() == io::ErrorKind::PermissionDenied => {
                write!(
                    f,
                    "cannot listen on {addr}: not allowed; ports below 1024 need a privilege, choose a higher one"
                )
            }
            Self::Bind(addr, e) => write!(f, "cannot listen on {addr}: {e}"),
            Self::System(e) => write!(f, "cannot start: {e}"),
        }
    }
}

impl std::error::Error for StartError {}

/// A proxy that serves until it is stopped. Dropping it stops it too.
pub struct Running {
    addrs: Vec<SocketAddr>,
    handle: ServerHandle,
    event_loop: Option<JoinHandle<()>>,
    config_manager: Arc<ConfigManager>,
    health: Health,
    jobs: Option<Jobs>,
    shared: Arc<SnapshotStore>,
}

/// Binds the main listener and starts to serve.
///
/// # Errors
/// The address cannot be bound, or the system is out of threads.
pub fn start(config: Config) -> Result<Running, StartError> {
    start_on(config, None, None)
}

/// Like [`start`], on a socket that systemd bound, within a limit of open files.
pub(crate) fn start_on(config: Config, given: Option<TcpListener>, files: Option<u64>) -> Result<Running, StartError> {
    let mut listeners = vec![match given {
        Some(listener) => listener,
        None => bind(&config.server.host, config.server.port)?,
    }];
    for listener in &config.listeners {
        listeners.push(bind(&listener.host, listener.port)?);
    }
    let own = config.admin.port.filter(|_| config.admin.enabled);
    if let Some(port) = own {
        listeners.push(bind(&config.admin.host, port)?);
    }
    let addrs: Result<Vec<SocketAddr>, _> = listeners.iter().map(TcpListener::local_addr).collect();
    let addrs = addrs.map_err(StartError::System)?;
    let main = (ListenerKind::Main, "main", &config.server.host);
    let listed = config.listeners.iter().map(|one| (ListenerKind::Listed, one.name.as_str(), &one.host));
    let page = own.map(|_| (ListenerKind::Admin, "admin", &config.admin.host));
    let all = std::iter::once(main).chain(listed).chain(page).zip(&addrs);
    let listener_states = all.map(|((kind, name, host), addr)| ListenerState::new(kind, name, host, *addr)).collect();
    let server = config.server.clone();
    let endpoints = config.endpoints.iter().map(|e| Arc::new(Endpoint::new(e.clone()))).collect();
    let (shared, inbox) = SnapshotStore::new(Snapshot::new(Arc::new(config.clone()), endpoints));
    let clients = Arc::new(ClientPool::new(server.workers));
    let budget = Budget::new(server.body_memory, server.max_body);
    // Before the workers, which may use up the threads: with a few workers it can still serve.
    let (hand_over, take_over) = bounded::<EventLoop>(1);
    let event_loop = std::thread::Builder::new().name("server".into());
    let event_loop =
        event_loop.spawn(move || take_over.into_iter().for_each(EventLoop::run)).map_err(StartError::System)?;
    let proxy = Arc::new(Proxy::new(Arc::clone(&shared), Arc::clone(&clients), listener_states, Arc::clone(&budget)));
    let admin = config.admin.enabled.then(|| Admin::new(&config, &proxy, &shared)).transpose();
    let admin = admin.map_err(StartError::Routes)?;
    let base = Mutex::new(config.clone());
    let token = Secret::new(random::request_id() + &random::request_id());
    let (server_handle, read) = (OnceLock::new(), OnceLock::new());
    let config_manager = Arc::new(ConfigManager { proxy, shared, base, admin, token, server_handle, read });
    let ConfigManager { proxy, shared, .. } = &*config_manager;
    // The page's routes are in force before the first request.
    config_manager.apply(None).map_err(StartError::ConfigControl)?;
    proxy.warn_of_open_listeners();
    let health = health::start(shared, inbox, &clients).map_err(StartError::System)?;
    let server_config = ServerConfig {
        listeners,
        max_connections: connections(server.max_connections, server.workers, files),
        handler: Arc::clone(proxy) as _,
        control: PoolSize { threads: CONTROL_WORKERS, backlog: CONTROL_BACKLOG },
        proxy: PoolSize { threads: server.workers, backlog: server.backlog },
        server: server.clone(),
        budget: Arc::clone(&budget),
    };
    let (ready, handle) = EventLoop::new(server_config).map_err(StartError::System)?;
    proxy.meet(handle.clone());
    let settings = shared.load().config.jobs.clone();
    let jobs = settings.enabled.then(|| jobs::start(&settings, proxy, shared)).transpose();
    let jobs = jobs.map_err(|e| StartError::Jobs(settings.dir, e))?;
    let _ = config_manager.server_handle.set(handle.clone());
    if let Some(admin) = &config_manager.admin {
        let weak = Arc::downgrade(&config_manager);
        admin.set_config_control(weak);
    }
    // Never full: nothing else is sent.
    let _ = hand_over.send(ready);
    let shared = Arc::clone(shared);
    Ok(Running { addrs, handle, event_loop: Some(event_loop), config_manager, health, jobs, shared })
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

fn bind(host: &str, port: u16) -> Result<TcpListener, StartError> {
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let fail = |e| StartError::Bind(shown.clone(), e);
    let addrs = (host, port).to_socket_addrs().map_err(fail)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for addr in addrs {
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
        let admin = &self.shared.load().config.admin;
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

    /// The event loop and its connections.
    pub(crate) fn server_handle(&self) -> &ServerHandle {
        &self.handle
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.load()
    }

    /// Puts another configuration in force: new requests see it, those in progress keep the old one. Returns what
    /// takes effect only after a restart.
    ///
    /// # Errors
    /// The page's file of routes does not fit it; the old one stays in force.
    pub fn reload(&self, config: Config) -> Result<Vec<&'static str>, String> {
        self.config_manager.reload(config)
    }

    pub(crate) fn note_failed_reload(&self) {
        self.config_manager.proxy.note_reload(false);
    }

    /// How the configuration is read again when the page asks for it.
    pub(crate) fn read_by(&self, read: Box<dyn Fn() -> Result<Config, String> + Send + Sync>) {
        let _ = self.config_manager.read.set(read);
    }

    /// Whether the event loop has ended by itself: nothing is served any more.
    pub(crate) fn has_died(&self) -> bool {
        self.event_loop.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Drains: no new connections, requests in progress finish within `drainTimeout`, then all ends.
    pub fn stop(mut self) {
        self.drain();
    }

    fn drain(&mut self) {
        let Some(event_loop) = self.event_loop.take() else {
            return;
        };
        let until = time::now() + self.shared.load().config.server.drain_timeout;
        if let Some(jobs) = &self.jobs {
            jobs.close();
        }
        if let Some(admin) = &self.config_manager.admin {
            admin.close();
        }
        self.config_manager.proxy.drain();
        self.handle.drain();
        let (ended, end) = crossbeam_channel::bounded::<()>(1);
        let waiter = std::thread::Builder::new().name("drain".into()).spawn(move || {
            let _ = event_loop.join();
            let _ = ended.send(());
        });
        if waiter.is_ok() && end.recv_timeout(self.shared.load().config.server.drain_timeout).is_err() {
            log::warn!("requests still in progress after server.drainTimeout are ended");
            self.handle.stop();
            let _ = end.recv_timeout(Duration::from_secs(1));
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
