//! What the user wants, complete and checked: plain data that every other room may read.
//!
//! Knows nothing of sockets, threads or requests. `load` reads files, `node` is what a file said, `reader` walks
//! it, `check` turns it into a [`Config`] or into every [`Problem`] at once, `show` prints it back.

mod check;
mod defaults;
mod env;
pub mod load;
mod node;
mod overrides;
mod problem;
mod reader;
pub mod show;
mod spelling;

pub use overrides::Overrides;
pub use problem::Problem;

use crate::base::secret::Secret;
use std::net::IpAddr;
use std::time::Duration;

/// A whole, checked configuration. `Config::default()` is what an empty file means.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// The main listener and its limits.
    pub server: Server,
    /// Places to send to, in the order of the file. Names are unique.
    pub endpoints: Vec<Endpoint>,
    /// How endpoints are probed.
    pub health_check: HealthCheck,
    /// How long a list of models is fresh.
    pub cache: Cache,
    /// Stage time-outs; each endpoint holds its own copy with its overrides applied.
    pub timeouts: Timeouts,
    /// What happens to a model by default.
    pub routing: Routing,
    /// When another try is made.
    pub retry: Retry,
    /// What is logged.
    pub log: Log,
}

/// `server`: the main listener and the bounds of everything a client can make us hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Address or name to listen on; `::` is IPv6 and IPv4.
    pub host: String,
    /// TCP port; 0 takes a free one.
    pub port: u16,
    /// Threads of the proxy lane: requests in progress at once.
    pub workers: usize,
    /// Complete requests waiting for a worker.
    pub backlog: usize,
    /// Open client connections.
    pub max_connections: usize,
    /// Open connections of one client address.
    pub per_client: usize,
    /// Bytes of one request body.
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
    /// `scheme://host[:port]`, lower case.
    Origin(String),
}

/// An address or a CIDR block of `server.trustedProxies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// First address.
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
    /// Time between lines.
    pub every: Duration,
}

/// One entry of `endpoints`.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Unique name.
    pub name: String,
    /// Where it is.
    pub base: Base,
    /// `false`: neither probed, listed nor counted.
    pub enabled: bool,
    /// What the health thread asks.
    pub probe: Probe,
    /// Keys sent to the endpoint, used in turn.
    pub api_keys: Vec<Secret>,
    /// How a key (or password) is sent.
    pub auth: Auth,
    /// Changes to request headers, in order.
    pub headers: Vec<HeaderOp>,
    /// Names served; empty = ask the endpoint.
    pub models: Vec<String>,
    /// Used for `auto`, an empty or a missing model.
    pub default_model: Option<String>,
    /// What happens upstream when the client leaves.
    pub on_client_gone: OnClientGone,
    /// Stage time-outs with the endpoint's overrides applied.
    pub timeouts: Timeouts,
    /// HTTP proxy for outgoing calls, `http://[user:pass@]host:port`; holds a password, hence a secret.
    pub proxy: Option<Secret>,
    /// `User-Agent` sent when the client sent none.
    pub user_agent: Option<String>,
}

impl Endpoint {
    /// An endpoint with an address and nothing else, as four lines of configuration give it.
    pub fn plain(name: impl Into<String>, host: impl Into<String>, port: u16) -> Self {
        Self {
            name: name.into(),
            base: Base::plain(host, port),
            enabled: true,
            probe: Probe::Default,
            api_keys: Vec::new(),
            auth: Auth::None,
            headers: Vec::new(),
            models: Vec::new(),
            default_model: None,
            on_client_gone: OnClientGone::Cancel,
            timeouts: Timeouts::default(),
            proxy: None,
            user_agent: None,
        }
    }
}

/// The parts of an endpoint's URL. Built by `check` from `address` + `port` or from `url`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// `https` or `http`.
    pub tls: bool,
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path put before paths outside `/v1` (`/health`, `/props`): no trailing slash, maybe empty.
    pub root: String,
    /// Path that stands for `/v1`: `root` + `/v1`, or the given path when it names a version itself
    /// (`/api/v1`, `/v1beta/openai`, `/api/coding/v3`). No trailing slash.
    pub api: String,
}

impl Base {
    /// The base of an address and a port.
    pub fn plain(host: impl Into<String>, port: u16) -> Self {
        Self { tls: false, host: host.into(), port, root: String::new(), api: "/v1".into() }
    }
}

/// What the health thread asks an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// `healthCheck: false`: never probed, counts as available.
    Never,
    /// `healthCheck.path`.
    Default,
    /// The endpoint's own `healthCheckPath`.
    Path(String),
}

/// `endpoints[].auth`
#[derive(Debug, Clone, PartialEq)]
pub enum Auth {
    /// Nothing is sent.
    None,
    /// `Authorization: Bearer KEY`; the default when a key is given.
    Bearer,
    /// `Authorization: Basic base64(username:password)`.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// `NAME: KEY`.
    Header {
        /// Lower-case header name.
        name: String,
    },
}

/// One entry of `endpoints[].headers`.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderOp {
    /// What is done.
    pub op: Op,
    /// Lower-case header name.
    pub key: String,
    /// New value; empty for `Remove`. Often a key, hence a secret.
    pub value: Secret,
}

/// `op` of a header change [S002-10].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Set only if absent.
    Insert,
    /// Set, adding if absent.
    Replace,
    /// Take away.
    Remove,
}

/// `endpoints[].onClientGone`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnClientGone {
    /// Close the upstream connection at once.
    Cancel,
    /// Read the answer to its end.
    Finish,
}

/// `healthCheck`
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    /// Time between rounds.
    pub interval: Duration,
    /// Time for one probe.
    pub timeout: Duration,
    /// Path asked when an endpoint names none.
    pub path: String,
    /// Failures in a row that make an endpoint unhealthy, at least 1.
    pub failure_threshold: u32,
}

/// `cache`: see [`Config::models_ttl`].
#[derive(Debug, Clone, PartialEq)]
pub struct Cache {
    /// Age at which a list of models is asked again; `Some(0)` = every round.
    pub ttl: Option<Duration>,
    /// The same as a multiple of `healthCheck.interval`.
    pub ttl_multiplier: Option<f64>,
}

/// `timeouts`: one limit per stage; `None` = no limit (0 in the file).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// DNS, TCP and TLS together.
    pub connect: Option<Duration>,
    /// From the request sent to the head of the answer.
    pub first_byte: Option<Duration>,
    /// Silence inside an answer.
    pub idle: Option<Duration>,
    /// A whole answer that is not streamed.
    pub total: Option<Duration>,
}

/// `routing`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    /// Default strategy.
    pub strategy: Strategy,
    /// What is done with a name that nobody serves.
    pub unknown_model: UnknownModel,
}

/// The order in which candidates are tried (SPEC section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// As configured.
    Failover,
}

/// `routing.unknownModel`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownModel {
    /// One refresh, then 404.
    Error,
    /// As if no model was named.
    Default,
    /// Any endpoint, body untouched.
    Passthrough,
}

/// `retry`
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Tries in total; `None` = `auto`, as many as there are candidates.
    pub attempts: Option<u32>,
    /// Delay before the second round.
    pub initial_delay: Duration,
    /// Longest delay, and longest `Retry-After` that is waited for.
    pub max_delay: Duration,
    /// Could not connect: next candidate.
    pub on_connect: bool,
    /// Closed before an answer: next candidate.
    pub on_reset: bool,
    /// No first byte in time: next candidate.
    pub on_timeout: bool,
    /// 408, 429, 500, 502, 503, 504: next candidate.
    pub on_status: bool,
}

/// `log`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `error` to `debug`.
    pub level: log::LevelFilter,
    /// `text` or `json`.
    pub format: LogFormat,
    /// One line per request.
    pub access: bool,
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line.
    Text,
    /// One JSON object per line.
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
    /// Age at which a list of models is asked again: the smaller of both options, the interval when
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
}
