//! Every order in which a few requests may come, wait, give up and leave: nobody is ever over a limit, nobody waits beside a
//! free place, and each kind of request keeps its order.

use super::*;
use crate::util::time;
use std::collections::VecDeque;

mod homes;

fn live(limit: u32) -> Arc<Live> {
    let live = Arc::new(Live::new());
    live.set_limit(Some(limit));
    live
}

/// One world: the real capacity, and a naive account of what should be so.
struct World {
    capacity: Arc<Capacity>,
    lives: Vec<Arc<Live>>,
    inside: Vec<(usize, Slot)>,
    queue: VecDeque<(u32, bool, Vec<usize>, Waiting)>,
    arrived: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    Come { both: bool, background: bool },
    Leave(usize),
    GiveUp(usize),
}

impl World {
    fn new() -> Self {
        let lives = vec![live(1), live(1)];
        let (inside, queue) = (Vec::new(), VecDeque::new());
        Self { capacity: Arc::default(), lives, inside, queue, arrived: 0 }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Come { both, background } => {
                self.arrived += 1;
                let wanted: Vec<usize> = if both { vec![0, 1] } else { vec![0] };
                let lives: Vec<_> = wanted.iter().map(|&n| Arc::clone(&self.lives[n])).collect();
                let query = Wanted { lives, home: None, background };
                match self
                    .capacity
                    .enter(query, &Queue { route: "m", length: 3 }, time::now(), |_| (0..wanted.len()).collect())
                {
                    Entry::In(index, slot) => self.inside.push((wanted[index], slot)),
                    Entry::Wait(waiting) => self.queue.push_back((self.arrived, background, wanted, waiting)),
                    Entry::Full => assert_eq!(self.queue.len(), 3),
                    Entry::Closed => panic!("nobody closed it"),
                }
            }
            Act::Leave(n) => drop(self.inside.swap_remove(n)),
            Act::GiveUp(n) => drop(self.queue.remove(n)),
        }
        self.take_in();
        self.check(act);
    }

    fn take_in(&mut self) {
        let mut still = VecDeque::new();
        let mut let_in = Vec::new();
        for (number, background, wanted, waiting) in self.queue.drain(..) {
            match waiting.grant.try_recv() {
                Ok((index, slot)) => {
                    let_in.push((number, background));
                    self.inside.push((wanted[index], slot));
                }
                Err(_) => still.push_back((number, background, wanted, waiting)),
            }
        }
        for (number, background) in let_in {
            let older = still
                .iter()
                .any(|(other, kind, wanted, _)| *other < number && *kind == background && wanted.len() == 2);
            assert!(!older, "one that came earlier and would take any place still waits");
        }
        self.queue = still;
    }

    fn check(&self, act: Act) {
        for (n, live) in self.lives.iter().enumerate() {
            let here = self.inside.iter().filter(|(at, _)| *at == n).count();
            assert_eq!(live.in_flight() as usize, here, "{act:?}");
            assert!(here <= 1, "over the limit after {act:?}");
            let waits = self.queue.iter().any(|(_, _, wanted, _)| wanted.contains(&n));
            assert!(!(waits && live.has_room()), "somebody waits beside a free place after {act:?}");
        }
        assert_eq!(self.capacity.waiting(), self.queue.len());
    }
}

fn possible(world: &World) -> Vec<Act> {
    let mut acts: Vec<Act> = (0..world.inside.len()).map(Act::Leave).collect();
    acts.extend((0..world.queue.len()).map(Act::GiveUp));
    for (both, background) in [(true, false), (true, true), (false, false), (false, true)] {
        acts.push(Act::Come { both, background });
    }
    acts
}

/// Plays every sequence of `depth` acts after `past`.
fn explore(past: &mut Vec<Act>, depth: usize, worlds: &mut usize) {
    let mut world = World::new();
    past.iter().for_each(|act| world.act(*act));
    *worlds += 1;
    if depth == 0 {
        drop(std::mem::take(&mut world.queue));
        world.inside.clear();
        assert_eq!((world.lives[0].in_flight(), world.lives[1].in_flight()), (0, 0));
        return;
    }
    for act in possible(&world) {
        past.push(act);
        explore(past, depth - 1, worlds);
        past.pop();
    }
}

#[test]
fn no_interleaving_of_six_acts_breaks_a_limit_or_strands_anybody() {
    let mut worlds = 0;
    explore(&mut Vec::new(), 6, &mut worlds);
    assert!(worlds > 20_000, "{worlds}");
}

/// Everybody at one endpoint with one slot that is taken.
struct Single {
    capacity: Arc<Capacity>,
    live: Arc<Live>,
}

impl Single {
    fn enter(&self, background: bool) -> Entry {
        let wanted = Wanted { lives: vec![Arc::clone(&self.live)], home: None, background };
        self.capacity.enter(wanted, &Queue { route: "m", length: 100 }, time::now(), |_| vec![0])
    }

    fn wait(&self, background: bool) -> Waiting {
        let Entry::Wait(waiting) = self.enter(background) else { panic!("it is taken") };
        waiting
    }
}

fn single() -> (Single, Slot) {
    let single = Single { capacity: Arc::default(), live: live(1) };
    let Entry::In(0, slot) = single.enter(false) else { panic!("it is free") };
    (single, slot)
}

/// The order in which these are let in, each leaving at once.
fn served(mut slot: Slot, mut waiting: Vec<(char, Waiting)>) -> String {
    let mut order = String::new();
    while !waiting.is_empty() {
        drop(slot);
        let next = waiting.iter().position(|(_, one)| !one.grant.is_empty()).expect("somebody is let in");
        let (name, one) = waiting.remove(next);
        slot = one.grant.try_recv().expect("seen above").1;
        order.push(name);
    }
    order
}

#[test]
fn who_came_first_goes_first_and_the_background_after_the_others() {
    let (single, slot) = single();
    let queue = "abBcd".chars().map(|name| (name, single.wait(name.is_uppercase()))).collect();
    assert_eq!(served(slot, queue), "abcdB");
}

#[test]
fn the_background_waits_for_ten_others_at_most_and_never_goes_twice_in_a_row() {
    let (single, slot) = single();
    let queue = "XYabcdefghijklmnop".chars().map(|name| (name, single.wait(name.is_uppercase()))).collect();
    assert_eq!(served(slot, queue), "abcdefghijXkYlmnop");
}

#[test]
fn a_place_that_was_granted_to_one_who_left_goes_to_the_next() {
    let (single, slot) = single();
    let (first, second) = (single.wait(false), single.wait(false));
    drop(slot);
    assert!(!first.grant.is_empty());
    drop(first);
    let granted = second.wait(&CancelToken::default(), time::now() + Duration::from_secs(5));
    assert!(matches!(granted, WaitResult::In(0, _)));
    assert_eq!(single.live.in_flight(), 1);
}

#[test]
fn a_larger_limit_lets_the_line_in_at_once() {
    let (single, _slot) = single();
    let waiting = [single.wait(false), single.wait(false), single.wait(false)];
    single.capacity.resize(std::iter::once((&*single.live, Some(3))));
    let granted: Vec<bool> = waiting.iter().map(|one| !one.grant.is_empty()).collect();
    assert_eq!((granted, single.live.in_flight()), (vec![true, true, false], 3));
    single.capacity.resize(std::iter::once((&*single.live, None)));
    assert!(!waiting[2].grant.is_empty());
}

#[test]
fn closing_sends_away_who_waits_and_whoever_would_wait() {
    let (single, slot) = single();
    let waiting = single.wait(false);
    single.capacity.close();
    let waited = waiting.wait(&CancelToken::default(), time::now() + Duration::from_secs(5));
    assert!(matches!(waited, WaitResult::Closed));
    assert!(matches!(single.enter(false), Entry::Closed));
    drop(slot);
    assert!(matches!(single.enter(false), Entry::In(..)), "what is free is still given");
}

#[test]
fn turns_are_kept_by_route_and_bounded() {
    let capacity: Arc<Capacity> = Arc::default();
    let lives = [live(1_000_000)];
    for n in 0..2 * MAX_TURNS {
        let route = format!("m{n}");
        let wanted = Wanted { lives: lives.to_vec(), home: None, background: false };
        let queue = Queue { route: &route, length: 0 };
        let Entry::In(..) = capacity.enter(wanted, &queue, time::now(), |_| vec![0]) else { panic!("there is room") };
    }
    assert!(lock(&capacity.state).turns.len() <= MAX_TURNS);
}

#[test]
fn an_abandoned_slot_stays_taken_until_whoever_keeps_it_drops_it() {
    // L1
    let capacity = Arc::<Capacity>::default();
    let lives = [live(1)];
    let wanted = || Wanted { lives: lives.to_vec(), home: None, background: false };
    let enter = || match capacity.enter(wanted(), &Queue { route: "m", length: 1 }, time::now(), |_| vec![0]) {
        Entry::In(_, slot) => slot,
        _ => panic!("there is room"),
    };
    enter().abandon();
    assert_eq!(lives[0].in_flight(), 0, "nobody keeps it");
    let abandoned = capacity.abandoned();
    enter().abandon();
    assert!(!lives[0].has_room());
    let slot = abandoned.try_recv().expect("it was handed over");
    assert!(slot.is_at(&lives[0]) && !slot.is_at(&live(1)));
    drop(slot);
    assert_eq!(lives[0].in_flight(), 0);
    drop(abandoned);
    enter().abandon();
    assert_eq!(lives[0].in_flight(), 0, "nobody keeps it any more");
}

#[test]
fn a_wait_that_is_known_to_cost_more_than_the_prompt_is_not_begun() {
    let lives = [live(2), live(2)];
    let capacity = Arc::<Capacity>::default();
    let enter = |patience| {
        let home = Some(Home { index: 0, patience: Duration::from_secs(patience) });
        let wanted = Wanted { lives: lives.to_vec(), home, background: false };
        capacity.enter(wanted, &Queue { route: "m", length: 9 }, time::now(), |_| vec![1, 0])
    };
    lives[0].held.add(8.0);
    let [Entry::In(0, _first), Entry::In(0, _second)] = [enter(5), enter(5)] else { panic!("home is free") };
    // Of two slots held for eight seconds each the next is free after two, the one after that after six.
    let Entry::Wait(_waiting) = enter(5) else { panic!("it is worth waiting") };
    let Entry::In(1, _third) = enter(5) else { panic!("one waits before it") };
    let Entry::Wait(_waiting) = enter(7) else { panic!("a longer prompt") };
}

/// One endpoint of a slot that is taken, others that are free, and a request that waits for its home, the first.
fn at_home(patience: Duration) -> (Arc<Capacity>, [Arc<Live>; 3], Slot, Waiting) {
    let lives = [live(1), live(1), live(1)];
    let capacity = Arc::<Capacity>::default();
    let enter = || {
        let wanted = Wanted { lives: lives.to_vec(), home: Some(Home { index: 0, patience }), background: false };
        capacity.enter(wanted, &Queue { route: "m", length: 9 }, time::now(), |_| vec![1, 0, 2])
    };
    let (Entry::In(0, slot), Entry::Wait(waiting)) = (enter(), enter()) else { panic!("one slot, at home") };
    (capacity, lives, slot, waiting)
}

#[test]
fn a_home_that_is_no_longer_a_candidate_is_not_waited_for() {
    let (_, [home, other, third], _slot, waiting) = at_home(Duration::from_secs(9));
    let candidates = |lives: &[&Arc<Live>]| lives.iter().map(|live| Arc::clone(live)).collect::<Vec<_>>();
    assert!(waiting.widen(candidates(&[&other, &home]), &[0, 1], time::now()));
    assert!(waiting.grant.is_empty(), "home has another index now");
    other.enter();
    assert!(waiting.widen(candidates(&[&other, &third]), &[0, 1], time::now()));
    assert!(matches!(waiting.grant.try_recv(), Ok((1, _))));
}

#[test]
fn a_queued_request_keeps_its_order_of_preference() {
    // The same endpoint twice, as two backends of a route with different models.
    let (capacity, lives) = (Arc::<Capacity>::default(), [live(1), live(1)]);
    let enter = |lives: Vec<Arc<Live>>, order: Vec<usize>| {
        let wanted = Wanted { lives, home: None, background: false };
        capacity.enter(wanted, &Queue { route: "m", length: 9 }, time::now(), |_| order)
    };
    let twice = || vec![Arc::clone(&lives[0]), Arc::clone(&lives[0])];
    let Entry::In(0, slot) = enter(twice(), vec![0, 1]) else { panic!("it is free") };
    let Entry::Wait(waiting) = enter(twice(), vec![1, 0]) else { panic!("it is taken") };
    drop(slot);
    assert!(matches!(waiting.grant.try_recv(), Ok((1, _))));
    lives[0].enter();
    let Entry::Wait(waiting) = enter(vec![Arc::clone(&lives[0])], vec![0]) else { panic!("it is taken") };
    let wider = vec![Arc::clone(&lives[0]), Arc::clone(&lives[1]), live(1)];
    assert!(waiting.widen(wider, &[2, 1, 0], time::now()));
    assert!(matches!(waiting.grant.try_recv(), Ok((2, _))));
}

#[test]
fn a_background_request_that_finds_a_free_slot_counts_as_one_that_went() {
    let (single, slot) = single();
    let (background, interactive) = (single.wait(true), single.wait(false));
    lock(&single.capacity.state).queue[0].waiter.overtaken = MAX_OVERTAKEN;
    let elsewhere = Wanted { lives: vec![live(1)], home: None, background: true };
    let queue = Queue { route: "m", length: 9 };
    let Entry::In(..) = single.capacity.enter(elsewhere, &queue, time::now(), |_| vec![0]) else {
        panic!("it is free")
    };
    drop(slot);
    assert_eq!((background.grant.is_empty(), interactive.grant.is_empty()), (true, false));
}

#[test]
fn one_that_has_waited_long_enough_goes_before_one_that_comes() {
    let (capacity, [_home, other, third], _slot, waiting) = at_home(Duration::from_secs(3));
    other.enter();
    let wanted = || Wanted { lives: vec![Arc::clone(&third)], home: None, background: false };
    let enter = |seconds| {
        let now = time::now() + Duration::from_secs(seconds);
        capacity.enter(wanted(), &Queue { route: "m", length: 9 }, now, |_| vec![0])
    };
    let Entry::In(0, slot) = enter(1) else { panic!("it is idle, and nobody waits for it") };
    drop(slot);
    let Entry::Wait(_late) = enter(4) else { panic!("the one before has it") };
    assert!(matches!(waiting.grant.try_recv(), Ok((2, _))));
}

#[test]
fn nobody_is_overtaken_by_one_that_came_more_than_ten_seconds_later() {
    for (seconds, is_overtaken) in [(9, true), (11, false)] {
        let (single, slot) = single();
        let new = single.wait(false);
        let home = Some(Home { index: 0, patience: Duration::from_secs(9) });
        let wanted = Wanted { lives: vec![Arc::clone(&single.live)], home, background: false };
        let now = time::now() + Duration::from_secs(seconds);
        let entered = single.capacity.enter(wanted, &Queue { route: "m", length: 9 }, now, |_| vec![0]);
        let Entry::Wait(late) = entered else { panic!("it is taken") };
        drop(slot);
        assert_eq!((new.grant.is_empty(), late.grant.is_empty()), (is_overtaken, !is_overtaken), "{seconds} s");
    }
}

#[test]
fn one_that_waits_for_its_home_is_overtaken_ten_times_and_one_without_three_times() {
    for (home, most) in [(Some(0), 10), (None, 3)] {
        let lives = [live(1), live(1)];
        let capacity = Arc::<Capacity>::default();
        let enter = |home: Option<usize>| {
            let home = home.map(|index| Home { index, patience: Duration::from_secs(9) });
            let wanted = Wanted { lives: lives.to_vec(), home, background: false };
            capacity.enter(wanted, &Queue { route: "m", length: 9 }, time::now(), |_| vec![0, 1])
        };
        let (Entry::In(0, _first), Entry::In(1, mut slot)) = (enter(Some(0)), enter(Some(1))) else { panic!("free") };
        let Entry::Wait(patient) = enter(home) else { panic!("taken") };
        let mut overtaken = 0;
        while patient.grant.is_empty() {
            let Entry::Wait(later) = enter(Some(1)) else { panic!("taken") };
            drop(slot);
            let Ok((1, next)) = later.grant.try_recv() else { break };
            (slot, overtaken) = (next, overtaken + 1);
        }
        assert_eq!(overtaken, most, "{home:?}");
        assert!(matches!(patient.grant.try_recv(), Ok((1, _))));
    }
}
