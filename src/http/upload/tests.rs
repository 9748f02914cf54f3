//! Unit tests of `min_rate`.

use super::*;
use crate::util::time;

const SECOND: Duration = Duration::from_secs(1);

/// The second in which a body is refused that brings `bytes(n)` in its n-th second.
fn refused(bytes: impl Fn(u32) -> usize) -> Option<u32> {
    let start = time::now();
    let mut min_rate = MinRate::new(10 * SECOND, start);
    (1..=200).find(|n| {
        let now = start + *n * SECOND;
        min_rate.moved(bytes(*n), now);
        let refused = min_rate.refusal(now).is_some();
        assert_eq!(refused, min_rate.next_look(now) <= now, "a refusal is not waited for");
        refused
    })
}

// A18
#[test]
fn silence_and_slowness_are_both_refused_and_honest_clients_are_not() {
    assert_eq!(refused(|_| 500), None);
    assert_eq!(refused(|_| 0), Some(10));
    assert_eq!(refused(|_| 499), Some(10));
    assert_eq!(refused(|n| if n % 5 == 0 { 2500 } else { 0 }), None, "four silent seconds, then what is due");
}

// U38
#[test]
fn what_came_before_buys_no_time() {
    assert!(refused(|n| if n == 1 { 32 << 20 } else { 1 }).is_some_and(|n| n <= 14));
    assert!(refused(|n| if n == 1 { 32 << 20 } else { usize::from(n % 9 == 0) }).is_some_and(|n| n <= 14));
    assert!(refused(|n| if n <= 100 { 1 << 20 } else { 100 }).is_some_and(|n| n <= 113));
    assert_eq!(refused(|n| if n == 1 { 32 << 20 } else { 0 }), Some(11), "silence counts to the moment");
}

// U38
#[test]
fn framing_is_no_progress() {
    let start = time::now();
    let mut min_rate = MinRate::new(10 * SECOND, start);
    min_rate.moved(9000, start);
    for n in 1..25 {
        min_rate.ask(start + (n - 1) * SECOND * 2 / 5);
        min_rate.moved(0, start + n * SECOND * 2 / 5);
    }
    assert!(min_rate.refusal(start + 9 * SECOND).is_none());
    assert!(min_rate.refusal(start + 10 * SECOND).is_some());
}

#[test]
fn a_client_that_nobody_asked_is_not_slow() {
    let start = time::now();
    let mut min_rate = MinRate::new(10 * SECOND, start);
    min_rate.moved(1000, start + SECOND);
    min_rate.ask(start + 100 * SECOND);
    assert!(min_rate.refusal(start + 102 * SECOND).is_none(), "1,000 bytes in 3 s");
    min_rate.moved(1, start + 109 * SECOND);
    assert!(min_rate.refusal(start + 112 * SECOND).is_some(), "1,001 bytes in 13 s");
}
