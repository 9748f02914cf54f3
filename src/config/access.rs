//! Access control: client keys, rate limits, and listeners with their policies.

use super::CorsOrigin;
use super::address::{listen_host, origin};
use super::reader::Field;
use super::table::*;
use super::text::{can_be_sent, name};
use crate::util::secret::{Secret, fingerprint};
use std::collections::HashMap;

table! {
    /// One entry of `auth.keys`.
    pub struct ClientKey {
        pub name: String, required("name", unique("key"));
        pub key: KeyText = KeyText::Plain(Secret::default()), with(key_text);
        /// Patterns of model names with `*`; empty = all.
        pub models: Vec<String>, key("models", list(text(name)));
        /// Names of endpoints; empty = all.
        pub endpoints: Vec<String>, key("endpoints", list(reference("endpoint")));
        pub max_parallel: Option<u32> = None, key("maxParallel", optional(number("a number of requests", 1..=65_536)));
        pub rate_limit: Option<RateLimit>, key("rateLimit", optional(section()));
        pub background: bool = false, key("background", flag());
        pub admin: bool = false, key("admin", flag());
    }
}

impl ClientKey {
    pub fn plain(name: impl Into<String>, key: KeyText) -> Self {
        Self { name: name.into(), key, ..Self::default() }
    }
}

/// A client's key as configured.
#[derive(Debug, Clone, PartialEq)]
pub enum KeyText {
    Plain(Secret),
    /// `sha256:` and 64 hexadecimal digits: SHA-256 of the key.
    Sha256([u8; 32]),
}

/// Shorter keys can be guessed.
pub(super) const SHORTEST: usize = 16;

fn key_text(key: &mut KeyText, keys: &mut Keys) {
    keys.read(|section| *key = read_key(section).unwrap_or_else(|| key.clone()));
    keys.print("key", "***");
}

fn read_key(section: &Field) -> Option<KeyText> {
    let secret = section.secret_at("key", |_| true);
    if !section.gives("key") && !section.gives("keyFile") {
        section.problem("`key` is missing (or `keyFile`)");
    }
    let secret = secret?;
    if secret.reveal().len() < SHORTEST {
        let name = section.get("name").parse(name).unwrap_or_default();
        section.warn(format!(
            "auth.keys: the key {name:?} has fewer than {SHORTEST} characters and can be guessed; `openssl rand -hex 32` makes a good one"
        ));
    }
    let key = match secret.reveal().strip_prefix("sha256:") {
        Some(digits) => digest(digits).map(KeyText::Sha256),
        None => can_be_sent(secret.reveal()).then(|| KeyText::Plain(secret.clone())),
    };
    if key.is_none() {
        section.problem("`key` is neither ASCII text nor `sha256:` with 64 hexadecimal digits");
    }
    key
}

fn digest(digits: &str) -> Option<[u8; 32]> {
    let byte = |n: usize| u8::from_str_radix(digits.get(2 * n..2 * n + 2)?, 16).ok();
    let bytes: Vec<u8> = (0..32).map(byte).collect::<Option<_>>().filter(|_| digits.len() == 64)?;
    bytes.try_into().ok()
}

/// `auth.keys`. The same key under two names is refused, since its limits would be ambiguous.
pub(super) fn keys(all: &mut Vec<ClientKey>, keys: &mut Keys) {
    keys.within("auth", |keys| {
        keys.key(all, "keys", items(ClientKey::default()));
        keys.read(|section| refuse_twins(all, &section.get("keys")));
    });
}

fn refuse_twins(keys: &[ClientKey], field: &Field) {
    let mut names = HashMap::new();
    for one in keys {
        let digest = match &one.key {
            KeyText::Plain(text) if text.reveal().is_empty() => continue,
            KeyText::Plain(text) => fingerprint(text.reveal(), 32),
            KeyText::Sha256(digest) => digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        if let Some(twin) = names.insert(digest, &one.name) {
            field.problem(format!("{twin:?} and {:?} have the same key; each needs its own", one.name));
        }
    }
}

table! {
    /// `rateLimit` of a key or a listener.
    #[derive(Copy)]
    pub struct RateLimit (check = rate_limit) {
        /// The sustained rate in requests per second, more than 0.
        pub per_second: f64 = 0.0, key("perSecond", factor(0.001..=1e6));
        /// At least 1; by default the requests of one second.
        pub burst: u32 = 0, key("burst", number("a number of requests", 1..=1_000_000));
    }
}

fn rate_limit(limit: &mut RateLimit, section: &Field) {
    if section.is_given() && !section.gives("perSecond") {
        section.problem("`perSecond` is missing");
    }
    if !section.gives("burst") {
        limit.burst = (limit.per_second.ceil() as u32).max(1);
    } else if f64::from(limit.burst) < limit.per_second.floor() {
        section.problem("`burst` is less than `perSecond`: no more than that would ever pass");
    }
}

table! {
    /// An address to listen on: the main one (`server`), or one entry of `listeners`.
    pub struct Listener {
        /// The main listener is called `main`.
        pub name: String, required("name", unique("listener"));
        pub host: String = "127.0.0.1".into(), key("host", text(listen_host));
        pub port: u16 = 0, required("port", number("a port, or 0 for any free one", 0..=65_535));
        pub policy: ListenerPolicy, with(|policy, keys| {
            policy.group_and_mode(keys);
            keys.key(&mut policy.keys, "keys", accepted_keys());
            keys.key(&mut policy.rate_limit, "rateLimit", optional(section()));
            keys.key(&mut policy.cors, "cors", optional(list(text(origin))));
        });
    }
}

/// What a listener permits.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ListenerPolicy {
    /// The group it serves; `None` for all endpoints.
    pub group: Option<String>,
    pub keys: KeysFor,
    pub rate_limit: Option<RateLimit>,
    pub mode: Mode,
    /// Replaces `server.cors`, or at a raw listener the CORS headers of the endpoints.
    pub cors: Option<Vec<CorsOrigin>>,
}

impl ListenerPolicy {
    /// The policy of the main listener.
    pub(super) fn group_and_mode(&mut self, keys: &mut Keys) {
        keys.key(&mut self.group, "group", optional(reference("group")));
        keys.key(&mut self.mode, "mode", word());
    }
}

/// `listeners[].keys`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum KeysFor {
    /// All of `auth.keys`.
    #[default]
    Inherit,
    Nobody,
    Only(Vec<String>),
}

fn accepted_keys() -> Kind<KeysFor> {
    let put = |names: Vec<_>| if names.is_empty() { KeysFor::Inherit } else { KeysFor::Only(names) };
    let names = list(reference("key")).inside(put, |keys| match keys {
        KeysFor::Only(names) => Some(names),
        _ => None,
    });
    or_word("inherit", KeysFor::Inherit, or_word("none", KeysFor::Nobody, names))
}

words! {
    /// `listeners[].mode`
    #[derive(Default)]
    pub enum Mode {
        #[default]
        Models = "models",
        /// Everything is passed to the group's endpoints unchanged.
        Raw = "raw",
        /// `/health` and `/metrics` only, the former as the text `OK`.
        Status = "status",
    }
}
