//! Routes, strategies, retries and the queue.

use std::time::Duration;

/// `routing`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    pub strategy: Strategy,
    /// What happens to a name that no endpoint serves.
    pub unknown_model: UnknownModel,
}

/// The order in which candidates are tried (SPEC section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    Failover,
    RoundRobin,
    /// In turn by weight, smoothly: 5:1:1 gives a a b a c a a.
    WeightedRoundRobin,
    Random,
    /// Fewest in flight for its capacity first.
    LeastBusy,
    /// The one that most likely still has the conversation in its cache.
    Affinity,
}

impl Strategy {
    /// The word in files, on `/health` and as `x-llmproxy-reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::RoundRobin => "round_robin",
            Self::WeightedRoundRobin => "weighted_round_robin",
            Self::Random => "random",
            Self::LeastBusy => "least_busy",
            Self::Affinity => "affinity",
        }
    }
}

/// One entry of `models`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The name that clients ask for.
    pub name: String,
    /// Instead of `routing.strategy`.
    pub strategy: Option<Strategy>,
    /// One endpoint may be listed several times, with several models.
    pub backends: Vec<Backend>,
}

/// One entry of `models.NAME.backends`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    pub endpoint: String,
    /// The name it knows the model by; `None` leaves the body as it is.
    pub model: Option<String>,
    pub weight: Option<u16>,
    /// `false`: not used.
    pub enabled: bool,
}

/// `queue`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Requests that may wait for a slot.
    pub length: usize,
    pub timeout: Duration,
}

/// `routing.unknownModel`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownModel {
    /// One refresh, then 404.
    Error,
    /// As if no model was named.
    Default,
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
    pub on_connect: bool,
    /// Closed before an answer: next candidate.
    pub on_reset: bool,
    /// No first byte in time: next candidate.
    pub on_timeout: bool,
    /// 408, 429, any 5xx but 501 and 505: next candidate.
    pub on_status: bool,
}
