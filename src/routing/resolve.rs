//! What a name means: a model that is served, a route, a variant of one, or a name that a route's pattern matches. Pure.

use crate::api::edit::{self, MemberEdit};
use crate::config::{Route, Variant};
use crate::routing::endpoint::Endpoint;
use crate::routing::scope::matches;
use crate::routing::snapshot::Snapshot;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Meaning<'a> {
    /// What its endpoints know it by, unless a backend says otherwise.
    pub(crate) model: String,
    pub(crate) route: Option<&'a Route>,
    variant: Option<&'a Variant>,
}

/// The meaning of a name that is the one of a model, a route or a variant.
pub(crate) fn exact<'a>(snapshot: &'a Snapshot, name: &str) -> Option<Meaning<'a>> {
    let mut routes = snapshot.config.models.iter();
    let Some((route, variant)) = routes.find_map(|route| Some((route, route.variant_of(name)?))) else {
        return (!snapshot.catalog.offers(name).is_empty()).then(|| Meaning::model(name));
    };
    let served_as = || snapshot.catalog.served_as(&route.name).into_owned();
    let model = if route.is_discovered() { served_as() } else { route.name.clone() };
    Some(Meaning { model, route: Some(route), variant })
}

/// The meaning of a name that nothing is served by, as the first pattern has it that matches.
pub(crate) fn by_pattern<'a>(snapshot: &'a Snapshot, name: &str) -> Option<Meaning<'a>> {
    let is_match = |route: &&Route| route.patterns.iter().any(|pattern| matches(pattern, name));
    exact(snapshot, &snapshot.config.models.iter().find(is_match)?.name)
}

impl Meaning<'_> {
    /// A model by its own name.
    pub(crate) fn model(name: &str) -> Self {
        Self { model: name.to_owned(), route: None, variant: None }
    }

    /// The route whose variant this is.
    pub(crate) fn base(&self) -> Option<&str> {
        self.variant.and(self.route).map(|route| route.name.as_str())
    }

    pub(crate) fn edits(&self) -> Arc<[MemberEdit]> {
        self.route
            .map(|route| edit::merged(&route.edits, self.variant.map(|variant| &variant.edits)).into())
            .unwrap_or_default()
    }
}

/// Not for Anthropic's own servers: they read the line that is made stable for others.
pub(crate) fn may_stabilize(endpoint: &Endpoint) -> bool {
    let host = endpoint.config.base.host.trim_end_matches('.').to_ascii_lowercase();
    host != "anthropic.com" && !host.ends_with(".anthropic.com")
}
