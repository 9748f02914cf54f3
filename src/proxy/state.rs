//! The proxy with its listeners, and the traits of the modules that serve jobs and the administration page.

use super::context::{LocalResponse, RequestContext};
use crate::api::errors::Failure;
use crate::config::{Config, ListenerPolicy};
use crate::http::handler::ServerHandle;
use crate::http::head::Head;
use crate::http::request::{From, Request};
use crate::http::response::Response;
use crate::observe::active::Activity;
use crate::observe::log_writer;
use crate::observe::metrics::Metrics;
use crate::routing::rate_limit::Buckets;
use crate::routing::recall::Recall;
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
    pub(super) recall: Recall,
    pub budget: Arc<Budget>,
    /// Works with the disk, so that no control thread does.
    pub(crate) disk: DiskQueue,
    pub(super) busy: AtomicUsize,
    pub(super) reloaded: AtomicBool,
    pub(super) server_handle: OnceLock<ServerHandle>,
    pub(super) job_store: OnceLock<Weak<dyn JobStore>>,
    pub(super) page: OnceLock<Weak<dyn AdminHandler>>,
    pub(super) draining: AtomicBool,
}

impl Proxy {
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
            activity: Arc::new(Activity::default()),
            recall: Recall::default(),
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

    /// Sets the server, for its statistics.
    pub(crate) fn meet(&self, server_handle: ServerHandle) {
        let _ = self.server_handle.set(server_handle);
    }

    /// Accepts jobs from now on. Weak, since the job store holds the proxy.
    pub(crate) fn set_job_store(&self, job_store: Weak<dyn JobStore>) {
        let _ = self.job_store.set(job_store);
    }

    /// Serves the page from now on. Weak, since the page holds the proxy.
    pub(crate) fn show(&self, page: Weak<dyn AdminHandler>) {
        let _ = self.page.set(page);
        self.activity.watch();
        log_writer::watch();
    }

    pub(super) fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        self.job_store.get()?.upgrade()
    }

    pub(crate) fn note_reload(&self, succeeded: bool) {
        self.reloaded.store(succeeded, Ordering::Relaxed);
    }

    /// `/health` reports the drain from now on, and nothing is queued any more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.shared.capacity.close();
    }
}

/// An open listener; it stays open whatever a reload changes.
pub struct ListenerState {
    pub(super) name: Arc<str>,
    pub(super) kind: ListenerKind,
    /// As configured when it was bound.
    host: String,
    pub(super) addr: SocketAddr,
    pub(super) buckets: Buckets,
}

/// What a listener was bound for; not its name, since a user may call any listener `admin`.
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
    pub fn new(kind: ListenerKind, name: &str, host: &str, addr: SocketAddr) -> Self {
        Self { name: name.into(), kind, host: host.into(), addr, buckets: Buckets::default() }
    }

    /// Reachable from this machine only.
    pub(super) fn is_loopback(&self) -> bool {
        self.addr.ip().is_loopback()
    }

    /// What clients may do here now; `None` if a reload removed, renamed or moved the listener, since the policy of another
    /// one must not open it.
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
    /// Stores a request; it is on disk when this returns.
    fn submit(&self, job_request: &JobRequest<'_>) -> Result<LocalResponse, Failure>;
    /// Reads a job from disk; `held` counts what is read.
    fn look(&self, id: &str, owner: Option<&str>, held: &mut Held) -> Result<LocalResponse, Failure>;
    /// Cancels a job, or deletes its result from disk.
    fn cancel(&self, id: &str, owner: Option<&str>, held: &mut Held) -> Result<LocalResponse, Failure>;
    /// The jobs of one owner that match the query.
    fn list(&self, owner: Option<&str>, query: &str) -> LocalResponse;
    /// Number of jobs by state.
    fn counts(&self) -> [(&'static str, usize); 4];
}

pub(crate) struct JobRequest<'a> {
    /// Below an endpoint's base.
    pub path: &'a str,
    pub(crate) body: &'a [u8],
    /// Name of the key it came with.
    pub(crate) owner: Option<&'a str>,
    /// What that key may use.
    pub(crate) scope: &'a Scope,
    /// `Prefer: respond-async`
    pub(crate) preferred: bool,
}

/// Serves the page (`admin`).
pub(crate) trait AdminHandler: Send + Sync {
    /// Whether a request is admitted, before its body is read.
    fn admit(&self, head: &Head, from: From) -> Result<Opened, Failure>;
    /// Answers a request that was admitted.
    fn serve(self: Arc<Self>, context: RequestContext, request: Request, response: &mut Response);
}

/// How a request to the page was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Static files, which hold no data and ask for the token.
    Shell,
    /// From this machine, with `admin.open`.
    Loopback,
    /// With the token or an administrator's key.
    Token,
}
