//! The access line: what one request was and how it ended. Knows nothing of where lines go.

use super::escape;
use crate::api::answer::Tokens;
use crate::api::paths::{PathRow, Trait};
use log::kv::{self, Key, Source, Value, VisitSource};
use log::{Level, Record};
use std::fmt::{self, Display, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const TARGET: &str = "access";

/// Characters of a model or path that a line shows: clients choose them.
const SHOWN: usize = 128;

/// One ended request, made once and printed three times: in the log, in metrics and on the page.
#[derive(Debug, Clone)]
pub(crate) struct AccessRecord {
    /// The `x-request-id` of the answer.
    pub(crate) request_id: String,
    pub(crate) client: IpAddr,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) method: String,
    /// Path as sent, without its query.
    pub(crate) path: String,
    pub(crate) row: &'static PathRow,
    pub(crate) model: Option<String>,
    /// Endpoint that answered, or was tried last.
    pub(crate) endpoint: Option<String>,
    /// Why that endpoint, the word of `x-llmproxy-reason`.
    pub(crate) reason: Option<&'static str>,
    /// Status sent, or 499 when the client left before there was one.
    pub(crate) status: u16,
    /// Upstream tries; 0 = nothing was sent to any.
    pub(crate) attempts: u32,
    pub(crate) queue: Option<Duration>,
    /// From the complete request to the first byte of the answer.
    pub(crate) first_byte: Option<Duration>,
    /// From the complete request to the end.
    pub(crate) total: Duration,
    /// Body bytes sent to the client.
    pub(crate) bytes: u64,
    pub(crate) tokens: Tokens,
    pub(crate) end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    ClientGone,
    /// The upstream broke off inside an answer.
    UpstreamLost,
    Timeout,
    /// Answered by us with an error.
    Refused,
}

impl End {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::ClientGone => "client_gone",
            Self::UpstreamLost => "upstream_lost",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
        }
    }
}

impl AccessRecord {
    /// Info, but debug for what machines ask again and again. What the page reads for itself is no news; what it changes is.
    pub(super) fn level(&self) -> Level {
        let is_polled = self.row.has(Trait::Polled) || self.method == "GET" && self.row.has(Trait::PolledByGet);
        if is_polled { Level::Debug } else { Level::Info }
    }

    /// Whether nobody wants to see the request among others: machines ask again and again, and the page itself.
    pub(crate) fn is_polled(&self) -> bool {
        self.level() == Level::Debug || self.row.is_page()
    }

    /// Text loggers print the message, JSON loggers the pairs.
    pub(super) fn with_record<T>(&self, act: impl FnOnce(&Record<'_>) -> T) -> T {
        act(&Record::builder().level(self.level()).target(TARGET).args(format_args!("{self}")).key_values(self).build())
    }
}

/// Every field that has a value, in the order in which both formats show them.
impl Source for AccessRecord {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        let mut pair = |key: &'static str, value: Option<Value<'kvs>>| match value {
            Some(value) => visitor.visit_pair(Key::from_str(key), value),
            None => Ok(()),
        };
        let millis = |time: Duration| Value::from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        pair("method", Some(self.method.as_str().into()))?;
        pair("path", Some(escape::cut(&self.path, SHOWN).into()))?;
        pair("status", Some(self.status.into()))?;
        pair("request_id", Some(self.request_id.as_str().into()))?;
        pair("client", Some(Value::from_display(&self.client)))?;
        pair("key", self.key.as_deref().map(Value::from))?;
        pair("model", self.model.as_deref().map(|model| escape::cut(model, SHOWN).into()))?;
        pair("endpoint", self.endpoint.as_deref().map(Value::from))?;
        pair("reason", self.reason.map(Value::from))?;
        pair("attempts", (self.attempts > 0).then_some(self.attempts.into()))?;
        pair("queue_ms", self.queue.map(millis))?;
        pair("first_byte_ms", self.first_byte.map(millis))?;
        pair("total_ms", Some(millis(self.total)))?;
        pair("bytes", Some(self.bytes.into()))?;
        pair("tokens_in", self.tokens.prompt.map(Value::from))?;
        pair("tokens_cached", self.tokens.cached.map(Value::from))?;
        pair("tokens_out", self.tokens.completion.map(Value::from))?;
        // Infinity is not a number in JSON, and not one that tells anything in text.
        let speed = self.tokens.per_second.filter(|speed| speed.is_finite());
        pair("tokens_per_second", speed.map(|speed| ((speed * 10.0).round() / 10.0).into()))?;
        pair("end", Some(self.end.as_str().into()))
    }
}

/// `POST /v1/chat/completions 200 request_id=... end=done`
impl Display for AccessRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visit(&mut Pairs(f)).map_err(|_| fmt::Error)
    }
}

struct Pairs<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl<'kvs> VisitSource<'kvs> for Pairs<'_, '_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        match key.as_str() {
            "method" => {}
            "path" | "status" => self.0.write_char(' ')?,
            key => write!(self.0, " {key}=")?,
        }
        match value.to_borrowed_str() {
            Some(text) if !is_word(text) => escape::quoted(self.0, text)?,
            Some(text) => self.0.write_str(text)?,
            None => write!(self.0, "{value}")?,
        }
        Ok(())
    }
}

/// Whether a reader sees where a value ends without quotes around it.
fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c == '"' || c == '\\' || escape::harmful(c))
}

#[cfg(test)]
pub(super) mod tests;
