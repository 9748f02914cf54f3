//! Finds the endpoint that most likely has a prompt in its cache, by remembering which conversations were sent where.
//! A conversation is a chain of hashes with one link per message, so a request contains every link of the shorter
//! requests before it. Stores no text, and identifies endpoints by their cache id.

use crate::api::body::JsonBody;
use crate::api::json::{each_element, member};
use crate::api::prompt::{BILLING_LINE, is_system};
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

/// Entries per generation. Each turn adds one link, so two generations hold the last 14,000 to 28,000 turns of a few
/// thousand conversations. They take 557 KB: 2 tables of 16,384 entries (of which 7/8 are used) of 17 bytes.
const GENERATION: usize = 14_336;
/// An endpoint without a known limit is too busy with `2 * n + TOLERATED` requests, where n is the number at the least
/// busy other endpoint.
const TOLERATED: u32 = 4;

/// A prompt without messages gets one link per block of this many bytes.
const BLOCK: usize = 1 << 10;
/// The same for a prompt of tokens.
const TOKENS: usize = 256;
/// Only the newest links are kept: clients hardly ever branch off further back than that.
const MOST_LINKS: usize = 256;
/// Not part of the prompt: Anthropic's clients move it from message to message at every turn.
const MARKER: &str = "cache_control";
/// Marks a text that is only a billing line, and the block or message that contains it, which are left out of the
/// chain.
const NOTHING: u64 = 0;

#[derive(Default)]
pub struct Affinity {
    keys: RandomState,
    homes: Mutex<Lru<u64, u32, GENERATION>>,
}

/// What identifies the conversation of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrefixHashes {
    /// Oldest first. Link n covers the model, the tools, the system prompt and the first n messages.
    pub links: Vec<u64>,
    /// Identifiers from the client, most specific first: session headers, `prompt_cache_key`, `metadata.user_id`,
    /// `user`.
    pub session_keys: Vec<u64>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Prompt {
    pub(crate) hashes: PrefixHashes,
    /// The hash of the model, the tools and the system prompt.
    pub(super) base: u64,
    /// The same, followed by leading system messages.
    pub(super) root: u64,
    /// The number of leading messages without a link.
    pub(super) unlinked: usize,
    pub(crate) messages: usize,
}

impl Affinity {
    /// `sessions`: the values of session headers, most specific first.
    pub fn hashes<'a>(
        &self,
        body: Option<&JsonBody<'_>>,
        model: &str,
        sessions: impl Iterator<Item = &'a [u8]>,
    ) -> PrefixHashes {
        self.prompt(body, model, sessions).hashes
    }

    pub(crate) fn prompt<'a>(
        &self,
        body: Option<&JsonBody<'_>>,
        model: &str,
        sessions: impl Iterator<Item = &'a [u8]>,
    ) -> Prompt {
        let sessions = sessions.filter(|session| !session.is_empty());
        // A body with an unpaired surrogate cannot be hashed, but its session headers can.
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
        let prompt = |name: &str| body.get(name).filter(|raw| raw.get() != "null");
        match (prompt("messages"), prompt("prompt").or_else(|| prompt("input"))) {
            (None, Some(list)) if is_tokens(list) => chain.push_tokens(list)?,
            (Some(prompt), _) | (None, Some(prompt)) => chain.push_prompt(prompt)?,
            (None, None) => {}
        }
        let text = |name: &str| {
            let is_text = |raw: &&RawValue| raw.get().starts_with('"') && raw.get().len() > 2;
            body.get(name).filter(is_text).map(|raw| canonical(raw, keys)).transpose()
        };
        let session = body.get("metadata").and_then(|raw| session(raw.get())).map(|session| keys.hash_one(session));
        let of_client =
            [("prompt_cache_key", text("prompt_cache_key")?), ("metadata", session), ("user", text("user")?)];
        let session_keys = of_client.into_iter().filter_map(|(kind, key)| Some(keys.hash_one((kind, model, key?))));
        let Chain { links, root, messages, .. } = chain;
        let unlinked = messages - links.len();
        let hashes = PrefixHashes { links: links.into(), session_keys: session_keys.collect() };
        Ok(Prompt { hashes, base: link, root, unlinked, messages })
    }

    /// The index of the cache that most likely holds the longest part of the prompt, and the `x-llmproxy-reason`.
    pub(crate) fn home(&self, hashes: &PrefixHashes, caches: &[u32]) -> Option<(usize, &'static str)> {
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
        // The next turn, a branch from here and a regeneration all contain the last link.
        for hash in hashes.links.last().into_iter().chain(&hashes.session_keys) {
            homes.put(*hash, cache);
        }
    }
}

/// The `x-llmproxy-reason` for passing over the home, if it should be. A warm cache is worth more than an idle
/// server as long as there is a free slot; without a known limit, requests must not pile up at one endpoint.
pub(crate) fn bypass(home: Load, others: impl Iterator<Item = Load>) -> Option<&'static str> {
    if !home.has_room() {
        return Some("affinity_full");
    }
    let idlest = others.filter(|other| other.has_room()).map(|other| other.in_flight).min()?;
    let is_busy = home.limit.is_none() && home.in_flight >= 2 * idlest + TOLERATED;
    is_busy.then_some("affinity_busy")
}

/// The chain of a prompt that is being read. Keeps the newest `MOST_LINKS` links, since a body can have millions of
/// messages.
struct Chain<'k> {
    keys: &'k RandomState,
    link: u64,
    /// See `Prompt`.
    root: u64,
    links: VecDeque<u64>,
    messages: usize,
    /// A message other than a system message was seen.
    has_begun: bool,
}

impl Chain<'_> {
    /// Adds a list of messages or texts, a single message, or a text.
    fn push_prompt(&mut self, prompt: &RawValue) -> serde_json::Result<()> {
        match prompt.get().as_bytes()[0] {
            b'"' => self.push_blocks(&serde_json::from_str::<String>(prompt.get())?),
            b'{' => self.push_message(prompt)?,
            b'[' => {
                let mut all = Ok(());
                each_element(prompt.get(), |part| {
                    if all.is_ok() {
                        all =
                            if part.get().starts_with('"') { self.push_prompt(part) } else { self.push_message(part) };
                    }
                })?;
                all?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds a list of tokens. As with a text, the rest after the last whole block is left out.
    fn push_tokens(&mut self, list: &RawValue) -> serde_json::Result<()> {
        let (mut hash, mut count) = (NOTHING, 0);
        self.has_begun = true;
        each_element(list.get(), |token| {
            (hash, count) = (self.keys.hash_one((hash, token.get())), count + 1);
            if count % TOKENS == 0 {
                self.messages += 1;
                self.push(std::mem::replace(&mut hash, NOTHING));
            }
        })?;
        if self.messages == 0 {
            self.messages = 1;
            self.push(hash);
        }
        Ok(())
    }

    fn push_message(&mut self, message: &RawValue) -> serde_json::Result<()> {
        let hash = canonical(message, self.keys)?;
        self.messages += 1;
        // All conversations share the system prompt, so it identifies none.
        self.has_begun = self.has_begun || hash != NOTHING && !is_system(message);
        self.push(hash);
        Ok(())
    }

    fn push_blocks(&mut self, text: &str) {
        self.has_begun = true;
        let text = without_billing_line(text);
        let (blocks, rest) = text.as_bytes().as_chunks::<BLOCK>();
        // The rest is left out: in the next request it will be the beginning of a whole block.
        self.messages += blocks.len().max(1);
        if blocks.is_empty() {
            self.push(self.keys.hash_one(rest));
        } else {
            blocks.iter().for_each(|block| self.push(self.keys.hash_one(&block[..])));
        }
    }

    fn push(&mut self, hash: u64) {
        if hash != NOTHING {
            self.link = self.keys.hash_one((self.link, hash));
        }
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

/// Whether a list is a prompt that was already converted to tokens.
fn is_tokens(list: &RawValue) -> bool {
    list.get()[1..].trim_ascii_start().starts_with(|first: char| first.is_ascii_digit())
}

/// The session in `metadata.user_id`: `user_..._account_..._session_ID`, or JSON text with a `session_id` (newer
/// versions of Claude Code), or otherwise the whole value.
fn session(metadata: &str) -> Option<String> {
    let text = |raw: &str| serde_json::from_str::<String>(raw).ok();
    let user_id = text(member(metadata, "user_id")?)?;
    let id = match user_id.rsplit_once("_session_") {
        Some((_, id)) => return Some(id.to_owned()),
        None => member(&user_id, "session_id").and_then(text).unwrap_or(user_id),
    };
    Some(id).filter(|id| !id.is_empty())
}

/// Removes billing lines, which differ in every request.
fn without_billing_line(text: &str) -> Cow<'_, str> {
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(start) = memmem::find(rest.as_bytes(), BILLING_LINE.as_bytes()) {
        kept.push_str(&rest[..start]);
        rest = rest[start..].split_once('\n').map_or("", |(_, rest)| rest);
    }
    if rest.len() == text.len() { Cow::Borrowed(text) } else { Cow::Owned(kept + rest) }
}

/// # Errors
/// The value contains an unpaired surrogate.
fn canonical(raw: &RawValue, keys: &RandomState) -> serde_json::Result<u64> {
    Canonical(keys).deserialize(&mut serde_json::Deserializer::from_str(raw.get()))
}

/// Hashes a JSON value regardless of whitespace, escapes and the order of members.
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
        // A sum does not depend on the order of the members.
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
