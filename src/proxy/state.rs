//! What the requests of this module share: the proxy with its listeners, and the two modules behind it as it knows them.

use super::context::{LocalResponse, RequestContext};
use crate::api::errors::Failure;
use crate::config::{Config, ListenerPolicy};
use crate::http::handler::ServerHandle;
use crate::http::head::Head;
use crate::http::request::{From, Request};
use crate::http::response::Response;
use crate::observe::active::Activity;
use crate::observe::metrics::Metrics;
use crate::routing::rate_limit::Buckets;
use crate::routing::scope::Scope;
use crate::routing::snapshot::SnapshotStore;
use crate::upstream::ClientPool;
use crate::util::budget::{Budget, Held};
use crate::util::disk::DiskQueue;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Everything that serving a request needs. One per process.
pub struct Proxy {
    pub(super) shared: Arc<SnapshotStore>,
    pub(super) clients: Arc<ClientPool>,
    /// In the order of the listeners of the event loop.
    pub(super) listeners: Vec<ListenerState>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) activity: Arc<Activity>,
    pub budget: Arc<Budget>,
    /// Who of the control threads works with the disk.
    pub(crate) disk: DiskQueue,
    pub(super) busy: AtomicUsize,
    pub(super) reloaded: AtomicBool,
    pub(super) server_handle: OnceLock<ServerHandle>,
    pub(super) job_store: OnceLock<Weak<dyn JobStore>>,
    pub(super) page: OnceLock<Weak<dyn AdminHandler>>,
    pub(super) draining: AtomicBool,
}

impl Proxy {
    /// A proxy over these endpoints, behind these listeners.
    pub fn new(
        shared: Arc<SnapshotStore>,
        clients: Arc<ClientPool>,
        listeners: Vec<ListenerState>,
        budget: Arc<Budget>,
    ) -> Self {
        Self {
            shared,
            clients,
            listeners,
            metrics: Arc::default(),
            activity: Arc::new(Activity::unwatched()),
            budget,
            disk: DiskQueue::default(),
            busy: AtomicUsize::new(0),
            reloaded: AtomicBool::new(true),
            server_handle: OnceLock::new(),
            job_store: OnceLock::new(),
            page: OnceLock::new(),
            draining: AtomicBool::new(false),
        }
    }

    /// The server in front of it, for its figures.
    pub(crate) fn meet(&self, server_handle: ServerHandle) {
        let _ = self.server_handle.set(server_handle);
    }

    /// From now on requests may be handed in for later. Who keeps them needs the proxy, so they are not held here.
    pub(crate) fn set_job_store(&self, job_store: Weak<dyn JobStore>) {
        let _ = self.job_store.set(job_store);
    }

    pub(super) fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        self.job_store.get()?.upgrade()
    }

    pub(crate) fn note_reload(&self, succeeded: bool) {
        self.reloaded.store(succeeded, Ordering::Relaxed);
    }

    /// From now on the proxy says that it is being stopped.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.shared.capacity.close();
    }
}

/// A listener that is open, whatever the configuration becomes.
pub struct ListenerState {
    pub(super) name: Arc<str>,
    pub(super) kind: ListenerKind,
    /// Where it listens, as the configuration said when it was bound.
    host: String,
    pub(super) addr: SocketAddr,
    pub(super) buckets: Buckets,
}

/// What a listener was bound for. The name does not tell: a user may call a listener `admin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    /// `server`
    Main,
    /// One of `listeners`.
    Listed,
    /// `admin.port`
    Admin,
}

impl ListenerState {
    /// A listener by its name in the configuration.
    pub fn new(kind: ListenerKind, name: &str, host: &str, addr: SocketAddr) -> Self {
        Self { name: name.into(), kind, host: host.into(), addr, buckets: Buckets::default() }
    }

    /// Only programs of this machine reach it, its browsers among them.
    pub(super) fn is_loopback(&self) -> bool {
        self.addr.ip().is_loopback()
    }

    /// What clients may do here now. Nothing at a listener that a reload took away, renamed, or meant for another
    /// address: what the configuration says of others must not open it.
    pub(super) fn policy<'a>(&self, config: &'a Config) -> Option<&'a ListenerPolicy> {
        if self.kind != ListenerKind::Listed {
            return Some(&config.policy);
        }
        let listed = config.listeners.iter().find(|listener| *listener.name == *self.name)?;
        (self.is_loopback() || listed.host == self.host).then_some(&listed.policy)
    }
}

/// Keeps requests on disk and sends them later (`jobs`).
pub(crate) trait JobStore: Send + Sync {
    /// Takes a request; it is safe when this returns.
    fn submit(&self, job_request: &JobRequest<'_>) -> Result<LocalResponse, Failure>;
    /// What became of it. `held` counts what is read; it works with the disk.
    fn look(&self, id: &str, owner: Option<&str>, held: &mut Held) -> Result<LocalResponse, Failure>;
    /// Stops it, or drops what came of it; it works with the disk.
    fn cancel(&self, id: &str, owner: Option<&str>, held: &mut Held) -> Result<LocalResponse, Failure>;
    /// Those of one owner, as far as the query asks for them.
    fn list(&self, owner: Option<&str>, query: &str) -> LocalResponse;
    /// How many are in which state.
    fn counts(&self) -> [(&'static str, usize); 4];
}

pub(crate) struct JobRequest<'a> {
    /// Where it goes below an endpoint's base.
    pub path: &'a str,
    pub(crate) body: &'a [u8],
    /// Name of the key it came with.
    pub(crate) owner: Option<&'a str>,
    /// What that key may see, from where it came in.
    pub(crate) scope: &'a Scope,
    /// It said `Prefer: respond-async`.
    pub(crate) preferred: bool,
}

/// Serves the page (`admin`).
pub(crate) trait AdminHandler: Send + Sync {
    /// Whether a request may come in at all, before its body is read.
    fn admit(&self, head: &Head, from: From) -> Result<Opened, Failure>;
    /// Answers a request that was admitted.
    fn serve(&self, context: RequestContext, request: Request, response: &mut Response);
}

/// How a request to the page was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    /// The files of the page, which hold nothing and ask for the token: for everybody who calls it by its name.
    Shell,
    /// From this machine, where `admin.open` asks for no token.
    Loopback,
    /// With the token, or a key of an administrator.
    Token,
}
