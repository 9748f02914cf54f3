//! `routing`, `models`, `groups` and `retry`.

use super::edits::{Edits, Stabilize, Variant};
use super::node::Value;
use super::reader::Field;
use super::shown::has_key;
use super::table::*;
use super::text::{header_value, matches, name};
use super::{Endpoint, Stages, endpoint};
use crate::util::secret::Secret;
use serde_json::{Value as Json, json};
use std::collections::HashMap;
use std::time::Duration;

words! {
    /// The order in which candidates are tried (SPEC section 5).
    pub enum Strategy {
        Failover = "failover" | "Failover" | "priority",
        // S001-05: the README writes U+2011, a non-breaking hyphen.
        RoundRobin = "round_robin" | "round-robin" | "round\u{2011}robin" | "roundrobin" | "RoundRobin" | "rr",
        /// Smooth weighted round-robin, as in nginx: 5:1:1 gives a a b a c a a.
        WeightedRoundRobin = "weighted_round_robin" | "weighted_roundrobin" | "wrr",
        Random = "random" | "weighted" | "Weighted",
        /// Fewest requests in flight relative to capacity first.
        LeastBusy = "least_busy" | "least_connections",
        /// The endpoint most likely to have the conversation in its cache first.
        Affinity = "affinity",
    }
}

impl Strategy {
    /// As in files, on `/health` and in `x-llmproxy-reason`.
    pub fn as_str(self) -> &'static str {
        self.word()
    }
}

table! {
    /// `routing`
    #[derive(Eq)]
    pub struct Routing {
        pub strategy: Strategy = Strategy::Failover, key("strategy", word());
        pub unknown_model: UnknownModel = UnknownModel::Error, key("unknownModel", word());
    }
}

words! {
    /// `routing.unknownModel`
    pub enum UnknownModel {
        /// Refresh the model lists once, then 404.
        Error = "error",
        /// As if no model were given.
        Default = "default",
        Passthrough = "passthrough",
    }
}

table! {
    /// One entry of `models`.
    #[derive(Eq)]
    pub struct Route (check = needs_backends) {
        pub name: String, internal();
        pub strategy: Option<Strategy>, key("strategy", optional(word()));
        /// One endpoint may be listed several times, with several models.
        pub backends: Vec<Backend>, key("backends", items(Backend::default()));
        pub edits: Edits, with(|edits, keys| edits.keys(keys));
        /// The same model under further names, each with its own edits.
        pub variants: Vec<Variant>, key("variants", variants());
        /// Other names for the model; `*` matches any text.
        pub patterns: Vec<String>, key("match", list(text(name)));
        pub stabilize: Option<Stabilize>, key("stabilize", optional(word()));
    }
}

fn needs_backends(route: &Route, section: &Field) {
    let others = ["set", "default", "remove", "variants", "match", "stabilize"].map(|key| section.get(key));
    let is_empty = |field: &Field| matches!(field.value(), Some(Value::Map(entries)) if entries.is_empty());
    // Invalid values count: they are reported by themselves.
    let has_others = others.iter().any(|field| field.is_given() && !is_empty(field));
    if !section.gives("backends") && !route.is_discovered() && !has_others {
        section.get("backends").problem("is missing");
    }
}

impl Route {
    /// Whether requests go to all endpoints that serve this name: the route has no backends, only other settings.
    pub fn is_discovered(&self) -> bool {
        let Self { backends, edits, variants, patterns, stabilize, .. } = self;
        let has_others =
            *edits != Edits::default() || !variants.is_empty() || !patterns.is_empty() || stabilize.is_some();
        backends.is_empty() && has_others
    }

    /// The route's name, then those of its variants.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let of_variant = |variant: &Variant| format!("{}{}", self.name, variant.ending());
        std::iter::once(self.name.clone()).chain(self.variants.iter().map(of_variant))
    }
}

table! {
    /// One entry of `models.NAME.backends`.
    #[derive(Eq)]
    pub struct Backend {
        pub endpoint: String, required("endpoint", reference("endpoint"));
        /// The model's name at the endpoint; `None` leaves the body unchanged.
        pub model: Option<String>, key("model", optional(text(name)));
        pub weight: Option<u16> = None, key("weight", optional(number("a weight", 1..=65_535)));
        pub enabled: bool = true, key("enabled", flag());
        /// Prefer this backend for prompts of fewer tokens, and try it last for others.
        pub under: Option<u64>, key("under", optional(tokens()));
        /// Whether the model accepts images; `None` = as the endpoint reports.
        pub vision: Option<bool>, key("vision", optional(flag()));
    }
}

/// A number of tokens: `4000` or `4k`.
pub(super) fn tokens() -> Kind<u64> {
    let parse = |text: &str| match text.strip_suffix(['k', 'K']) {
        Some(thousands) => thousands.trim_end().parse::<u64>().ok()?.checked_mul(1000),
        None => text.parse().ok(),
    };
    let read = move |value: &Value| {
        let tokens = value.measure(parse, |tokens| tokens).filter(|tokens| (1..=1_000_000_000).contains(tokens));
        tokens.ok_or_else(|| "is not a number of tokens (1 to 1000000000); write 4000 or 4k".into())
    };
    plain(read, |tokens| json!(tokens))
}

/// `models`
pub(super) fn models() -> Kind<Vec<Route>> {
    by_name(|route: &mut Route| &mut route.name)
}

/// `models.NAME.variants`
pub(super) fn variants() -> Kind<Vec<Variant>> {
    by_name(|variant: &mut Variant| &mut variant.suffix)
}

/// A map of sections by name; `name_of` is the field that holds the name.
fn by_name<T: Table + Default + 'static>(name_of: fn(&mut T) -> &mut String) -> Kind<Vec<T>> {
    let read = move |field: &Field| {
        let one = |(key, item): (&str, Field)| {
            if let Err(error) = name(key) {
                let shown = if has_key(key) { String::new() } else { format!(" {key:?}") };
                item.problem(format!("the name{shown} {error}"));
            }
            let mut one = T::default();
            *name_of(&mut one) = key.to_owned();
            read_section(&item, one, T::keys)
        };
        Some(field.named().map(one).collect())
    };
    let print = move |all: &Vec<T>| {
        Json::Object(all.iter().map(|one| (name_of(&mut one.clone()).clone(), printed(one))).collect())
    };
    Kind::new(read, print)
}

/// Reports names that two models share, and patterns that can never match because an earlier model has them.
pub(super) fn check_names(routes: &[Route], models: &Field) {
    let mut names: HashMap<String, &str> = routes.iter().map(|route| (route.name.clone(), &*route.name)).collect();
    for route in routes {
        let variants = models.item(&route.name).get("variants");
        for (name, variant) in route.names().skip(1).zip(&route.variants) {
            if let Some(other) = names.insert(name.clone(), &route.name)
                && !variant.suffix.is_empty()
            {
                let text = format!("gives the name {name:?}, which `models[{other}]` has too; rename one");
                variants.item(&variant.suffix).problem(text);
            }
        }
    }
    let mut earlier: Vec<(&str, &str)> = Vec::new();
    for (route, pattern) in routes.iter().flat_map(|route| route.patterns.iter().map(move |pattern| (route, pattern))) {
        let never = format!("{pattern:?} never counts");
        let section = models.item(&route.name);
        let warn = |text: String| section.warn(format!("models[{}].match: {never}: {text}", route.name));
        if let Some(other) = names.get(pattern).filter(|other| **other != route.name) {
            warn(format!("it is a name of `models[{other}]`"));
        }
        match earlier.iter().find(|(wider, first)| *first != route.name && matches(wider, pattern)) {
            Some((same, first)) if same == pattern => {
                let text = format!("{never}: it also stands in `models[{first}]`, which comes first");
                section.get("match").problem(text);
            }
            Some((wider, first)) => {
                warn(format!("{wider:?} of `models[{first}]`, which comes first, matches the same names"));
            }
            None => {}
        }
        earlier.push((pattern, &route.name));
    }
}

table! {
    /// `retry`
    pub struct Retry (check = check_delays) {
        /// In total; `None` = `auto`, one per candidate.
        pub attempts: Option<u32> = None,
            key("attempts", or_word("auto", None, optional(number("auto or a number", 1..=101))));
        pub initial_delay: Duration = Duration::from_millis(500), key("initialDelay", time(ANY_TIME));
        pub max_delay: Duration = Duration::from_secs(10), key("maxDelay", time(ANY_TIME));
        pub on: Vec<RetryOn> = RetryOn::WORDS.iter().map(|(_, on)| *on).collect(), key("on", list(word()));
    }
}

words! {
    /// `retry.on`: the failures after which the next candidate is tried.
    pub enum RetryOn {
        Connect = "connect",
        /// The connection was closed before an answer.
        Reset = "reset",
        /// No first byte in time.
        Timeout = "timeout",
        /// 408, 429, or any 5xx except 501 and 505.
        Status = "status",
    }
}

fn check_delays(retry: &Retry, section: &Field) {
    if retry.initial_delay > retry.max_delay {
        section.problem("`initialDelay` is longer than `maxDelay`");
    }
}

table! {
    /// One entry of `groups`: endpoints with their own settings.
    pub struct Group (check = group) {
        pub name: String, required("name", unique("group"));
        pub endpoints: Vec<Member>, required("endpoints", items(Member::default()));
        pub strategy: Option<Strategy>, key("strategy", optional(word()));
        /// Overrides the global `retry`.
        pub retry: Option<Retry>, key("retry", optional(section()));
        /// Override those of the endpoints, stage by stage.
        pub timeouts: Stages, key("timeouts", section());
        pub user_agent: Option<String>, key("userAgent", optional(text(header_value)));
        pub proxy: Option<Secret>, with(endpoint::proxy);
        pub stream: bool = true, key("stream", flag());
        /// How long idle connections to endpoints are kept; zero closes them at once. S002-15: documented default.
        pub keep_alive: Duration = Duration::from_secs(60), key("keepAlive", time(ANY_TIME));
    }
}

table! {
    /// One entry of `groups[].endpoints`.
    #[derive(Eq)]
    pub struct Member {
        pub endpoint: String, required("name", reference("endpoint"));
        pub weight: Option<u16> = None, key("weight", optional(number("a weight", 1..=65_535)));
    }
}

fn group(group: &mut Group, section: &Field) {
    if !section.gives("retry") {
        group.retry = None;
    }
    let field = section.get("endpoints");
    for (n, (item, member)) in field.items().into_iter().flatten().zip(&group.endpoints).enumerate() {
        if group.endpoints[..n].iter().any(|other| other.endpoint == member.endpoint && !other.endpoint.is_empty()) {
            item.problem(format!("{:?} is in this group already", member.endpoint));
        }
    }
}

impl Group {
    /// The endpoint with this group's settings; `None` if it is not a member.
    pub fn view(&self, endpoint: &Endpoint) -> Option<Endpoint> {
        let member = self.endpoints.iter().find(|member| member.endpoint == endpoint.name)?;
        let mut view = endpoint.clone();
        view.weight = member.weight.unwrap_or(view.weight);
        view.timeouts = self.timeouts.over(&view.timeouts);
        view.user_agent = self.user_agent.clone().or(view.user_agent);
        view.proxy = self.proxy.clone().or(view.proxy);
        view.keep_alive = self.keep_alive;
        view.stream = self.stream;
        Some(view)
    }
}
