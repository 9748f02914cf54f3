//! Model -> who offers it. Built whole from the endpoints of a snapshot, never changed. Pure.

use super::endpoint::{Endpoint, Model};
use super::scope::Scope;
use crate::config::{Backend, Route};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Entries taken of one endpoint's list: more is a mistake or an attack.
pub const MOST_MODELS: usize = 2_000;
/// Longer names are no names.
const LONGEST_ID: usize = 512;

/// Who serves which name. Endpoints are indexes into the snapshot, in config order.
#[derive(Debug, Default)]
pub struct Catalog {
    offers: HashMap<String, Vec<usize>>,
    /// What can be asked for now, each once.
    listed: Vec<Listed>,
    /// `/v1/models`, ready to be sent.
    pub listing: Arc<[u8]>,
}

/// One entry of `/v1/models`.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The name.
    pub id: String,
    /// Other names for the same, as the upstream tells them.
    aliases: Vec<String>,
    entry: Value,
}

impl Catalog {
    /// The catalogue of these endpoints and routes.
    pub fn new(endpoints: &[Arc<Endpoint>], routes: &[Route]) -> Self {
        let mut offers: HashMap<String, Vec<usize>> = HashMap::new();
        for (n, endpoint) in endpoints.iter().enumerate().filter(|(_, e)| e.config.enabled) {
            for name in endpoint.names() {
                let who = offers.entry(name.to_owned()).or_default();
                if who.last() != Some(&n) {
                    who.push(n);
                }
            }
        }
        let listed = listed(endpoints, routes, &Scope::default());
        Self { offers, listing: listing(&listed), listed }
    }

    /// The endpoints that serve a name, available or not; empty if nobody is known to.
    pub fn offers(&self, name: &str) -> &[usize] {
        self.offers.get(name).map_or(&[], Vec::as_slice)
    }

    /// Names that can be asked for now.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.listed.iter().map(|one| one.id.as_str())
    }

    /// All entries.
    pub fn listed(&self) -> &[Listed] {
        &self.listed
    }
}

/// `/v1/models` of these entries.
pub fn listing(listed: &[Listed]) -> Arc<[u8]> {
    let data: Vec<&Value> = listed.iter().map(|one| &one.entry).collect();
    json!({"object": "list", "data": data}).to_string().into_bytes().into()
}

/// The entry of a name, or of the model that has it as an alias.
pub fn entry(listed: &[Listed], name: &str) -> Option<String> {
    let by_id = listed.iter().find(|one| one.id == name);
    let found = by_id.or_else(|| listed.iter().find(|one| one.aliases.iter().any(|alias| alias == name)));
    found.map(|one| one.entry.to_string())
}

/// Names with an available endpoint, within a scope: discovered and configured ones in config order, then routes.
pub fn listed(endpoints: &[Arc<Endpoint>], routes: &[Route], scope: &Scope) -> Vec<Listed> {
    let usable = |e: &&Arc<Endpoint>| e.is_available() && scope.has_endpoint(e.name());
    let open: Vec<&Arc<Endpoint>> = endpoints.iter().filter(usable).collect();
    let served: Vec<HashSet<&str>> = open.iter().map(|endpoint| endpoint.names().collect()).collect();
    let route = |name: &str| routes.iter().find(|route| route.name == name);
    let mut all: Vec<Listed> = Vec::new();
    let mut seen = HashSet::new();
    for endpoint in &open {
        for (id, model) in offered(endpoint) {
            if !scope.has_model(id) || !seen.insert(id) {
                continue;
            }
            match route(id) {
                Some(route) => all.extend(routed(route, &open)),
                None => {
                    let servers = open.iter().zip(&served).filter(|(_, names)| names.contains(id));
                    let servers: Vec<&str> = servers.map(|(other, _)| other.name()).collect();
                    let aliases = model.map(|model| model.aliases.clone()).unwrap_or_default();
                    let entry = with_place(model.map(|model| &model.fields), id, endpoint, &servers);
                    all.push(Listed { id: id.to_owned(), aliases, entry: Value::Object(entry) });
                }
            }
        }
    }
    let others = routes.iter().filter(|route| scope.has_model(&route.name) && !seen.contains(route.name.as_str()));
    all.extend(others.filter_map(|route| routed(route, &open)));
    all
}

/// The entry of a route: an alias of what its first available backend calls the model.
fn routed(route: &Route, open: &[&Arc<Endpoint>]) -> Option<Listed> {
    let place = |backend: &Backend| open.iter().copied().find(|endpoint| endpoint.name() == backend.endpoint);
    let backends = route.backends.iter().filter(|backend| backend.enabled);
    let backends: Vec<_> = backends.filter_map(|backend| Some((backend, place(backend)?))).collect();
    let (first, endpoint) = backends.first()?;
    let root = first.model.as_deref().unwrap_or(&route.name);
    let model = endpoint.models.iter().flat_map(|models| models.iter()).find(|model| model.id == root);
    let mut servers: Vec<&str> = Vec::new();
    let mut aliases: Vec<String> = Vec::new();
    for (backend, endpoint) in &backends {
        let model = backend.model.as_deref().unwrap_or(&route.name);
        if !servers.contains(&endpoint.name()) {
            servers.push(endpoint.name());
        }
        if model != route.name && !aliases.iter().any(|alias| alias == model) {
            aliases.push(model.to_owned());
        }
    }
    let mut entry = with_place(model.map(|model| &model.fields), &route.name, endpoint, &servers);
    if !aliases.is_empty() {
        entry.insert("aliases".into(), json!(aliases));
        entry.insert("root".into(), json!(root));
    }
    Some(Listed { id: route.name.clone(), aliases: Vec::new(), entry: Value::Object(entry) })
}

/// What an endpoint puts on the list: its own entries, or bare names where the user configured them.
fn offered(endpoint: &Endpoint) -> Vec<(&str, Option<&Model>)> {
    let discovered = endpoint.models.as_deref().map(Vec::as_slice).unwrap_or_default();
    if endpoint.config.models.is_empty() {
        return discovered.iter().map(|model| (model.id.as_str(), Some(model))).collect();
    }
    let named = |name: &str| discovered.iter().find(|model| model.id == name);
    endpoint.config.models.iter().map(|name| (name.as_str(), named(name))).collect()
}

/// An upstream's own fields, and where it is [S000-13].
fn with_place(
    fields: Option<&Map<String, Value>>,
    id: &str,
    endpoint: &Endpoint,
    servers: &[&str],
) -> Map<String, Value> {
    let mut entry = fields.cloned().unwrap_or_default();
    entry.insert("id".into(), json!(id));
    entry.insert("object".into(), json!("model"));
    entry.entry("owned_by").or_insert_with(|| json!(endpoint.name()));
    let base = &endpoint.config.base;
    entry.insert("provider".into(), json!(endpoint.name()));
    entry.insert("endpoint".into(), json!(format!("{}:{}", base.host, base.port)));
    entry.insert("endpoints".into(), json!(servers));
    entry
}

/// The models in the body of an upstream's `/v1/models` answer, a BOM in front of it or not.
///
/// # Errors
/// It is no list of models: what it is instead, as the rest of a sentence.
pub fn list_of(body: &[u8]) -> Result<Vec<Model>, &'static str> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let is_html = body.trim_ascii_start().starts_with(b"<");
    let answer = serde_json::from_slice(body).map_err(|_| if is_html { "is HTML" } else { "is not JSON" })?;
    models_of(&answer)
}

/// The entries of an upstream's `/v1/models` answer: `data`, llama-server's router and plain lists.
///
/// # Errors
/// As [`list_of`].
pub fn models_of(answer: &Value) -> Result<Vec<Model>, &'static str> {
    let list = answer.get("data").or_else(|| answer.get("models")).unwrap_or(answer);
    // Ollama without models.
    if list.is_null() && answer.is_object() {
        return Ok(Vec::new());
    }
    let list = list.as_array().ok_or(if answer.get("error").is_some() { "is an error" } else { "has no `data`" })?;
    let mut models = Vec::new();
    for item in list.iter().take(MOST_MODELS) {
        // S000-14: an entry with `name` and no `id` counts by `name`.
        let named = ["id", "name", "model"].iter().find_map(|key| item.get(*key)?.as_str());
        let named = named.filter(|id| !id.is_empty() && id.len() <= LONGEST_ID);
        let (Some(fields), Some(id)) = (item.as_object(), named) else {
            continue;
        };
        let aliases = fields.get("aliases").and_then(Value::as_array);
        let aliases = aliases.into_iter().flatten().filter_map(Value::as_str);
        let aliases = aliases.filter(|a| *a != id && !a.is_empty()).map(str::to_owned).collect();
        models.push(Model { id: id.to_owned(), aliases, fields: public(fields) });
    }
    if models.is_empty() && !list.is_empty() { Err("has no entry with an `id`") } else { Ok(models) }
}

/// An entry without what concerns only the upstream's own machine: a router lists whole command lines.
fn public(fields: &Map<String, Value>) -> Map<String, Value> {
    let mut public = Map::new();
    for (key, value) in fields {
        let value = match key.as_str() {
            "args" | "preset" | "path" | "model_path" => continue,
            "status" => match value.get("value") {
                Some(state) => json!({"value": state}),
                None if value.is_object() => continue,
                None => value.clone(),
            },
            _ => value.clone(),
        };
        public.insert(key.clone(), value);
    }
    public
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;
    use crate::config;
    use crate::model::standing::Observation;
    use std::time::SystemTime;

    fn endpoint(name: &str, models: &[&str]) -> Endpoint {
        let mut endpoint = Endpoint::new(config::Endpoint::plain(name, "127.0.0.1", 8001), clock::now());
        let list: Vec<Value> = models.iter().map(|m| json!({"id": m, "meta": {"n_ctx": 1}})).collect();
        endpoint.models = models_of(&json!({"data": list})).ok().map(Arc::new);
        endpoint
    }

    fn down(mut endpoint: Endpoint) -> Endpoint {
        endpoint.standing = endpoint.standing.observe(Observation::Down("x".into()), 1, SystemTime::UNIX_EPOCH);
        endpoint
    }

    fn listing(endpoints: Vec<Endpoint>) -> (Catalog, Value) {
        let endpoints: Vec<_> = endpoints.into_iter().map(Arc::new).collect();
        let catalog = Catalog::new(&endpoints, &[]);
        let value = serde_json::from_slice(&catalog.listing).expect("JSON");
        (catalog, value)
    }

    #[test]
    fn a_name_on_several_endpoints_is_listed_once_with_the_first_as_provider() {
        // S000-13, S000-14
        let (catalog, list) = listing(vec![endpoint("one", &["ma", "shared"]), endpoint("two", &["shared", "mb"])]);
        let ids: Vec<_> = list["data"].as_array().expect("data").iter().map(|m| m["id"].clone()).collect();
        assert_eq!(ids, ["ma", "shared", "mb"]);
        let shared = &list["data"][1];
        assert_eq!((&shared["provider"], &shared["endpoint"]), (&json!("one"), &json!("127.0.0.1:8001")));
        assert_eq!((&shared["endpoints"], &shared["meta"]["n_ctx"]), (&json!(["one", "two"]), &json!(1)));
        assert_eq!(catalog.offers("shared"), [0, 1]);
    }

    #[test]
    fn models_of_a_dead_endpoint_are_not_listed_but_still_known() {
        // S000-12
        let (catalog, list) = listing(vec![down(endpoint("one", &["ma"])), endpoint("two", &["mb"])]);
        assert_eq!(catalog.names().collect::<Vec<_>>(), ["mb"]);
        assert_eq!(list["data"].as_array().expect("data").len(), 1);
        assert_eq!(catalog.offers("ma"), [0]);
    }

    #[test]
    fn a_routers_command_lines_stay_at_home() {
        let recorded = include_str!("../../tests/data/router_models.raw");
        let body = recorded.split("\r\n\r\n").nth(1).expect("a body");
        let models = models_of(&serde_json::from_str(body).expect("JSON")).expect("a list");
        assert_eq!(models.len(), 4);
        let text = json!(models[0].fields).to_string();
        assert!(text.contains(r#""status":{"value":"unloaded"}"#) && !text.contains("/srv"), "{text}");
    }

    #[test]
    fn aliases_are_known_names_and_entries_count_by_name_without_id() {
        let list = json!({"data": [{"id": "a", "aliases": ["a", "b"]}, {"name": "c"}, {"x": 1}]});
        let mut one = endpoint("one", &[]);
        one.models = models_of(&list).ok().map(Arc::new);
        let (catalog, _) = listing(vec![one]);
        assert_eq!(catalog.names().collect::<Vec<_>>(), ["a", "c"]);
        assert!(entry(catalog.listed(), "b").is_some_and(|entry| entry.contains(r#""id":"a""#)));
        assert_eq!(catalog.offers("b"), [0]);
    }

    #[test]
    fn a_route_is_listed_as_an_alias_within_the_scope() {
        let endpoints = [Arc::new(endpoint("one", &["ma"])), Arc::new(endpoint("two", &["mb"]))];
        let backend = |endpoint: &str, model: &str| Backend {
            endpoint: endpoint.into(),
            model: Some(model.into()),
            weight: None,
            enabled: true,
        };
        let backends = vec![backend("one", "ma"), backend("two", "mb"), backend("one", "ma")];
        let routes = [Route { name: "fast".into(), strategy: None, backends }];
        let of = |scope: &Scope| {
            let list: Value =
                serde_json::from_slice(&super::listing(&listed(&endpoints, &routes, scope))).expect("JSON");
            list["data"].as_array().expect("data").clone()
        };
        let all = of(&Scope::default());
        assert_eq!(all.iter().map(|one| one["id"].clone()).collect::<Vec<_>>(), ["ma", "mb", "fast"]);
        assert_eq!((&all[2]["root"], &all[2]["aliases"]), (&json!("ma"), &json!(["ma", "mb"])));
        assert_eq!((&all[2]["endpoints"], &all[2]["meta"]["n_ctx"]), (&json!(["one", "two"]), &json!(1)));
        let narrow = of(&Scope { models: vec!["f*".into()], endpoints: vec!["two".into()], group: None });
        assert_eq!(narrow.len(), 1);
        assert_eq!((&narrow[0]["provider"], &narrow[0]["endpoints"]), (&json!("two"), &json!(["two"])));
        assert_eq!(narrow[0]["root"], json!("mb"));
    }

    #[test]
    fn what_is_no_list_is_no_catalogue() {
        for bad in [json!("x"), json!({"data": "x"}), json!({"data": [1]}), json!(null)] {
            assert!(models_of(&bad).is_err(), "{bad}");
        }
        // R09
        let table: [(&[u8], _); 7] = [
            (b"<!doctype html>", Err("is HTML")),
            (b"", Err("is not JSON")),
            (br#"{"data":["a","b"]}"#, Err("has no entry with an `id`")),
            (br#"{"error":{"message":"no"}}"#, Err("is an error")),
            (br#"{"object":"list"}"#, Err("has no `data`")),
            (br#"{"object":"list","data":null}"#, Ok(0)),
            (b"\xef\xbb\xbf{\"data\":[{\"id\":\"m\"}]}", Ok(1)),
        ];
        for (body, wanted) in table {
            assert_eq!(list_of(body).map(|models| models.len()), wanted, "{}", String::from_utf8_lossy(body));
        }
    }
}
