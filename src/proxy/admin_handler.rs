//! The way to the page: what the proxy asks of who serves it. It has rules of its own about who may come in.

use super::state::Proxy;
use crate::config::Mode;
use crate::observe::log_writer;
use crate::proxy::state::{AdminHandler, ListenerKind};
use crate::routing::snapshot::Snapshot;
use std::sync::{Arc, Weak};

impl Proxy {
    /// From now on the page is served. Who serves it needs the proxy, so it is not held here.
    pub(crate) fn show(&self, page: Weak<dyn AdminHandler>) {
        let _ = self.page.set(page);
        self.activity.watch();
        log_writer::watch();
    }

    /// Who serves the page at a listener, if anybody does.
    pub(super) fn page(&self, snapshot: &Snapshot, listener: usize) -> Option<Arc<dyn AdminHandler>> {
        let admin = &snapshot.config.admin;
        let kind = match admin.port {
            Some(_) => ListenerKind::Admin,
            None => ListenerKind::Main,
        };
        self.page.get().filter(|_| admin.enabled && self.listeners[listener].kind == kind)?.upgrade()
    }

    /// Whether metrics are served at a listener: where the page has one of its own, there instead.
    pub(super) fn has_metrics(&self, snapshot: &Snapshot, listener: usize) -> bool {
        let admin = &snapshot.config.admin;
        let apart = admin.enabled && admin.port.is_some();
        let is_status = self.mode(snapshot, listener) == Mode::Status;
        snapshot.config.metrics.enabled && (!apart || is_status || self.listeners[listener].kind == ListenerKind::Admin)
    }
}
