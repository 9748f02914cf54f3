//! Slots at endpoints and the queue for them: no endpoint is ever over its limit. A free slot goes to the first request in
//! the queue whose prompt is in that endpoint's cache, else to the first that takes any; within bounds that keep the queue
//! fair. Every slot and every position in the queue is a guard. Knows endpoints only by their counters.

use crate::routing::endpoint::Live;
use crate::routing::strategy::Turn;
use crate::util::cancel::{CancelToken, PollFlags, WakeEnd, ready, wake_pair};
use crate::util::lock::lock;
use crate::util::time;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// A background request waits for at most this many others (SPEC section 5), any request for at most this many later ones,
const MOST_OTHERS: u32 = 10;
/// one without a home, which would lose nothing elsewhere, for fewer,
const FEW_OTHERS: u32 = 3;
/// and for none that came so much later.
const MOST_LATER: Duration = Duration::from_secs(10);
/// A move counts as at least so much: less may be chance.
const LEAST_COST: Duration = Duration::from_millis(100);
/// Routes whose turn (round robin) is remembered; beyond it all start anew.
const MOST_TURNS: usize = 4_096;
/// How often a queued request looks for its slot when there is no descriptor to be woken by.
const BLIND: Duration = Duration::from_millis(20);

/// The slots of all endpoints and the queue. One per process.
#[derive(Default)]
pub(crate) struct Capacity {
    state: Mutex<State>,
    abandoned: OnceLock<Sender<Slot>>,
}

/// Abandoned slots on their way to the health thread; beyond it they are released at once.
const MOST_ABANDONED: usize = 256;

#[derive(Default)]
struct State {
    /// In order of arrival; bounded by `queue.length`.
    queue: Vec<Queued>,
    turns: HashMap<String, Turn>,
    arrivals: u64,
    /// The last slot went to a background request.
    background_went: bool,
    closed: bool,
}

struct Waiter {
    number: u64,
    wanted: Wanted,
    order: Vec<usize>,
    since: Instant,
    /// Until then it waits for its home.
    patient_until: Instant,
    /// Requests that went first: later arrivals and, if it is a background request, all others.
    others: u32,
}

struct Queued {
    waiter: Waiter,
    grant: Sender<(usize, Slot)>,
    /// Closed with the waiter, which wakes the thread that waits.
    _wake: Option<WakeEnd>,
}

impl Waiter {
    /// The endpoint of the slot that it would take now: its home, or any once that is not worth waiting for.
    fn open(&self, now: Instant) -> Option<usize> {
        let has_room = |index: &usize| self.wanted.lives[*index].has_room();
        let home = self.wanted.home.map(|home| home.index);
        let waits = home.is_some() && now < self.patient_until && !self.is_overdue();
        home.filter(has_room).or_else(|| self.order.iter().copied().filter(|_| !waits).find(has_room))
    }

    fn is_overdue(&self) -> bool {
        let is_patient = self.wanted.background || self.wanted.home.is_some();
        self.others >= if is_patient { MOST_OTHERS } else { FEW_OTHERS }
    }

    /// Who comes first at an endpoint: one that was overtaken too often, then those with a home in order of arrival, a move
    /// from which counts as the time that it costs, then those without.
    fn rank(&self, index: usize) -> (bool, bool, Instant) {
        if self.is_overdue() {
            return (false, false, self.since);
        }
        let moves = self.wanted.home.filter(|home| home.index != index);
        let cost = moves.map_or(Duration::ZERO, |home| home.patience.max(LEAST_COST));
        (true, self.wanted.home.is_none(), self.since + cost)
    }

    fn home(&self) -> Option<&Arc<Live>> {
        self.wanted.home.map(|home| &self.wanted.lives[home.index])
    }

    /// The index by which it knows an endpoint.
    fn index_of(&self, live: &Arc<Live>) -> Option<usize> {
        self.wanted.lives.iter().position(|one| Arc::ptr_eq(one, live))
    }
}

pub(crate) struct Wanted {
    pub(crate) lives: Vec<Arc<Live>>,
    pub(crate) home: Option<Home>,
    pub(crate) background: bool,
}

/// The endpoint that has the prompt in its cache.
#[derive(Clone, Copy)]
pub(crate) struct Home {
    pub(crate) index: usize,
    /// The longest wait for it that costs less than computing the prompt at another endpoint.
    pub(crate) patience: Duration,
}

/// Where a request that finds no slot is queued.
pub(crate) struct Line<'a> {
    pub(crate) route: &'a str,
    pub(crate) length: usize,
}

/// `In`: a slot at the endpoint with that index.
pub(crate) enum Entry {
    In(usize, Slot),
    Wait(Waiting),
    Full,
    /// The proxy is being stopped; the queue is closed.
    Closed,
}

pub(crate) enum WaitResult {
    In(usize, Slot),
    ClientGone,
    /// Nothing happened for a while.
    Late,
    Closed,
}

/// A slot at an endpoint, released when dropped.
pub(crate) struct Slot {
    live: Arc<Live>,
    since: Instant,
    /// Its request has ended; only the slot counts as taken.
    is_abandoned: bool,
    capacity: Arc<Capacity>,
}

impl Slot {
    /// The request was given up, but its server may still be working on it: the slot stays taken until the health thread
    /// sees that the server is free, and is released at once if that thread does not take it.
    pub(crate) fn abandon(mut self) {
        if let Some(keeper) = self.capacity.abandoned.get().cloned() {
            self.live.abandon();
            self.is_abandoned = true;
            // What cannot be sent comes back in the error, and is dropped with it.
            let _ = keeper.try_send(self);
        }
    }

    pub(crate) fn is_at(&self, live: &Arc<Live>) -> bool {
        Arc::ptr_eq(&self.live, live)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let now = time::now();
        let mut state = lock(&self.capacity.state);
        self.live.leave(self.is_abandoned);
        if !self.is_abandoned {
            self.live.held.add(now.saturating_duration_since(self.since).as_secs_f64());
        }
        state.hand_out(&self.capacity, now);
    }
}

/// A position in the queue, given up when dropped.
pub(crate) struct Waiting {
    number: u64,
    capacity: Arc<Capacity>,
    grant: Receiver<(usize, Slot)>,
    /// None when the system has no descriptors left.
    wake: Option<WakeEnd>,
    /// When any slot will do; `None` from then on.
    patient_until: Cell<Option<Instant>>,
}

impl Waiting {
    /// Waits for a slot or the client's hang-up, until a time or for a quarter of a second.
    pub(crate) fn wait(&self, cancel: &CancelToken, until: Instant) -> WaitResult {
        let now = time::now();
        let until = self.patient_until.get().map_or(until, |end| until.min(end));
        let timeout = until.saturating_duration_since(now);
        let woken = self.wake.as_ref().map(|wake| ready(wake, PollFlags::IN, Some(cancel), timeout));
        if !matches!(woken, Some(Ok(_))) {
            cancel.wait_until(until.min(now + BLIND), time::now);
        }
        let now = time::now();
        if self.patient_until.get().is_some_and(|end| now >= end) {
            self.patient_until.set(None);
            lock(&self.capacity.state).hand_out(&self.capacity, now);
        }
        match self.grant.try_recv() {
            _ if cancel.is_cancelled() => WaitResult::ClientGone,
            Ok((index, slot)) => WaitResult::In(index, slot),
            Err(TryRecvError::Empty) => WaitResult::Late,
            Err(TryRecvError::Disconnected) => WaitResult::Closed,
        }
    }

    /// Waits for these endpoints from now on, in this order. False if a slot was granted already.
    pub(crate) fn widen(&self, lives: Vec<Arc<Live>>, now: Instant) -> bool {
        let mut state = lock(&self.capacity.state);
        let Some(queued) = state.queue.iter_mut().find(|queued| queued.waiter.number == self.number) else {
            return false;
        };
        let Waiter { wanted, order, .. } = &mut queued.waiter;
        *order = (0..lives.len()).collect();
        let old = std::mem::replace(&mut wanted.lives, lives);
        // A home that is down has lost its cache.
        wanted.home = wanted.home.and_then(|home| {
            let index = wanted.lives.iter().position(|live| Arc::ptr_eq(live, &old[home.index]))?;
            Some(Home { index, ..home })
        });
        state.hand_out(&self.capacity, now);
        true
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // A slot that was granted meanwhile is in the channel and released with it.
        lock(&self.capacity.state).queue.retain(|queued| queued.waiter.number != self.number);
    }
}

impl Capacity {
    /// Takes a slot: at home, else the first free one in the order that `order` makes of the route's turn. If there is none, or
    /// waiting for home costs less, takes a position in the queue.
    pub(crate) fn enter(
        self: &Arc<Self>,
        wanted: Wanted,
        line: &Line<'_>,
        now: Instant,
        order: impl FnOnce(&mut Turn) -> Vec<usize>,
    ) -> Entry {
        let mut state = lock(&self.state);
        // Some may have waited for their home long enough.
        state.hand_out(self, now);
        let may_wait = !state.closed && state.queue.len() < line.length;
        let patience = wanted.home.filter(|_| may_wait).map_or(Duration::ZERO, |home| {
            let wait = wanted.lives[home.index].expected_wait(state.waiting_for(&wanted.lives[home.index]));
            if wait > home.patience { Duration::ZERO } else { home.patience }
        });
        let (number, order) = (state.arrivals, order(state.turn(line.route)));
        let waiter = Waiter { number, wanted, order, since: now, patient_until: now + patience, others: 0 };
        if let Some(index) = waiter.open(now) {
            let slot = self.take(&waiter.wanted.lives[index], now);
            state.arrivals += 1;
            state.count_overtaken(&waiter, index);
            state.hand_out(self, now);
            return Entry::In(index, slot);
        }
        if !may_wait {
            return if state.closed { Entry::Closed } else { Entry::Full };
        }
        state.arrivals += 1;
        let (grant, granted) = bounded(1);
        let (wake, woken) = wake_pair().unzip();
        let patient_until = Cell::new(Some(waiter.patient_until).filter(|end| *end > now));
        state.queue.push(Queued { waiter, grant, _wake: wake });
        Entry::Wait(Waiting { number, capacity: Arc::clone(self), grant: granted, wake: woken, patient_until })
    }

    /// The slots that are abandoned from now on; may be called once.
    pub(crate) fn abandoned(&self) -> Receiver<Slot> {
        let (sender, receiver) = bounded(MOST_ABANDONED);
        let _ = self.abandoned.set(sender);
        receiver
    }

    /// Sets limits; queued requests that fit now get their slot.
    pub(crate) fn resize<'a>(self: &Arc<Self>, limits: impl Iterator<Item = (&'a Live, Option<u32>)>) {
        let mut state = lock(&self.state);
        for (live, limit) in limits {
            live.set_limit(limit);
        }
        state.hand_out(self, time::now());
    }

    pub(crate) fn waiting(&self) -> usize {
        lock(&self.state).queue.len()
    }

    /// Calls `look` with a copy of the route's turn.
    pub(crate) fn peek<T>(&self, route: &str, look: impl FnOnce(&mut Turn) -> T) -> T {
        look(&mut lock(&self.state).turn(route).clone())
    }

    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.queue.clear();
    }

    fn take(self: &Arc<Self>, live: &Arc<Live>, now: Instant) -> Slot {
        live.enter();
        Slot { live: Arc::clone(live), since: now, is_abandoned: false, capacity: Arc::clone(self) }
    }
}

impl State {
    fn turn(&mut self, route: &str) -> &mut Turn {
        if !self.turns.contains_key(route) {
            if self.turns.len() >= MOST_TURNS {
                self.turns.clear();
            }
            self.turns.insert(route.to_owned(), Turn::default());
        }
        self.turns.get_mut(route).expect("it was there or inserted")
    }

    /// Gives free slots to queued requests, until none of them takes one.
    fn hand_out(&mut self, capacity: &Arc<Capacity>, now: Instant) {
        while let Some((next, index)) = self.next(now) {
            let Queued { waiter, grant, .. } = self.queue.remove(next);
            self.background_went = waiter.wanted.background;
            self.count_overtaken(&waiter, index);
            let slot = capacity.take(&waiter.wanted.lives[index], now);
            // The channel holds one, and the receiver is there: it leaves the queue under this lock first.
            let sent = grant.try_send((index, slot));
            debug_assert!(sent.is_ok(), "a queued waiter listens");
        }
    }

    /// Counts a request that takes a slot at those in the queue that could have had it.
    fn count_overtaken(&mut self, first: &Waiter, index: usize) {
        let live = &first.wanted.lives[index];
        for Queued { waiter, .. } in &mut self.queue {
            let counts = waiter.wanted.background || first.number > waiter.number;
            waiter.others += u32::from(counts && waiter.index_of(live).is_some());
        }
    }

    fn waiting_for(&self, live: &Arc<Live>) -> usize {
        self.queue.iter().filter(|queued| queued.waiter.home().is_some_and(|home| Arc::ptr_eq(home, live))).count()
    }

    /// The next request and its endpoint: an interactive one, unless a background request has waited for its share of others;
    /// never two background requests in a row while an interactive one waits.
    fn next(&self, now: Instant) -> Option<(usize, usize)> {
        let starved = self.first(now, |waiter| waiter.wanted.background && waiter.is_overdue());
        match (starved, self.first(now, |waiter| !waiter.wanted.background)) {
            (Some(starved), Some(_)) if !self.background_went => Some(starved),
            (_, Some(interactive)) => Some(interactive),
            (_, None) => self.first(now, |waiter| waiter.wanted.background),
        }
    }

    /// The next of these: one that was overtaken too often, else one whose home has a free slot, else one that takes any; in
    /// order of arrival, and never one that came much later than another that could use the slot.
    fn first(&self, now: Instant, is: impl Fn(&Waiter) -> bool) -> Option<(usize, usize)> {
        let waiters = || self.queue.iter().map(|queued| &queued.waiter).enumerate().filter(|(_, waiter)| is(waiter));
        let open = waiters().filter_map(|(at, waiter)| Some((at, waiter, waiter.open(now)?)));
        let (_, next, index) = open.min_by_key(|(_, waiter, index)| waiter.rank(*index))?;
        let live = &next.wanted.lives[index];
        let mut able = waiters().filter_map(|(at, waiter)| Some((at, waiter, waiter.index_of(live)?)));
        let is_far_ahead = |waiter: &Waiter| next.since.saturating_duration_since(waiter.since) > MOST_LATER;
        able.find(|(_, waiter, _)| is_far_ahead(waiter) || waiter.number == next.number)
            .map(|(at, _, index)| (at, index))
    }
}

#[cfg(test)]
mod tests;
