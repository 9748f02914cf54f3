//! The way to the page: what the proxy asks of who serves it. It has rules of its own about who may come in.

use super::serve::Proxy;
use crate::api::errors::Failure;
use crate::config::Mode;
use crate::http::handler::From;
use crate::http::head::Head;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::observe::log_writer;
use crate::proxy::context::RequestContext;
use crate::proxy::listener::ListenerKind;
use crate::routing::snapshot::Snapshot;
use http::{HeaderName, HeaderValue, header};
use std::sync::{Arc, Weak};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    /// The files of the page, which hold nothing and ask for the token: for everybody who calls it by its name.
    Shell,
    /// From this machine, where `admin.open` asks for no token.
    Entry,
    /// With the token, or a key of an administrator.
    Token,
}

pub(crate) trait AdminHandler: Send + Sync {
    /// Whether a request may come in at all, before its body is read.
    fn admit(&self, head: &Head, from: From) -> Result<Opened, Failure>;
    /// Answers a request that was admitted.
    fn serve(&self, context: RequestContext, request: Request, response: Response);
}

/// Whether a path is the page's.
pub(crate) fn is_page(path: &str) -> bool {
    path == "/admin" || path == "/admin.html" || path.starts_with("/admin/")
}

/// What browsers are told about every answer below `/admin`.
pub(crate) fn fields() -> Vec<(HeaderName, HeaderValue)> {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
        base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let pairs = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("origin-agent-cluster"), "?1"),
        (HeaderName::from_static("x-permitted-cross-domain-policies"), "none"),
        (HeaderName::from_static("x-dns-prefetch-control"), "off"),
    ];
    pairs.map(|(name, value)| (name, HeaderValue::from_static(value))).to_vec()
}

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
        let here = match admin.port {
            Some(_) => ListenerKind::Admin,
            None => ListenerKind::Main,
        };
        self.page.get().filter(|_| admin.enabled && self.listeners[listener].kind == here)?.upgrade()
    }

    /// Whether metrics are served at a listener: where the page has one of its own, there instead.
    pub(super) fn has_metrics(&self, snapshot: &Snapshot, listener: usize) -> bool {
        let admin = &snapshot.config.admin;
        let apart = admin.enabled && admin.port.is_some();
        let is_status = self.mode(snapshot, listener) == Mode::Status;
        snapshot.config.metrics.enabled && (!apart || is_status || self.listeners[listener].kind == ListenerKind::Admin)
    }
}
