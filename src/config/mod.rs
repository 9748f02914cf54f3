//! The configuration, complete and checked: plain data that every other module may read.
//!
//! Knows nothing of sockets, threads or requests. `load` reads files, `node` is what a file said, `reader` walks
//! it, `check` turns it into a [`Config`] or into every [`Problem`] at once, `print` prints it back.

mod admin;
mod authorities;
mod check;
mod defaults;
mod endpoint;
mod env;
pub(crate) mod features;
mod format;
mod gateway;
mod jobs;
mod keys;
#[cfg_attr(not(feature = "legacy"), path = "../without/legacy.rs")]
mod legacy;
pub mod load;
mod node;
mod overrides;
pub mod print;
mod problem;
mod reader;
mod routing;
mod shown;
mod spelling;

pub use admin::Admin;
pub use authorities::CaFile;
pub use endpoint::{Auth, Base, Endpoint, HeaderOp, KEEP_ALIVE, MaxConcurrent, OnClientGone, Op, Probe};
pub use env::dotenv;
pub use gateway::{Group, KeysFor, Listener, ListenerPolicy, Member, Metrics, Mode, Stages};
pub use jobs::{Jobs, Webhooks};
pub use keys::{ClientKey, KeyText, RateLimit};
pub use load::system_authorities;
pub use overrides::Overrides;
pub use problem::Problem;
pub use routing::{Backend, Queue, Retry, Route, Routing, Strategy, UnknownModel};

use std::net::IpAddr;
use std::time::Duration;

/// A whole, checked configuration. `Config::default()` is what an empty file means.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// The main listener and its limits.
    pub server: Server,
    /// In the order of the file. Names are unique.
    pub endpoints: Vec<Endpoint>,
    pub health_check: HealthCheck,
    /// How long a list of models is fresh.
    pub cache: Cache,
    /// Stage time-outs; each endpoint holds its own copy with its overrides applied.
    pub timeouts: Timeouts,
    /// The default for every model.
    pub routing: Routing,
    /// Names with a route of their own. Unique.
    pub models: Vec<Route>,
    /// Requests that wait for a slot at an endpoint.
    pub queue: Queue,
    /// Sets of endpoints with settings of their own. Names are unique.
    pub groups: Vec<Group>,
    /// What clients may do at the main listener.
    pub policy: ListenerPolicy,
    /// More addresses to listen on. Names are unique.
    pub listeners: Vec<Listener>,
    pub metrics: Metrics,
    pub jobs: Jobs,
    pub admin: Admin,
    /// `auth.keys`; without any the proxy is open. Names are unique.
    pub keys: Vec<ClientKey>,
    pub retry: Retry,
    pub log: Log,
}

/// `server`: the main listener and the limits on what a client can make the proxy hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Address or name to listen on; `::` is IPv6 and IPv4.
    pub host: String,
    /// TCP port; 0 takes a free one.
    pub port: u16,
    /// Threads of the proxy pool: requests in progress at once.
    pub workers: usize,
    /// Complete requests waiting for a worker.
    pub backlog: usize,
    pub max_connections: usize,
    /// Open connections of one client address.
    pub per_client: usize,
    pub max_body: u64,
    /// Bytes of all request bodies together.
    pub body_memory: u64,
    /// Time for a whole head, from its first byte.
    pub head_timeout: Duration,
    /// Silence while a body is sent.
    pub body_timeout: Duration,
    /// Idle time of a kept connection.
    pub keep_alive: Duration,
    /// Time without progress while writing to a client.
    pub write_timeout: Duration,
    /// How long requests in progress may take to finish at a stop.
    pub drain_timeout: Duration,
    /// Origins whose pages may read our answers.
    pub cors: Vec<CorsOrigin>,
    /// More names that a loopback listener without keys may be called by.
    pub allowed_hosts: Vec<String>,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// Comment lines on silent streams; `None` is off.
    pub sse_ping: Option<SsePing>,
}

/// One entry of `server.cors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigin {
    /// `local`: pages served from a loopback address.
    Local,
    /// `*`
    Any,
    /// `scheme://*`, lower case: every page of a browser extension or a desktop program.
    Scheme(String),
    /// `scheme://host[:port]`, lower case.
    Origin(String),
}

/// An address or a CIDR block of `server.trustedProxies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    pub address: IpAddr,
    /// Leading bits that count: 0..=32 or 0..=128.
    pub prefix: u8,
}

impl Network {
    /// Whether an address lies in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |ip: IpAddr| match ip.to_canonical() {
            IpAddr::V4(v4) => (32, u128::from(v4.to_bits())),
            IpAddr::V6(v6) => (128, v6.to_bits()),
        };
        let ((width, ours), (other, theirs)) = (bits(self.address), bits(address));
        let shift = width - u32::from(self.prefix).min(width);
        width == other && (ours ^ theirs).checked_shr(shift).unwrap_or(0) == 0
    }
}

/// `server.ssePing`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SsePing {
    /// Silence since the request before the first line.
    pub after: Duration,
    pub every: Duration,
}

/// `healthCheck`
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    pub interval: Duration,
    pub timeout: Duration,
    /// Path of a probe when an endpoint names none.
    pub path: String,
    /// Failures in a row that make an endpoint unhealthy, at least 1.
    pub failure_threshold: u32,
}

/// `cache`: see [`Config::models_ttl`].
#[derive(Debug, Clone, PartialEq)]
pub struct Cache {
    /// Age at which a list of models is read again; `Some(0)` = every round.
    pub ttl: Option<Duration>,
    /// The same as a multiple of `healthCheck.interval`.
    pub ttl_multiplier: Option<f64>,
}

/// `timeouts`: one limit per stage; `None` = no limit (0 in the file).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Option<Duration>,
    /// From the request sent to the head of the answer.
    pub first_byte: Option<Duration>,
    pub idle: Option<Duration>,
    /// A whole answer that is not streamed.
    pub total: Option<Duration>,
}

/// `log`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `error` to `debug`.
    pub level: log::LevelFilter,
    /// `text` or `json`.
    pub format: LogFormat,
    pub access: bool,
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
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
        match (self.cache.ttl, multiple) {
            (Some(a), Some(b)) => a.min(b),
            (Some(a), None) | (None, Some(a)) => a,
            (None, None) => interval,
        }
    }

    /// Whether any listener routes by model; raw listeners need no lists of models.
    pub fn knows_models(&self) -> bool {
        self.listeners
            .iter()
            .map(|listener| &listener.policy)
            .chain([&self.policy])
            .any(|policy| policy.mode == Mode::Models)
    }
}
