//! Model -> who offers it. Built whole from the endpoints of a snapshot, never changed. Pure.

use super::endpoint::{Endpoint, Model};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// Entries taken of one endpoint's list: more is a mistake or an attack.
pub const MOST_MODELS: usize = 2_000;
/// Longer names are no names.
const LONGEST_ID: usize = 512;

/// Who serves which name. Endpoints are indexes into the snapshot, in config order.
#[derive(Debug, Default)]
pub struct Catalog {
    offers: HashMap<String, Vec<usize>>,
    /// Names with an available endpoint, in config order, each once.
    names: Vec<String>,
    /// `/v1/models`, ready to be sent.
    pub listing: Arc<[u8]>,
    entries: HashMap<String, Arc<[u8]>>,
}

impl Catalog {
    /// The catalogue of these endpoints.
    pub fn new(endpoints: &[Arc<Endpoint>]) -> Self {
        let mut offers: HashMap<String, Vec<usize>> = HashMap::new();
        for (n, endpoint) in endpoints.iter().enumerate().filter(|(_, e)| e.config.enabled) {
            for name in endpoint.names() {
                let who = offers.entry(name.to_owned()).or_default();
                if who.last() != Some(&n) {
                    who.push(n);
                }
            }
        }
        let (mut names, mut list, mut entries) = (Vec::new(), Vec::new(), HashMap::new());
        for endpoint in endpoints.iter().filter(|e| e.is_available()) {
            for (id, fields) in listed(endpoint) {
                if entries.contains_key(id) {
                    continue;
                }
                let servers = offers.get(id).into_iter().flatten().map(|&n| &endpoints[n]);
                let servers: Vec<&str> = servers.filter(|e| e.is_available()).map(|e| e.name()).collect();
                let entry = entry(id, fields, endpoint, &servers);
                entries.insert(id.to_owned(), entry.to_string().into_bytes().into());
                names.push(id.to_owned());
                list.push(entry);
            }
        }
        let listing = json!({"object": "list", "data": list}).to_string().into_bytes().into();
        Self { offers, names, listing, entries }
    }

    /// The endpoints that serve a name, available or not; empty if nobody is known to.
    pub fn offers(&self, name: &str) -> &[usize] {
        self.offers.get(name).map_or(&[], Vec::as_slice)
    }

    /// Names that can be asked for now.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// One entry of the listing as JSON.
    pub fn entry(&self, name: &str) -> Option<Arc<[u8]>> {
        self.entries.get(name).cloned()
    }
}

/// What an endpoint puts on the list: its own entries, or bare names where the user configured them.
fn listed(endpoint: &Endpoint) -> Vec<(&str, Option<&Map<String, Value>>)> {
    let discovered = endpoint.models.as_deref().map(Vec::as_slice).unwrap_or_default();
    if endpoint.config.models.is_empty() {
        return discovered.iter().map(|m| (m.id.as_str(), Some(&m.fields))).collect();
    }
    let fields = |name: &str| discovered.iter().find(|m| m.id == name).map(|m| &m.fields);
    endpoint.config.models.iter().map(|name| (name.as_str(), fields(name))).collect()
}

fn entry(id: &str, fields: Option<&Map<String, Value>>, endpoint: &Endpoint, servers: &[&str]) -> Value {
    let mut entry = fields.cloned().unwrap_or_default();
    entry.insert("id".into(), json!(id));
    entry.insert("object".into(), json!("model"));
    entry.entry("owned_by").or_insert_with(|| json!(endpoint.name()));
    let base = &endpoint.config.base;
    entry.insert("provider".into(), json!(endpoint.name()));
    entry.insert("endpoint".into(), json!(format!("{}:{}", base.host, base.port)));
    entry.insert("endpoints".into(), json!(servers));
    Value::Object(entry)
}

/// The entries of an upstream's `/v1/models` answer: `data`, llama-server's router and plain lists.
/// `None` if it is no list of models.
pub fn models_of(answer: &Value) -> Option<Vec<Model>> {
    let list = answer.get("data").or_else(|| answer.get("models")).unwrap_or(answer).as_array()?;
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
    (list.is_empty() || !models.is_empty()).then_some(models)
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
        endpoint.models = models_of(&json!({"data": list})).map(Arc::new);
        endpoint
    }

    fn down(mut endpoint: Endpoint) -> Endpoint {
        endpoint.standing = endpoint.standing.observe(Observation::Down("x".into()), 1, SystemTime::UNIX_EPOCH);
        endpoint
    }

    fn listing(endpoints: Vec<Endpoint>) -> (Catalog, Value) {
        let endpoints: Vec<_> = endpoints.into_iter().map(Arc::new).collect();
        let catalog = Catalog::new(&endpoints);
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
        assert_eq!(catalog.names(), ["mb"]);
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
        one.models = models_of(&list).map(Arc::new);
        let (catalog, _) = listing(vec![one]);
        assert_eq!(catalog.names(), ["a", "c"]);
        assert_eq!(catalog.offers("b"), [0]);
    }

    #[test]
    fn what_is_no_list_is_no_catalogue() {
        for bad in [json!("x"), json!({"data": "x"}), json!({"data": [1]}), json!(null)] {
            assert_eq!(models_of(&bad), None, "{bad}");
        }
    }
}
