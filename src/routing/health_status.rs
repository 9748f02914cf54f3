//! The health of an endpoint, a state machine driven by `observe`. Pure.

use std::time::SystemTime;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum State {
    /// Not probed yet; treated as healthy [S000-29].
    #[default]
    Unknown,
    Healthy,
    /// Some failures, but fewer than `failureThreshold` in a row, or an unusable model list.
    Failing,
    /// Failed `failureThreshold` times in a row.
    Unhealthy,
    /// `503 Loading model`: alive, but not usable yet.
    Loading,
    /// A probe timed out while our requests make progress.
    Busy,
    /// Unreachable, and `wake` is configured.
    Asleep,
    /// Asleep, and requests are waiting for it. Only shown, see `Endpoint::state`.
    Waking,
}

impl State {
    /// As in `/health` and the log.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Failing => "failing",
            Self::Unhealthy => "unhealthy",
            Self::Loading => "loading",
            Self::Busy => "busy",
            Self::Asleep => "asleep",
            Self::Waking => "waking",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// 2xx in time.
    Up,
    Down(String),
    /// Like `Down`; no connection could be made.
    Unreachable(String),
    /// Like `Unreachable`; the connection was refused, so the server's memory is lost.
    Refused(String),
    /// 503 with a loading message.
    Loading,
    /// The probe timed out, but our requests make progress.
    Busy,
    /// 2xx, but not a model list.
    NoList {
        why: String,
        /// The models are not known from the configuration either.
        needed: bool,
    },
}

impl Observation {
    /// Whether the server was restarted, or is being restarted, since its last success.
    pub(crate) fn is_restart(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Loading)
    }

    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Refused(_))
    }

    pub(crate) fn is_failure(&self) -> bool {
        self.is_unreachable() || matches!(self, Self::Down(_))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct HealthStatus {
    pub(crate) state: State,
    /// Failures in a row; not capped at the threshold [S000-29].
    pub(crate) failures: u32,
    pub(crate) last_check: Option<SystemTime>,
    /// The latest error; `None` after a success [S000-30].
    pub(crate) last_error: Option<String>,
    /// The last probe succeeded.
    pub(crate) answered: bool,
    /// Unavailable until a probe succeeds, however few failures there were.
    pub(crate) is_out: bool,
}

impl HealthStatus {
    /// The status after an observation. `threshold` failures in a row make an endpoint unhealthy, and only a success
    /// makes it healthy again.
    #[must_use]
    pub(crate) fn observe(&self, seen: Observation, threshold: u32, at: SystemTime) -> Self {
        let healthy = Self { state: State::Healthy, last_check: Some(at), answered: true, ..Self::default() };
        let same = Self { last_check: Some(at), ..self.clone() };
        match seen {
            Observation::Up => healthy,
            // Not counted as a failure: the endpoint answers, and routes that name it can still use it.
            Observation::NoList { why, needed: true } => {
                Self { state: State::Failing, failures: 1, last_error: Some(why), ..healthy }
            }
            Observation::NoList { why, needed: false } => Self { last_error: Some(why), ..healthy },
            Observation::Loading => {
                let last_error = Some("the model is being loaded".to_owned());
                Self { state: State::Loading, last_error, answered: false, ..same }
            }
            // Proves neither health nor failure, so the rest stays as it is.
            Observation::Busy if self.is_available() => Self { state: State::Busy, ..same },
            Observation::Busy => same,
            Observation::Down(why) | Observation::Unreachable(why) | Observation::Refused(why) => {
                let failures = self.failures.saturating_add(1);
                let state = if failures >= threshold { State::Unhealthy } else { State::Failing };
                let is_out = !self.is_available();
                Self { state, failures, last_error: Some(why), answered: false, is_out, ..same }
            }
        }
    }

    /// The status after a request could not connect.
    #[must_use]
    pub(crate) fn taken_out(self) -> Self {
        Self { is_out: true, ..self }
    }

    /// The status of an endpoint with `wake` after that.
    #[must_use]
    pub(crate) fn asleep(self) -> Self {
        Self { state: State::Asleep, ..self }
    }

    /// Takes the last failure back, so that repeating the probe counts once.
    #[must_use]
    pub(crate) fn uncounted(&self) -> Self {
        Self { failures: self.failures.saturating_sub(1), ..self.clone() }
    }

    pub(crate) fn is_available(&self) -> bool {
        self.is_healthy() && !self.is_out
    }

    /// `healthy` in `/health`: fewer failures in a row than the threshold [S000-07], and not loading.
    pub(crate) fn is_healthy(&self) -> bool {
        matches!(self.state, State::Unknown | State::Healthy | State::Failing | State::Busy)
    }
}

#[cfg(test)]
mod tests;
