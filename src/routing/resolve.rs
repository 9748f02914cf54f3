//! Resolves a model name: to a model that an endpoint serves, to a route, to a variant of a route, or by a route's
//! pattern. Pure.

use crate::api::edit::MemberEdit;
use crate::config::{Route, matches};
use crate::routing::catalog::RouteName;
use crate::routing::endpoint::Endpoint;
use crate::routing::snapshot::Snapshot;
use std::sync::Arc;

#[derive(Clone, Copy)]
pub(crate) struct Meaning<'a> {
    /// The name at its endpoints, unless a backend has its own.
    pub(crate) model: &'a str,
    pub(crate) route: Option<&'a Route>,
    name: Option<&'a RouteName>,
}

/// The meaning of the name of a model, a route or a variant.
pub(crate) fn exact<'a>(snapshot: &'a Snapshot, name: &'a str) -> Option<Meaning<'a>> {
    let Some(known) = snapshot.catalog.route(name) else {
        return (!snapshot.catalog.offers(name).is_empty()).then(|| Meaning::model(name));
    };
    let route = snapshot.config.models.get(known.route);
    Some(Meaning { model: &known.model, route, name: Some(known) })
}

/// The meaning of any other name, by the first pattern that matches.
pub(crate) fn by_pattern<'a>(snapshot: &'a Snapshot, name: &str) -> Option<Meaning<'a>> {
    let is_match = |route: &&Route| route.patterns.iter().any(|pattern| matches(pattern, name));
    exact(snapshot, &snapshot.config.models.iter().find(is_match)?.name)
}

impl<'a> Meaning<'a> {
    pub(crate) fn model(name: &'a str) -> Self {
        Self { model: name, route: None, name: None }
    }

    /// The name of the route, if this is a variant of it.
    pub(crate) fn base(&self) -> Option<&str> {
        let route = self.route?;
        self.name?.is_variant.then_some(&route.name)
    }

    pub(crate) fn edits(&self) -> Arc<[MemberEdit]> {
        self.name.map(|name| Arc::clone(&name.edits)).unwrap_or_default()
    }
}

/// Anthropic's own servers read the billing line, so it is left alone there.
pub(crate) fn may_stabilize(endpoint: &Endpoint) -> bool {
    let host = endpoint.config.base.host.trim_end_matches('.').to_ascii_lowercase();
    host != "anthropic.com" && !host.ends_with(".anthropic.com")
}
