//! Client keys and their limits.

use crate::util::secret::Secret;

/// One entry of `auth.keys`.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientKey {
    /// Its name in logs and limits.
    pub name: String,
    pub key: KeyText,
    /// Patterns of model names with `*`; empty = all.
    pub models: Vec<String>,
    /// Names of endpoints; empty = all.
    pub endpoints: Vec<String>,
    /// Requests in progress at once.
    pub max_parallel: Option<u32>,
    pub rate_limit: Option<RateLimit>,
    pub background: bool,
    pub admin: bool,
}

impl ClientKey {
    pub fn plain(name: impl Into<String>, key: KeyText) -> Self {
        Self {
            name: name.into(),
            key,
            models: Vec::new(),
            endpoints: Vec::new(),
            max_parallel: None,
            rate_limit: None,
            background: false,
            admin: false,
        }
    }
}

/// A client's key as the file gives it.
#[derive(Debug, Clone, PartialEq)]
pub enum KeyText {
    Plain(Secret),
    /// `sha256:` and 64 hexadecimal digits: SHA-256 of the key.
    Sha256([u8; 32]),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// Requests a second in the long run, more than 0.
    pub per_second: f64,
    /// Requests that may come at once, at least 1.
    pub burst: u32,
}
