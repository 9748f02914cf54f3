//! The slots of all endpoints and the queue for them. No endpoint is ever over its limit. A request waits for the
//! endpoint that has its conversation in the cache, its home, as long as that costs less than computing the prompt
//! elsewhere; then it accepts any endpoint. A free slot goes to the queued request with the lowest `Waiter::rank`,
//! within bounds that keep the queue fair. Slots and queue positions are guards.

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

/// A request that was overtaken this often is overdue and comes next. For background requests any other request counts
/// (SPEC section 5), otherwise only later ones.
const MAX_OVERTAKEN: u32 = 10;
/// The same for requests without a home, which lose nothing at another endpoint.
const MAX_OVERTAKEN_WITHOUT_HOME: u32 = 3;
/// A request never overtakes one that arrived this much earlier.
const MAX_HEAD_START: Duration = Duration::from_secs(10);
/// The least cost of moving a conversation; smaller estimates are noise.
const MIN_COST: Duration = Duration::from_millis(100);
/// Routes whose round-robin position is remembered; when there are more, all of them start over.
const MAX_TURNS: usize = 4_096;
/// The polling interval of a queued request when the process has no descriptor left to wake it with.
const FALLBACK_POLL: Duration = Duration::from_millis(20);

/// One per process.
#[derive(Default)]
pub(crate) struct Capacity {
    state: Mutex<State>,
    abandoned: OnceLock<Sender<Slot>>,
}

/// Abandoned slots that wait for the health thread; further ones are released at once.
const MAX_ABANDONED: usize = 256;

#[derive(Default)]
struct State {
    /// In order of arrival; bounded by `queue.length`.
    queue: Vec<Queued>,
    turns: HashMap<String, Turn>,
    arrivals: u64,
    /// The last slot was taken by a background request.
    last_was_background: bool,
    closed: bool,
}

struct Waiter {
    number: u64,
    wanted: Wanted,
    order: Vec<usize>,
    since: Instant,
    /// Until then it accepts no endpoint but its home.
    patient_until: Instant,
    /// How often it was overtaken: by later arrivals, and if it is a background request by any request.
    overtaken: u32,
}

struct Queued {
    waiter: Waiter,
    grant: Sender<(usize, Slot)>,
    /// Closing it wakes the waiting thread.
    _wake: Option<WakeEnd>,
}

impl Waiter {
    /// The endpoint whose free slot it would take now: its home, or any endpoint once its patience is over.
    fn acceptable(&self, now: Instant) -> Option<usize> {
        let has_room = |index: &usize| self.wanted.lives[*index].has_room();
        let home = self.wanted.home.map(|home| home.index);
        let waits = home.is_some() && now < self.patient_until && !self.is_overdue();
        home.filter(has_room).or_else(|| self.order.iter().copied().filter(|_| !waits).find(has_room))
    }

    fn is_overdue(&self) -> bool {
        let is_patient = self.wanted.background || self.wanted.home.is_some();
        self.overtaken >= if is_patient { MAX_OVERTAKEN } else { MAX_OVERTAKEN_WITHOUT_HOME }
    }

    /// The order at a free slot, lowest first: overdue requests, then those with a home, then the others, each in
    /// order of arrival. A request that would leave its home counts as having arrived later by the cost of the move.
    fn rank(&self, index: usize) -> (bool, bool, Instant) {
        if self.is_overdue() {
            return (false, false, self.since);
        }
        let moves = self.wanted.home.filter(|home| home.index != index);
        let cost = moves.map_or(Duration::ZERO, |home| home.patience.max(MIN_COST));
        (true, self.wanted.home.is_none(), self.since + cost)
    }

    fn home(&self) -> Option<&Arc<Live>> {
        self.wanted.home.map(|home| &self.wanted.lives[home.index])
    }

    fn index_of(&self, live: &Arc<Live>) -> Option<usize> {
        self.order.iter().copied().find(|index| Arc::ptr_eq(&self.wanted.lives[*index], live))
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

/// The queue that a request enters when it finds no slot.
pub(crate) struct Queue<'a> {
    pub(crate) route: &'a str,
    pub(crate) length: usize,
}

/// `In`: a slot at the endpoint with that index.
pub(crate) enum Entry {
    In(usize, Slot),
    Wait(Waiting),
    Full,
    /// The proxy is draining.
    Closed,
}

pub(crate) enum WaitResult {
    In(usize, Slot),
    ClientGone,
    /// No slot within the time given.
    Late,
    Closed,
}

/// A slot at an endpoint, released when dropped.
pub(crate) struct Slot {
    live: Arc<Live>,
    since: Instant,
    /// Its request has ended, but the slot is still counted.
    is_abandoned: bool,
    capacity: Arc<Capacity>,
}

impl Slot {
    /// Keeps the slot of an aborted request until the health thread sees that the server has stopped working on it.
    /// Released at once if the health thread cannot accept it.
    pub(crate) fn abandon(mut self) {
        if let Some(sender) = self.capacity.abandoned.get().cloned() {
            self.live.abandon();
            self.is_abandoned = true;
            // A slot that cannot be sent is dropped with the error.
            let _ = sender.try_send(self);
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

/// A position in the queue, released when dropped.
pub(crate) struct Waiting {
    number: u64,
    capacity: Arc<Capacity>,
    grant: Receiver<(usize, Slot)>,
    /// `None` when the process has no descriptors left.
    wake: Option<WakeEnd>,
    /// See `Waiter`; `None` once it has passed.
    patient_until: Cell<Option<Instant>>,
}

impl Waiting {
    /// Waits for a slot or a client disconnect, at most until `until` and at most for one `TICK`.
    pub(crate) fn wait(&self, cancel: &CancelToken, until: Instant) -> WaitResult {
        let now = time::now();
        let until = self.patient_until.get().map_or(until, |end| until.min(end));
        let timeout = until.saturating_duration_since(now);
        let woken = self.wake.as_ref().map(|wake| ready(wake, PollFlags::IN, Some(cancel), timeout));
        if !matches!(woken, Some(Ok(_))) {
            cancel.wait_until(until.min(now + FALLBACK_POLL), time::now);
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

    /// Replaces the endpoints that are waited for, and their order of preference. False if a slot has been granted already.
    pub(crate) fn widen(&self, lives: Vec<Arc<Live>>, preferred: &[usize], now: Instant) -> bool {
        let mut state = lock(&self.capacity.state);
        let Some(queued) = state.queue.iter_mut().find(|queued| queued.waiter.number == self.number) else {
            return false;
        };
        let Waiter { wanted, order, .. } = &mut queued.waiter;
        *order = preferred.to_vec();
        let old = std::mem::replace(&mut wanted.lives, lives);
        // An endpoint that went down has lost its cache.
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
        // A slot granted meanwhile is released with the channel.
        lock(&self.capacity.state).queue.retain(|queued| queued.waiter.number != self.number);
    }
}

impl Capacity {
    /// Takes a slot at the home endpoint, or the first free one in the order that `order` returns for the route's
    /// turn. Queues the request if no slot is free, or if waiting for its home costs less than moving.
    pub(crate) fn enter(
        self: &Arc<Self>,
        wanted: Wanted,
        queue: &Queue<'_>,
        now: Instant,
        order: impl FnOnce(&mut Turn) -> Vec<usize>,
    ) -> Entry {
        let mut state = lock(&self.state);
        // The patience of queued requests may be over.
        state.hand_out(self, now);
        let may_wait = !state.closed && state.queue.len() < queue.length;
        let patience = wanted.home.filter(|_| may_wait).map_or(Duration::ZERO, |home| {
            let wait = wanted.lives[home.index].expected_wait(state.waiting_for(&wanted.lives[home.index]));
            if wait > home.patience { Duration::ZERO } else { home.patience }
        });
        let (number, order) = (state.arrivals, order(state.turn(queue.route)));
        let waiter = Waiter { number, wanted, order, since: now, patient_until: now + patience, overtaken: 0 };
        if let Some(index) = waiter.acceptable(now) {
            let slot = self.take(&waiter.wanted.lives[index], now);
            state.arrivals += 1;
            state.note_taken(&waiter, index);
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

    /// Receives the slots abandoned from now on; called once.
    pub(crate) fn abandoned(&self) -> Receiver<Slot> {
        let (sender, receiver) = bounded(MAX_ABANDONED);
        let _ = self.abandoned.set(sender);
        receiver
    }

    /// Sets the limits of endpoints and hands out the slots that this frees.
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

    /// Calls `look` with a copy of the route's turn, which stays as it is.
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
            if self.turns.len() >= MAX_TURNS {
                self.turns.clear();
            }
            self.turns.insert(route.to_owned(), Turn::default());
        }
        self.turns.get_mut(route).expect("it was there or inserted")
    }

    /// Gives free slots to queued requests until no request takes one.
    fn hand_out(&mut self, capacity: &Arc<Capacity>, now: Instant) {
        while let Some((next, index)) = self.next(now) {
            let Queued { waiter, grant, .. } = self.queue.remove(next);
            self.note_taken(&waiter, index);
            let slot = capacity.take(&waiter.wanted.lives[index], now);
            // The channel has room for one slot, and a receiver leaves the queue, under this lock, before it is
            // dropped.
            let sent = grant.try_send((index, slot));
            debug_assert!(sent.is_ok(), "a queued waiter listens");
        }
    }

    /// A request takes a slot: it overtakes the queued requests that could have taken it.
    fn note_taken(&mut self, first: &Waiter, index: usize) {
        self.last_was_background = first.wanted.background;
        let live = &first.wanted.lives[index];
        for Queued { waiter, .. } in &mut self.queue {
            let counts = waiter.wanted.background || first.number > waiter.number;
            waiter.overtaken += u32::from(counts && waiter.index_of(live).is_some());
        }
    }

    fn waiting_for(&self, live: &Arc<Live>) -> usize {
        self.queue.iter().filter(|queued| queued.waiter.home().is_some_and(|home| Arc::ptr_eq(home, live))).count()
    }

    /// The next request, as its index in the queue and that of its endpoint. Interactive requests precede background
    /// requests that are not overdue, and two background requests never go in a row while an interactive one waits.
    fn next(&self, now: Instant) -> Option<(usize, usize)> {
        let starved = self.best(now, |waiter| waiter.wanted.background && waiter.is_overdue());
        match (starved, self.best(now, |waiter| !waiter.wanted.background)) {
            (Some(starved), Some(_)) if !self.last_was_background => Some(starved),
            (_, Some(interactive)) => Some(interactive),
            (_, None) => self.best(now, |waiter| waiter.wanted.background),
        }
    }

    /// Among the included requests, the one with the lowest rank; but one that arrived `MAX_HEAD_START` earlier and
    /// can use the same slot takes precedence.
    fn best(&self, now: Instant, included: impl Fn(&Waiter) -> bool) -> Option<(usize, usize)> {
        let waiters =
            || self.queue.iter().map(|queued| &queued.waiter).enumerate().filter(|(_, waiter)| included(waiter));
        let open = waiters().filter_map(|(at, waiter)| Some((at, waiter, waiter.acceptable(now)?)));
        let (_, next, index) = open.min_by_key(|(_, waiter, index)| waiter.rank(*index))?;
        let live = &next.wanted.lives[index];
        let mut able = waiters().filter_map(|(at, waiter)| Some((at, waiter, waiter.index_of(live)?)));
        let is_far_ahead = |waiter: &Waiter| next.since.saturating_duration_since(waiter.since) > MAX_HEAD_START;
        able.find(|(_, waiter, _)| is_far_ahead(waiter) || waiter.number == next.number)
            .map(|(at, _, index)| (at, index))
    }
}

#[cfg(test)]
mod tests;
