//! Which endpoints serve a model. Built whole from the endpoints of a snapshot, never changed. Pure.

use crate::api::model_list::Model;
use crate::config::Route;
use crate::routing::endpoint::Endpoint;
use crate::routing::scope::Scope;
use serde::Serialize;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

/// What Ollama adds to a name without a tag.
const LATEST: &str = ":latest";

#[derive(Debug, Default)]
pub(crate) struct Catalog {
    offers: HashMap<String, Vec<Offer>>,
    /// What can be asked for now.
    pub(crate) listing: Listing,
}

/// An endpoint that serves a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Its index in the snapshot; offers stand in config order.
    pub(crate) endpoint: usize,
    /// The context of this model there, if its list has it.
    pub(crate) context: Option<u64>,
}

/// `/v1/models`, ready to be sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    pub(crate) text: Arc<[u8]>,
    listed: Vec<Listed>,
}

#[derive(Debug, Clone)]
struct Listed {
    id: String,
    /// Other names for the same, as the upstream lists them.
    aliases: Vec<String>,
    span: Range<usize>,
}

impl Catalog {
    pub(crate) fn new(endpoints: &[Arc<Endpoint>], routes: &[Route]) -> Self {
        let mut offers: HashMap<String, Vec<Offer>> = HashMap::new();
        for (n, endpoint) in endpoints.iter().enumerate().filter(|(_, e)| e.config.enabled) {
            let listed = listed(endpoint);
            for name in endpoint.names() {
                let of_name = offers.entry(name.to_owned()).or_default();
                if of_name.last().is_none_or(|last| last.endpoint != n) {
                    of_name.push(Offer { endpoint: n, context: listed.get(name).and_then(|model| model.context) });
                }
            }
        }
        let mut catalog = Self { offers, listing: Listing::default() };
        catalog.listing = catalog.listing(endpoints, routes, &Scope::default(), |_| true);
        catalog
    }

    /// The endpoints that serve a name, available or not.
    pub(crate) fn offers(&self, name: &str) -> &[Offer] {
        self.offers.get(name).map_or(&[], Vec::as_slice)
    }

    /// Names with an available endpoint that is to be listed, within a scope: discovered and configured ones in config order, then routes. Takes as
    /// long as the lists are, however many endpoints there are.
    pub(crate) fn listing(
        &self,
        endpoints: &[Arc<Endpoint>],
        routes: &[Route],
        scope: &Scope,
        is_listed: impl Fn(&Endpoint) -> bool,
    ) -> Listing {
        let is_usable = |e: &Endpoint| e.is_available() && scope.has_endpoint(e.name()) && is_listed(e);
        let usable: Vec<bool> = endpoints.iter().map(|endpoint| is_usable(endpoint)).collect();
        let all = || endpoints.iter().enumerate().filter(|(n, _)| usable[*n]);
        let available: HashMap<&str, usize> = all().map(|(n, endpoint)| (endpoint.name(), n)).collect();
        let servers = |name: &str| self.offers(name).iter().map(|offer| offer.endpoint).filter(|n| usable[*n]);
        let by_name: HashMap<&str, &Route> = routes.iter().rev().map(|route| (route.name.as_str(), route)).collect();
        let is_served = |name: &str| servers(name).next().is_some() || by_name.contains_key(name);
        let models = endpoints
            .iter()
            .zip(&usable)
            .map(|(endpoint, usable)| if *usable { listed(endpoint) } else { HashMap::new() });
        let mut list = Writer {
            endpoints,
            models: models.collect(),
            text: r#"{"object":"list","data":["#.into(),
            listed: Vec::new(),
        };
        let mut seen = HashSet::new();
        for (n, endpoint) in all() {
            for id in ids(endpoint) {
                if !within(scope, id, is_served) || !seen.insert(id) {
                    continue;
                }
                match by_name.get(id) {
                    Some(route) => list.route(route, &available),
                    None => {
                        let names: Vec<&str> = servers(id).map(|n| endpoints[n].name()).collect();
                        list.entry(id, n, id, &names, &[]);
                    }
                }
            }
        }
        for route in routes.iter().filter(|route| within(scope, &route.name, is_served)) {
            if seen.insert(&route.name) {
                list.route(route, &available);
            }
        }
        list.text.push_str("]}");
        Listing { text: list.text.into_bytes().into(), listed: list.listed }
    }
}

impl Listing {
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.listed.iter().map(|one| one.id.as_str())
    }

    /// The entry of a name, or of the model that has it as an alias or with the tag `latest`.
    pub(crate) fn entry(&self, name: &str) -> Option<&[u8]> {
        let with_tag = tagged(name);
        let by_id = |name: &str| self.listed.iter().find(|one| one.id == name);
        let by_alias = || self.listed.iter().find(|one| one.aliases.iter().any(|alias| alias == name));
        let found = by_id(name).or_else(by_alias).or_else(|| by_id(&with_tag))?;
        Some(&self.text[found.span.clone()])
    }
}

/// Whether a scope has a name: as it is, or without the tag `latest` where nothing is served by that.
pub(crate) fn within(scope: &Scope, name: &str, is_served: impl Fn(&str) -> bool) -> bool {
    let untagged = || name.strip_suffix(LATEST).filter(|bare| !is_served(bare));
    scope.has_model(name) || untagged().is_some_and(|bare| scope.has_model(bare))
}

/// What an endpoint's list says of each of its names.
fn listed(endpoint: &Endpoint) -> HashMap<&str, &Model> {
    let models = endpoint.models.as_deref().map(Vec::as_slice).unwrap_or_default();
    let aliases = models.iter().flat_map(|model| model.aliases.iter().map(move |alias| (alias.as_str(), model)));
    let mut listed: HashMap<&str, &Model> = aliases.collect();
    listed.extend(models.iter().rev().map(|model| (model.id.as_str(), model)));
    listed
}

/// What an endpoint puts on the list: its own entries, or the names that the user configured.
fn ids(endpoint: &Endpoint) -> impl Iterator<Item = &str> {
    let discovered = endpoint.models.iter().filter(|_| endpoint.config.models.is_empty());
    let discovered = discovered.flat_map(|models| models.iter().map(|model| model.id.as_str()));
    endpoint.config.models.iter().map(String::as_str).chain(discovered)
}

/// A name with the tag that is meant where none is given.
pub(crate) fn tagged(name: &str) -> String {
    format!("{name}{LATEST}")
}

/// A list in the making.
struct Writer<'a> {
    endpoints: &'a [Arc<Endpoint>],
    /// What each endpoint has listed; of those that cannot be used, nothing.
    models: Vec<HashMap<&'a str, &'a Model>>,
    text: String,
    listed: Vec<Listed>,
}

/// What strict clients want of every entry, and where it is [S000-13].
#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
    provider: &'a str,
    endpoint: String,
    endpoints: &'a [&'a str],
    /// What the endpoints call the model of a route, all of them and the first.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    aliases: &'a [&'a str],
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<&'a str>,
}

impl<'a> Writer<'a> {
    /// A route: an alias of what its first available backend calls the model.
    fn route(&mut self, route: &'a Route, available: &HashMap<&str, usize>) {
        let (mut servers, mut aliases) = (Vec::new(), Vec::new());
        let (mut known, mut called) = (HashSet::new(), HashSet::new());
        let mut first = None;
        for backend in route.backends.iter().filter(|backend| backend.enabled) {
            let Some(&n) = available.get(backend.endpoint.as_str()) else { continue };
            let root = backend.model.as_deref().unwrap_or(&route.name);
            first.get_or_insert((n, root));
            if known.insert(n) {
                servers.push(self.endpoints[n].name());
            }
            if root != route.name && called.insert(root) {
                aliases.push(root);
            }
        }
        if let Some((n, root)) = first {
            self.entry(&route.name, n, root, &servers, &aliases);
        }
    }

    /// The name that endpoint `n` calls `root`, with what it says of it.
    fn entry(&mut self, id: &str, n: usize, root: &str, servers: &[&str], aliases: &[&str]) {
        let (endpoint, model) = (&*self.endpoints[n], self.models[n].get(root));
        let is_alias = !aliases.is_empty();
        let entry = Entry {
            id,
            object: "model",
            created: model.map_or(0, |model| model.created),
            owned_by: model.and_then(|model| model.owned_by.as_deref()).unwrap_or(endpoint.name()),
            provider: endpoint.name(),
            endpoint: format!("{}:{}", endpoint.config.base.host, endpoint.config.base.port),
            endpoints: servers,
            aliases,
            root: is_alias.then_some(root),
        };
        self.text.push_str(if self.listed.is_empty() { "" } else { "," });
        let start = self.text.len();
        self.text.push_str(serde_json::to_string(&entry).unwrap_or_default().trim_end_matches('}'));
        for (key, value) in model.iter().flat_map(|model| &model.fields) {
            if !is_alias || !matches!(key.as_str(), "aliases" | "root") {
                let _ = write!(self.text, ",{}:{value}", Value::from(key.as_str()));
            }
        }
        self.text.push('}');
        // The names of the model behind a route are not the route's.
        let aliases = model.filter(|_| !is_alias).map(|model| model.aliases.clone()).unwrap_or_default();
        self.listed.push(Listed { id: id.to_owned(), aliases, span: start..self.text.len() });
    }
}

#[cfg(test)]
mod tests;
