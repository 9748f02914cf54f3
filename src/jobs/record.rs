//! One job as it lies on disk: its name, which tells all that a start needs, and its content.
//!
//! `SEQUENCE.ID.OWNER.STATE.NUMBER[.owed]`: when it was handed in (milliseconds since 1970 times 65,536, plus a count; 16
//! hexadecimal digits), its id, the first 4 bytes of the SHA-256 of its owner's name (8 digits; zeros for nobody), its
//! state, a number (tries so far, or the second since 1970 when it ended), and `owed` while somebody waits to be told.
//! The content is JSON, see [`Record`]. Both are stable: a newer version reads what an older one wrote.

use crate::base::secret::fingerprint;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt;
use std::sync::Arc;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It waits.
    Pending,
    /// It runs.
    Processing,
    /// It came to an answer.
    Completed,
    /// It came to none.
    Error,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Processing, Self::Completed, Self::Error];

    /// The word in answers and names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Error => "error",
        }
    }

    /// Whether nothing more happens to it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Error)
    }
}

/// The name of a job's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// When, and in which order.
    pub sequence: u64,
    /// What its owner calls it.
    pub id: Arc<str>,
    /// Whose it is.
    pub owner: u32,
    /// Where it stands.
    pub state: State,
    /// Tries so far, or the second when it ended.
    pub number: u64,
    /// Somebody is still to be told.
    pub owed: bool,
}

impl Name {
    /// Reads a name; `None` if it is not one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut next = || parts.next();
        let (sequence, id, owner, state, number) = (next()?, next()?, next()?, next()?, next()?);
        let owed = match next() {
            None => false,
            Some("owed") => true,
            Some(_) => return None,
        };
        if parts.next().is_some() || sequence.len() != 16 || id.is_empty() {
            return None;
        }
        Some(Self {
            sequence: u64::from_str_radix(sequence, 16).ok()?,
            id: id.into(),
            owner: u32::from_str_radix(owner, 16).ok()?,
            state: State::ALL.into_iter().find(|known| known.as_str() == state)?,
            number: number.parse().ok()?,
            owed,
        })
    }

    /// When it was handed in, in milliseconds since 1970.
    pub fn timestamp(&self) -> u64 {
        self.sequence >> 16
    }

    /// The same job in another state.
    #[must_use]
    pub fn to(&self, state: State, number: u64) -> Self {
        Self { state, number, ..self.clone() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sequence, id, owner, state, number, owed } = self;
        write!(f, "{sequence:016x}.{id}.{owner:08x}.{}.{number}{}", state.as_str(), if *owed { ".owed" } else { "" })
    }
}

/// The number of an owner in names.
pub fn owner_number(owner: Option<&str>) -> u32 {
    owner.and_then(|owner| u32::from_str_radix(&fingerprint(owner, 4), 16).ok()).unwrap_or(0)
}

/// What a job's file holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// Of this content: 1.
    pub version: u32,
    /// Its id.
    pub id: String,
    /// Name of its owner's key.
    pub owner: Option<String>,
    /// Name of the group of endpoints it may go to.
    pub group: Option<String>,
    /// Where it goes below an endpoint's base.
    pub path: String,
    /// Who is to be told.
    pub webhook: Option<String>,
    /// What it asks for.
    pub request: Box<RawValue>,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Box<RawValue>>,
    /// Why nothing came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Trouble>,
    /// How the telling went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
}

/// Why a job came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// A sentence.
    pub message: String,
    /// A word.
    #[serde(rename = "type")]
    pub kind: String,
    /// Tries.
    pub attempts: u64,
}

impl Trouble {
    /// The word for what its owner stopped.
    pub const CANCELLED: &str = "cancelled";

    /// Its owner stopped it.
    pub fn cancelled(attempts: u64) -> Self {
        Self { message: "The job was cancelled.".into(), kind: Self::CANCELLED.into(), attempts }
    }
}

/// How the telling went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// `delivered` or `failed`.
    pub status: String,
    /// Tries.
    pub attempts: u32,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_and_others_are_none() {
        let name = Name {
            sequence: 0x0193_2f0a_1b2c_0003,
            id: "abc".into(),
            owner: 7,
            state: State::Error,
            number: 99,
            owed: true,
        };
        assert_eq!(name.to_string(), "01932f0a1b2c0003.abc.00000007.error.99.owed");
        assert_eq!(Name::parse(&name.to_string()), Some(name.clone()));
        let plain = Name { owed: false, ..name };
        assert_eq!(Name::parse(&plain.to_string()), Some(plain));
        for text in [
            "",
            "lock",
            "x.tmp",
            "01932f0a1b2c0003.abc.00000007.lost.99",
            "01932f0a1b2c0003..00000007.error.9",
            "1.abc.7.error.9",
        ] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
        assert_eq!(Name::parse("01932f0a1b2c0003.abc.00000007.error.99.owed.x"), None);
    }

    #[test]
    fn owners_have_numbers_and_nobody_has_none() {
        assert_eq!(owner_number(None), 0);
        assert_ne!(owner_number(Some("a")), owner_number(Some("b")));
    }
}
