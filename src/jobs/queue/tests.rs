//! Unit tests of `queue`.

use super::*;
use crate::util::time;

fn put(queue: &mut Queue, id: &str, state: State, number: u64, bytes: u64) -> Job {
    let (sequence, owner) = (queue.next_sequence(1000), [0; 32]);
    let job = Job { sequence, id: id.into(), owner, state, number, webhook_pending: false, bytes };
    queue.put(job.clone());
    job
}

fn run() -> Running {
    Running { cancel: Arc::default(), until: time::now(), reason: None }
}

#[test]
fn jobs_run_in_the_order_they_came_and_positions_are_true() {
    let mut queue = Queue::default();
    for id in ["a", "b", "c", "d"] {
        put(&mut queue, id, State::Pending, 0, 1);
    }
    let places = |queue: &Queue| ["a", "b", "c", "d"].map(|id| queue.position(queue.get(id).expect("known"), 2));
    assert_eq!(places(&queue), [0, 0, 1, 2]);
    let first = run();
    let token = Arc::clone(&first.cancel);
    assert_eq!(queue.start(2, || first).map(|job| job.id), Some("a".into()));
    assert_eq!(queue.start(2, run).map(|job| job.id), Some("b".into()));
    assert!(queue.start(2, run).is_none());
    assert_eq!(places(&queue), [0, 0, 1, 2]);
    assert_eq!((queue.active(), queue.waiting(), queue.counts()), (2, 2, [2, 2, 0, 0]));
    assert_eq!(queue.get("a").map(|job| (job.state, job.number)), Some((State::Processing, 1)));
    queue.interrupt(StopReason::Cancelled, |id, _| id == "a");
    queue.interrupt(StopReason::Stopping, |_, _| true);
    assert_eq!(queue.stop_reason("a"), Some(StopReason::Cancelled));
    queue.done("a", &token);
    queue.put(queue.get("a").expect("known").to(State::Error, 5));
    assert_eq!(queue.start(2, run).map(|job| job.id), Some("c".into()));
    assert_eq!(queue.counts(), [1, 2, 0, 1]);
}

#[test]
fn finished_jobs_go_by_age_and_never_those_that_wait() {
    let filled = || {
        let mut queue = Queue::default();
        for (id, state, ended) in [("w", State::Pending, 0), ("x", State::Completed, 10), ("y", State::Error, 20)] {
            put(&mut queue, id, state, ended, 100);
        }
        queue
    };
    let expired =
        |before, bytes| filled().expire(before, bytes).iter().map(|job| job.id.to_string()).collect::<Vec<_>>();
    assert!(expired(10, 0).is_empty());
    assert_eq!(expired(11, 0), ["x"]);
    assert_eq!(expired(99, 0), ["x", "y"]);
    // No room: the oldest finished one first.
    assert_eq!(expired(0, MOST_BYTES - 250), ["x"]);
    let mut queue = filled();
    assert!(!queue.has_room(MOST_BYTES));
    queue.remove("x");
    assert_eq!((queue.counts(), queue.bytes), ([1, 0, 0, 1], 200));
    let listed = |before| queue.of([0; 32], before).map(|job| job.id.to_string()).collect::<Vec<_>>();
    assert_eq!(listed(u64::MAX), ["y", "w"]);
    assert_eq!(listed(queue.get("y").expect("known").sequence), ["w"]);
    assert_eq!(queue.of([1; 32], u64::MAX).count(), 0);
}

// S16: with 30,000 waiting all positions are listed, and all are removed, while one pass over all for each would take minutes.
#[test]
fn places_in_a_long_line_are_no_work() {
    let mut queue = Queue::default();
    for n in 0..30_000 {
        let job = put(&mut queue, &n.to_string(), State::Pending, 0, 1);
        assert_eq!(queue.position(&job, 0), n + 1);
    }
    let all: Vec<_> = queue.of([0; 32], u64::MAX).cloned().collect();
    assert!((0..30_000).rev().eq(all.iter().map(|job| queue.position(job, 0) - 1)));
    all.iter().for_each(|job| drop(queue.remove(&job.id)));
    assert!(queue.waiting.is_empty() && queue.jobs.is_empty() && queue.ids.is_empty());
}

#[test]
fn two_jobs_of_one_millisecond_keep_their_order_and_a_clock_that_goes_back_changes_none() {
    let mut queue = Queue::default();
    let all = [5000, 5000, 4000, 6000].map(|millis| queue.next_sequence(millis));
    assert!(all.is_sorted_by(|a, b| a < b));
}

// Issue 14, section 3
#[test]
fn parked_jobs_are_passed_over_until_another_epoch() {
    let mut queue = Queue::default();
    for id in ["a", "b", "c"] {
        put(&mut queue, id, State::Pending, 0, 1);
    }
    let started = |queue: &mut Queue| queue.start(9, run).map(|job| job.id.to_string());
    queue.epoch = 7;
    let first = run();
    let was = queue.start(9, || first.clone()).expect("the first");
    queue.park(&was, 7);
    queue.put(was.clone());
    queue.done("a", &first.cancel);
    assert_eq!(queue.get("a").map(|job| (job.state, job.number)), Some((State::Pending, 0)), "no try counts");
    assert_eq!(
        [started(&mut queue), started(&mut queue), started(&mut queue)],
        [Some("b".into()), Some("c".into()), None]
    );
    queue.epoch = 8;
    assert_eq!((started(&mut queue), queue.has_parked()), (Some("a".into()), false));
    queue.done("a", &first.cancel);
    assert_eq!(queue.active(), 3, "the one that runs is not the first any more");
    for end in [State::Completed, State::Pending] {
        queue.park(&was, 8);
        queue.put(was.to(end, 1));
        queue.remove("a");
        assert!(!queue.has_parked(), "nothing is left behind");
    }
}
