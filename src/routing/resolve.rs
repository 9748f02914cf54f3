//! What a name means: a model that is served, a route, a variant of one, or a name that a route's pattern matches. Pure.

use crate::api::edit::{self, MemberEdit};
use crate::config::{Route, Variant};
use crate::routing::catalog::Catalog;
use crate::routing::endpoint::Endpoint;
use crate::routing::scope::matches;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Meaning<'a> {
    /// What its endpoints know it by, unless a backend says otherwise.
    pub(crate) model: String,
    pub(crate) route: Option<&'a Route>,
    variant: Option<&'a Variant>,
}

/// The meaning of a name that is the one of a model, a route or a variant.
pub(crate) fn exact<'a>(routes: &'a [Route], catalog: &Catalog, name: &str) -> Option<Meaning<'a>> {
    let of = |route: &'a Route, variant| {
        let model = if route.is_discovered() { catalog.served_as(&route.name) } else { route.name.as_str().into() };
        Meaning { model: model.into_owned(), route: Some(route), variant }
    };
    let by_name = || routes.iter().find(|route| route.name == name).map(|route| of(route, None));
    let by_variant = || routes.iter().find_map(|route| Some(of(route, Some(route.variant(name)?))));
    let served = || !catalog.offers(name).is_empty();
    by_name().or_else(by_variant).or_else(|| served().then(|| Meaning::model(name)))
}

/// The meaning of a name that nothing is served by, as the first pattern has it that matches.
pub(crate) fn by_pattern<'a>(routes: &'a [Route], catalog: &Catalog, name: &str) -> Option<Meaning<'a>> {
    let is_match = |route: &&Route| route.patterns.iter().any(|pattern| matches(pattern, name));
    exact(routes, catalog, &routes.iter().find(is_match)?.name)
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

    pub(crate) fn stabilizes(&self) -> bool {
        self.route.is_some_and(|route| route.stabilize.is_some())
    }
}

/// Not for Anthropic's own servers: they read the line that is made stable for others.
pub(crate) fn may_stabilize(endpoint: &Endpoint) -> bool {
    let host = endpoint.config.base.host.trim_end_matches('.').to_ascii_lowercase();
    host != "anthropic.com" && !host.ends_with(".anthropic.com")
}
