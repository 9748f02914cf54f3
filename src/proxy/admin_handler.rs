//! How requests reach the administration page, which has access rules of its own.

use super::state::Proxy;
use crate::config::Mode;
use crate::observe::log_writer;
use crate::proxy::state::{AdminHandler, ListenerKind};
use crate::routing::snapshot::Snapshot;
use std::sync::{Arc, Weak};

impl Proxy {
    /// Serves the page from now on. Weak, since the page holds the proxy.
    pub(crate) fn show(&self, page: Weak<dyn AdminHandler>) {
        let _ = self.page.set(page);
        self.activity.watch();
        log_writer::watch();
    }

    /// The page, if this listener serves it.
    pub(super) fn page(&self, snapshot: &Snapshot, listener: usize) -> Option<Arc<dyn AdminHandler>> {
        let admin = &snapshot.config.admin;
        let kind = match admin.port {
            Some(_) => ListenerKind::Admin,
            None => ListenerKind::Main,
        };
        self.page.get().filter(|_| admin.enabled && self.listeners[listener].kind == kind)?.upgrade()
    }

    /// Whether this listener serves metrics: when the page has its own listener, only that one and `mode: status` do.
    pub(super) fn has_metrics(&self, snapshot: &Snapshot, listener: usize) -> bool {
        let admin = &snapshot.config.admin;
        let apart = admin.enabled && admin.port.is_some();
        let is_status = self.mode(snapshot, listener) == Mode::Status;
        snapshot.config.metrics.enabled && (!apart || is_status || self.listeners[listener].kind == ListenerKind::Admin)
    }
}
