//! The models of a snapshot and the endpoints that serve them. Built as a whole and never changed. Pure.

use crate::api::edit::{self, MemberEdit};
use crate::api::model_list::Model;
use crate::config::{Backend, Route};
use crate::routing::endpoint::{Endpoint, LATEST};
use crate::routing::scope::Scope;
use serde::Serialize;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(crate) struct Catalog {
    offers: HashMap<String, Vec<Offer>>,
    /// The names of routes and their variants.
    routes: HashMap<String, RouteName>,
    /// What can be asked for now.
    pub(crate) listing: Listing,
}

/// A name of a route or of one of its variants.
#[derive(Debug)]
pub(crate) struct RouteName {
    /// The index of the route in the configuration.
    pub(crate) route: usize,
    pub(crate) is_variant: bool,
    /// The name of the model at its endpoints, unless a backend has its own.
    pub(crate) model: String,
    pub(crate) edits: Arc<[MemberEdit]>,
}

/// An endpoint that serves a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Its index in the snapshot. Offers are in configuration order.
    pub(crate) endpoint: usize,
    /// The model's context size, whether it accepts images, and whether it is loaded, if the endpoint's model list
    /// tells.
    pub(crate) context: Option<u64>,
    pub(crate) vision: Option<bool>,
    pub(crate) loaded: Option<bool>,
}

/// The body of `/v1/models`, and its entries.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    pub(crate) text: Arc<[u8]>,
    entries: Vec<Listed>,
}

#[derive(Debug, Clone)]
struct Listed {
    id: String,
    /// As listed by the upstream.
    aliases: Vec<String>,
    text: String,
}

impl Catalog {
    pub(crate) fn new(endpoints: &[Arc<Endpoint>], routes: &[Route]) -> Self {
        let mut offers: HashMap<String, Vec<Offer>> = HashMap::new();
        for (n, endpoint) in endpoints.iter().enumerate().filter(|(_, e)| e.config.enabled) {
            for (id, model) in ids(endpoint) {
                let discovered = model.filter(|_| endpoint.config.models.is_empty());
                let aliases = discovered.iter().flat_map(|model| &model.aliases).map(String::as_str);
                for name in std::iter::once(id).chain(aliases) {
                    let of_name = offers.entry(name.to_owned()).or_default();
                    if of_name.last().is_none_or(|last| last.endpoint != n) {
                        let (context, vision) = (model.and_then(|one| one.context), model.and_then(|one| one.vision));
                        of_name.push(Offer { endpoint: n, context, vision, loaded: model.and_then(|one| one.loaded) });
                    }
                }
            }
        }
        let mut catalog = Self { offers, ..Self::default() };
        for (n, route) in routes.iter().enumerate() {
            let served_as = || catalog.served_as(&route.name).into_owned();
            let model = if route.is_discovered() { served_as() } else { route.name.clone() };
            let variants = std::iter::once(None).chain(route.variants.iter().map(Some));
            for (name, variant) in route.names().zip(variants) {
                // If a name occurs twice, the first one wins.
                catalog.routes.entry(name).or_insert_with(|| RouteName {
                    route: n,
                    is_variant: variant.is_some(),
                    model: model.clone(),
                    edits: edit::merged(&route.edits, variant.map(|variant| &variant.edits)).into(),
                });
            }
        }
        catalog.listing = catalog.listing(endpoints, routes, &Scope::default(), |_| true);
        catalog
    }

    pub(crate) fn route(&self, name: &str) -> Option<&RouteName> {
        self.routes.get(name)
    }

    /// The endpoints that serve a name, available or not.
    pub(crate) fn offers(&self, name: &str) -> &[Offer] {
        self.offers.get(name).map_or(&[], Vec::as_slice)
    }

    /// `name`, or `name:latest` if only that is served.
    fn served_as<'a>(&self, name: &'a str) -> Cow<'a, str> {
        let with_tag = tagged(name);
        if self.offers(name).is_empty() && !self.offers(&with_tag).is_empty() { with_tag.into() } else { name.into() }
    }

    /// Lists the names in a scope that have an available endpoint which `is_listed`: models in configuration order,
    /// then routes and their variants. Names whose endpoints are all asleep are marked.
    pub(crate) fn listing(
        &self,
        endpoints: &[Arc<Endpoint>],
        routes: &[Route],
        scope: &Scope,
        is_listed: impl Fn(&Endpoint) -> bool,
    ) -> Listing {
        let is_usable =
            |e: &Endpoint| (e.is_available() || e.is_asleep()) && scope.has_endpoint(e.name()) && is_listed(e);
        let usable: Vec<_> = endpoints.iter().map(|one| Some(&**one).filter(|endpoint| is_usable(endpoint))).collect();
        let all = || usable.iter().flatten().copied();
        let names: Vec<_> = routes.iter().flat_map(|route| route.names().map(move |name| (name, route))).collect();
        // The endpoints of a name and its name there: those that are awake, or if none is, those that are asleep.
        let backends = |name: &str| {
            let route = self.routes.get(name).map(|known| &routes[known.route]);
            let all: Vec<(&Endpoint, String)> = match route.filter(|route| !route.is_discovered()) {
                Some(route) => {
                    let enabled = route.backends.iter().filter(|backend| backend.enabled);
                    let model = |backend: &Backend| backend.model.as_ref().unwrap_or(&route.name).clone();
                    enabled.filter_map(|one| Some((all().find(|e| e.name() == one.endpoint)?, model(one)))).collect()
                }
                None => {
                    let model = self.served_as(route.map_or(name, |route| &route.name));
                    let offers = self.offers(&model).iter();
                    offers.filter_map(|offer| Some((usable[offer.endpoint]?, model.to_string()))).collect()
                }
            };
            let (asleep, awake): (Vec<_>, Vec<_>) = all.into_iter().partition(|(endpoint, _)| endpoint.is_asleep());
            if awake.is_empty() { asleep } else { awake }
        };
        let is_served = |name: &str| {
            self.routes.contains_key(name) || self.offers(name).iter().any(|offer| usable[offer.endpoint].is_some())
        };
        let (mut entries, mut seen) = (Vec::new(), HashSet::new());
        let listed = all().flat_map(ids).map(|(id, _)| (id, id));
        // The scope of a model includes its variants.
        for (name, base) in listed.chain(names.iter().map(|(name, route)| (name.as_str(), route.name.as_str()))) {
            if (within(scope, name, is_served) || within(scope, base, is_served)) && seen.insert(name) {
                entries.extend(entry(name, &backends(name)));
            }
        }
        let texts: Vec<&str> = entries.iter().map(|one: &Listed| one.text.as_str()).collect();
        let text = format!(r#"{{"object":"list","data":[{}]}}"#, texts.join(","));
        Listing { text: text.into_bytes().into(), entries }
    }
}

impl Listing {
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|one| one.id.as_str())
    }

    /// The entry with that name, or else with that alias, or else with the tag `latest`.
    pub(crate) fn entry(&self, name: &str) -> Option<&[u8]> {
        let with_tag = tagged(name);
        let by_id = |name: &str| self.entries.iter().find(|one| one.id == name);
        let by_alias = || self.entries.iter().find(|one| one.aliases.iter().any(|alias| alias == name));
        by_id(name).or_else(by_alias).or_else(|| by_id(&with_tag)).map(|found| found.text.as_bytes())
    }
}

/// Whether a scope includes a name. A name with the tag `latest` may be in the scope without it, unless that is
/// another model.
pub(crate) fn within(scope: &Scope, name: &str, is_served: impl Fn(&str) -> bool) -> bool {
    let untagged = || name.strip_suffix(LATEST).filter(|bare| !is_served(bare));
    scope.has_model(name) || untagged().is_some_and(|bare| scope.has_model(bare))
}

/// The names that an endpoint contributes to the list: those configured, or else those discovered.
fn ids(endpoint: &Endpoint) -> impl Iterator<Item = (&str, Option<&Model>)> {
    let discovered = endpoint.models.iter().filter(|_| endpoint.config.models.is_empty());
    let discovered = discovered.flat_map(|models| models.iter().map(|model| (model.id.as_str(), Some(model))));
    endpoint.config.models.iter().map(|name| (name.as_str(), listed(endpoint, name))).chain(discovered)
}

/// The entry of a name in an endpoint's own list.
fn listed<'a>(endpoint: &'a Endpoint, name: &str) -> Option<&'a Model> {
    let models = endpoint.models.as_ref()?;
    let by_alias = || models.iter().find(|model| model.aliases.iter().any(|alias| alias == name));
    models.iter().find(|model| model.id == name).or_else(by_alias)
}

/// A name with Ollama's default tag.
pub(crate) fn tagged(name: &str) -> String {
    format!("{name}{LATEST}")
}

/// The fields that strict clients require, and the endpoints [S000-13].
#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
    provider: &'a str,
    endpoint: String,
    endpoints: Vec<&'a str>,
    /// The names of a route's model at its endpoints: all of them, and the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<&'a str>,
    #[serde(skip)]
    is_asleep: bool,
}

impl Entry<'_> {
    /// Adds the remaining fields of the upstream's entry.
    fn listed(&self, model: Option<&Model>) -> Listed {
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.pop();
        for (key, value) in model.iter().flat_map(|model| &model.fields) {
            let is_ours = self.root.is_some() && matches!(key.as_str(), "aliases" | "root");
            if !(is_ours || self.is_asleep && key == "status") {
                let _ = write!(text, ",{}:{value}", Value::from(key.as_str()));
            }
        }
        if self.is_asleep {
            text.push_str(r#","status":{"value":"sleeping"}"#);
        }
        text.push('}');
        // A route does not inherit the aliases of its model.
        let aliases = model.filter(|_| self.root.is_none()).map(|model| model.aliases.clone()).unwrap_or_default();
        Listed { id: self.id.to_owned(), aliases, text }
    }
}

/// The entry of a name. For a route or a variant, `root` is the model's name at its first backend.
fn entry(name: &str, backends: &[(&Endpoint, String)]) -> Option<Listed> {
    let (mut endpoints, mut aliases) = (Vec::new(), Vec::new());
    for (endpoint, root) in backends {
        if !endpoints.contains(&endpoint.name()) {
            endpoints.push(endpoint.name());
        }
        if root != name && !aliases.contains(&root.as_str()) {
            aliases.push(root);
        }
    }
    let (endpoint, root) = backends.first()?;
    let (model, base) = (listed(endpoint, root), &endpoint.config.base);
    let entry = Entry {
        id: name,
        object: "model",
        created: model.map_or(0, |model| model.created),
        owned_by: model.and_then(|model| model.owned_by.as_deref()).unwrap_or(endpoint.name()),
        provider: endpoint.name(),
        endpoint: format!("{}:{}", base.host, base.port),
        endpoints,
        root: Some(root.as_str()).filter(|_| !aliases.is_empty()),
        aliases,
        is_asleep: endpoint.is_asleep(),
    };
    Some(entry.listed(model))
}

#[cfg(test)]
mod tests;
