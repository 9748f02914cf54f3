//! Where a request comes in: which listener, what may be done there, and whose it is.

use super::route::{self, Route, route};
use super::serve::Proxy;
use super::visit::{Here, Outline, Visit, nothing_relayed};
use super::{gate, key};
use crate::base::clock;
use crate::config::{KeysFor, Mode, Site};
use crate::http::door::{Desk, From, LaneName, Refused};
use crate::http::head::Head;
use crate::http::reply::Reply;
use crate::http::request::Request;
use crate::model::bucket::Buckets;
use crate::model::caller::Caller;
use crate::model::failure::{Failure, Kind};
use crate::model::peek;
use crate::model::scope::Scope;
use crate::model::snapshot::Snapshot;
use crate::observe::access::End;
use crate::upstream::headers::Policy;
use http::header;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A listener that is open, whatever the configuration becomes.
pub struct Bound {
    pub(super) name: Arc<str>,
    /// Bound to a loopback address, so browsers of this machine reach it.
    loopback: bool,
    pub(super) buckets: Buckets,
}

impl Bound {
    /// A listener by its name in the configuration.
    pub fn new(name: &str, loopback: bool) -> Self {
        Self { name: name.into(), loopback, buckets: Buckets::default() }
    }
}

impl Proxy {
    /// Who asks, once the door is open to them, and what they see from here.
    pub(super) fn caller(
        &self,
        head: &Head,
        from: From,
        route: &Route,
        snapshot: &Snapshot,
    ) -> Result<Caller, Failure> {
        let bound = &self.bound[from.listener];
        let site = site(snapshot, &bound.name);
        if bound.loopback && is_open(snapshot, site) {
            gate::check_host(head.fields.get(header::HOST), &snapshot.config.server.allowed_hosts)?;
        }
        let mut caller = match self.known(head, from, snapshot) {
            // A preflight cannot carry a key, and health is for everybody, though without details.
            _ if *route == Route::Preflight => Caller::anybody(),
            Err(failure)
                if *route == Route::Health
                    && failure.kind == Kind::Unauthorized
                    && !self.is_own(&snapshot.config.admin, from.listener) =>
            {
                Caller::anybody()
            }
            caller => caller?,
        };
        if let Some(name) = &site.group {
            let group = snapshot.groups.iter().find(|group| group.config.name == *name).cloned();
            caller.scope = Arc::new(Scope { group, ..Scope::clone(&caller.scope) });
        }
        Ok(caller)
    }

    /// Whose key a request shows, as far as this listener asks for one.
    fn known(&self, head: &Head, from: From, snapshot: &Snapshot) -> Result<Caller, Failure> {
        let site = site(snapshot, &self.bound[from.listener].name);
        if self.asks_nothing(snapshot, from.listener) {
            return Ok(Caller::anybody());
        }
        if is_open(snapshot, site) {
            // Who may not use the page has nothing to do at its address.
            if let Some(page) = self.page(snapshot, from.listener) {
                page.admit(head, from)?;
            }
            return Ok(Caller::anybody());
        }
        let client = gate::client(head, from.peer, &snapshot.config.server.trusted_proxies);
        let caller = key::caller(head, client, &snapshot.callers, clock::now())?;
        match (&site.keys, &caller.name) {
            (KeysFor::Only(names), Some(name)) if !names.iter().any(|one| **one == **name) => {
                Err(Failure::new(Kind::Unauthorized, "This key does not open this address."))
            }
            _ => Ok(caller),
        }
    }

    /// Whether everybody who reaches a listener may use it.
    pub(super) fn asks_nothing(&self, snapshot: &Snapshot, listener: usize) -> bool {
        is_open(snapshot, site(snapshot, &self.bound[listener].name)) && !self.is_own(&snapshot.config.admin, listener)
    }

    /// What is served at a listener; at the page's own the API, for its box to try a model.
    pub(super) fn mode(&self, snapshot: &Snapshot, listener: usize) -> Mode {
        match self.is_own(&snapshot.config.admin, listener) {
            true => Mode::Models,
            false => site(snapshot, &self.bound[listener].name).mode,
        }
    }

    /// What a listener leaves to its endpoints.
    pub(super) fn policy(&self, snapshot: &Snapshot, listener: usize) -> Policy {
        let raw = self.mode(snapshot, listener) == Mode::Raw;
        Policy { pages: raw, cors: raw, limits: true }
    }

    pub(super) fn visit(&self, head: &Head, from: From, began: Instant, snapshot: &Snapshot) -> Visit {
        let here = Here {
            forward: Arc::clone(&self.bound[from.listener].name),
            metrics: Arc::clone(&self.metrics),
            activity: Arc::clone(&self.activity),
        };
        Visit::new(head, from.peer, began, snapshot, here)
    }
}

impl Desk for Proxy {
    fn admit(&self, head: &Head, from: From) -> Result<(), Failure> {
        let snapshot = self.shared.load();
        let mode = self.mode(&snapshot, from.listener);
        let route = route_of(head, mode);
        match self.page(&snapshot, from.listener) {
            Some(page) if route == Route::Page => page.admit(head, from),
            // What is open to everybody is so without a body.
            _ if head.has_body() => self.caller(head, from, &Route::Unknown, &snapshot).map(drop),
            _ => self.caller(head, from, &route, &snapshot).map(drop),
        }
    }

    fn client(&self, head: &Head, from: From) -> Option<IpAddr> {
        let snapshot = self.shared.load();
        let trusted = &snapshot.config.server.trusted_proxies;
        let client = gate::client(head, from.peer, trusted);
        (!trusted.iter().any(|network| network.contains(client))).then_some(client)
    }

    fn passes_on(&self, head: &Head, listener: usize) -> bool {
        let mode = self.mode(&self.shared.load(), listener);
        mode == Mode::Raw && self.lane(head, listener) == LaneName::Proxy
    }

    fn lane(&self, head: &Head, listener: usize) -> LaneName {
        let mode = self.mode(&self.shared.load(), listener);
        match route_of(head, mode) {
            Route::Forward(_) if !self.draining.load(Ordering::SeqCst) => LaneName::Proxy,
            _ => LaneName::Control,
        }
    }

    fn refuse(&self, refused: Refused<'_>, reply: Reply) {
        let snapshot = self.shared.load();
        match refused.head {
            Some(head) => {
                self.visit(head, refused.from, refused.began, &snapshot).refuse(reply, head, &refused.failure)
            }
            None => Visit::unread(refused.from.peer, refused.began).turn_away(reply, "-", "-", &refused.failure),
        }
    }

    fn left(&self, request: &Request, reply: Reply) {
        reply.cut();
        let visit = self.visit(&request.head, request.from(), request.began, &self.shared.load());
        let relayed = nothing_relayed(End::ClientGone);
        visit.log(&request.head, 499, 0, &Outline { ask: None, by: None, relayed: &relayed, queued: Duration::ZERO });
    }
}

/// What clients may do at a listener now. One that the configuration has lost serves on until a restart.
pub(super) fn site<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Site {
    let listed = snapshot.config.listeners.iter().find(|listener| listener.name == name);
    listed.map_or(&snapshot.config.site, |listener| &listener.site)
}

fn is_open(snapshot: &Snapshot, site: &Site) -> bool {
    snapshot.callers.is_open() || site.keys == KeysFor::Nobody
}

/// The route of a head at a listener of this kind.
pub(super) fn route_of(head: &Head, mode: Mode) -> Route {
    let has_model = head.target.query().is_some_and(|q| matches!(peek::query_model(q), Ok(Some(_))));
    route::special(mode, head.target.path(), route(&head.method, &head.target.canonical(), has_model))
}
