//! What is thought of an endpoint: changed only by `observe`, never by guessing. Pure.

use std::time::SystemTime;

/// An endpoint's state, as `/health` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not asked yet: given the benefit of the doubt [S000-29].
    Unknown,
    /// The last probe succeeded.
    Healthy,
    /// Failed, but not yet often enough in a row.
    Failing,
    /// Failed `failureThreshold` times in a row.
    Unhealthy,
    /// `503 Loading model`: alive, not usable yet.
    Loading,
    /// A probe timed out while our own requests make progress there.
    Busy,
}

impl State {
    /// The word in `/health` and on the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Failing => "failing",
            Self::Unhealthy => "unhealthy",
            Self::Loading => "loading",
            Self::Busy => "busy",
        }
    }
}

/// What a probe, or a real request, found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// It answered 2xx in time.
    Up,
    /// It did not; why.
    Down(String),
    /// Nothing listens there: like `Down`, and whatever it had in memory is gone.
    Refused(String),
    /// It answered that its model is being loaded.
    Loading,
    /// It did not answer, but it is working for us.
    Busy,
}

impl Observation {
    /// Whether it tells that the endpoint was started anew since it served last, or will be.
    pub fn is_restart(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Loading)
    }
}

/// The standing of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// State.
    pub state: State,
    /// Failures in a row; grows past the threshold [S000-29].
    pub failures: u32,
    /// When it was last asked.
    pub last_check: Option<SystemTime>,
    /// What was wrong last; none after a success [S000-30].
    pub last_error: Option<String>,
}

impl Default for Standing {
    fn default() -> Self {
        Self { state: State::Unknown, failures: 0, last_check: None, last_error: None }
    }
}

impl Standing {
    /// The standing after an observation; `threshold` failures in a row make it unhealthy.
    #[must_use]
    pub fn observe(&self, seen: Observation, threshold: u32, at: SystemTime) -> Self {
        let last_check = Some(at);
        match seen {
            Observation::Up => Self { state: State::Healthy, failures: 0, last_check, last_error: None },
            Observation::Loading => {
                let last_error = Some("the model is being loaded".to_owned());
                Self { state: State::Loading, failures: self.failures, last_check, last_error }
            }
            // Busy is not dead, and not proof of health either: what was known stays known.
            Observation::Busy => {
                let state = if self.state == State::Unhealthy { State::Unhealthy } else { State::Busy };
                Self { state, last_check, ..self.clone() }
            }
            Observation::Down(why) | Observation::Refused(why) => {
                let failures = self.failures.saturating_add(1);
                let state = if failures >= threshold { State::Unhealthy } else { State::Failing };
                Self { state, failures, last_check, last_error: Some(why) }
            }
        }
    }

    /// Whether requests may be sent there.
    pub fn is_available(&self) -> bool {
        matches!(self.state, State::Unknown | State::Healthy | State::Failing | State::Busy)
    }

    /// The `healthy` of `/health`: everything but down; loading counts as alive but not as healthy.
    pub fn is_healthy(&self) -> bool {
        self.is_available()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn after(seen: &[Observation]) -> Standing {
        seen.iter().fold(Standing::default(), |standing, o| standing.observe(o.clone(), 3, NOW))
    }

    fn down() -> Observation {
        Observation::Down("refused".into())
    }

    #[test]
    fn the_nth_failure_in_a_row_is_unhealthy_and_one_success_heals() {
        // S000-07
        assert!(after(&[down(), down()]).is_available());
        let gone = after(&[down(), down(), down(), down()]);
        assert_eq!((gone.state, gone.failures, gone.is_available()), (State::Unhealthy, 4, false));
        assert_eq!(gone.last_error.as_deref(), Some("refused"));
        let back = gone.observe(Observation::Up, 3, NOW);
        assert_eq!((back.state, back.failures, back.last_error), (State::Healthy, 0, None));
    }

    #[test]
    fn failures_count_only_in_a_row() {
        assert_eq!(after(&[down(), down(), Observation::Up, down(), down()]).state, State::Failing);
    }

    #[test]
    fn loading_is_no_failure_and_not_available() {
        let loading = after(&[down(), Observation::Loading]);
        assert_eq!((loading.state, loading.failures, loading.is_available()), (State::Loading, 1, false));
        assert!(loading.observe(Observation::Up, 3, NOW).is_available());
    }

    #[test]
    fn busy_is_never_dead_and_never_heals_the_dead() {
        let busy = after(&[Observation::Up, Observation::Busy, Observation::Busy, Observation::Busy]);
        assert_eq!((busy.state, busy.is_available()), (State::Busy, true));
        let dead = after(&[down(), down(), down(), Observation::Busy]);
        assert!(!dead.is_available());
    }

    #[test]
    fn before_the_first_probe_an_endpoint_is_given_a_chance() {
        // S000-29
        let new = Standing::default();
        assert!(new.is_healthy() && new.last_check.is_none() && new.failures == 0);
    }
}
