//! Model -> who offers it. Built whole from the endpoints of a snapshot, never changed. Pure.

use crate::api::model_list::Model;
use crate::config::Route;
use crate::routing::endpoint::Endpoint;
use crate::routing::scope::Scope;
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
    /// The context of this model there, if its list tells.
    pub(crate) context: Option<u64>,
}

/// `/v1/models`, ready to be sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    pub(crate) text: Arc<[u8]>,
    listed: Vec<Listed>,
}

/// One entry of `/v1/models`.
#[derive(Debug, Clone)]
struct Listed {
    id: String,
    /// Other names for the same, as the upstream tells them.
    aliases: Vec<String>,
    span: Range<usize>,
}

impl Catalog {
    /// The catalogue of these endpoints and routes.
    pub(crate) fn new(endpoints: &[Arc<Endpoint>], routes: &[Route]) -> Self {
        let mut offers: HashMap<String, Vec<Offer>> = HashMap::new();
        for (n, endpoint) in endpoints.iter().enumerate().filter(|(_, e)| e.config.enabled) {
            let listed = listed(endpoint);
            for name in endpoint.names() {
                let who = offers.entry(name.to_owned()).or_default();
                if who.last().is_none_or(|last| last.endpoint != n) {
                    who.push(Offer { endpoint: n, context: listed.get(name).and_then(|model| model.context) });
                }
            }
        }
        Self { offers, listing: listing(endpoints, routes, &Scope::default()) }
    }

    /// The endpoints that serve a name, available or not; empty if nobody is known to.
    pub(crate) fn offers(&self, name: &str) -> &[Offer] {
        self.offers.get(name).map_or(&[], Vec::as_slice)
    }
}

/// A name with the tag that is meant where none is given.
pub(crate) fn tagged(name: &str) -> String {
    format!("{name}{LATEST}")
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

/// Names with an available endpoint, within a scope: discovered and configured ones in config order, then routes. Takes as
/// long as the lists are, however many endpoints there are.
pub(crate) fn listing(endpoints: &[Arc<Endpoint>], routes: &[Route], scope: &Scope) -> Listing {
    let usable = |e: &&Arc<Endpoint>| e.is_available() && scope.has_endpoint(e.name());
    let open = Open::new(endpoints.iter().filter(usable).map(|endpoint| &**endpoint).collect());
    let by_name: HashMap<&str, &Route> = routes.iter().rev().map(|route| (route.name.as_str(), route)).collect();
    let within = |id: &str| within(scope, id, |bare| open.servers.contains_key(bare) || by_name.contains_key(bare));
    let mut list = Writer::default();
    let mut seen = HashSet::new();
    for (n, endpoint) in open.endpoints.iter().enumerate() {
        for id in ids(endpoint) {
            if !within(id) || !seen.insert(id) {
                continue;
            }
            match by_name.get(id) {
                Some(route) => open.route(route, &mut list),
                None => {
                    let model = open.listed[n].get(id).copied();
                    let servers = open.servers[id].iter().map(|&other| open.endpoints[other].name()).collect();
                    list.entry(&Entry { id, model, endpoint, servers, root: None, aliases: Vec::new() });
                }
            }
        }
    }
    for route in routes.iter().filter(|route| within(&route.name)) {
        if seen.insert(&route.name) {
            open.route(route, &mut list);
        }
    }
    list.end()
}

/// What an endpoint told of each of its names.
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

/// The endpoints that can be used, and all that is asked of them for every model.
struct Open<'a> {
    endpoints: Vec<&'a Endpoint>,
    listed: Vec<HashMap<&'a str, &'a Model>>,
    by_name: HashMap<&'a str, usize>,
    servers: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Open<'a> {
    fn new(endpoints: Vec<&'a Endpoint>) -> Self {
        let listed = endpoints.iter().map(|endpoint| listed(endpoint)).collect();
        let by_name = endpoints.iter().enumerate().map(|(n, endpoint)| (endpoint.name(), n)).collect();
        let mut servers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (n, endpoint) in endpoints.iter().enumerate() {
            for name in endpoint.names() {
                let who = servers.entry(name).or_default();
                if who.last() != Some(&n) {
                    who.push(n);
                }
            }
        }
        Self { endpoints, listed, by_name, servers }
    }

    /// The entry of a route: an alias of what its first available backend calls the model.
    fn route(&self, route: &'a Route, list: &mut Writer) {
        let (mut servers, mut aliases) = (Vec::new(), Vec::new());
        let (mut known, mut called) = (HashSet::new(), HashSet::new());
        let mut first = None;
        for backend in route.backends.iter().filter(|backend| backend.enabled) {
            let Some(&n) = self.by_name.get(backend.endpoint.as_str()) else {
                continue;
            };
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
            let (endpoint, model) = (self.endpoints[n], self.listed[n].get(root).copied());
            let root = Some(root).filter(|_| !aliases.is_empty());
            list.entry(&Entry { id: &route.name, model, endpoint, servers, root, aliases });
        }
    }
}

/// What an entry is written from.
struct Entry<'a> {
    id: &'a str,
    /// What its endpoint says of it.
    model: Option<&'a Model>,
    endpoint: &'a Endpoint,
    servers: Vec<&'a str>,
    /// For a route: what its endpoint calls it, and what all its endpoints do.
    root: Option<&'a str>,
    aliases: Vec<&'a str>,
}

/// The text of a list in the making.
#[derive(Default)]
struct Writer {
    text: String,
    listed: Vec<Listed>,
}

impl Writer {
    /// An upstream's own fields, what strict clients want of every entry, and where it is [S000-13].
    fn entry(&mut self, entry: &Entry<'_>) {
        self.text.push_str(if self.listed.is_empty() { r#"{"object":"list","data":["# } else { "," });
        let start = self.text.len();
        let Entry { id, model, endpoint, root, .. } = entry;
        let owner = model.and_then(|model| model.owned_by.as_deref()).unwrap_or(endpoint.name());
        let created = model.map_or(0, |model| model.created);
        let place = format!("{}:{}", endpoint.config.base.host, endpoint.config.base.port);
        let (id, owner, name) = (Value::from(*id), Value::from(owner), Value::from(endpoint.name()));
        let (place, servers) = (Value::from(place), Value::from(entry.servers.as_slice()));
        let text = &mut self.text;
        let _ =
            write!(text, r#"{{"id":{id},"object":"model","created":{created},"owned_by":{owner},"provider":{name}"#);
        let _ = write!(text, r#","endpoint":{place},"endpoints":{servers}"#);
        if let Some(root) = root {
            let aliases = Value::from(entry.aliases.as_slice());
            let _ = write!(text, r#","aliases":{aliases},"root":{}"#, Value::from(*root));
        }
        for (key, value) in model.iter().flat_map(|model| &model.fields) {
            if root.is_none() || !matches!(key.as_str(), "aliases" | "root") {
                let _ = write!(text, ",{}:{value}", Value::from(key.as_str()));
            }
        }
        self.text.push('}');
        // The names of the model behind a route are not the route's.
        let aliases = model.filter(|_| root.is_none()).map(|model| model.aliases.clone()).unwrap_or_default();
        self.listed.push(Listed { id: entry.id.to_owned(), aliases, span: start..self.text.len() });
    }

    fn end(mut self) -> Listing {
        self.text.push_str(if self.listed.is_empty() { r#"{"object":"list","data":[]}"# } else { "]}" });
        Listing { text: self.text.into_bytes().into(), listed: self.listed }
    }
}

#[cfg(test)]
mod tests;
