//! Where a conversation's prompt most likely still is in a cache: remembers what was sent where lately.
//! Knows endpoints by the number of their cache's life only.

use crate::api::body::JsonBody;
use crate::api::prefix::{PrefixHashes, hashes};
use crate::routing::strategy::Load;
use crate::util::lock::lock;
use crate::util::lru::Lru;
use std::hash::RandomState;
use std::sync::Mutex;

/// Entries of one generation. A turn leaves one link, so both generations hold the last 14,000 to 28,000 turns, a few
/// thousand conversations. In memory: 2 tables of 16,384 places (this is 7/8 of that) of 17 bytes, 557 KB.
const GENERATION: usize = 14_336;
/// How many more requests than at its idlest peer are tolerated at an endpoint without a known limit, on top of twice as many.
const TOLERATED: u32 = 4;

pub struct Affinity {
    keys: RandomState,
    homes: Mutex<Lru<u64, u32>>,
}

/// Why an endpoint is the favourite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// It had the beginning of this prompt.
    Prompt,
    Session,
}

/// Why the favourite is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spill {
    Full,
    /// It is much busier than another.
    Busy,
}

impl Default for Affinity {
    fn default() -> Self {
        Self { keys: RandomState::new(), homes: Mutex::new(Lru::new(GENERATION)) }
    }
}

impl Affinity {
    pub fn hashes<'a>(
        &self,
        body: Option<&JsonBody<'_>>,
        model: &str,
        sessions: impl Iterator<Item = &'a [u8]>,
    ) -> PrefixHashes {
        hashes(body, model, sessions, &self.keys)
    }

    /// Which of these caches most likely holds the longest part of the prompt.
    pub(crate) fn favourite(&self, hashes: &PrefixHashes, caches: &[u32]) -> Option<(usize, Known)> {
        let mut homes = lock(&self.homes);
        let mut home = |mark: &u64| {
            let cache = *homes.get(mark)?;
            caches.iter().position(|one| *one == cache)
        };
        let by_prompt = hashes.links.iter().rev().find_map(&mut home);
        let by_session = || hashes.session_keys.iter().find_map(home).map(|index| (index, Known::Session));
        by_prompt.map(|index| (index, Known::Prompt)).or_else(by_session)
    }

    /// This request goes to that cache.
    pub(crate) fn remember(&self, hashes: &PrefixHashes, cache: u32) {
        let mut homes = lock(&self.homes);
        // The last link is what the next turn, a branch from here and a regeneration all hold.
        for mark in hashes.links.last().into_iter().chain(&hashes.session_keys) {
            homes.put(*mark, cache);
        }
    }
}

/// Whether a request goes to its favourite although others are idler. A warm cache beats an idle server as long as there is
/// a place; where no limit is known, requests must not pile up in one place.
pub(crate) fn spill(favourite: Load, others: impl Iterator<Item = Load>) -> Option<Spill> {
    if !favourite.has_room() {
        return Some(Spill::Full);
    }
    let idlest = others.filter(|other| other.has_room()).map(|other| other.in_flight).min()?;
    let is_busy = favourite.limit.is_none() && favourite.in_flight >= 2 * idlest + TOLERATED;
    is_busy.then_some(Spill::Busy)
}

#[cfg(test)]
mod tests;
