//! Unit tests of `ghosts`.

use super::*;
use crate::config;
use crate::routing::endpoint::Endpoint;
use crate::routing::slots::{Capacity, Entry, Wanted};
use crate::util::time;

const SECOND: Duration = Duration::from_secs(1);

fn live() -> Arc<Live> {
    Endpoint::new(config::Endpoint::plain("a", "127.0.0.1", 1)).live
}

fn enter(live: &Arc<Live>) -> Slot {
    let wanted = Wanted { lives: &[Arc::clone(live)], background: false, length: 0, route: "" };
    match Arc::<Capacity>::default().enter(&wanted, |_| vec![0]) {
        Entry::In(_, slot) => slot,
        _ => panic!("there is no limit"),
    }
}

#[test]
fn slots_are_given_back_as_far_as_the_server_shows_them_free() {
    // L1: requests of ours before and after the question, working slots, abandoned ones that stay of two
    let table = [
        (0, 0, Slots::Working(2), 2),
        (0, 0, Slots::Working(1), 1),
        (0, 0, Slots::Working(0), 0),
        (1, 1, Slots::Working(3), 2),
        (1, 1, Slots::Working(2), 1),
        (1, 1, Slots::Working(1), 0),
        // One of ours that came or left meanwhile may or may not be among them.
        (0, 1, Slots::Working(2), 2),
        (1, 0, Slots::Working(2), 2),
        (0, 0, Slots::Failed, 2),
        (0, 0, Slots::Unknown, 0),
    ];
    for (before, after, slots, stay) in table {
        let (live, other, start) = (live(), live(), time::now());
        let mut ghosts = Ghosts::default();
        ghosts.hold(enter(&live), start);
        ghosts.hold(enter(&other), start);
        ghosts.hold(enter(&live), start + SECOND);
        let _ours: Vec<Slot> = (0..after).map(|_| enter(&live)).collect();
        ghosts.free(&live, before, start + 2 * SECOND, slots);
        assert_eq!(live.in_flight() as usize, after + stay, "{before} {after} {slots:?}");
        assert_eq!((ghosts.at(&live).0, ghosts.at(&other).0), (stay, 1));
    }
}

#[test]
fn one_abandoned_after_the_question_stays() {
    // L1
    let (live, start) = (live(), time::now());
    let mut ghosts = Ghosts::default();
    ghosts.hold(enter(&live), start + SECOND);
    ghosts.free(&live, 0, start, Slots::Working(0));
    assert_eq!(ghosts.at(&live), (1, Some(start + SECOND)));
}

#[test]
fn none_is_held_longer_than_a_minute_or_than_its_server_lives() {
    // L1
    let (live, start) = (live(), time::now());
    let mut ghosts = Ghosts::default();
    ghosts.hold(enter(&live), start);
    ghosts.hold(enter(&live), start + 30 * SECOND);
    ghosts.expire(start + 59 * SECOND);
    assert_eq!(live.in_flight(), 2);
    ghosts.expire(start + 60 * SECOND);
    assert_eq!(live.in_flight(), 1);
    ghosts.forget(&live);
    assert_eq!((live.in_flight(), ghosts.at(&live)), (0, (0, None)));
}
