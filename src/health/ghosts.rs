//! Slots whose requests were given up while their server may still be working on them. Owned by the health thread, so
//! that nobody is sent to wait behind work that nobody waits for.

use super::probe::Slots;
use crate::routing::endpoint::Live;
use crate::routing::slots::Slot;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A slot is given back after this, whatever its server says.
const LONGEST: Duration = Duration::from_secs(60);

/// The abandoned slots of all endpoints, at most one for each slot that there is, in order of age.
#[derive(Default)]
pub(super) struct Ghosts(Vec<Ghost>);

struct Ghost {
    slot: Slot,
    since: Instant,
}

impl Ghosts {
    pub(crate) fn hold(&mut self, slot: Slot, now: Instant) {
        self.0.push(Ghost { slot, since: now });
    }

    /// How many are at an endpoint, and since when the first of them is.
    pub(crate) fn at(&self, live: &Arc<Live>) -> (usize, Option<Instant>) {
        let here = self.0.iter().filter(|ghost| ghost.slot.is_at(live));
        (here.clone().count(), here.map(|ghost| ghost.since).min())
    }

    /// Gives back what was held long enough.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.0.retain(|ghost| now.saturating_duration_since(ghost.since) < LONGEST);
    }

    /// An endpoint has restarted: nothing works there any more.
    pub(crate) fn forget(&mut self, live: &Arc<Live>) {
        self.0.retain(|ghost| !ghost.slot.is_at(live));
    }

    /// Gives slots back that an endpoint, asked at `started`, showed free. `ours` are our other requests there then.
    pub(crate) fn free(&mut self, live: &Arc<Live>, ours: usize, started: Instant, slots: Slots) {
        let (here, _) = self.at(live);
        // One that was there only before or only after the question may not be among those that work.
        let ours = ours.min((live.in_flight() as usize).saturating_sub(here));
        let working = match slots {
            Slots::Working(working) => working.saturating_sub(ours),
            Slots::Unknown => 0,
            Slots::Failed => return,
        };
        // What was abandoned after the question is not answered by it.
        let is_asked = |ghost: &Ghost| ghost.slot.is_at(live) && ghost.since <= started;
        let mut free = self.0.iter().filter(|ghost| is_asked(ghost)).count().saturating_sub(working);
        self.0.retain(|ghost| {
            let goes = free > 0 && is_asked(ghost);
            free -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests;
