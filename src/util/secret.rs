//! A text that may be sent but never shown.

use std::fmt;

/// A key or password. `Debug` and `Display` print `***`; comparing takes the same time wherever texts differ.
#[derive(Clone, Default)]
pub struct Secret {
    text: String,
    is_shown: bool,
}

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_shown: false }
    }

    /// The same text, found to be no secret: a printed configuration may show it.
    pub(crate) fn shown(self) -> Self {
        Self { is_shown: true, ..self }
    }

    /// The text, when it was found to be no secret.
    pub fn printed(&self) -> Option<&str> {
        self.is_shown.then_some(self.text.as_str())
    }

    /// The text itself: only for the wire.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        same(self.text.as_bytes(), other.text.as_bytes())
    }
}

/// Whether two texts are equal. Every byte of the longer one is looked at, so timing reveals a length at most.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    let byte = |text: &[u8], at: usize| text.get(at).copied().unwrap_or(0);
    let differs = (0..a.len().max(b.len())).map(|at| usize::from(byte(a, at) ^ byte(b, at)));
    std::hint::black_box(differs.fold(a.len() ^ b.len(), |all, one| all | one)) == 0
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The first bytes of a text's SHA-256, in hexadecimal: to compare texts without showing them.
pub(crate) fn fingerprint(text: &str, bytes: usize) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    hash.as_ref().iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn a_secret_is_equal_only_to_the_same_text() {
        assert_eq!(Secret::new("sk-1"), Secret::new("sk-1"));
        assert_ne!(Secret::new("sk-1"), Secret::new("sk-2"));
        assert_ne!(Secret::new("sk-1"), Secret::new("sk-1\0"));
        assert_ne!(Secret::new(""), Secret::new("\0"));
    }

    #[test]
    fn a_secret_never_prints_itself() {
        let text = format!("{:?} {}", Secret::new("canary"), Secret::new("canary"));
        assert!(!text.contains("canary"));
    }
}
