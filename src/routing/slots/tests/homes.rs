//! Many conversations with homes, by chance: each choice is compared with a naive account.

use super::*;

/// Requests with homes at two endpoints of two slots, and a naive account of who waits.
struct Town {
    capacity: Arc<Capacity>,
    lives: [Arc<Live>; 2],
    inside: Vec<(usize, Slot)>,
    queue: Vec<Person>,
    arrived: u32,
    began: Instant,
    clock: Duration,
    has_background: bool,
}

struct Person {
    number: u32,
    came: Duration,
    home: Option<usize>,
    patience: Duration,
    leaves_home: Duration,
    is_background: bool,
    overtaken: u32,
    waiting: Waiting,
}

impl Person {
    fn most(&self) -> u32 {
        if self.home.is_some() || self.is_background { MAX_OVERTAKEN } else { MAX_OVERTAKEN_WITHOUT_HOME }
    }

    /// Those with a home first, in order of arrival; a move away from it counts as the time that it costs.
    fn rank(&self, index: usize) -> (bool, Duration) {
        let moves = self.home.is_some_and(|home| home != index);
        (self.home.is_none(), self.came + if moves { self.patience.max(MIN_COST) } else { Duration::ZERO })
    }
}

impl Town {
    fn new() -> Self {
        let (lives, inside, queue) = ([live(2), live(2)], Vec::new(), Vec::new());
        Self {
            capacity: Arc::default(),
            lives,
            inside,
            queue,
            arrived: 0,
            began: time::now(),
            clock: Duration::ZERO,
            has_background: false,
        }
    }

    fn come(&mut self, home: Option<usize>, is_background: bool, patience: Duration) {
        self.arrived += 1;
        self.has_background |= is_background;
        let (number, came) = (self.arrived, self.clock);
        let home_of = home.map(|index| Home { index, patience });
        let wanted = Wanted { lives: self.lives.to_vec(), home: home_of, background: is_background };
        match self.capacity.enter(wanted, &Queue { route: "m", length: 1_000 }, self.now(), |_| vec![0, 1]) {
            Entry::In(index, slot) => {
                assert!(home.is_none_or(|home| home == index || !self.lives[home].has_room()), "home comes first");
                self.inside.push((index, slot));
                self.overtaking(number);
            }
            Entry::Wait(waiting) => {
                let leaves_home = came + if home.is_some() { patience } else { Duration::ZERO };
                self.queue.push(Person {
                    number,
                    came,
                    home,
                    patience,
                    leaves_home,
                    is_background,
                    overtaken: 0,
                    waiting,
                });
            }
            _ => panic!("there is room in the queue"),
        }
        self.look();
    }

    fn now(&self) -> Instant {
        self.began + self.clock
    }

    fn leave(&mut self, number: usize) {
        let (index, slot) = self.inside.swap_remove(number);
        // Slots are released at the time of the machine's clock, so nobody is to have it then.
        self.lives[index].enter();
        drop(slot);
        self.lives[index].leave(false);
    }

    fn overtaking(&mut self, number: u32) {
        for other in self.queue.iter_mut().filter(|other| other.is_background || other.number < number) {
            other.overtaken += 1;
        }
    }

    /// Takes in those who were granted a slot, one for each that was free, and checks each choice.
    fn look(&mut self) {
        lock(&self.capacity.state).hand_out(&self.capacity, self.now());
        let mut granted: Vec<(Person, usize, Slot)> = Vec::new();
        for person in std::mem::take(&mut self.queue) {
            match person.waiting.grant.try_recv() {
                Ok((index, slot)) => granted.push((person, index, slot)),
                Err(_) => self.queue.push(person),
            }
        }
        for (person, index, slot) in granted {
            let lane = || self.queue.iter().filter(|other| other.is_background == person.is_background);
            let was_due =
                person.overtaken >= person.most() || lane().any(|other| person.came + MAX_HEAD_START < other.came);
            for other in lane() {
                let would_go = other.home.is_none_or(|home| home == index) || self.clock >= other.leaves_home;
                assert!(was_due || !would_go || person.rank(index) <= other.rank(index), "out of order");
                assert!(other.came + MAX_HEAD_START >= person.came, "overtaken by more than ten seconds");
            }
            self.inside.push((index, slot));
            self.overtaking(person.number);
        }
        for person in self.queue.iter().filter(|person| !person.is_background) {
            // Starved background requests come between, but never two in a row.
            assert!(self.has_background || person.overtaken <= person.most(), "{} times", person.overtaken);
        }
        for index in (0..2).filter(|index| self.lives[*index].has_room()) {
            for person in &self.queue {
                let waits = person.home.is_some_and(|home| home != index) && self.clock < person.leaves_home;
                assert!(
                    waits && person.overtaken < person.most(),
                    "number {} waits beside a free slot of {index}",
                    person.number
                );
            }
        }
        assert!(self.lives.iter().all(|live| live.in_flight() <= 2));
        assert_eq!(self.capacity.waiting(), self.queue.len());
    }
}

#[test]
fn conversations_wait_for_their_endpoint_and_nobody_waits_too_long_for_it() {
    let (mut slots_left_free, mut at_home) = (0, 0);
    for seed in 0..300_u64 {
        let mut dice = seed;
        let mut roll = |sides: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % sides
        };
        let mut town = Town::new();
        // Of some, time hardly passes, and most requests keep waiting.
        let (sides, most) = if seed % 3 == 0 { (6, 100) } else { (8, 3_000) };
        for _ in 0..200 {
            match roll(sides) {
                0..3 => {
                    let home = [None, Some(0), Some(1), Some(1)][roll(4) as usize];
                    town.come(home, seed % 2 == 1 && roll(4) == 0, Duration::from_secs(roll(11)));
                }
                3 | 4 if !town.inside.is_empty() => town.leave(roll(town.inside.len() as u64) as usize),
                6 if !town.queue.is_empty() => drop(town.queue.remove(roll(town.queue.len() as u64) as usize)),
                _ => town.clock += Duration::from_millis(roll(most)),
            }
            town.look();
            slots_left_free += usize::from(!town.queue.is_empty() && town.inside.len() < 4);
            at_home += usize::from(town.queue.iter().any(|person| person.home.is_some()));
        }
        town.queue.clear();
        town.inside.clear();
        assert_eq!(town.lives.each_ref().map(|live| live.in_flight()), [0, 0]);
    }
    assert!(slots_left_free > 500 && at_home > 5_000, "{slots_left_free} {at_home}");
}
