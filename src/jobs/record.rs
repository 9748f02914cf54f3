//! One job on disk: the name of its file, which is all that a start reads, and the content.
//!
//! `SEQUENCE.ID.OWNER.STATE.NUMBER[.owed]`: when it was submitted (milliseconds since 1970 times 65,536, plus a count; 16
//! hexadecimal digits), its id, the SHA-256 of its owner's name (64 digits; 8 zeros for nobody), its state, a number
//! (tries so far, or the second since 1970 when it ended), and `owed` until the webhook is delivered.
//! The content is JSON, see [`Record`] and [`Bodies`]. Both are stable: a newer version reads what an older one wrote;
//! the first release wrote 8 digits of the SHA-256.

use crate::util::secret::fingerprint;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;
use std::{fmt, io};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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

    /// Whether the job has ended.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Error)
    }
}

/// The name of a job's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) sequence: u64,
    pub(crate) id: Arc<str>,
    /// See [`owner_id`].
    pub(crate) owner: Arc<str>,
    pub(crate) state: State,
    /// Tries so far, or the second when it ended.
    pub(crate) number: u64,
    /// Its webhook is still to be delivered.
    pub(crate) webhook_pending: bool,
}

impl Name {
    /// Parses a name; `None` if it is not a job's.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut next = || parts.next();
        let (sequence, id, owner, state, number) = (next()?, next()?, next()?, next()?, next()?);
        let webhook_pending = match next() {
            None => false,
            Some("owed") => true,
            Some(_) => return None,
        };
        let is_owner = matches!(owner.len(), 8 | 64) && owner.bytes().all(|digit| digit.is_ascii_hexdigit());
        if parts.next().is_some() || sequence.len() != 16 || id.is_empty() || !is_owner {
            return None;
        }
        Some(Self {
            sequence: u64::from_str_radix(sequence, 16).ok()?,
            id: id.into(),
            owner: owner.into(),
            state: State::ALL.into_iter().find(|known| known.as_str() == state)?,
            number: number.parse().ok()?,
            webhook_pending,
        })
    }

    /// When it was submitted, in milliseconds since 1970.
    pub(crate) fn timestamp(&self) -> u64 {
        self.sequence >> 16
    }

    /// The name comes from the first release, and two owners may share it.
    pub(crate) fn has_short_owner(&self) -> bool {
        self.owner.len() == NOBODY.len() && *self.owner != *NOBODY
    }

    #[must_use]
    pub(crate) fn to(&self, state: State, number: u64) -> Self {
        Self { state, number, ..self.clone() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sequence, id, owner, state, number, webhook_pending } = self;
        write!(
            f,
            "{sequence:016x}.{id}.{owner}.{}.{number}{}",
            state.as_str(),
            if *webhook_pending { ".owed" } else { "" }
        )
    }
}

/// The owner of jobs that came without a key.
const NOBODY: &str = "00000000";

/// The owner as it is in names; unique.
pub(crate) fn owner_id(owner: Option<&str>) -> Arc<str> {
    owner.map_or_else(|| NOBODY.into(), |owner| fingerprint(owner, 32).into())
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
    /// Parses a file.
    pub(super) fn read(file: &[u8]) -> io::Result<(Self, Bodies<'_>)> {
        Ok((serde_json::from_slice(file)?, serde_json::from_slice(file)?))
    }

    /// The part of a file before the request; see [`pieces`].
    pub(super) fn head(&self) -> String {
        let mut head = serde_json::to_string(self).unwrap_or_default();
        head.pop();
        head + ",\"request\":"
    }
}

/// A whole file, after [`Record::head`]. A request may come in two pieces.
pub(crate) fn pieces<'a>(head: &'a str, request: [&'a [u8]; 2], response: Option<&'a str>) -> [&'a [u8]; 6] {
    let name: &[u8] = if response.is_some() { b",\"response\":" } else { b"" };
    [head.as_bytes(), request[0], request[1], name, response.unwrap_or_default().as_bytes(), b"}"]
}

/// Bytes of a file's [`pieces`].
pub(crate) fn size(pieces: &[&[u8]]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobError {
    pub(crate) message: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) attempts: u64,
}

impl JobError {
    pub(crate) const CANCELLED: &str = "cancelled";

    pub(crate) fn cancelled(attempts: u64) -> Self {
        Self { message: "The job was cancelled.".into(), kind: Self::CANCELLED.into(), attempts }
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
