//! The configuration, complete and checked: plain data that every other module may read.
//!
//! Knows nothing of sockets, threads or requests. `load` reads files, `node` is what a file said, `reader` walks it, the
//! tables of `sections`, `endpoint`, `access` and `routes` say which keys there are, `check` turns a file into a [`Config`]
//! or into every [`Problem`] at once, `print` prints it back.

#[macro_use]
mod table;

mod access;
mod address;
mod check;
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

pub use access::{ClientKey, KeyText, KeysFor, Listener, ListenerPolicy, Mode, RateLimit};
pub use address::{Base, CorsOrigin, Network};
pub use endpoint::{Auth, CaFile, Endpoint, HeaderOp, MaxConcurrent, OnClientGone, Op, Probe};
pub use env::dotenv;
pub use load::system_authorities;
pub use overrides::Overrides;
pub use problem::Problem;
pub use routes::{Backend, Group, Member, Retry, Route, Routing, Strategy, UnknownModel};
pub use sections::{
    Admin, Cache, HealthCheck, Jobs, Log, LogFormat, Metrics, Queue, Server, SsePing, Stages, Timeouts, Webhooks,
};

use std::time::Duration;
use table::{Keys, Table, items, optional, section};

/// A whole, checked configuration. `Config::default()` is what an empty file means.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    pub server: Server,
    /// What clients may do at the main listener.
    pub policy: ListenerPolicy,
    /// Stage time-outs; each endpoint holds its own copy with its overrides applied.
    pub timeouts: Timeouts,
    /// In the order of the file. Names are unique.
    pub endpoints: Vec<Endpoint>,
    pub health_check: HealthCheck,
    pub cache: Cache,
    pub routing: Routing,
    /// Names with a route of their own. Unique.
    pub models: Vec<Route>,
    pub queue: Queue,
    /// `auth.keys`; without any the proxy is open. Names are unique.
    pub keys: Vec<ClientKey>,
    pub retry: Retry,
    /// Sets of endpoints with settings of their own. Names are unique.
    pub groups: Vec<Group>,
    /// More addresses to listen on. Names are unique.
    pub listeners: Vec<Listener>,
    pub metrics: Metrics,
    pub jobs: Jobs,
    pub admin: Admin,
    pub log: Log,
}

impl Table for Config {
    fn keys(&mut self, keys: &mut Keys) {
        keys.within("server", |keys| {
            self.server.keys(keys);
            self.policy.group_and_mode(keys);
        });
        keys.key(&mut self.timeouts, "timeouts", section());
        let plain = Endpoint { timeouts: self.timeouts, ..Endpoint::default() };
        keys.key(&mut self.endpoints, "endpoints", items(plain));
        keys.key(&mut self.health_check, "healthCheck", section());
        keys.key(&mut self.cache, "cache", sections::cache());
        keys.key(&mut self.routing, "routing", section());
        keys.key(&mut self.models, "models", routes::models());
        keys.key(&mut self.queue, "queue", section());
        keys.within("auth", |keys| keys.key(&mut self.keys, "keys", items(ClientKey::default())));
        keys.read(|section| access::refuse_twins(&self.keys, section));
        keys.key(&mut self.retry, "retry", section());
        let plain = Group { retry: Some(self.retry.clone()), ..Group::default() };
        keys.key(&mut self.groups, "groups", items(plain));
        keys.key(&mut self.listeners, "listeners", items(Listener::default()));
        keys.key(&mut self.policy.rate_limit, "rateLimit", optional(section()));
        keys.key(&mut self.metrics, "metrics", section());
        keys.key(&mut self.jobs, "jobs", section());
        keys.key(&mut self.admin, "admin", section());
        keys.key(&mut self.log, "log", section());
    }
}

/// A useful file in four lines.
pub const MINIMAL: &str = "\
endpoints:
  - name: server1
    address: 127.0.0.1
    port: 8001
";

impl Config {
    /// Age at which a list of models is read again: the smaller of both options, the interval when
    /// neither is set [S000-09].
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
