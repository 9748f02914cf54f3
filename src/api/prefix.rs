//! Which conversation a request continues: a growing chain of hashes, one link for each message, so that a longer
//! request holds every link of the shorter one before it. Keeps no text. Pure but for the hash's keys.

use crate::api::body::JsonBody;
use crate::api::json::{each_element, each_member, unescaped};
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
/// `developer` with each letter as `\u0061`.
const LONGEST_ROLE: usize = 6 * "developer".len();

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
    let found = body.and_then(|body| Found::of(body, keys)).unwrap_or_default();
    let seed = keys.hash_one((model, found.tools, found.system));
    let links = found.chain.links.iter().map(|link| keys.hash_one((seed, link))).collect();
    let mut session_keys: Vec<u64> = sessions.map(|session| keys.hash_one(("session", model, session))).collect();
    session_keys.extend(found.cache_key.map(|key| keys.hash_one(("prompt_cache_key", model, key))));
    session_keys.extend(found.session.map(|session| keys.hash_one(("metadata", model, session))));
    session_keys.extend(found.user.map(|user| keys.hash_one(("user", model, user))));
    PrefixHashes { links, session_keys }
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
    /// The chain of a list of messages or tokens, of a single message, or of a text.
    fn of(prompt: &RawValue, keys: &RandomState) -> Option<Self> {
        let mut chain = Self::default();
        match prompt.get().as_bytes()[0] {
            b'"' => chain.push_blocks(&serde_json::from_str::<String>(prompt.get()).ok()?, keys),
            b'{' => chain.push_message(prompt, keys)?,
            b'[' => {
                let mut is_sound = true;
                let read = each_element(prompt.get(), |part| is_sound &= chain.push_message(part, keys).is_some());
                read.ok().filter(|()| is_sound)?;
            }
            b'n' => {}
            _ => return None,
        }
        Some(chain)
    }

    fn push_message(&mut self, message: &RawValue, keys: &RandomState) -> Option<()> {
        let hash = canonical(message, keys)?;
        if hash != NOTHING {
            // Every endpoint has seen the system prompt: it tells nothing about whose conversation this is.
            self.begun = self.begun || !is_system(message);
            self.push(hash, keys);
        }
        Some(())
    }

    fn push_blocks(&mut self, text: &str, keys: &RandomState) {
        self.begun = true;
        let text = lasting(text);
        let (blocks, rest) = text.as_bytes().as_chunks::<BLOCK>();
        // What stands after the last whole block will be another block in the next request.
        if blocks.is_empty() {
            self.push(keys.hash_one(rest), keys);
        } else {
            blocks.iter().for_each(|block| self.push(keys.hash_one(&block[..]), keys));
        }
    }

    fn push(&mut self, hash: u64, keys: &RandomState) {
        self.link = keys.hash_one((self.link, hash));
        if self.begun {
            if self.links.len() == MOST_LINKS {
                self.links.pop_front();
            }
            self.links.push_back(self.link);
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
    /// None if something in it cannot be decoded.
    fn of(body: &JsonBody<'_>, keys: &RandomState) -> Option<Self> {
        // What is not there is fine.
        let hash = |raw: Option<&RawValue>| raw.map_or(Some(None), |raw| canonical(raw, keys).map(Some));
        let prompt = ["messages", "prompt", "input"].iter().find_map(|name| body.get(name));
        let system = ["system", "instructions"].iter().find_map(|name| body.get(name));
        let [tools, functions] = [hash(body.get("tools"))?, hash(body.get("functions"))?];
        Some(Self {
            chain: prompt.map_or(Some(Chain::default()), |prompt| Chain::of(prompt, keys))?,
            tools: tools.unwrap_or(0).wrapping_add(functions.unwrap_or(0)),
            system: hash(system)?.unwrap_or(0),
            cache_key: hash(body.get("prompt_cache_key"))?,
            session: body.get("metadata").and_then(|raw| session(raw.get())),
            user: hash(body.get("user"))?,
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

/// The hash of a value by what it means; none if half of a character is in it.
fn canonical(raw: &RawValue, keys: &RandomState) -> Option<u64> {
    Canonical(keys).deserialize(&mut serde_json::Deserializer::from_str(raw.get())).ok()
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

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u64, A::Error> {
        // The sum over all members: it does not depend on their order.
        let (mut sum, mut is_nothing) = (self.0.hash_one("{"), false);
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == MARKER {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value_seed(Canonical(self.0))?;
            is_nothing |= value == NOTHING;
            sum = sum.wrapping_add(self.0.hash_one((&*key, value)));
        }
        Ok(if is_nothing { NOTHING } else { sum })
    }
}

#[cfg(test)]
mod tests;
