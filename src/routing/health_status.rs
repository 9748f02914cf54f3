//! The health of an endpoint: changed only by `observe`, never by guessing. Pure.

use std::time::SystemTime;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum State {
    /// Not asked yet: given the benefit of the doubt [S000-29].
    #[default]
    Unknown,
    Healthy,
    /// Failed, but not yet often enough in a row; or its list of models is none.
    Failing,
    /// Failed `failureThreshold` times in a row.
    Unhealthy,
    /// `503 Loading model`: alive, not usable yet.
    Loading,
    /// A probe timed out while our own requests make progress there.
    Busy,
    /// No connection can be made, and a magic packet may help (`wake`).
    Asleep,
    /// Asleep, and requests wait for it. Only shown, see `Endpoint::state`.
    Waking,
}

impl State {
    /// The word in `/health` and on the log.
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
    /// It answered 2xx in time.
    Up,
    Down(String),
    /// Like `Down`: no connection could be made.
    Unreachable(String),
    /// Nothing listens there: like `Unreachable`, and whatever it had in memory is gone.
    Refused(String),
    /// It answered that its model is being loaded.
    Loading,
    /// It did not answer, but it is working for us.
    Busy,
    /// It answered 2xx, but its list of models is none.
    NoList {
        why: String,
        /// No other source says which models it serves.
        needed: bool,
    },
}

impl Observation {
    /// Whether the endpoint was restarted since it served last, or is being restarted.
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
    /// Failures in a row; grows past the threshold [S000-29].
    pub(crate) failures: u32,
    pub(crate) last_check: Option<SystemTime>,
    /// What was wrong last; none after a success [S000-30].
    pub(crate) last_error: Option<String>,
    /// The last probe was answered with success.
    pub(crate) answered: bool,
    /// Out until a probe succeeds, however few failures there were.
    pub(crate) is_out: bool,
}

impl HealthStatus {
    /// The status after an observation; `threshold` failures in a row make it unhealthy, and an endpoint that is out
    /// comes back only by a success.
    #[must_use]
    pub(crate) fn observe(&self, seen: Observation, threshold: u32, at: SystemTime) -> Self {
        let healthy = Self { state: State::Healthy, last_check: Some(at), answered: true, ..Self::default() };
        let same = Self { last_check: Some(at), ..self.clone() };
        match seen {
            Observation::Up => healthy,
            // Not a failure that adds up: the endpoint answers, and explicit routes may still use it.
            Observation::NoList { why, needed: true } => {
                Self { state: State::Failing, failures: 1, last_error: Some(why), ..healthy }
            }
            Observation::NoList { why, needed: false } => Self { last_error: Some(why), ..healthy },
            Observation::Loading => {
                let last_error = Some("the model is being loaded".to_owned());
                Self { state: State::Loading, last_error, answered: false, ..same }
            }
            // Busy is not dead, and not proof of health either: what was known stays known.
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

    /// The same for an endpoint that a request could not connect to.
    #[must_use]
    pub(crate) fn taken_out(self) -> Self {
        Self { is_out: true, ..self }
    }

    /// The same for an endpoint that can be woken.
    #[must_use]
    pub(crate) fn asleep(self) -> Self {
        Self { state: State::Asleep, ..self }
    }

    /// The same with its last failure taken back, so that a repetition of that failure counts once.
    #[must_use]
    pub(crate) fn uncounted(&self) -> Self {
        Self { failures: self.failures.saturating_sub(1), ..self.clone() }
    }

    pub(crate) fn is_available(&self) -> bool {
        self.is_healthy() && !self.is_out
    }

    /// The `healthy` of `/health`: fewer failures in a row than the threshold [S000-07], and not loading.
    pub(crate) fn is_healthy(&self) -> bool {
        matches!(self.state, State::Unknown | State::Healthy | State::Failing | State::Busy)
    }
}

#[cfg(test)]
mod tests;
