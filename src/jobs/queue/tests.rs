//! Unit tests of `queue`.

use super::*;
use crate::util::time;

fn name(queue: &mut Queue, id: &str) -> Name {
    let sequence = queue.next_sequence(1000);
    Name { sequence, id: id.into(), owner: "0".into(), state: State::Pending, number: 0, webhook_pending: false }
}

fn run() -> Running {
    Running { cancel: Arc::default(), until: time::now(), reason: None }
}

#[test]
fn jobs_run_in_the_order_they_came_and_positions_are_true() {
    let mut queue = Queue::default();
    for id in ["a", "b", "c", "d"] {
        let name = name(&mut queue, id);
        queue.put(&name, 1);
    }
    assert_eq!(["a", "b", "c", "d"].map(|id| queue.position(id, 2)), [0, 0, 1, 2]);
    assert_eq!(queue.start(2, run).map(|name| name.id), Some("a".into()));
    assert_eq!(queue.start(2, run).map(|name| name.id), Some("b".into()));
    assert!(queue.start(2, run).is_none());
    assert_eq!(["a", "b", "c", "d"].map(|id| queue.position(id, 2)), [0, 0, 1, 2]);
    assert_eq!((queue.active(), queue.waiting(), queue.counts()), (2, 2, [2, 2, 0, 0]));
    assert_eq!(queue.name("a").map(|name| (name.state, name.number)), Some((State::Processing, 1)));
    queue.interrupt("a", StopReason::Cancelled);
    queue.interrupt("a", StopReason::Stopping);
    assert_eq!(queue.done("a"), Some(StopReason::Cancelled));
    let ended = queue.name("a").expect("known").to(State::Error, 5);
    queue.put(&ended, 3);
    assert_eq!(queue.start(2, run).map(|name| name.id), Some("c".into()));
    assert_eq!(queue.counts(), [1, 2, 0, 1]);
}

#[test]
fn finished_jobs_go_by_age_and_never_those_that_wait() {
    let mut queue = Queue::default();
    for (id, state, ended) in [("w", State::Pending, 0), ("x", State::Completed, 10), ("y", State::Error, 20)] {
        let name = name(&mut queue, id).to(state, ended);
        queue.put(&name, 100);
    }
    assert!(queue.expired(10, 0).is_empty());
    assert_eq!(queue.expired(11, 0), ["x".into()]);
    assert_eq!(queue.expired(99, 0).len(), 2);
    // No room: the oldest finished one first.
    assert_eq!(queue.expired(0, MOST_BYTES - 250), ["x".into()]);
    assert!(!queue.has_room(MOST_BYTES));
    queue.take_out("x");
    assert_eq!((queue.counts(), queue.bytes), ([1, 0, 0, 1], 200));
    let listed = |before| queue.of("0", before).map(|name| name.id.to_string()).collect::<Vec<_>>();
    assert_eq!(listed(u64::MAX), ["y", "w"]);
    assert_eq!(listed(queue.name("y").expect("known").sequence), ["w"]);
    assert_eq!(queue.of("1", u64::MAX).count(), 0);
}

// S16: with 30,000 waiting all positions are listed, and all are removed, while one pass over all for each would take minutes.
#[test]
fn places_in_a_long_line_are_no_work() {
    let mut queue = Queue::default();
    for n in 0..30_000 {
        let name = name(&mut queue, &n.to_string());
        queue.put(&name, 1);
        assert_eq!(queue.position(&name.id, 0), n + 1);
    }
    let all: Vec<_> = queue.of("0", u64::MAX).collect();
    assert!((0..30_000).rev().eq(all.iter().map(|name| queue.position(&name.id, 0) - 1)));
    all.iter().for_each(|name| drop(queue.take_out(&name.id)));
    assert!(queue.waiting.is_empty() && queue.owners.is_empty());
}

#[test]
fn two_jobs_of_one_millisecond_keep_their_order_and_a_clock_that_goes_back_changes_none() {
    let mut queue = Queue::default();
    let all = [5000, 5000, 4000, 6000].map(|millis| queue.next_sequence(millis));
    assert!(all.is_sorted_by(|a, b| a < b));
}
