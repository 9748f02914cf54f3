//! Decides whether an answer is forwarded and whether a failure is retried. Pure.

use crate::api::errors::{Attempted, Failure, Kind};
use crate::config::{Retry, RetryOn};
use crate::upstream::{Stage, UpstreamError, UpstreamErrorKind};
use crate::util::time::parse_http_date;
use http::{HeaderMap, HeaderName, StatusCode, header};
use std::time::{Duration, SystemTime};

/// `Retry-After` while an endpoint is down: the interval of its probes.
const BACK_SOON: Duration = Duration::from_secs(2);

/// What to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryDecision {
    Forward,
    /// The next key of the same endpoint, then the next endpoint.
    NextKey,
    Next,
    /// The body decides: a prompt too long for this context may fit a larger one.
    InspectBody,
}

impl RetryDecision {
    /// The label in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "none",
            Self::NextKey => "key",
            Self::Next => "status",
            Self::InspectBody => "context",
        }
    }
}

/// The label of a retried failure: the words of `retry.on`.
pub(crate) fn reason(fault: &UpstreamError) -> &'static str {
    match fault.kind {
        UpstreamErrorKind::Refused | UpstreamErrorKind::Connect | UpstreamErrorKind::Timeout(Stage::Connect) => {
            "connect"
        }
        UpstreamErrorKind::Timeout(_) => "timeout",
        UpstreamErrorKind::ClientGone
        | UpstreamErrorKind::Reset
        | UpstreamErrorKind::Garbled
        | UpstreamErrorKind::ShuttingDown => "reset",
    }
}

/// No connection could be made, so nothing was sent.
pub(crate) fn is_unconnected(fault: &UpstreamError) -> bool {
    use UpstreamErrorKind::{Connect, Refused, Timeout};
    matches!(fault.kind, Refused | Connect | Timeout(Stage::Connect))
}

/// What is left to try besides the current candidate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remaining {
    pub(crate) keys: bool,
    pub(crate) candidates: bool,
    /// Another attempt is allowed.
    pub(crate) attempts: bool,
    /// An endpoint with a larger context may be asked.
    pub(crate) larger: bool,
}

/// Decides by the status (SPEC section 5, Failures).
pub(crate) fn answer(status: StatusCode, retry: &Retry, remaining: Remaining) -> RetryDecision {
    let of_key = matches!(status.as_u16(), 401 | 402 | 403 | 429);
    if of_key && remaining.keys {
        return RetryDecision::NextKey;
    }
    // 501 and 505 are permanent; 520 to 530 are Cloudflare's, 529 is Anthropic's.
    let passing = matches!(status.as_u16(), 408 | 429 | 500 | 502..=504 | 506..=599);
    let again = retry.on.contains(&RetryOn::Status) && passing;
    if status == StatusCode::BAD_REQUEST && remaining.larger {
        return RetryDecision::InspectBody;
    }
    let elsewhere = matches!(status.as_u16(), 401..=404) && remaining.candidates;
    if remaining.attempts && (again || elsewhere) { RetryDecision::Next } else { RetryDecision::Forward }
}

/// Whether a failure may be retried.
pub(crate) fn may_retry(fault: &UpstreamError, retry: &Retry) -> bool {
    let on = match fault.kind {
        UpstreamErrorKind::ClientGone | UpstreamErrorKind::Timeout(Stage::Total) => return false,
        UpstreamErrorKind::Refused | UpstreamErrorKind::Connect | UpstreamErrorKind::Timeout(Stage::Connect) => {
            RetryOn::Connect
        }
        UpstreamErrorKind::Reset | UpstreamErrorKind::Garbled | UpstreamErrorKind::ShuttingDown => RetryOn::Reset,
        UpstreamErrorKind::Timeout(_) => RetryOn::Timeout,
    };
    retry.on.contains(&on)
}

/// Whether the endpoint may still be working on a failed attempt: llama-server notices a disconnect only with its next
/// token (LLAMA-SERVER facts).
pub(crate) fn works_on(fault: &UpstreamError) -> bool {
    match fault.kind {
        UpstreamErrorKind::ClientGone => true,
        UpstreamErrorKind::Timeout(stage) => stage != Stage::Connect,
        UpstreamErrorKind::Refused
        | UpstreamErrorKind::Connect
        | UpstreamErrorKind::Reset
        | UpstreamErrorKind::Garbled
        | UpstreamErrorKind::ShuttingDown => false,
    }
}

/// What happened, for the client; names the time-out, never an address.
pub(crate) fn sentence(fault: &UpstreamError) -> String {
    match fault.kind {
        UpstreamErrorKind::ClientGone => "the client left".into(),
        UpstreamErrorKind::Refused => "refused the connection".into(),
        UpstreamErrorKind::Connect => "could not be connected to".into(),
        UpstreamErrorKind::Reset => "closed the connection before its answer was complete".into(),
        UpstreamErrorKind::ShuttingDown => {
            "is shutting down: it refuses new connections and had not begun to answer".into()
        }
        UpstreamErrorKind::Garbled => "sent bytes that are not a usable HTTP answer".into(),
        UpstreamErrorKind::Timeout(stage) => match stage {
            Stage::Connect => "could not be connected to within timeouts.connect".into(),
            Stage::Send => "did not take the request: silent for longer than timeouts.idle".into(),
            Stage::FirstByte => "did not begin to answer within timeouts.firstByte".into(),
            Stage::Body => "fell silent inside its answer for longer than timeouts.idle".into(),
            Stage::Total => "did not complete its answer within timeouts.total".into(),
        },
    }
}

/// The failure when no endpoint gave an HTTP answer.
pub(crate) fn all_failed(faults: &[(String, UpstreamError)]) -> Failure {
    let timeout = |fault: &UpstreamError| matches!(fault.kind, UpstreamErrorKind::Timeout(_));
    let timeouts = faults.iter().filter(|(_, fault)| timeout(fault)).count();
    let names = faults.iter().map(|(name, _)| name).collect::<std::collections::HashSet<_>>().len();
    let kind = match timeouts {
        n if n == faults.len() => Kind::UpstreamTimeout,
        0 => Kind::Upstream,
        _ if names > 1 => Kind::NoEndpoint,
        _ => Kind::Upstream,
    };
    let same_kind = faults.windows(2).all(|pair| pair[0].1.kind == pair[1].1.kind);
    let kind = if names > 1 && !same_kind && kind == Kind::Upstream { Kind::NoEndpoint } else { kind };
    let message = match faults {
        [] => "No endpoint could be tried.".to_owned(),
        [.., (name, fault)] if names == 1 => format!("The endpoint `{name}` {}.", sentence(fault)),
        _ => format!("None of {names} endpoints answered; `attempts` tells what happened at each."),
    };
    let mut failure = Failure::new(kind, message);
    let away = |fault: &UpstreamError| {
        matches!(fault.kind, UpstreamErrorKind::Refused | UpstreamErrorKind::Connect | UpstreamErrorKind::ShuttingDown)
    };
    if kind == Kind::NoEndpoint {
        failure.retry_after = Some(Duration::from_secs(5));
    } else if faults.last().is_some_and(|(_, fault)| away(fault)) {
        failure.retry_after = Some(BACK_SOON);
    }
    failure.attempts =
        faults.iter().map(|(name, fault)| Attempted { endpoint: name.clone(), what: sentence(fault) }).collect();
    failure
}

/// The pause before round `round` (1 = the first repetition): doubled each time, jittered down to a half, at most
/// `maxDelay`; `Retry-After` is honoured up to that.
pub(crate) fn pause(retry: &Retry, round: u32, retry_after: Option<Duration>, unit: f64) -> Duration {
    let doubled = retry.initial_delay.saturating_mul(1u32.checked_shl(round - 1).unwrap_or(u32::MAX));
    let jittered = doubled.min(retry.max_delay).mul_f64(0.5 + unit / 2.0);
    retry_after.map_or(jittered, |retry_after| retry_after.max(jittered)).min(retry.max_delay)
}

/// OpenAI's `retry-after-ms`, else `Retry-After` in seconds or as a date (RFC 9110 10.2.3), relative to the endpoint's
/// own `Date` if it sent one.
pub(crate) fn retry_after(headers: &HeaderMap, wall: impl FnOnce() -> SystemTime) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let number = |text: &str| text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    let day = |seconds: f64| Duration::from_secs_f64(seconds.min(86_400.0));
    if let Some(millis) = text(HeaderName::from_static("retry-after-ms")).and_then(number) {
        return Some(day(millis / 1000.0));
    }
    let retry_after = text(header::RETRY_AFTER)?;
    number(retry_after).map(day).or_else(|| {
        let until = parse_http_date(retry_after)?;
        let now = text(header::DATE).and_then(parse_http_date).unwrap_or_else(wall);
        Some(until.duration_since(now).unwrap_or_default())
    })
}

#[cfg(test)]
mod tests;
