//! Unit tests of `health_status`.

use super::*;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

/// `u` up, `d` down, `c` no connection, `r` refused, `l` loading, `b` busy, `n` no list.
fn seen(letter: char) -> Observation {
    match letter {
        'u' => Observation::Up,
        'd' => Observation::Down("down".into()),
        'c' => Observation::Unreachable("no connection".into()),
        'r' => Observation::Refused("refused".into()),
        'l' => Observation::Loading,
        'b' => Observation::Busy,
        _ => Observation::NoList { why: "no list".into(), needed: true },
    }
}

fn after(letters: &str) -> HealthStatus {
    letters.chars().fold(HealthStatus::default(), |health, letter| health.observe(seen(letter), 3, NOW))
}

#[test]
fn observations_in_a_row_make_a_state_and_a_count() {
    // S8, C17, S000-07, S000-29
    let table = [
        ("", State::Unknown, 0),
        ("u", State::Healthy, 0),
        ("d", State::Failing, 1),
        ("dd", State::Failing, 2),
        ("ddd", State::Unhealthy, 3),
        ("drdr", State::Unhealthy, 4),
        ("cdc", State::Unhealthy, 3),
        ("ddddu", State::Healthy, 0),
        ("ddudd", State::Failing, 2),
        // Loading is not a failure; one that fails while it loads is not back.
        ("dl", State::Loading, 1),
        ("lu", State::Healthy, 0),
        ("ld", State::Failing, 1),
        ("lddd", State::Unhealthy, 3),
        // Busy keeps what is known, and brings nobody back.
        ("ubbb", State::Busy, 0),
        ("dbd", State::Failing, 2),
        ("dbdbd", State::Unhealthy, 3),
        ("dddb", State::Unhealthy, 3),
        ("lb", State::Loading, 0),
        // R09: a list that is none never takes an endpoint out, and does not add up.
        ("nnnn", State::Failing, 1),
        ("dddn", State::Failing, 1),
        ("nu", State::Healthy, 0),
    ];
    for (letters, state, failures) in table {
        let health = after(letters);
        assert_eq!((health.state, health.failures), (state, failures), "{letters}");
    }
}

#[test]
fn one_that_was_taken_out_at_once_comes_back_only_by_a_success() {
    // L2, L3; the threshold is for what `/health` calls healthy.
    for out in [after("ud").taken_out(), after("ur").taken_out(), after("ld")] {
        assert_eq!((out.state, out.failures, out.is_available()), (State::Failing, 1, false));
        for still in ['d', 'r', 'b', 'l'] {
            assert!(!out.observe(seen(still), 3, NOW).is_available(), "{still}");
        }
        for back in ['u', 'n'] {
            assert!(out.observe(seen(back), 3, NOW).is_available(), "{back}");
        }
    }
}

#[test]
fn a_failure_that_is_taken_back_and_seen_again_counts_once() {
    // L3
    let once = after("d");
    assert_eq!(once.uncounted().observe(seen('r'), 3, NOW).failures, 1);
    assert_eq!(after("").uncounted().failures, 0);
}

#[test]
fn the_last_error_is_what_was_wrong_last() {
    // S000-30
    let error = |letters: &str| after(letters).last_error;
    assert_eq!((error("dr").as_deref(), error("dru")), (Some("refused"), None));
    assert_eq!(error("un").as_deref(), Some("no list"));
    let listed = after("u").observe(Observation::NoList { why: "x".into(), needed: false }, 3, NOW);
    assert_eq!((listed.state, listed.failures, listed.last_error.as_deref()), (State::Healthy, 0, Some("x")));
}

#[test]
fn before_the_first_probe_an_endpoint_is_given_a_chance() {
    // S000-29
    let new = HealthStatus::default();
    assert!(new.is_healthy() && new.last_check.is_none() && new.failures == 0 && !new.answered);
}

// Issue 14, section 3
#[test]
fn an_endpoint_that_is_asleep_is_out_until_a_probe_succeeds() {
    let asleep = after("uc").asleep();
    assert_eq!(
        (asleep.state, asleep.failures, asleep.is_available(), asleep.is_healthy()),
        (State::Asleep, 1, false, false)
    );
    for (letters, available) in [("u", true), ("lu", true), ("d", false), ("l", false), ("b", false), ("du", true)] {
        let later = letters.chars().fold(asleep.clone(), |health, letter| health.observe(seen(letter), 3, NOW));
        assert_eq!(later.is_available(), available, "{letters}");
    }
}
