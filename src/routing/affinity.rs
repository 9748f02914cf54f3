//! Where a conversation's prompt most likely still is in a cache: remembers what was sent where lately.
//! Knows endpoints by the number of their cache's life only.

use crate::api::prefix::{PrefixHashes, marks};
use crate::routing::strategy::Load;
use crate::util::lock::lock;
use crate::util::lru::Lru;
use std::hash::RandomState;
use std::sync::Mutex;

/// PrefixHashes of one generation. A turn leaves one link, so both generations hold the last 14,000 to 28,000 turns, a few
/// thousand conversations. In memory: 2 tables of 16,384 places (this is 7/8 of that) of 17 bytes, 557 KB.
const GENERATION: usize = 14_336;
/// How many more requests than at its idlest peer are tolerated at an endpoint without a known limit, on top of twice as many.
const TOLERATED: u32 = 4;

/// The memory of a process.
pub struct Affinity {
    keys: RandomState,
    homes: Mutex<Lru<u64, u32>>,
}

/// Why an endpoint is the favourite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It had the beginning of this prompt.
    Prompt,
    /// It had this session.
    Session,
}

/// Why the favourite is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spill {
    /// It has no room.
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
    /// The marks of a request.
    pub fn marks<'a>(&self, body: &[u8], model: &str, sessions: impl Iterator<Item = &'a [u8]>) -> PrefixHashes {
        marks(body, model, sessions, &self.keys)
    }

    /// Which of these caches most likely holds the longest part of the prompt.
    pub fn favourite(&self, marks: &PrefixHashes, caches: &[u32]) -> Option<(usize, Known)> {
        let mut homes = lock(&self.homes);
        let mut home = |mark: &u64| {
            let cache = *homes.get(mark)?;
            caches.iter().position(|one| *one == cache)
        };
        let by_prompt = marks.links.iter().rev().find_map(&mut home);
        let by_session = || marks.hints.iter().find_map(home).map(|index| (index, Known::Session));
        by_prompt.map(|index| (index, Known::Prompt)).or_else(by_session)
    }

    /// This request goes to that cache.
    pub fn remember(&self, marks: &PrefixHashes, cache: u32) {
        let mut homes = lock(&self.homes);
        // The last link is what the next turn, a branch from here and a regeneration all hold.
        for mark in marks.links.last().into_iter().chain(&marks.hints) {
            homes.put(*mark, cache);
        }
    }
}

/// Whether a request goes to its favourite although others are idler. A warm cache beats an idle server as long as there is
/// a place; where no limit is known, requests must not pile up in one place.
pub fn spill(favourite: Load, others: impl Iterator<Item = Load>) -> Option<Spill> {
    if !favourite.has_room() {
        return Some(Spill::Full);
    }
    let idlest = others.filter(|other| other.has_room()).map(|other| other.in_flight).min()?;
    let is_busy = favourite.limit.is_none() && favourite.in_flight >= 2 * idlest + TOLERATED;
    is_busy.then_some(Spill::Busy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(affinity: &Affinity, messages: &[&str]) -> PrefixHashes {
        let messages: Vec<String> =
            messages.iter().map(|text| format!(r#"{{"role":"user","content":"{text}"}}"#)).collect();
        let body = format!(r#"{{"messages":[{{"role":"system","content":"same"}},{}]}}"#, messages.join(","));
        affinity.marks(body.as_bytes(), "m", std::iter::empty())
    }

    #[test]
    fn a_conversation_its_branches_and_regenerations_go_home() {
        let affinity = Affinity::default();
        let caches = [7, 9];
        let first = request(&affinity, &["a"]);
        assert_eq!(affinity.favourite(&first, &caches), None);
        affinity.remember(&first, 9);
        let second = request(&affinity, &["a", "b", "c"]);
        for turn in [&first, &second, &request(&affinity, &["a", "x"])] {
            assert_eq!(affinity.favourite(turn, &caches), Some((1, Known::Prompt)));
        }
        affinity.remember(&second, 7);
        assert_eq!(affinity.favourite(&request(&affinity, &["a", "b", "c", "d"]), &caches), Some((0, Known::Prompt)));
        assert_eq!(
            affinity.favourite(&request(&affinity, &["a", "y"]), &caches),
            Some((1, Known::Prompt)),
            "an older branch"
        );
        assert_eq!(
            affinity.favourite(&request(&affinity, &["b"]), &caches),
            None,
            "the system prompt alone is no home"
        );
    }

    #[test]
    fn an_endpoint_that_restarted_is_forgotten() {
        let affinity = Affinity::default();
        let (first, second) = (request(&affinity, &["a"]), request(&affinity, &["a", "b"]));
        affinity.remember(&first, 1);
        affinity.remember(&second, 2);
        let third = request(&affinity, &["a", "b", "c"]);
        assert_eq!(affinity.favourite(&third, &[1, 2]), Some((1, Known::Prompt)));
        assert_eq!(affinity.favourite(&third, &[1, 3]), Some((0, Known::Prompt)), "the next longest prefix counts");
        assert_eq!(affinity.favourite(&third, &[3, 4]), None);
    }

    #[test]
    fn a_session_counts_where_the_prompt_is_new() {
        let affinity = Affinity::default();
        let with = |body: &str, session: &'static [u8]| affinity.marks(body.as_bytes(), "m", std::iter::once(session));
        affinity.remember(&with(r#"{"messages":[{"role":"user","content":"a"}]}"#, b"s1"), 5);
        let new = with(r#"{"messages":[{"role":"user","content":"other"}]}"#, b"s1");
        assert_eq!(affinity.favourite(&new, &[4, 5]), Some((1, Known::Session)));
        assert_eq!(affinity.favourite(&with(r#"{"messages":[]}"#, b"s2"), &[4, 5]), None);
    }

    #[test]
    fn memory_is_bounded_however_many_conversations_there_are() {
        let affinity = Affinity::default();
        for n in 0..100_000u64 {
            affinity.remember(&PrefixHashes { links: vec![n], hints: vec![] }, 1);
        }
        assert!(lock(&affinity.homes).len() <= 2 * GENERATION);
        let last = PrefixHashes { links: vec![99_999 - GENERATION as u64 / 2], hints: vec![] };
        assert_eq!(affinity.favourite(&last, &[1]), Some((0, Known::Prompt)));
    }

    #[test]
    fn a_favourite_is_left_only_when_full_or_much_busier() {
        let load = |in_flight, limit| Load { in_flight, limit };
        let to = |favourite, other| spill(favourite, std::iter::once(other));
        assert_eq!(to(load(1, Some(1)), load(0, Some(1))), Some(Spill::Full));
        assert_eq!(to(load(3, Some(4)), load(0, Some(4))), None, "it has a free slot, and the cache");
        assert_eq!(to(load(3, None), load(0, None)), None);
        assert_eq!(to(load(4, None), load(0, None)), Some(Spill::Busy));
        assert_eq!(to(load(9, None), load(3, None)), None);
        assert_eq!(to(load(9, None), load(1, Some(1))), None, "the other has no room");
    }
}
