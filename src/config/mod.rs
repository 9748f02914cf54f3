//! The configuration: plain, checked data that every other module may read.
//!
//! Knows nothing of sockets, threads or requests. `load` reads files, `node` is what a file said, `reader` walks it, the
//! tables of `sections`, `endpoint`, `access` and `routes` say which keys there are, `check` turns a file into a [`Config`]
//! or into every [`Problem`] at once, `print` prints it back.

#[macro_use]
mod table;

mod access;
mod address;
mod check;
mod edits;
mod endpoint;
mod env;
pub(crate) mod features;
mod format;
#[cfg_attr(not(feature = "legacy"), path = "../without/legacy.rs")]
mod legacy;
pub mod load;
mod node;
mod overrides;
mod own;
pub mod print;
mod problem;
mod reader;
mod routes;
mod sections;
mod shown;
mod text;
mod wake;

pub use access::{ClientKey, KeyText, KeysFor, Listener, ListenerPolicy, Mode, RateLimit};
pub use address::{Base, CorsOrigin, Network};
pub use edits::{Edits, Stabilize, Variant};
pub use endpoint::{Auth, CaFile, Endpoint, HeaderOp, MaxConcurrent, OnClientGone, Op, Probe};
pub use env::dotenv;
pub use load::system_authorities;
pub use overrides::Overrides;
pub use problem::Problem;
pub use routes::{Backend, Group, Member, Retry, RetryOn, Route, Routing, Strategy, UnknownModel};
pub use sections::{
    Admin, Cache, HealthCheck, Jobs, Log, LogFormat, Metrics, Queue, Server, SsePing, Stages, Timeouts, Webhooks,
};
pub(crate) use table::{Words, meaning};
pub(crate) use text::matches;
pub use wake::{Mac, Prefer, Wake};

use reader::Field;
use std::time::Duration;
use table::{items, optional, section};

table! {
    /// A whole, checked configuration. `Config::default()` is what an empty file means.
    pub struct Config as config (check = whole) {
        pub server: Server, with(|server, keys| {
            keys.within("server", |keys| {
                server.keys(keys);
                config.policy.group_and_mode(keys);
            });
        });
        /// The policy of the main listener.
        pub policy: ListenerPolicy, internal();
        pub timeouts: Timeouts, key("timeouts", section());
        /// Each with its own time-outs, overrides applied.
        pub endpoints: Vec<Endpoint>,
            key("endpoints", items(Endpoint { timeouts: config.timeouts, ..Endpoint::default() }));
        pub health_check: HealthCheck, key("healthCheck", section());
        pub cache: Cache, key("cache", sections::cache());
        pub routing: Routing, key("routing", section());
        /// Names with a route of their own. Unique.
        pub models: Vec<Route>, key("models", routes::models());
        pub queue: Queue, key("queue", section());
        /// The proxy is open if there are none.
        pub keys: Vec<ClientKey>, with(access::keys);
        pub retry: Retry, key("retry", section());
        /// Sets of endpoints with settings of their own.
        pub groups: Vec<Group>,
            key("groups", items(Group { retry: Some(config.retry.clone()), ..Group::default() }));
        /// Additional listeners.
        pub listeners: Vec<Listener>, key("listeners", items(Listener::default()));
        pub metrics: Metrics, with(|metrics, keys| {
            keys.key(&mut config.policy.rate_limit, "rateLimit", optional(section()));
            keys.key(metrics, "metrics", section());
        });
        pub jobs: Jobs, key("jobs", section());
        pub admin: Admin, key("admin", section());
        pub log: Log, key("log", section());
    }
}

/// Besides the main listener and that of the page; the event loop serves 64.
const MOST_LISTENERS: usize = 62;

/// Checks that concern several sections.
fn whole(config: &Config, root: &Field) {
    routes::check_names(&config.models, &root.get("models"));
    if !root.gives("endpoints") {
        root.get("endpoints").problem(format!("at least one is needed; a useful file is\n{MINIMAL}"));
    }
    if config.listeners.len() > MOST_LISTENERS {
        root.get("listeners").problem(format!("are more than {MOST_LISTENERS}"));
    }
    if !config.endpoints.is_empty() && config.endpoints.iter().all(|endpoint| !endpoint.enabled) {
        root.warn("every endpoint is switched off (`enabled: false`)");
    }
    let is_routed = |name: &str| config.models.iter().flat_map(|route| &route.backends).any(|one| one.endpoint == name);
    let sleepers = config.endpoints.iter().filter(|endpoint| endpoint.wake.is_some() && config.knows_models());
    for Endpoint { name, .. } in sleepers.filter(|endpoint| endpoint.models.is_empty() && !is_routed(&endpoint.name)) {
        root.warn(format!(
            "endpoint {name}: its models are unknown until it was awake once since the start; name them in `models`, \
            so that `wake` works from the first request on"
        ));
    }
    if config.admin.enabled && config.admin.port.is_none() && config.policy.mode != Mode::Models {
        root.problem("`admin` needs a `port` of its own: with this `server.mode` the main address does not serve it");
    }
}

/// The shortest useful configuration.
pub const MINIMAL: &str = "\
endpoints:
  - name: server1
    address: 127.0.0.1
    port: 8001
";

impl Config {
    /// The maximum age of a model list: the smaller of both options, or the probe interval if neither is set
    /// [S000-09].
    pub fn models_ttl(&self) -> Duration {
        let interval = self.health_check.interval;
        let multiple = self.cache.ttl_multiplier.map(|times| interval.mul_f64(times));
        self.cache.ttl.into_iter().chain(multiple).min().unwrap_or(interval)
    }

    /// Whether any listener routes by model; raw listeners need no lists of models.
    pub fn knows_models(&self) -> bool {
        let policies = self.listeners.iter().map(|listener| &listener.policy).chain([&self.policy]);
        policies.into_iter().any(|policy| policy.mode == Mode::Models)
    }
}
