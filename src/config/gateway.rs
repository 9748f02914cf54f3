//! Groups of endpoints, and the listeners in front of them.

use super::{CorsOrigin, Endpoint, RateLimit, Retry, Strategy, Timeouts};
use crate::util::secret::Secret;
use std::time::Duration;

/// One entry of `groups`: a set of endpoints with settings of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub name: String,
    /// At least one.
    pub endpoints: Vec<Member>,
    /// Instead of `routing.strategy`.
    pub strategy: Option<Strategy>,
    /// Instead of `retry`.
    pub retry: Option<Retry>,
    /// Instead of the endpoints' own, stage by stage.
    pub timeouts: Stages,
    /// `User-Agent` sent when the client sent none, instead of the endpoints' own.
    pub user_agent: Option<String>,
    /// HTTP proxy for outgoing calls, instead of the endpoints' own.
    pub proxy: Option<Secret>,
    /// `timeouts.total` does not bound answers that are streamed.
    pub stream: bool,
    /// How long idle connections to endpoints are kept; zero = not at all.
    pub keep_alive: Duration,
}

/// One entry of `groups[].endpoints`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub endpoint: String,
    pub weight: Option<u16>,
}

/// Limits that replace an endpoint's own: `None` keeps that one, zero is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stages {
    /// See [`Timeouts`].
    pub connect: Option<Duration>,
    /// See [`Timeouts`].
    pub first_byte: Option<Duration>,
    /// See [`Timeouts`].
    pub idle: Option<Duration>,
    /// See [`Timeouts`].
    pub total: Option<Duration>,
}

impl Stages {
    /// `base`, overridden by these.
    pub fn over(&self, base: &Timeouts) -> Timeouts {
        let limit = |ours: Option<Duration>, theirs| match ours {
            None => theirs,
            Some(Duration::ZERO) => None,
            some => some,
        };
        Timeouts {
            connect: limit(self.connect, base.connect),
            first_byte: limit(self.first_byte, base.first_byte),
            idle: limit(self.idle, base.idle),
            total: limit(self.total, base.total),
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

/// An address to listen on: the main one (`server`), or one entry of `listeners`.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Unique name; the main one is `main`.
    pub name: String,
    /// Address or name to listen on.
    pub host: String,
    /// TCP port; 0 takes a free one.
    pub port: u16,
    pub policy: ListenerPolicy,
}

/// What clients may do at an address.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ListenerPolicy {
    /// Name of the group behind it; none = all endpoints.
    pub group: Option<String>,
    /// Which of `auth.keys` it accepts.
    pub keys: KeysFor,
    pub rate_limit: Option<RateLimit>,
    pub mode: Mode,
    /// Instead of `server.cors`; at a raw listener, instead of what the endpoints say.
    pub cors: Option<Vec<CorsOrigin>>,
}

/// `listeners[].keys`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum KeysFor {
    /// All of `auth.keys`.
    #[default]
    Inherit,
    Nobody,
    Only(Vec<String>),
}

/// `listeners[].mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Models,
    /// Everything is passed to the group's endpoints unchanged.
    Raw,
    /// `/health` and `/metrics` only, the former as the text `OK`.
    Status,
}

/// `metrics`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metrics {
    /// `GET /metrics` is served.
    pub enabled: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { enabled: true }
    }
}
