//! An endpoint as configured: its address, how it is probed, what is sent to it.

use super::{CaFile, Timeouts};
use crate::util::secret::Secret;
use std::time::Duration;

/// One entry of `endpoints`.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub name: String,
    pub base: Base,
    /// `false`: neither probed, listed nor counted.
    pub enabled: bool,
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
    /// Its share with a strategy that uses weights, at least 1.
    pub weight: u16,
    /// Requests in progress there at once.
    pub max_concurrent: MaxConcurrent,
    /// What happens upstream when the client disconnects.
    pub on_client_gone: OnClientGone,
    /// Stage time-outs with the endpoint's overrides applied.
    pub timeouts: Timeouts,
    /// HTTP proxy for outgoing calls, `http://[user:pass@]host:port`; holds a password, hence a secret.
    pub proxy: Option<Secret>,
    /// `User-Agent` sent when the client sent none.
    pub user_agent: Option<String>,
    /// Authorities whose certificates are trusted here besides the built-in ones.
    pub ca_file: Option<CaFile>,
    /// `timeouts.total` does not bound answers that are streamed. Only a group can change it.
    pub stream: bool,
    /// How long idle connections are kept. Only a group can change it.
    pub keep_alive: Duration,
}

/// cpp-httplib, the server in llama-server, closes idle connections after 5 s.
pub const KEEP_ALIVE: Duration = Duration::from_secs(3);

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
            weight: 1,
            max_concurrent: MaxConcurrent::Auto,
            on_client_gone: OnClientGone::Cancel,
            timeouts: Timeouts::default(),
            proxy: None,
            user_agent: None,
            ca_file: None,
            stream: true,
            keep_alive: KEEP_ALIVE,
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
    pub port: u16,
    /// The path as given, no trailing slash: the prefix of raw paths.
    pub given: String,
    /// Path put before paths outside `/v1` (`/health`, `/props`): no trailing slash, maybe empty.
    pub root: String,
    /// Path that stands for `/v1`: `root` + `/v1`, or the given path when it names a version itself
    /// (`/api/v1`, `/v1beta/openai`, `/api/coding/v3`). No trailing slash.
    pub api: String,
}

impl Base {
    /// The base of an address and a port.
    pub fn plain(host: impl Into<String>, port: u16) -> Self {
        Self { tls: false, host: host.into(), port, given: String::new(), root: String::new(), api: "/v1".into() }
    }
}

/// The path that the health thread probes.
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
    None,
    /// `Authorization: Bearer KEY`; the default when a key is given.
    Bearer,
    /// `Authorization: Basic base64(username:password)`.
    Basic {
        username: String,
        password: Secret,
    },
    /// `NAME: KEY`.
    Header {
        name: String,
    },
}

/// One entry of `endpoints[].headers`.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderOp {
    pub op: Op,
    pub key: String,
    /// New value; empty for `Remove`. Often a key, hence a secret.
    pub value: Secret,
}

/// `op` of a header change [S002-10].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Set only if absent.
    Insert,
    Replace,
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

/// `endpoints[].maxConcurrent`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxConcurrent {
    /// llama-server's `total_slots` if it reports them, else no limit.
    Auto,
    /// No limit.
    Unlimited,
    /// At least 1.
    Most(u32),
}
