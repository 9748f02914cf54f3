//! The schedule of one endpoint with a clock of its own: what is asked when, and what is made of the answers.

use super::*;
use crate::routing::health_status::HealthStatus;
use crate::routing::slots::{Capacity, Entry, Queue, Wanted};
use crate::util::time;
use std::time::SystemTime;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// One endpoint, its schedule, and a clock of its own.
struct World {
    config: Config,
    endpoint: Arc<Endpoint>,
    schedule: Schedule,
    start: Instant,
}

impl World {
    fn new(edit: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.health_check.path = "/health".into();
        edit(&mut config);
        let start = time::now();
        let endpoint = Arc::new(Endpoint::new(config::Endpoint::plain("a", "127.0.0.1", 1)));
        let schedule = Schedule::new(Arc::clone(&endpoint.config), 1);
        Self { config, endpoint, schedule, start }
    }

    /// What is asked at this time: `p`robe, `l`ist, `e`xtras, `s`lots.
    fn take(&mut self, at: Duration) -> String {
        let task = self.schedule.take(&self.config, &self.endpoint, self.start + at);
        let Some(task) = task else { return String::new() };
        let asked = [(task.path.is_some(), 'p'), (task.list, 'l'), (task.props, 'e'), (task.slots, 's')];
        asked.into_iter().filter_map(|(asked, letter)| asked.then_some(letter)).collect()
    }

    /// What was asked last is answered.
    fn found(&mut self, at: Duration, found: impl FnOnce(Found) -> Found) -> Option<Observation> {
        let seen = self.schedule.record(self.start + at, &found(Found::default()));
        if let Some(seen) = seen.clone() {
            self.observe(seen, at);
        }
        seen
    }

    fn observe(&mut self, seen: Observation, at: Duration) {
        let (now, interval) = (self.start + at, self.config.health_check.interval);
        let repeats = self.schedule.repeats(&seen, interval, now);
        let endpoint = Arc::make_mut(&mut self.endpoint);
        let before = if repeats { endpoint.health.uncounted() } else { endpoint.health.clone() };
        endpoint.health = before.observe(seen, self.config.health_check.failure_threshold, SystemTime::UNIX_EPOCH);
        self.schedule.reschedule(&self.endpoint, now);
    }

    fn wakes_after(&self) -> Duration {
        self.schedule.wakes_at(&self.config, &self.endpoint).expect("it is not being asked") - self.start
    }

    fn health(&self) -> &HealthStatus {
        &self.endpoint.health
    }

    /// Asked at the start, up, with a list and props.
    fn healthy(edit: impl FnOnce(&mut Config)) -> Self {
        let mut world = Self::new(edit);
        assert_eq!(world.take(Duration::ZERO), "ple");
        world.found(Duration::ZERO, |found| Found { props: Some(Extra::Unsupported), ..up(found) });
        world
    }
}

fn up(found: Found) -> Found {
    Found { seen: Some(Observation::Up), list: Some(Listing::Models(Vec::new())), ..found }
}

fn refused(found: Found) -> Found {
    Found { seen: Some(Observation::Refused("refused".into())), ..found }
}

#[test]
fn a_healthy_endpoint_is_asked_every_interval_and_its_list_when_that_is_old() {
    // L6: at its TTL, not at the probe after it.
    let mut world = World::healthy(|c| c.cache.ttl = Some(10 * SECOND));
    assert_eq!((world.take(9999 * MS), world.wakes_after()), (String::new(), 10 * SECOND));
    assert_eq!(world.take(10 * SECOND), "l");
    world.found(10 * SECOND, |found| Found { list: Some(Listing::Failed), ..found });
    assert_eq!((world.take(19 * SECOND), world.wakes_after()), (String::new(), 20 * SECOND));
    assert_eq!(world.take(20 * SECOND), "l");
    world.found(20 * SECOND, |found| Found { list: Some(Listing::Models(Vec::new())), ..found });
    assert_eq!(world.take(30 * SECOND), "pl");
}

#[test]
fn a_ttl_of_zero_reads_the_list_in_every_round_and_not_between() {
    // L6
    let mut world = World::healthy(|c| c.cache.ttl = Some(Duration::ZERO));
    assert_eq!(world.wakes_after(), 30 * SECOND);
    assert_eq!(world.take(30 * SECOND), "pl");
}

#[test]
fn one_that_is_down_is_asked_every_two_seconds_for_a_minute_then_at_the_interval_and_on_demand() {
    // L3
    let mut world = World::healthy(|c| c.cache.ttl = Some(3600 * SECOND));
    let mut at = 30 * SECOND;
    world.config.health_check.failure_threshold = 1;
    while at < 90 * SECOND {
        // What it lists and has is read anew with the probe that succeeds.
        assert!(world.take(at).starts_with('p'));
        world.found(at, refused);
        at += DOWN_INTERVAL;
        assert_eq!(world.wakes_after(), at);
    }
    assert!(world.take(at).starts_with('p'), "the last one of the minute");
    world.found(at, refused);
    assert_eq!(world.wakes_after(), at + 30 * SECOND);
    // A request could use it.
    world.schedule.want(world.start + at + SECOND);
    assert_eq!(world.wakes_after(), at + DOWN_INTERVAL);
    world.schedule.want(world.start + at + 10 * SECOND);
    assert!(world.take(at + 10 * SECOND).starts_with('p'));
}

#[test]
fn a_server_that_comes_back_is_asked_for_its_list_and_props_anew() {
    // L3, Friction: /props
    let mut world = World::healthy(|c| c.health_check.failure_threshold = 1);
    assert_eq!(world.take(30 * SECOND), "pl");
    world.found(30 * SECOND, refused);
    assert_eq!(world.take(32 * SECOND), "ple");
}

#[test]
fn props_are_asked_no_more_of_a_server_that_has_none() {
    // Friction
    let mut world = World::healthy(|c| c.cache.ttl = Some(3600 * SECOND));
    assert_eq!(world.take(30 * SECOND), "p");
    world.found(30 * SECOND, up);
    let mut world = World::new(|c| c.cache.ttl = Some(3600 * SECOND));
    assert_eq!(world.take(Duration::ZERO), "ple");
    world.found(Duration::ZERO, |found| Found { props: Some(Extra::Failed), ..up(found) });
    world.schedule.join(2, false, world.start + SECOND);
    assert_eq!(world.take(SECOND), "p", "extras at most every 2 s");
    world.found(SECOND, up);
    assert_eq!(world.take(31 * SECOND), "pe", "a failure says nothing");
}

#[test]
fn failures_at_the_same_moment_count_once() {
    // L3: a refused request and the round that it triggers.
    let mut world = World::healthy(|_| ());
    for (at, failures) in [(30_000, 1), (30_010, 1), (30_020, 1), (30_999, 1), (31_000, 2), (31_500, 2), (33_000, 3)] {
        world.observe(Observation::Refused("refused".into()), at * MS);
        assert_eq!(world.health().failures, failures, "{at}");
    }
    world.observe(Observation::Up, 33_100 * MS);
    world.observe(Observation::Down("down".into()), 33_110 * MS);
    assert_eq!(world.health().failures, 1, "after a success the count begins anew");
}

#[test]
fn a_round_begun_while_a_probe_runs_is_not_over_with_that_probe() {
    //
    let mut world = World::new(|_| ());
    world.take(Duration::ZERO);
    world.schedule.join(2, true, world.start + MS);
    assert_eq!(world.take(2 * MS), "", "one probe at a time");
    world.found(3 * MS, up);
    assert!(world.schedule.is_done(1) && !world.schedule.is_done(2));
    assert!(world.take(3 * MS).starts_with("pl"));
    world.found(4 * MS, up);
    assert!(world.schedule.is_done(2));
}

#[test]
fn a_probe_that_began_before_a_request_failed_brings_nobody_back() {
    // L2
    let mut world = World::healthy(|_| ());
    world.take(30 * SECOND);
    world.schedule.doubt(world.start + 30 * SECOND);
    world.observe(Observation::Refused("refused".into()), 30 * SECOND);
    assert_eq!(world.found(30 * SECOND, up), None);
    assert_eq!(world.health().failures, 1);
    assert!(!world.take(31 * SECOND).is_empty());
    assert_eq!(world.found(31 * SECOND, up), Some(Observation::Up));
}

#[test]
fn slots_are_asked_soon_after_a_client_left_and_then_every_two_seconds() {
    // L1
    let mut world = World::healthy(|_| ());
    let soon = SECOND / 10;
    let slot = enter(&world.endpoint.live);
    world.schedule.abandoned.hold(slot, world.start + 5 * SECOND);
    assert_eq!(world.wakes_after(), 5 * SECOND + soon);
    assert_eq!(world.take(5 * SECOND), "");
    assert_eq!(world.take(5 * SECOND + soon), "s");
    world.found(5 * SECOND + soon, |found| Found { slots: Some(Slots::Failed), ..found });
    assert_eq!(world.wakes_after(), 7 * SECOND + soon);
}

#[test]
fn a_list_that_is_none_stays_on_record_until_a_good_one() {
    // R09
    let mut world = World::new(|c| c.cache.ttl = Some(3600 * SECOND));
    world.take(Duration::ZERO);
    let bad = |found| Found { list: Some(Listing::Bad("is HTML".into())), ..up(found) };
    let no_list = Observation::NoList { why: "is HTML".into(), needed: true };
    assert_eq!(world.found(Duration::ZERO, bad), Some(no_list.clone()));
    let only_up = |found| Found { seen: Some(Observation::Up), ..found };
    assert_eq!(world.found(30 * SECOND, only_up), Some(no_list));
    assert_eq!(world.found(60 * SECOND, up), Some(Observation::Up));
}

fn live() -> Arc<Live> {
    Endpoint::new(config::Endpoint::plain("a", "127.0.0.1", 1)).live
}

fn enter(live: &Arc<Live>) -> Slot {
    let wanted = Wanted { lives: vec![Arc::clone(live)], home: None, background: false };
    let line = Queue { route: "", length: 0 };
    match Arc::<Capacity>::default().enter(wanted, &line, time::now(), |_| vec![0]) {
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
        let (live, start) = (live(), time::now());
        let mut abandoned = AbandonedSlots::default();
        abandoned.hold(enter(&live), start);
        abandoned.hold(enter(&live), start + SECOND);
        let _ours: Vec<Slot> = (0..after).map(|_| enter(&live)).collect();
        abandoned.release(&live, before, start + 2 * SECOND, slots);
        assert_eq!(live.in_flight() as usize, after + stay, "{before} {after} {slots:?}");
        assert_eq!(abandoned.0.len(), stay);
    }
}

#[test]
fn one_abandoned_after_the_question_stays() {
    // L1
    let (live, start) = (live(), time::now());
    let mut abandoned = AbandonedSlots::default();
    abandoned.hold(enter(&live), start + SECOND);
    abandoned.release(&live, 0, start, Slots::Working(0));
    assert_eq!((abandoned.0.len(), abandoned.since()), (1, Some(start + SECOND)));
}

#[test]
fn none_is_held_longer_than_a_minute_or_than_its_server_lives() {
    // L1
    let (live, start) = (live(), time::now());
    let mut abandoned = AbandonedSlots::default();
    abandoned.hold(enter(&live), start);
    abandoned.hold(enter(&live), start + 30 * SECOND);
    abandoned.expire(start + 59 * SECOND);
    assert_eq!(live.in_flight(), 2);
    abandoned.expire(start + 60 * SECOND);
    assert_eq!(live.in_flight(), 1);
    abandoned.clear();
    assert_eq!((live.in_flight(), abandoned.since()), (0, None));
}
