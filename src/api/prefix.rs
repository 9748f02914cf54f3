//! Which conversation a request continues: a growing chain of hashes, one link for each message, so that a longer
//! request holds every link of the shorter one before it. Keeps no text. Pure but for the hash's keys.

use crate::api::body::JsonBody;
use memchr::memmem;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

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

/// What a request is recognised by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrefixHashes {
    /// Link n stands for the model, its tools and system prompt, and the first n messages. Oldest first.
    pub links: Vec<u64>,
    /// What the client says itself, the strongest first: session headers, `prompt_cache_key`, `metadata.user_id`, `user`.
    pub session_keys: Vec<u64>,
}

/// The marks of a body for `model`, and of session headers in their order of strength.
pub(crate) fn hashes<'a>(
    body: Option<&JsonBody<'_>>,
    model: &str,
    sessions: impl Iterator<Item = &'a [u8]>,
    keys: &RandomState,
) -> PrefixHashes {
    // A body with half a character in it cannot be decoded; its session headers still count.
    let found = body.and_then(|body| Found::of(body, keys).ok()).unwrap_or_default();
    let seed = keys.hash_one((model, found.tools, found.system));
    let links = found.chain.links.iter().map(|link| keys.hash_one((seed, link))).collect();
    let mut session_keys: Vec<u64> = sessions.map(|session| keys.hash_one(("session", model, session))).collect();
    session_keys.extend(found.cache_key.map(|key| keys.hash_one(("prompt_cache_key", model, key))));
    session_keys.extend(found.session.map(|session| keys.hash_one(("metadata", model, session))));
    session_keys.extend(found.user.map(|user| keys.hash_one(("user", model, user))));
    PrefixHashes { links, session_keys }
}

#[derive(Clone, Copy)]
struct Part {
    hash: u64,
    is_system: bool,
}

/// The links of the parts so far, the newest `MOST_LINKS` of them: a body may have millions of parts.
#[derive(Default)]
struct Chain {
    link: u64,
    links: VecDeque<u64>,
    /// A part that is no system prompt was met.
    begun: bool,
}

impl Chain {
    fn push(&mut self, part: Part, keys: &RandomState) {
        if part.hash == NOTHING {
            return;
        }
        self.link = keys.hash_one((self.link, part.hash));
        // Every endpoint has seen the system prompt: it tells nothing about whose conversation this is.
        self.begun |= !part.is_system;
        if self.begun {
            if self.links.len() == MOST_LINKS {
                self.links.pop_front();
            }
            self.links.push_back(self.link);
        }
    }
}

#[derive(Default)]
struct Found {
    chain: Chain,
    tools: u64,
    system: u64,
    cache_key: Option<u64>,
    session: Option<String>,
    user: Option<u64>,
}

impl Found {
    fn of(body: &JsonBody<'_>, keys: &RandomState) -> serde_json::Result<Self> {
        fn read<'a, S: DeserializeSeed<'a>>(
            raw: Option<&'a RawValue>,
            seed: S,
        ) -> serde_json::Result<Option<S::Value>> {
            raw.map(|raw| seed.deserialize(&mut serde_json::Deserializer::from_str(raw.get()))).transpose()
        }
        let hash = |name| read(body.get(name), Canonical(keys));
        let prompt = ["messages", "prompt", "input"].iter().find_map(|name| body.get(name));
        let system = ["system", "instructions"].iter().find_map(|name| body.get(name));
        Ok(Self {
            chain: read(prompt, Parts(keys))?.unwrap_or_default(),
            tools: hash("tools")?.unwrap_or(0).wrapping_add(hash("functions")?.unwrap_or(0)),
            system: read(system, Canonical(keys))?.unwrap_or(0),
            cache_key: hash("prompt_cache_key")?,
            session: body.get("metadata").and_then(|raw| session(raw.get())),
            user: hash("user")?,
        })
    }
}

/// Anthropic's `metadata`.
#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    user_id: Cow<'a, str>,
}

/// Claude Code's `user_id`, as its newer versions write it into a text.
#[derive(Deserialize)]
struct UserId {
    session_id: String,
}

/// The session that `metadata.user_id` names: `user_..._account_..._session_ID`, an object with `session_id`, or the whole.
fn session(metadata: &str) -> Option<String> {
    let user_id = serde_json::from_str::<Metadata>(metadata).ok().filter(|_| metadata.starts_with('{'))?.user_id;
    if let Some((_, id)) = user_id.rsplit_once("_session_") {
        return Some(id.to_owned());
    }
    let id = serde_json::from_str::<UserId>(&user_id).map_or_else(|_| user_id.into_owned(), |user| user.session_id);
    Some(id).filter(|id| !id.is_empty())
}

/// A text without the lines that differ in every request.
fn lasting(text: &str) -> Cow<'_, str> {
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(start) = memmem::find(rest.as_bytes(), BILLING_LINE.as_bytes()) {
        kept.push_str(&rest[..start]);
        rest = rest[start..].split_once('\n').map_or("", |(_, rest)| rest);
    }
    if rest.len() == text.len() { Cow::Borrowed(text) } else { Cow::Owned(kept + rest) }
}

/// A list of messages, or a text.
struct Parts<'k>(&'k RandomState);

impl<'de> DeserializeSeed<'de> for Parts<'_> {
    type Value = Chain;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Chain, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Parts<'_> {
    type Value = Chain;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("messages or text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Chain, E> {
        let text = lasting(text);
        let mut chain = Chain::default();
        let mut push = |block: &[u8]| chain.push(Part { hash: self.0.hash_one(block), is_system: false }, self.0);
        let (blocks, rest) = text.as_bytes().as_chunks::<BLOCK>();
        // What stands after the last whole block will be another block in the next request.
        if blocks.is_empty() {
            push(rest)
        } else {
            blocks.iter().for_each(|block| push(block))
        }
        Ok(chain)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Chain, A::Error> {
        let mut chain = Chain::default();
        while let Some(part) = list.next_element_seed(Message(self.0))? {
            chain.push(part, self.0);
        }
        Ok(chain)
    }

    fn visit_unit<E>(self) -> Result<Chain, E> {
        Ok(Chain::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Chain, A::Error> {
        let mut chain = Chain::default();
        chain.push(Message(self.0).visit_map(map)?, self.0);
        Ok(chain)
    }
}

/// One message: its role is looked at on the way.
struct Message<'k>(&'k RandomState);

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = Part;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Part, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = Part;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Part, A::Error> {
        let mut is_system = false;
        let roles = ["system", "developer"].map(|role| self.0.hash_one(role));
        let hash = members(self.0, map, |key, value| is_system |= key == "role" && roles.contains(&value))?;
        Ok(Part { hash, is_system })
    }

    fn visit_str<E>(self, text: &str) -> Result<Part, E> {
        Ok(Part { hash: self.0.hash_one(text), is_system: false })
    }

    fn visit_u64<E>(self, token: u64) -> Result<Part, E> {
        Ok(Part { hash: self.0.hash_one(token), is_system: false })
    }
}

/// Hashes a value by what it means: spacing, escapes and the order of members make no difference.
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
        let kept = lasting(text);
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
        while let Some(item) = list.next_element_seed(Canonical(self.0))? {
            if item != NOTHING {
                hash = self.0.hash_one((hash, item));
            }
        }
        Ok(hash)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<u64, A::Error> {
        members(self.0, map, |_, _| ())
    }
}

/// The sum over all members: it does not depend on their order. `see` is told of each. `NOTHING` if its text is.
fn members<'de, A: MapAccess<'de>>(
    keys: &RandomState,
    mut map: A,
    mut see: impl FnMut(&str, u64),
) -> Result<u64, A::Error> {
    let (mut sum, mut is_nothing) = (keys.hash_one("{"), false);
    while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
        if key == MARKER {
            map.next_value::<IgnoredAny>()?;
            continue;
        }
        let value = map.next_value_seed(Canonical(keys))?;
        see(&key, value);
        is_nothing |= value == NOTHING;
        sum = sum.wrapping_add(keys.hash_one((&*key, value)));
    }
    Ok(if is_nothing { NOTHING } else { sum })
}

#[cfg(test)]
mod tests;
