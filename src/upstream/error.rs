//! Why an attempt failed, from ureq's error and from what the transport knows better.

use super::call::{Call, Stage};
use std::io;
use ureq::Error;

/// Why a try gave no answer, or an answer broke off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What kind.
    pub trouble: Trouble,
    /// For the log: one short sentence without secrets.
    pub cause: String,
}

/// The kinds of [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The client has left.
    Gone,
    /// Nobody listens there.
    Refused,
    /// No connection for another reason: name, route, TLS, proxy.
    Connect,
    /// A stage's time ran out.
    Timeout(Stage),
    /// Closed or reset before the answer was complete.
    Reset,
    /// Bytes that are no HTTP answer.
    Garbled,
    /// It refuses new connections while a request waits there for its first byte.
    ShuttingDown,
}

/// What went wrong, from ureq's error and from what the transport knows better.
pub(super) fn fault(error: &Error, call: &Call) -> Fault {
    let stage = call.stage();
    let trouble = if call.is_cancelled() {
        Trouble::Gone
    } else if call.given_up.get() {
        Trouble::ShuttingDown
    } else if let Some(stage) = call.expired.get() {
        Trouble::Timeout(stage)
    } else {
        match error {
            Error::Timeout(_) if stage == Stage::Connect => Trouble::Timeout(Stage::Connect),
            Error::Io(e) if stage == Stage::Connect && e.kind() == io::ErrorKind::ConnectionRefused => Trouble::Refused,
            _ if stage == Stage::Connect => Trouble::Connect,
            Error::Io(e) if e.kind() != io::ErrorKind::InvalidData => Trouble::Reset,
            _ => Trouble::Garbled,
        }
    };
    let cause = match trouble {
        Trouble::Gone => "the client has left".into(),
        Trouble::Refused => "connection refused".into(),
        Trouble::ShuttingDown => "new connections are refused while a request waits".into(),
        Trouble::Timeout(stage) => format!("{stage:?} time-out"),
        Trouble::Connect | Trouble::Reset | Trouble::Garbled => error.to_string(),
    };
    Fault { trouble, cause }
}
