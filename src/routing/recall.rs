//! Tells the page why a prompt was computed again. Remembers the latest conversations and where each was sent; routing
//! does not depend on it.

use crate::api::answer::Tokens;
use crate::routing::affinity::Prompt;
use crate::routing::endpoint::Live;
use crate::routing::plan::Plan;
use crate::util::lock::lock;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

/// The most conversations remembered. With 256 links each they take 140 KB.
const MOST: usize = 64;

#[derive(Default)]
pub(crate) struct Recall {
    /// The most recently used one last.
    conversations: Mutex<VecDeque<Conversation>>,
}

struct Conversation {
    prompt: Prompt,
    live: Arc<Live>,
    /// The endpoint's cache id at that time.
    cache: u32,
    /// The length of its prompt, as counted by the endpoint.
    tokens: Option<u64>,
}

/// The conversation that a request continues, and the state of its endpoint when the request arrives.
pub(crate) struct Before {
    change: Option<Change>,
    live: Arc<Live>,
    tokens: Option<u64>,
    has_restarted: bool,
    was_full: bool,
    was_available: bool,
}

/// The first message that differs from the earlier conversation, counted from 1; 0 means the system prompt or the
/// tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    at: usize,
    of: usize,
}

/// The endpoint that served a request, and why.
pub(crate) struct Sent<'a> {
    pub(crate) live: &'a Arc<Live>,
    pub(crate) attempts: u32,
    pub(crate) reason: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recomputed {
    New,
    Full,
    Down,
    /// By the strategy, with its reason.
    Moved(&'static str),
    Changed(Change),
    Evicted,
}

impl fmt::Display for Recomputed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("new conversation"),
            Self::Full => f.write_str("moved: endpoint full"),
            Self::Down => f.write_str("moved: endpoint down"),
            Self::Moved(reason) => write!(f, "moved: {reason}"),
            Self::Changed(Change { at: 0, .. }) => f.write_str("changed in the system prompt or the tools"),
            Self::Changed(Change { at, of }) => write!(f, "changed at message {at} of {of}"),
            Self::Evicted => f.write_str("evicted or restarted"),
        }
    }
}

impl Recall {
    /// The conversation that shares the most messages with this request, or else the latest one of the same session.
    pub(crate) fn before(&self, prompt: &Prompt, plan: &Plan) -> Option<Before> {
        let all = lock(&self.conversations);
        let keys = &prompt.hashes.session_keys;
        let of_session = |old: &Prompt| old.hashes.session_keys.iter().any(|key| keys.contains(key));
        let ranked = all.iter().map(|old| (common(&old.prompt, prompt), of_session(&old.prompt), old));
        let best = ranked.filter(|(common, of_session, _)| *common > 0 || *of_session);
        let (common, _, old) = best.max_by_key(|(common, of_session, _)| (*common, *of_session))?;
        Some(Before {
            change: change(&old.prompt, prompt, common),
            live: Arc::clone(&old.live),
            tokens: old.tokens,
            has_restarted: old.live.cache_id() != old.cache,
            was_full: !old.live.has_room(),
            was_available: plan.candidates.iter().any(|one| Arc::ptr_eq(&one.endpoint.live, &old.live)),
        })
    }

    pub(crate) fn remember(&self, prompt: &Prompt, live: &Arc<Live>, tokens: Option<u64>) {
        if prompt.hashes.links.is_empty() {
            return;
        }
        let (live, cache) = (Arc::clone(live), live.cache_id());
        let mut all = lock(&self.conversations);
        // It replaces the conversations that it continues.
        all.retain(|old| common(&old.prompt, prompt) < old.prompt.messages.max(1));
        if all.len() == MOST {
            all.pop_front();
        }
        all.push_back(Conversation { prompt: prompt.clone(), live, cache, tokens });
    }
}

/// The number of identical leading messages; 0 if only messages without links are identical.
fn common(old: &Prompt, new: &Prompt) -> usize {
    // A link covers all messages before it, so only leading links can be the same.
    let begin = old.unlinked.max(new.unlinked);
    let [old, new] = [old, new].map(|prompt| prompt.hashes.links.iter().skip(begin - prompt.unlinked));
    let same = old.zip(new).take_while(|(old, new)| old == new).count();
    if same == 0 { 0 } else { begin + same }
}

/// Where `new` differs from `old`. `None` if it continues `old` or branches off from an earlier point of it.
fn change(old: &Prompt, new: &Prompt, common: usize) -> Option<Change> {
    let at = match common {
        0 if old.base != new.base => 0,
        0 if old.root != new.root => 1,
        0 => new.unlinked + 1,
        _ if common >= old.messages.min(new.messages) => return None,
        _ => common + 1,
    };
    Some(Change { at, of: new.messages })
}

/// The reason if the endpoint found less than half of what it should have had in its cache.
pub(crate) fn recomputed(before: Option<Before>, sent: &Sent<'_>, tokens: &Tokens) -> Option<Recomputed> {
    let expected = before.as_ref().and_then(|before| before.tokens.filter(|_| before.change.is_none()));
    let is_found = is_found(tokens, expected);
    let Some(before) = before.filter(|_| is_found != Some(true)) else {
        return (is_found != Some(true)).then_some(Recomputed::New);
    };
    let has_moved = !Arc::ptr_eq(&before.live, sent.live);
    let was_full = before.was_full || ["affinity_full", "full"].contains(&sent.reason);
    // A change near the end does not explain why another endpoint had to compute the whole prompt.
    let explains = |change: &Change| !has_moved || change.at.saturating_sub(1) * 2 < change.of;
    match before.change.filter(explains) {
        Some(change) => Some(Recomputed::Changed(change)),
        None if has_moved && !before.was_available => Some(Recomputed::Down),
        None if before.has_restarted => Some(Recomputed::Evicted),
        None if !has_moved => is_found.map(|_| Recomputed::Evicted),
        None if was_full => Some(Recomputed::Full),
        None if sent.attempts > 1 => Some(Recomputed::Down),
        None => Some(Recomputed::Moved(sent.reason)),
    }
}

/// Whether at least half of the earlier prompt, if known, or of the whole prompt was found in a cache. `None` if the
/// endpoint reports no counts.
fn is_found(tokens: &Tokens, before: Option<u64>) -> Option<bool> {
    let prompt = tokens.prompt?;
    Some(tokens.cached? >= before.map_or(prompt, |before| before.min(prompt)).div_ceil(2))
}

#[cfg(test)]
mod tests;
