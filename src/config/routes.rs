//! What goes where: strategies, routes, groups, retries.

use super::reader::Field;
use super::shown::has_key;
use super::table::*;
use super::text::{header_value, name};
use super::{Endpoint, Stages, endpoint};
use crate::util::secret::Secret;
use serde_json::Value as Json;
use std::time::Duration;

words! {
    /// The order in which candidates are tried (SPEC section 5).
    pub enum Strategy {
        Failover = "failover" | "Failover" | "priority",
        // S001-05: that README writes U+2011, a hyphen that does not break a line.
        RoundRobin = "round_robin" | "round-robin" | "round\u{2011}robin" | "roundrobin" | "RoundRobin" | "rr",
        /// In turn by weight, smoothly: 5:1:1 gives a a b a c a a.
        WeightedRoundRobin = "weighted_round_robin" | "weighted_roundrobin" | "wrr",
        Random = "random" | "weighted" | "Weighted",
        /// Fewest in flight for its capacity first.
        LeastBusy = "least_busy" | "least_connections",
        /// The one that most likely still has the conversation in its cache.
        Affinity = "affinity",
    }
}

impl Strategy {
    /// The word in files, on `/health` and as `x-llmproxy-reason`.
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
        /// One refresh, then 404.
        Error = "error",
        /// As if no model was named.
        Default = "default",
        Passthrough = "passthrough",
    }
}

table! {
    /// One entry of `models`.
    #[derive(Eq)]
    pub struct Route {
        /// The name that clients ask for.
        pub name: String, internal();
        pub strategy: Option<Strategy>, key("strategy", optional(word()));
        /// One endpoint may be listed several times, with several models.
        pub backends: Vec<Backend>, required("backends", items(Backend::default()));
    }
}

table! {
    /// One entry of `models.NAME.backends`.
    #[derive(Eq)]
    pub struct Backend {
        pub endpoint: String, required("endpoint", reference("endpoint"));
        /// The name it knows the model by; `None` leaves the body as it is.
        pub model: Option<String>, key("model", optional(text(name)));
        pub weight: Option<u16> = None, key("weight", optional(number("a weight", 1..=65_535)));
        pub enabled: bool = true, key("enabled", flag());
    }
}

/// `models`: a map whose keys are the names of models.
pub(super) fn models() -> Kind<Vec<Route>> {
    let read = |field: &Field| {
        let route = |(model, item): (&str, Field)| {
            if let Err(error) = name(model) {
                let shown = if has_key(model) { String::new() } else { format!(" {model:?}") };
                item.problem(format!("the name{shown} {error}"));
            }
            read_section(&item, Route { name: model.into(), ..Route::default() }, Route::keys)
        };
        Some(field.named().map(route).collect())
    };
    let print = |routes: &Vec<Route>| Json::Object(routes.iter().map(|one| (one.name.clone(), printed(one))).collect());
    Kind::new(read, print)
}

table! {
    /// `retry`
    pub struct Retry as retry (check = check_delays) {
        /// Tries in total; `None` = `auto`, as many as there are candidates.
        pub attempts: Option<u32> = None,
            key("attempts", or_word("auto", None, optional(number("auto or a number", 1..=101))));
        pub initial_delay: Duration = Duration::from_millis(500), key("initialDelay", time(ANY_TIME));
        pub max_delay: Duration = Duration::from_secs(10), key("maxDelay", time(ANY_TIME));
        pub on_connect: bool = true, internal();
        /// Closed before an answer: next candidate.
        pub on_reset: bool = true, internal();
        /// No first byte in time: next candidate.
        pub on_timeout: bool = true, internal();
        /// 408, 429, any 5xx but 501 and 505: next candidate.
        pub on_status: bool = true, with(|status, keys| {
            let mut on = [retry.on_connect, retry.on_reset, retry.on_timeout, *status];
            keys.key(&mut on, "on", reasons());
            [retry.on_connect, retry.on_reset, retry.on_timeout, *status] = on;
        });
    }
}

fn check_delays(retry: &Retry, section: &Field) {
    if retry.initial_delay > retry.max_delay {
        section.problem("`initialDelay` is longer than `maxDelay`");
    }
}

/// What makes the next candidate be tried: which of these words are listed.
fn reasons() -> Kind<[bool; 4]> {
    let Kind { read, print } = list(choice(&[("connect", 0), ("reset", 1), ("timeout", 2), ("status", 3)]));
    let read = move |field: &Field| read(field, None).map(|listed| [0, 1, 2, 3].map(|reason| listed.contains(&reason)));
    Kind::new(read, move |on| print(&(0..4).filter(|reason| on[*reason]).collect()))
}

table! {
    /// One entry of `groups`: a set of endpoints with settings of its own.
    pub struct Group (check = group) {
        pub name: String, required("name", unique("group"));
        pub endpoints: Vec<Member>, required("endpoints", items(Member::default()));
        pub strategy: Option<Strategy>, key("strategy", optional(word()));
        /// Instead of `retry`, whose values are the defaults.
        pub retry: Option<Retry>, key("retry", optional(section()));
        /// Instead of the endpoints' own, stage by stage.
        pub timeouts: Stages, key("timeouts", section());
        pub user_agent: Option<String>, key("userAgent", optional(text(header_value)));
        pub proxy: Option<Secret>, with(endpoint::proxy);
        pub stream: bool = true, key("stream", flag());
        /// How long idle connections to endpoints are kept; zero = not at all. S002-15: documented default.
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
    /// An endpoint as this group uses it, if it is a member.
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
