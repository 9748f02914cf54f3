//! Format 003: `Models`, each with its strategy and backends. Property names are read in any case.

use super::{UniqueNames, any_name, endpoint, key, open, unless_empty, url, weight};
use crate::config::node::Value;
use crate::config::reader::{Field, Section};
use crate::config::table::{Kind, flag, items, list, optional, read_section, reference};
use crate::config::text::no_key;
use crate::config::{Backend, Base, Config, Endpoint, Probe, Route, Strategy};
use crate::util::secret::Secret;
use std::collections::HashSet;
use std::time::Duration;

table! {
    struct File {
        models: Vec<(String, Model)> = Vec::new(), key("models", models());
    }
}

table! {
    struct Model {
        strategy: Strategy = Strategy::RoundRobin, key("strategy", strategy());
        backends: Vec<ModelBackend> = Vec::new(), key("backends", items(ModelBackend::default()));
    }
}

table! {
    struct ModelBackend (check = backend) {
        name: String = String::new(), key("name", any_name());
        /// The name of an endpoint of the configuration, instead of a `baseUrl`.
        endpoint: Option<String> = None, key("endpoint", optional(unless_empty(reference("endpoint"))));
        base_url: Option<Base> = None, key("baseUrl", optional(unless_empty(url())));
        api_keys: Vec<Secret> = Vec::new(), key("apiKeys", list(key()));
        model: String = String::new(), key("backendModelName", any_name());
        weight: u16 = 1, key("weight", weight());
        enabled: bool = true, key("enabled", flag());
    }
}

fn backend(_: &ModelBackend, section: &Section) {
    let says = |key: &str| section.gives(key) && !section.find(key).is_word("");
    if !says("endpoint") && !says("baseUrl") {
        section.problem("needs a `BaseUrl`, or an `Endpoint` of the configuration");
    }
}

/// `Models`: a map whose keys are the names of models.
fn models() -> Kind<Vec<(String, Model)>> {
    let read = |field: &Field| {
        let model = |(name, item): (&str, Field)| {
            if name.is_empty() {
                item.problem("a model needs a name");
            } else if let Err(error) = no_key(name) {
                item.problem(format!("the name {error}"));
            }
            (name.to_owned(), read_section(&item, Model::default()))
        };
        Some(field.named().map(model).collect())
    };
    Kind::new(read, |_| ().into())
}

/// S003-02: a word, or the number that the original writes; missing = 0.
fn strategy() -> Kind<Strategy> {
    const WORDS: [(&str, Strategy); 3] =
        [("RoundRobin", Strategy::RoundRobin), ("Failover", Strategy::Failover), ("Weighted", Strategy::Random)];
    let read = |field: &Field| match field.value() {
        Some(Value::Number(_)) => field.read(|value| {
            let known = value.whole().and_then(|number| WORDS.get(usize::try_from(number).ok()?));
            known
                .map(|(_, strategy)| *strategy)
                .ok_or_else(|| "is not 0 (RoundRobin), 1 (Failover) or 2 (Weighted)".into())
        }),
        _ => field.parse(|text| {
            let known = WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
            known.map(|(_, strategy)| *strategy).ok_or_else(|| "is not Failover, RoundRobin or Weighted".into())
        }),
    };
    Kind::new(read, |strategy| strategy.as_str().into())
}

pub(super) fn read(root: &Field) -> Config {
    let mut config = open(1852);
    // S003-21
    config.timeouts.first_byte = Some(Duration::from_secs(180));
    config.timeouts.total = config.timeouts.first_byte;
    add(root, &mut config);
    // That format probes no endpoint [S003-21].
    config.endpoints.iter_mut().for_each(|endpoint| endpoint.probe = Probe::Never);
    if config.endpoints.is_empty() {
        root.diagnostics().warn("no model has a backend yet; add one on the page, or to a model's `Backends`");
    }
    config
}

/// Adds routes, and an endpoint for each new address with its keys.
pub(in crate::config) fn add(root: &Field, config: &mut Config) {
    let file = read_section(root, File::default());
    let replaced: HashSet<_> = file.models.iter().map(|(name, _)| name.as_str()).collect();
    config.models.retain(|route| !replaced.contains(route.name.as_str()));
    let (own, mut names) = (config.endpoints.len(), UniqueNames::of(&config.endpoints));
    for (name, model) in &file.models {
        let backends = model.backends.iter().map(|one| Backend {
            endpoint: one.endpoint.clone().unwrap_or_else(|| served_by(one, name, config, own, &mut names)),
            model: Some(one.model.clone()).filter(|model| !model.is_empty()),
            weight: Some(one.weight),
            enabled: one.enabled,
        });
        let backends = backends.collect();
        config.models.push(Route { name: name.clone(), strategy: Some(model.strategy), backends });
    }
}

/// The endpoint of a backend's address and keys; the first `own` are the configuration's and stay unchanged.
fn served_by(backend: &ModelBackend, model: &str, config: &mut Config, own: usize, names: &mut UniqueNames) -> String {
    let base = backend.base_url.clone().unwrap_or_else(|| Base::plain("", 1));
    // The same backend under several models is one endpoint.
    let same = |other: &Endpoint| other.base == base && other.api_keys == backend.api_keys;
    let at = config.endpoints[own..].iter().position(same).map(|at| own + at).unwrap_or_else(|| {
        let number = config.endpoints.len() + 1;
        let name = if backend.name.is_empty() { format!("backend-{number}") } else { backend.name.clone() };
        let mut one = endpoint(names.unique(name), base.clone(), backend.api_keys.clone());
        one.timeouts = config.timeouts;
        one.probe = if config.admin.probe { Probe::Default } else { Probe::Never };
        one.enabled = false;
        config.endpoints.push(one);
        number - 1
    });
    let used = &mut config.endpoints[at];
    // An endpoint that no model uses is not even probed.
    used.enabled |= backend.enabled;
    if !used.models.iter().any(|known| known == model) {
        used.models.push(model.to_owned());
    }
    used.name.clone()
}
