//! One job on disk: the name of its file, which is all that a start reads, and the content.
//!
//! `SEQUENCE.ID.OWNER.STATE.NUMBER[.owed]`: when it was submitted (milliseconds since 1970 times 65,536, plus a count; 16
//! hexadecimal digits), its id, the SHA-256 of its owner's name (64 digits; 8 zeros without a key), its state, a number
//! (tries so far, or the second since 1970 when it ended), and `owed` until the webhook is delivered.
//! The content is JSON, see [`Record`] and [`Bodies`]. Both are stable: a newer version reads what an older one wrote;
//! the first release wrote 8 digits of the SHA-256.

use crate::util::secret::sha256;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::{fmt, io};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Pending,
    Processing,
    Completed,
    Error,
}

impl State {
    pub(crate) const ALL: [Self; 4] = [Self::Pending, Self::Processing, Self::Completed, Self::Error];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Error => "error",
        }
    }

    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Error)
    }
}

/// What the name of a job's file tells, and the size of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) sequence: u64,
    pub(crate) id: Arc<str>,
    pub(crate) owner: Owner,
    pub(crate) state: State,
    /// Tries so far, or the second when it ended.
    pub(crate) number: u64,
    /// Its webhook is still to be delivered.
    pub(crate) webhook_pending: bool,
    pub(crate) bytes: u64,
}

impl Job {
    /// Parses a name; `None` if it is not a job's.
    pub(super) fn parse(text: &str, bytes: u64) -> Option<Self> {
        let (text, webhook_pending) = text.strip_suffix(".owed").map_or((text, false), |text| (text, true));
        let parts: Vec<&str> = text.split('.').collect();
        let [sequence, id, owner, state, number] = parts[..] else { return None };
        if sequence.len() != 16 || id.is_empty() {
            return None;
        }
        Some(Self {
            sequence: u64::from_str_radix(sequence, 16).ok()?,
            id: id.into(),
            owner: parse_owner(owner)?,
            state: State::ALL.into_iter().find(|known| known.as_str() == state)?,
            number: number.parse().ok()?,
            webhook_pending,
            bytes,
        })
    }

    /// When it was submitted, in milliseconds since 1970.
    pub(crate) fn timestamp(&self) -> u64 {
        self.sequence >> 16
    }

    /// The name comes from the first release, and two owners may share it.
    pub(crate) fn has_short_owner(&self) -> bool {
        self.owner != NOBODY && self.owner[SHORT..] == NOBODY[SHORT..]
    }

    /// Whether it ended before this second.
    pub(crate) fn has_expired(&self, oldest: u64) -> bool {
        self.state.is_final() && self.number < oldest
    }

    #[must_use]
    pub(crate) fn to(&self, state: State, number: u64) -> Self {
        Self { state, number, ..self.clone() }
    }
}

/// The name of its file.
impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short_owner = self.owner[SHORT..] == NOBODY[SHORT..];
        write!(f, "{:016x}.{}.", self.sequence, self.id)?;
        self.owner[..if short_owner { SHORT } else { NOBODY.len() }]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        let owed = if self.webhook_pending { ".owed" } else { "" };
        write!(f, ".{}.{}{owed}", self.state.as_str(), self.number)
    }
}

/// The SHA-256 of an owner's name.
pub(crate) type Owner = [u8; 32];

/// The owner of jobs that came without a key.
const NOBODY: Owner = [0; 32];
/// Bytes of an owner in file names of the first release, and of no owner in all releases.
const SHORT: usize = 4;

pub(crate) fn owner_id(name: Option<&str>) -> Owner {
    name.map_or(NOBODY, sha256)
}

fn parse_owner(digits: &str) -> Option<Owner> {
    let mut owner = NOBODY;
    let is_owner = [2 * SHORT, 2 * owner.len()].contains(&digits.len())
        && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if !is_owner {
        return None;
    }
    for (at, byte) in owner[..digits.len() / 2].iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(owner)
}

/// The content of a job's file without the [`Bodies`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) owner: Option<String>,
    /// Name of the group of endpoints it may go to.
    pub(crate) group: Option<String>,
    /// Where it goes below an endpoint's base.
    pub path: String,
    pub(crate) webhook: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<JobError>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delivery: Option<Delivery>,
}

/// The members of the same object that may be long; they are borrowed from the file's bytes, never copied.
#[derive(Deserialize)]
pub(crate) struct Bodies<'a> {
    #[serde(borrow)]
    pub request: &'a RawValue,
    #[serde(borrow, default)]
    pub response: Option<&'a RawValue>,
}

impl Record {
    pub(super) fn read(file: &[u8]) -> io::Result<(Self, Bodies<'_>)> {
        Ok((serde_json::from_slice(file)?, serde_json::from_slice(file)?))
    }

    /// A whole file, in pieces. A request may come in two.
    pub(super) fn file<'a>(&self, request: &[&'a [u8]], response: Option<&'a RawValue>) -> Vec<Cow<'a, [u8]>> {
        let mut head = serde_json::to_vec(self).unwrap_or_default();
        head.pop();
        head.extend(b",\"request\":");
        let mut file = vec![Cow::Owned(head)];
        file.extend(request.iter().map(|piece| Cow::Borrowed(*piece)));
        if let Some(response) = response {
            file.extend([Cow::Borrowed(&b",\"response\":"[..]), Cow::Borrowed(response.get().as_bytes())]);
        }
        file.push(Cow::Borrowed(b"}"));
        file
    }
}

pub(crate) fn size(file: &[Cow<'_, [u8]>]) -> u64 {
    file.iter().map(|piece| piece.len() as u64).sum()
}

/// Where one of the [`Bodies`] stands in its file.
pub(crate) fn span(file: &[u8], raw: &RawValue) -> Range<usize> {
    let start = raw.get().as_ptr() as usize - file.as_ptr() as usize;
    start..start + raw.get().len()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobError {
    pub(crate) message: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) attempts: u64,
}

impl JobError {
    pub(crate) const CANCELLED: &str = "cancelled";

    pub(crate) fn new(message: impl Into<String>, kind: impl Into<String>, attempts: u64) -> Self {
        Self { message: message.into(), kind: kind.into(), attempts }
    }

    pub(crate) fn cancelled(attempts: u64) -> Self {
        Self::new("The job was cancelled.", Self::CANCELLED, attempts)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delivery {
    /// `delivered` or `failed`.
    pub status: String,
    pub(crate) attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

#[cfg(test)]
mod tests;
