//! Where a conversation's prompt most likely still is in a cache: remembers what was sent where lately. A conversation is
//! known by a growing chain of hashes, one link for each message, so that a longer request holds every link of the shorter
//! one before it. Keeps no text, and knows endpoints only by the number of their cache's life.

use crate::api::body::{JsonBody, each_element, each_member, member, unescaped};
use crate::routing::strategy::Load;
use crate::util::lock::lock;
use crate::util::lru::Lru;
use memchr::memmem;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;

/// Entries of one generation. A turn leaves one link, so both generations hold the last 14,000 to 28,000 turns, a few
/// thousand conversations. In memory: 2 tables of 16,384 entries (this is 7/8 of that) of 17 bytes, 557 KB.
const GENERATION: usize = 14_336;
/// How many more requests than at its idlest peer are tolerated at an endpoint without a known limit, on top of twice as many.
const TOLERATED: u32 = 4;

/// A prompt without messages gets a link for each block of this many bytes.
const BLOCK: usize = 1 << 10;
/// Links looked at, the newest: nobody goes further back than this and still finds a warm cache.
const MOST_LINKS: usize = 256;
/// Moved from message to message by Anthropic's clients at every turn; no part of the prompt.
const MARKER: &str = "cache_control";
/// Claude Code's system line that differs in every request; servers ignore it as well.
const BILLING_LINE: &str = "x-anthropic-billing-header:";
/// The hash of what is no part of the prompt: a text of nothing but that line, and the block or message that holds it.
const NOTHING: u64 = 0;
/// `developer` with each letter as `\u0061`.
const LONGEST_ROLE: usize = 6 * "developer".len();

#[derive(Default)]
pub struct Affinity {
    keys: RandomState,
    homes: Mutex<Lru<u64, u32, GENERATION>>,
}

/// What a request is recognised by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrefixHashes {
    /// Link n stands for the model, its tools and system prompt, and the first n messages. Oldest first.
    pub links: Vec<u64>,
    /// What the client says itself, the strongest first: session headers, `prompt_cache_key`, `metadata.user_id`, `user`.
    pub session_keys: Vec<u64>,
}

/// A prompt, as far as its hashes tell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Prompt {
    pub(crate) hashes: PrefixHashes,
    /// Stands for the model, its tools and system prompt,
    pub(super) base: u64,
    /// and for these with the system messages that come first.
    pub(super) root: u64,
    /// Messages before the first that has a link, and messages in all.
    pub(super) unlinked: usize,
    pub(crate) messages: usize,
}

impl Affinity {
    /// What a body for `model` is recognised by, and session headers in their order of strength.
    pub fn hashes<'a>(
        &self,
        body: Option<&JsonBody<'_>>,
        model: &str,
        sessions: impl Iterator<Item = &'a [u8]>,
    ) -> PrefixHashes {
        self.prompt(body, model, sessions).hashes
    }

    /// The same, and more for the page.
    pub(crate) fn prompt<'a>(
        &self,
        body: Option<&JsonBody<'_>>,
        model: &str,
        sessions: impl Iterator<Item = &'a [u8]>,
    ) -> Prompt {
        // A body with half a character in it cannot be decoded; its session headers still count.
        let found = body.and_then(|body| self.of_body(body, model).ok()).unwrap_or_default();
        let sessions = sessions.map(|session| self.keys.hash_one(("session", model, session)));
        let session_keys = sessions.chain(found.hashes.session_keys).collect();
        Prompt { hashes: PrefixHashes { session_keys, links: found.hashes.links }, ..found }
    }

    fn of_body(&self, body: &JsonBody<'_>, model: &str) -> serde_json::Result<Prompt> {
        let keys = &self.keys;
        let hash = |name: &str| body.get(name).map(|raw| canonical(raw, keys)).transpose();
        let tools = hash("tools")?.unwrap_or(0).wrapping_add(hash("functions")?.unwrap_or(0));
        let system = hash(if body.get("system").is_some() { "system" } else { "instructions" })?.unwrap_or(0);
        let (link, links) = (keys.hash_one((model, tools, system)), VecDeque::new());
        let mut chain = Chain { keys, link, root: link, links, messages: 0, has_begun: false };
        if let Some(prompt) = ["messages", "prompt", "input"].iter().find_map(|name| body.get(name)) {
            chain.push_prompt(prompt)?;
        }
        let session = body.get("metadata").and_then(|raw| session(raw.get())).map(|session| keys.hash_one(session));
        let of_client =
            [("prompt_cache_key", hash("prompt_cache_key")?), ("metadata", session), ("user", hash("user")?)];
        let session_keys = of_client.into_iter().filter_map(|(kind, key)| Some(keys.hash_one((kind, model, key?))));
        let Chain { links, root, messages, .. } = chain;
        let unlinked = messages - links.len();
        let hashes = PrefixHashes { links: links.into(), session_keys: session_keys.collect() };
        Ok(Prompt { hashes, base: link, root, unlinked, messages })
    }

    /// Which of these caches most likely holds the longest part of the prompt, and the reason: it had the beginning of this
    /// prompt, or of another one of the session.
    pub(crate) fn favourite(&self, hashes: &PrefixHashes, caches: &[u32]) -> Option<(usize, &'static str)> {
        let mut homes = lock(&self.homes);
        let mut home = |hash: &u64| {
            let cache = *homes.get(hash)?;
            caches.iter().position(|one| *one == cache)
        };
        let by_prompt = hashes.links.iter().rev().find_map(&mut home).map(|index| (index, "affinity"));
        by_prompt.or_else(|| Some((hashes.session_keys.iter().find_map(home)?, "session")))
    }

    pub(crate) fn remember(&self, hashes: &PrefixHashes, cache: u32) {
        let mut homes = lock(&self.homes);
        // The last link is what the next turn, a branch from here and a regeneration all hold.
        for hash in hashes.links.last().into_iter().chain(&hashes.session_keys) {
            homes.put(*hash, cache);
        }
    }
}

/// Why a request does not go to its favourite, if others are idler. A warm cache beats an idle server as long as there is a
/// free slot; where no limit is known, requests must not pile up at one endpoint.
pub(crate) fn spill(favourite: Load, others: impl Iterator<Item = Load>) -> Option<&'static str> {
    if !favourite.has_room() {
        return Some("affinity_full");
    }
    let idlest = others.filter(|other| other.has_room()).map(|other| other.in_flight).min()?;
    let is_busy = favourite.limit.is_none() && favourite.in_flight >= 2 * idlest + TOLERATED;
    is_busy.then_some("affinity_busy")
}

/// The links of the parts so far, the newest `MOST_LINKS` of them: a body may have millions of parts.
struct Chain<'k> {
    keys: &'k RandomState,
    link: u64,
    /// The link of what comes before all of these.
    root: u64,
    links: VecDeque<u64>,
    messages: usize,
    /// A part that is no system prompt was met.
    has_begun: bool,
}

impl Chain<'_> {
    /// Adds a list of messages or tokens, a single message, or a text.
    fn push_prompt(&mut self, prompt: &RawValue) -> serde_json::Result<()> {
        match prompt.get().as_bytes()[0] {
            b'"' => self.push_blocks(&serde_json::from_str::<String>(prompt.get())?),
            b'{' => self.push_message(prompt)?,
            b'[' => {
                let mut all = Ok(());
                each_element(prompt.get(), |part| {
                    if all.is_ok() {
                        all = self.push_message(part);
                    }
                })?;
                all?;
            }
            _ => {}
        }
        Ok(())
    }

    fn push_message(&mut self, message: &RawValue) -> serde_json::Result<()> {
        let hash = canonical(message, self.keys)?;
        self.messages += 1;
        if hash != NOTHING {
            // Every endpoint has seen the system prompt: it does not identify a conversation.
            self.has_begun = self.has_begun || !is_system(message);
            self.push(hash);
        }
        Ok(())
    }

    fn push_blocks(&mut self, text: &str) {
        self.has_begun = true;
        let text = without_billing_line(text);
        let (blocks, rest) = text.as_bytes().as_chunks::<BLOCK>();
        // What stands after the last whole block will be another block in the next request.
        self.messages += blocks.len().max(1);
        if blocks.is_empty() {
            self.push(self.keys.hash_one(rest));
        } else {
            blocks.iter().for_each(|block| self.push(self.keys.hash_one(&block[..])));
        }
    }

    fn push(&mut self, hash: u64) {
        self.link = self.keys.hash_one((self.link, hash));
        if self.has_begun {
            if self.links.len() == MOST_LINKS {
                self.links.pop_front();
            }
            self.links.push_back(self.link);
        } else {
            self.root = self.link;
        }
    }
}

/// Whether a message is of the role that servers put in front of a conversation.
fn is_system(message: &RawValue) -> bool {
    let mut is_system = false;
    let read = each_member(message.get(), |name, value| {
        if unescaped(name, LONGEST_ROLE).is_some_and(|name| name == "role") {
            is_system |= unescaped(value, LONGEST_ROLE).is_some_and(|role| role == "system" || role == "developer");
        }
    });
    is_system && read.is_ok()
}

/// The session that `metadata.user_id` names: `user_..._account_..._session_ID`, a text of an object with `session_id`, as
/// newer versions of Claude Code write it, or the whole.
fn session(metadata: &str) -> Option<String> {
    let text = |raw: &str| serde_json::from_str::<String>(raw).ok();
    let user_id = text(member(metadata, "user_id")?)?;
    let id = match user_id.rsplit_once("_session_") {
        Some((_, id)) => return Some(id.to_owned()),
        None => member(&user_id, "session_id").and_then(text).unwrap_or(user_id),
    };
    Some(id).filter(|id| !id.is_empty())
}

/// A text without the lines that differ in every request.
fn without_billing_line(text: &str) -> Cow<'_, str> {
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(start) = memmem::find(rest.as_bytes(), BILLING_LINE.as_bytes()) {
        kept.push_str(&rest[..start]);
        rest = rest[start..].split_once('\n').map_or("", |(_, rest)| rest);
    }
    if rest.len() == text.len() { Cow::Borrowed(text) } else { Cow::Owned(kept + rest) }
}

/// The hash of a value by what it means; an error if half of a character is in it.
fn canonical(raw: &RawValue, keys: &RandomState) -> serde_json::Result<u64> {
    Canonical(keys).deserialize(&mut serde_json::Deserializer::from_str(raw.get()))
}

/// Hashes a value by what it means: spacing, escapes and the order of members make no difference.
#[derive(Clone, Copy)]
struct Canonical<'k>(&'k RandomState);

impl<'de> DeserializeSeed<'de> for Canonical<'_> {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<u64, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Canonical<'_> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<u64, E> {
        let kept = without_billing_line(text);
        Ok(if kept.is_empty() && !text.is_empty() { NOTHING } else { self.0.hash_one(&*kept) })
    }

    fn visit_bool<E>(self, value: bool) -> Result<u64, E> {
        Ok(self.0.hash_one(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<u64, E> {
        Ok(self.0.hash_one(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<u64, E> {
        Ok(self.0.hash_one(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<u64, E> {
        Ok(self.0.hash_one(value.to_bits()))
    }

    fn visit_unit<E>(self) -> Result<u64, E> {
        Ok(self.0.hash_one(()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<u64, A::Error> {
        let mut hash = self.0.hash_one("[");
        while let Some(item) = list.next_element_seed(self)? {
            if item != NOTHING {
                hash = self.0.hash_one((hash, item));
            }
        }
        Ok(hash)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u64, A::Error> {
        // The sum over all members: it does not depend on their order.
        let (mut sum, mut is_nothing) = (self.0.hash_one("{"), false);
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == MARKER {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value_seed(self)?;
            is_nothing |= value == NOTHING;
            sum = sum.wrapping_add(self.0.hash_one((&*key, value)));
        }
        Ok(if is_nothing { NOTHING } else { sum })
    }
}

#[cfg(test)]
mod tests;
