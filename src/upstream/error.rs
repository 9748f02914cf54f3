//! Why an attempt failed, from ureq's error and the state of the call.

use super::call::{Call, Stage};
use std::io;
use ureq::Error;

/// Why an attempt gave no answer, or an answer was truncated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpstreamError {
    pub(crate) kind: UpstreamErrorKind,
    /// For the log; without secrets.
    pub(crate) cause: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamErrorKind {
    ClientGone,
    Refused,
    /// No connection for any other reason: DNS, routing, TLS, proxy.
    Connect,
    Timeout(Stage),
    /// Closed or reset before the answer was complete.
    Reset,
    /// Not a valid HTTP answer.
    Garbled,
    /// The endpoint refuses new connections while a request waits there for its first byte.
    ShuttingDown,
}

pub(super) fn fault(error: &Error, call: &Call) -> UpstreamError {
    let stage = call.stage();
    let kind = if call.is_cancelled() {
        UpstreamErrorKind::ClientGone
    } else if call.given_up.get() {
        UpstreamErrorKind::ShuttingDown
    } else if let Some(stage) = call.expired.get() {
        UpstreamErrorKind::Timeout(stage)
    } else {
        match error {
            Error::Timeout(_) if stage == Stage::Connect => UpstreamErrorKind::Timeout(Stage::Connect),
            Error::Io(e) if stage == Stage::Connect && e.kind() == io::ErrorKind::ConnectionRefused => {
                UpstreamErrorKind::Refused
            }
            _ if stage == Stage::Connect => UpstreamErrorKind::Connect,
            Error::Io(e) if e.kind() != io::ErrorKind::InvalidData => UpstreamErrorKind::Reset,
            _ => UpstreamErrorKind::Garbled,
        }
    };
    let cause = match kind {
        UpstreamErrorKind::ClientGone => "the client has left".into(),
        UpstreamErrorKind::Refused => "connection refused".into(),
        UpstreamErrorKind::ShuttingDown => "new connections are refused while a request waits".into(),
        UpstreamErrorKind::Timeout(stage) => format!("{stage:?} time-out"),
        UpstreamErrorKind::Connect | UpstreamErrorKind::Reset | UpstreamErrorKind::Garbled => error.to_string(),
    };
    UpstreamError { kind, cause }
}
