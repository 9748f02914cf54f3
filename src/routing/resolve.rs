//! What a name means: a model that is served, a route, a variant of one, or a name that a route's pattern matches. Pure.

use crate::api::edit::MemberEdit;
use crate::config::Route;
use crate::routing::catalog::RouteName;
use crate::routing::endpoint::Endpoint;
use crate::routing::scope::matches;
use crate::routing::snapshot::Snapshot;
use std::sync::Arc;

#[derive(Clone, Copy)]
pub(crate) struct Meaning<'a> {
    /// What its endpoints know it by, unless a backend says otherwise.
    pub(crate) model: &'a str,
    pub(crate) route: Option<&'a Route>,
    name: Option<&'a RouteName>,
}

/// The meaning of a name that is the one of a model, a route or a variant.
pub(crate) fn exact<'a>(snapshot: &'a Snapshot, name: &'a str) -> Option<Meaning<'a>> {
    let Some(known) = snapshot.catalog.route(name) else {
        return (!snapshot.catalog.offers(name).is_empty()).then(|| Meaning::model(name));
    };
    let route = snapshot.config.models.get(known.route);
    Some(Meaning { model: &known.model, route, name: Some(known) })
}

/// The meaning of a name that nothing is served by, as the first pattern has it that matches.
pub(crate) fn by_pattern<'a>(snapshot: &'a Snapshot, name: &str) -> Option<Meaning<'a>> {
    let is_match = |route: &&Route| route.patterns.iter().any(|pattern| matches(pattern, name));
    exact(snapshot, &snapshot.config.models.iter().find(is_match)?.name)
}

impl<'a> Meaning<'a> {
    /// A model by its own name.
    pub(crate) fn model(name: &'a str) -> Self {
        Self { model: name, route: None, name: None }
    }

    /// The route whose variant this is.
    pub(crate) fn base(&self) -> Option<&str> {
        let route = self.route?;
        self.name?.is_variant.then_some(&route.name)
    }

    pub(crate) fn edits(&self) -> Arc<[MemberEdit]> {
        self.name.map(|name| Arc::clone(&name.edits)).unwrap_or_default()
    }
}

/// Not for Anthropic's own servers: they read the line that is made stable for others.
pub(crate) fn may_stabilize(endpoint: &Endpoint) -> bool {
    let host = endpoint.config.base.host.trim_end_matches('.').to_ascii_lowercase();
    host != "anthropic.com" && !host.ends_with(".anthropic.com")
}
