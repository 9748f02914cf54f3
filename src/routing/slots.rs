//! Slots at endpoints and the queue for them: no endpoint is ever over its limit, first come, first served. Every slot and
//! every position in the queue is a guard. Knows endpoints only by their counters.

use crate::routing::endpoint::Live;
use crate::routing::strategy::Turn;
use crate::util::cancel::{CancelToken, PollFlags, WakeEnd, ready, wake_pair};
use crate::util::lock::lock;
use crate::util::time;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// A background request waits for at most this many others (SPEC section 5).
const MOST_OTHERS: u32 = 10;
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
    queue: Vec<Waiter>,
    turns: HashMap<String, Turn>,
    arrivals: u64,
    /// The last slot went to a background request.
    background_went: bool,
    closed: bool,
}

struct Waiter {
    number: u64,
    lives: Vec<Arc<Live>>,
    order: Vec<usize>,
    background: bool,
    /// Later arrivals that went first.
    others: u32,
    grant: Sender<(usize, Slot)>,
    /// Closed with the waiter, which wakes the thread that waits.
    _wake: Option<WakeEnd>,
}

impl Waiter {
    fn open(&self) -> Option<usize> {
        self.order.iter().copied().find(|&index| self.lives[index].has_room())
    }
}

pub(crate) struct Wanted<'a> {
    pub(crate) lives: &'a [Arc<Live>],
    pub(crate) background: bool,
    pub(crate) length: usize,
    pub(crate) route: &'a str,
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
        let mut state = lock(&self.capacity.state);
        self.live.leave(self.is_abandoned);
        state.hand_out(&self.capacity);
    }
}

/// A position in the queue, given up when dropped.
pub(crate) struct Waiting {
    number: u64,
    capacity: Arc<Capacity>,
    grant: Receiver<(usize, Slot)>,
    /// None when the system has no descriptors left.
    wake: Option<WakeEnd>,
}

impl Waiting {
    /// Waits for a slot or the client's hang-up, until a time or for a quarter of a second.
    pub(crate) fn wait(&self, cancel: &CancelToken, until: Instant) -> WaitResult {
        let now = time::now();
        let timeout = until.saturating_duration_since(now);
        let woken = self.wake.as_ref().map(|wake| ready(wake, PollFlags::IN, Some(cancel), timeout));
        if !matches!(woken, Some(Ok(_))) {
            cancel.wait_until(until.min(now + BLIND), time::now);
        }
        match self.grant.try_recv() {
            _ if cancel.is_cancelled() => WaitResult::ClientGone,
            Ok((index, slot)) => WaitResult::In(index, slot),
            Err(TryRecvError::Empty) => WaitResult::Late,
            Err(TryRecvError::Disconnected) => WaitResult::Closed,
        }
    }

    /// Waits for these endpoints from now on, in this order. False if a slot was granted already.
    pub(crate) fn widen(&self, lives: Vec<Arc<Live>>) -> bool {
        let mut state = lock(&self.capacity.state);
        let Some(waiter) = state.queue.iter_mut().find(|waiter| waiter.number == self.number) else {
            return false;
        };
        waiter.order = (0..lives.len()).collect();
        waiter.lives = lives;
        state.hand_out(&self.capacity);
        true
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // A slot that was granted meanwhile is in the channel and released with it.
        lock(&self.capacity.state).queue.retain(|waiter| waiter.number != self.number);
    }
}

impl Capacity {
    /// Takes the first free slot in the order that `order` makes of the route's turn, or a position in the queue.
    pub(crate) fn enter(self: &Arc<Self>, wanted: &Wanted<'_>, order: impl FnOnce(&mut Turn) -> Vec<usize>) -> Entry {
        let mut state = lock(&self.state);
        let order = order(state.turn(wanted.route));
        if let Some(&index) = order.iter().find(|&&index| wanted.lives[index].has_room()) {
            return Entry::In(index, self.take(&wanted.lives[index]));
        }
        if state.closed {
            return Entry::Closed;
        }
        if state.queue.len() >= wanted.length {
            return Entry::Full;
        }
        let (grant, granted) = bounded(1);
        let (wake, woken) = wake_pair().unzip();
        let number = state.arrivals;
        state.arrivals += 1;
        let (lives, background) = (wanted.lives.to_vec(), wanted.background);
        state.queue.push(Waiter { number, lives, order, background, others: 0, grant, _wake: wake });
        Entry::Wait(Waiting { number, capacity: Arc::clone(self), grant: granted, wake: woken })
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
        state.hand_out(self);
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

    fn take(self: &Arc<Self>, live: &Arc<Live>) -> Slot {
        live.enter();
        Slot { live: Arc::clone(live), is_abandoned: false, capacity: Arc::clone(self) }
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

    /// Gives free slots to queued requests, until none of them fits.
    fn hand_out(&mut self, capacity: &Arc<Capacity>) {
        while let Some(next) = self.next() {
            let waiter = self.queue.remove(next);
            self.background_went = waiter.background;
            let Some(index) = waiter.open() else { continue };
            for other in self.queue.iter_mut().filter(|other| other.open().is_some()) {
                other.others += 1;
            }
            let slot = capacity.take(&waiter.lives[index]);
            // The channel holds one, and the receiver is there: it leaves the queue under this lock first.
            let sent = waiter.grant.try_send((index, slot));
            debug_assert!(sent.is_ok(), "a queued waiter listens");
        }
    }

    /// The next request: the first interactive one, unless a background request has waited for its share of others; never two
    /// background requests in a row while an interactive one waits.
    fn next(&self) -> Option<usize> {
        let first =
            |of: &dyn Fn(&Waiter) -> bool| self.queue.iter().position(|waiter| of(waiter) && waiter.open().is_some());
        let starved = first(&|waiter| waiter.background && waiter.others >= MOST_OTHERS);
        let interactive = first(&|waiter| !waiter.background);
        match (starved, interactive) {
            (Some(starved), Some(_)) if !self.background_went => Some(starved),
            (_, Some(interactive)) => Some(interactive),
            (_, None) => first(&|waiter| waiter.background),
        }
    }
}

#[cfg(test)]
mod tests;
