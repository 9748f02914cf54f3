//! `auth.keys`

use super::endpoint::{unique, word};
use super::header::can_be_sent;
use super::routing::known;
use crate::config::reader::Section;
use crate::config::{ClientKey, Endpoint, KeyText, RateLimit};
use std::collections::HashMap;

const SHA256: &str = "sha256:";
/// The shortest key that cannot be guessed.
pub(super) const SHORTEST: usize = 16;

pub(super) fn keys(s: &mut Section, endpoints: &[Endpoint]) -> Vec<ClientKey> {
    let mut names = Vec::new();
    let field = s.field("keys");
    let keys: Vec<ClientKey> = field.list(|item| item.item(|s| key(s, endpoints, &mut names))).unwrap_or_default();
    let mut digests = HashMap::new();
    for key in &keys {
        let digest = match &key.key {
            KeyText::Plain(text) => sha256(text.reveal()),
            KeyText::Sha256(digest) => *digest,
        };
        if let Some(twin) = digests.insert(digest, &key.name) {
            field.problem(format!("{twin:?} and {:?} have the same key; each needs its own", key.name));
        }
    }
    keys
}

fn key(s: &mut Section, endpoints: &[Endpoint], names: &mut Vec<String>) -> Option<ClientKey> {
    let name = unique(&s.required("name"), "key", names);
    let secret = s.secret("key");
    if !s.gives("key") && !s.gives("keyFile") {
        s.problem("`key` is missing (or `keyFile`)");
    }
    if let Some(secret) = &secret
        && secret.reveal().len() < SHORTEST
    {
        let who = name.as_deref().unwrap_or_default();
        s.warn(format!(
            "auth.keys: the key {who:?} has fewer than {SHORTEST} characters and can be guessed; `openssl rand -hex 32` makes a good one"
        ));
    }
    let text = secret.and_then(|secret| {
        let text = match secret.reveal().strip_prefix(SHA256) {
            Some(digits) => digest(digits).map(KeyText::Sha256),
            None if can_be_sent(secret.reveal()) => Some(KeyText::Plain(secret.clone())),
            None => None,
        };
        if text.is_none() {
            s.problem("`key` is neither ASCII text nor `sha256:` with 64 hexadecimal digits");
        }
        text
    });
    let models = s.field("models").list(|item| item.parse(word)).unwrap_or_default();
    let scope = s.field("endpoints").list(|item| item.parse(|text| known(text, endpoints))).unwrap_or_default();
    let max_parallel = s.field("maxParallel").number("a number of requests", 1..=65_536);
    let rate_limit = rate_limit(s);
    let background = s.field("background").flag().unwrap_or(false);
    let admin = s.field("admin").flag().unwrap_or(false);
    Some(ClientKey { name: name?, key: text?, models, endpoints: scope, max_parallel, rate_limit, background, admin })
}

/// `rateLimit` of a key or a listener; `burst` is what comes in a second unless given.
pub(super) fn rate_limit(s: &mut Section) -> Option<RateLimit> {
    let field = s.field("rateLimit");
    field.section(|s| {
        let per_second = s.field("perSecond");
        let (rate, burst) =
            (per_second.factor(0.001..=1e6), s.field("burst").number("a number of requests", 1..=1_000_000));
        if field.is_map() && !per_second.is_given() {
            s.problem("`perSecond` is missing");
        }
        let per_second = rate?;
        if burst.is_some_and(|burst: u32| f64::from(burst) < per_second.floor()) {
            s.problem("`burst` is less than `perSecond`: no more than that would ever pass");
        }
        Some(RateLimit { per_second, burst: burst.unwrap_or((per_second.ceil() as u32).max(1)) })
    })
}

fn sha256(text: &str) -> [u8; 32] {
    let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn digest(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(bytes)
}
