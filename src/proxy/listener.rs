//! Listeners: what each serves, which key it requires, and how it decides about a head.

use super::state::{AdminHandler, ListenerKind, Opened, Proxy};
use crate::api::errors::{Failure, Kind};
use crate::api::paths::{self, Route};
use crate::api::query;
use crate::config::{CorsOrigin, KeysFor, ListenerPolicy, Mode};
use crate::http::handler::Handler;
use crate::http::head::Head;
use crate::http::request::{Decide, From, HeadDecision, Pool, Refused, Request};
use crate::http::response::Response;
use crate::proxy::context::{Entry, RequestContext};
use crate::proxy::{auth, cors};
use crate::routing::keys::ClientKey;
use crate::routing::scope::Scope;
use crate::routing::snapshot::Snapshot;
use crate::upstream::headers::Policy;
use crate::util::time;
use http::{Method, header};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What a listener requires, decided by the head alone; `tests/wire/trust.rs` tests each cell:
///
/// | listener | keys configured | requires |
/// | --- | --- | --- |
/// | gone from the configuration | | nothing is served: 503 |
/// | main or listed | no | nothing; on loopback a local name in `Host`, and no web pages except those in `cors` |
/// | main or listed | yes | a key that this listener accepts; `/health` without one is a summary, `/metrics` needs one without limits |
/// | listed with `keys: none` | yes | as without keys, but `/health`, `/health/force-check` and (unless `mode: status`) `/metrics` as with |
/// | the page's own | no | the token (`/admin` itself: see `admin::guard`) |
/// | the page's own | yes | a key, or the token |
impl Proxy {
    /// The client key of a request, with what it may see at this listener.
    pub(super) fn client_key(
        &self,
        head: &Head,
        from: From,
        route: &Route,
        snapshot: &Snapshot,
    ) -> Result<ClientKey, Failure> {
        let state = &self.listeners[from.listener];
        let Some(policy) = state.policy(&snapshot.config) else { return Err(not_served()) };
        let keyless = snapshot.key_ring.is_open();
        let is_open = self.asks_nothing(snapshot, from.listener);
        if state.is_loopback() && is_open {
            self.check_browser(head, from.listener, snapshot)?;
        }
        let opens = |client_key: &ClientKey| match (&policy.keys, &client_key.name) {
            (KeysFor::Only(names), Some(name)) => names.iter().any(|one| **one == **name),
            _ => true,
        };
        let client = cors::client(head, from.peer, &snapshot.config.server.trusted_proxies);
        let holder = || auth::client_key(head, client, &snapshot.key_ring, opens, time::now());
        let mut client_key = match route {
            // A preflight cannot carry a key.
            Route::Preflight => ClientKey::anybody(),
            _ if state.kind == ListenerKind::Admin => self.at_page(head, from, snapshot)?,
            Route::Health if !keyless => match holder() {
                Err(failure) if failure.kind == Kind::Unauthorized => ClientKey::anybody(),
                client_key => client_key?,
            },
            Route::ForceCheck if !keyless => holder()?,
            Route::Metrics if !keyless && policy.mode != Mode::Status => holder()?,
            _ if is_open => ClientKey::anybody(),
            _ => holder()?,
        };
        if *route == Route::Metrics && client_key.is_limited() {
            let text = "This key is limited to some models or endpoints; /metrics names all of them.";
            return Err(Failure::new(Kind::Forbidden, text));
        }
        if let Some(name) = &policy.group {
            let group = snapshot.groups.iter().find(|group| group.config.name == *name).ok_or_else(not_served)?;
            client_key.scope = Arc::new(Scope { group: Some(Arc::clone(group)), ..Scope::clone(&client_key.scope) });
        }
        Ok(client_key)
    }

    /// At the page's own listener: any client key, or whatever admits to the page.
    fn at_page(&self, head: &Head, from: From, snapshot: &Snapshot) -> Result<ClientKey, Failure> {
        let known = auth::presented_keys(head).iter().find_map(|key| snapshot.key_ring.identify(key));
        if let Some(client_key) = known {
            return Ok(client_key);
        }
        let page = self.page(snapshot, from.listener).ok_or_else(not_served)?;
        match page.admit(head, from)? {
            Opened::Loopback if !snapshot.key_ring.is_open() => {
                Err(Failure::new(Kind::Unauthorized, "A key or the page's token is needed: Authorization: Bearer KEY."))
            }
            _ => Ok(ClientKey::administrator()),
        }
    }

    /// Protects a listener without keys from web pages in a browser of this machine.
    fn check_browser(&self, head: &Head, listener: usize, snapshot: &Snapshot) -> Result<(), Failure> {
        cors::check_host(head.fields.get(header::HOST), &snapshot.config.server.allowed_hosts)?;
        match self.cors(snapshot, listener) {
            Some(rules) => cors::check_page(head, rules),
            None if cors::is_simple(head) => cors::check_page(head, &snapshot.config.server.cors),
            None => Ok(()),
        }
    }

    /// Web pages that may use a listener; `None` where the endpoints decide (`mode: raw`).
    pub(super) fn cors<'a>(&self, snapshot: &'a Snapshot, listener: usize) -> Option<&'a [CorsOrigin]> {
        let state = &self.listeners[listener];
        match state.policy(&snapshot.config) {
            Some(policy) if state.kind != ListenerKind::Admin => match (&policy.cors, policy.mode) {
                (Some(rules), _) => Some(rules),
                (None, Mode::Raw) => None,
                (None, _) => Some(&snapshot.config.server.cors),
            },
            _ => Some(&[]),
        }
    }

    /// Whether a listener requires no key.
    pub(super) fn asks_nothing(&self, snapshot: &Snapshot, listener: usize) -> bool {
        let state = &self.listeners[listener];
        let is_for_all = |policy: &ListenerPolicy| snapshot.key_ring.is_open() || policy.keys == KeysFor::Nobody;
        state.kind != ListenerKind::Admin && state.policy(&snapshot.config).is_some_and(is_for_all)
    }

    /// Warns of listeners without keys that other machines can reach.
    pub(crate) fn warn_of_open_listeners(&self) {
        let snapshot = self.shared.load();
        for (listener, state) in self.listeners.iter().enumerate() {
            if !state.is_loopback() && self.asks_nothing(&snapshot, listener) {
                let addr = state.addr;
                log::warn!(
                    "listening on {addr} without keys: everybody who reaches this address may use the endpoints"
                );
            }
        }
    }

    /// What a listener serves; the page's own has the API too, for trying a model.
    pub(super) fn mode(&self, snapshot: &Snapshot, listener: usize) -> Mode {
        let state = &self.listeners[listener];
        match state.policy(&snapshot.config) {
            Some(policy) if state.kind != ListenerKind::Admin => policy.mode,
            _ => Mode::Models,
        }
    }

    pub(super) fn route(&self, head: &Head, listener: usize, snapshot: &Snapshot) -> Route {
        let mode = self.mode(snapshot, listener);
        let is_preflight = head.method == Method::OPTIONS && head.fields.get(header::ORIGIN).is_some();
        let has_model = head.target.query().is_some_and(|q| matches!(query::query_model(q), Ok(Some(_))));
        let api = paths::route(&head.method, &head.target.canonical(), has_model);
        match paths::special(mode, head.target.path(), api) {
            Route::Forward(_) if is_preflight && mode == Mode::Raw && self.cors(snapshot, listener).is_some() => {
                Route::Preflight
            }
            // A browser is redirected to the page.
            Route::Unknown if is_front_door(head) && self.page(snapshot, listener).is_some() => Route::Admin,
            route => route,
        }
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

    /// What a listener leaves to its endpoints.
    pub(super) fn policy(&self, snapshot: &Snapshot, listener: usize) -> Policy {
        let raw = self.mode(snapshot, listener) == Mode::Raw;
        Policy { pages: raw, cors: self.cors(snapshot, listener).is_none(), limits: true }
    }

    pub(super) fn context(
        &self,
        head: &Head,
        from: From,
        began: Instant,
        snapshot: &Snapshot,
        route: &Route,
    ) -> RequestContext {
        let entry = Entry {
            forward: Arc::clone(&self.listeners[from.listener].name),
            metrics: Arc::clone(&self.metrics),
            activity: Arc::clone(&self.activity),
        };
        let context = RequestContext::new(head, from.peer, began, snapshot, entry);
        let context = context.with_cors(head, self.cors(snapshot, from.listener).unwrap_or_default());
        match route {
            Route::Health | Route::Models | Route::Model(_) | Route::Metrics => context.never_stored(),
            _ => context,
        }
    }

    /// The route and the client key, as decided for the head unless the snapshot has changed since.
    pub(super) fn decide(
        &self,
        request: &mut Request,
        snapshot: &Arc<Snapshot>,
    ) -> (Route, Option<Result<ClientKey, Failure>>) {
        let decided = request.decided.take().and_then(|decided| decided.downcast::<Decided>().ok());
        match decided.filter(|decided| Arc::ptr_eq(&decided.snapshot, snapshot)) {
            Some(decided) => (decided.route, Some(Ok(decided.client_key))),
            None => (self.route(&request.head, request.from.listener, snapshot), None),
        }
    }
}

/// The decision about the head of a request to an endpoint.
struct Decided {
    snapshot: Arc<Snapshot>,
    route: Route,
    client_key: ClientKey,
}

impl Decide for Proxy {
    fn decide(&self, head: &Head, from: From) -> HeadDecision {
        let snapshot = self.shared.load();
        let route = self.route(head, from.listener, &snapshot);
        let trusted = &snapshot.config.server.trusted_proxies;
        let client = cors::client(head, from.peer, trusted);
        let client = (!trusted.iter().any(|network| network.contains(client))).then_some(client);
        let is_forwarded = matches!(route, Route::Forward(_));
        let pool = if is_forwarded && !self.draining.load(Ordering::SeqCst) { Pool::Proxy } else { Pool::Control };
        let (mut refusal, mut decided): (_, Option<Box<dyn Any + Send>>) = (None, None);
        if is_forwarded {
            match self.client_key(head, from, &route, &snapshot) {
                Ok(client_key) => decided = Some(Box::new(Decided { snapshot, route, client_key })),
                Err(failure) => refusal = Some(failure),
            }
        } else if head.has_body() {
            refusal = match self.page(&snapshot, from.listener) {
                Some(page) if route == Route::Admin => page.admit(head, from).err(),
                // Open paths are open without a body only.
                _ => self.client_key(head, from, &Route::Unknown, &snapshot).err(),
            };
        }
        HeadDecision { pool, client, refusal, decided }
    }

    fn passes_on(&self, head: &Head, listener: usize) -> bool {
        let snapshot = self.shared.load();
        // For a key with `models` the body must be read first.
        let must_read = || {
            auth::presented_keys(head).iter().any(|key| {
                snapshot.key_ring.identify(key).is_some_and(|client_key| !client_key.scope.models.is_empty())
            })
        };
        let is_forwarded = || matches!(self.route(head, listener, &snapshot), Route::Forward(_));
        self.mode(&snapshot, listener) == Mode::Raw && is_forwarded() && !must_read()
    }
}

impl Handler for Proxy {
    fn serve(&self, request: Request, response: &mut Response) {
        self.serve_request(request, response);
    }

    fn refuse(&self, refused: &Refused, response: &mut Response) {
        let snapshot = self.shared.load();
        match &refused.head {
            Some(head) => {
                let route = self.route(head, refused.from.listener, &snapshot);
                let context = self.context(head, refused.from, refused.began, &snapshot, &route);
                context.refuse(response, &refused.failure);
            }
            None => RequestContext::unread(refused.from.peer, refused.began).refuse(response, &refused.failure),
        }
    }

    fn client_disconnected(&self, request: &Request) {
        let context = self.context(&request.head, request.from, request.began, &self.shared.load(), &Route::Unknown);
        context.client_left();
    }
}

fn not_served() -> Failure {
    let text = "The configuration no longer has this listener; it is closed at the next restart.";
    Failure::new(Kind::Draining, text)
}

/// `GET /` of a browser.
fn is_front_door(head: &Head) -> bool {
    let is_read = head.method == Method::GET || head.method == Method::HEAD;
    is_read && head.target.path() == "/" && head.fields.list("accept").any(|kind| kind.starts_with(b"text/html"))
}
