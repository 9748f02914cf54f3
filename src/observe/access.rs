//! The record of one request, and its access line.

use super::{SHOWN, escape};
use crate::api::answer::Tokens;
use crate::api::paths::{PathRow, Trait};
use crate::routing::recall::Recomputed;
use log::Level;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt::{self, Display, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const TARGET: &str = "access";

/// Filled in during the request; at its end it becomes the access line, metrics and a row of the page.
#[derive(Debug, Clone)]
pub(crate) struct AccessRecord {
    pub(crate) request_id: String,
    /// Of the client, even behind trusted proxies.
    pub(crate) client: IpAddr,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) method: String,
    /// As sent, without the query.
    pub(crate) path: String,
    pub(crate) row: &'static PathRow,
    pub(crate) model: Option<String>,
    /// The one that answered or was tried last.
    pub(crate) endpoint: Option<String>,
    /// As in `x-llmproxy-reason`.
    pub(crate) reason: Option<&'static str>,
    /// As sent, or 499 if the client disconnected before.
    pub(crate) status: u16,
    pub(crate) attempts: u32,
    pub(crate) queue: Option<Duration>,
    /// From the complete request to the first byte of the body of the answer.
    pub(crate) first_byte: Option<Duration>,
    /// From the complete request to its end.
    pub(crate) total: Duration,
    /// Of the body sent to the client.
    pub(crate) bytes: u64,
    pub(crate) tokens: Tokens,
    /// Only shown on the page.
    pub(crate) recomputed: Option<Recomputed>,
    pub(crate) end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    ClientGone,
    /// The upstream closed the connection before the end of its answer.
    UpstreamLost,
    Timeout,
    /// The proxy itself answered with an error.
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
    /// A record before method and path are known.
    pub(crate) fn new(request_id: String, client: IpAddr, row: &'static PathRow) -> Self {
        Self {
            request_id,
            client,
            key: None,
            method: "-".into(),
            path: "-".into(),
            row,
            model: None,
            endpoint: None,
            reason: None,
            status: 0,
            attempts: 0,
            queue: None,
            first_byte: None,
            total: Duration::ZERO,
            bytes: 0,
            tokens: Tokens::default(),
            recomputed: None,
            end: End::Done,
        }
    }

    /// Debug for requests that machines and the page repeat; info for all others, changes by the page included.
    pub(super) fn level(&self) -> Level {
        let is_polled = self.row.has(Trait::Polled) || self.method == "GET" && self.row.has(Trait::PolledByGet);
        if is_polled { Level::Debug } else { Level::Info }
    }

    /// Whether the page omits the request, as it is one of its own, or repeated by a machine.
    pub(crate) fn is_polled(&self) -> bool {
        self.level() == Level::Debug || self.row.is_page()
    }

    /// The fields that have a value, in the order of all formats.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, Field<'_>)> {
        let shown = |text| Field::text(escape::cut(text, SHOWN));
        let millis = |time: Duration| Field::Count(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        // JSON has no infinity.
        let speed = self.tokens.per_second.filter(|speed| speed.is_finite());
        let fields = [
            ("method", Some(Field::text(&self.method))),
            ("path", Some(shown(&self.path))),
            ("status", Some(Field::Count(self.status.into()))),
            ("request_id", Some(Field::text(&self.request_id))),
            ("client", Some(Field::Text(self.client.to_string().into()))),
            ("key", self.key.as_deref().map(Field::text)),
            ("model", self.model.as_deref().map(shown)),
            ("endpoint", self.endpoint.as_deref().map(Field::text)),
            ("reason", self.reason.map(Field::text)),
            ("attempts", (self.attempts > 0).then_some(Field::Count(self.attempts.into()))),
            ("queue_ms", self.queue.map(millis)),
            ("first_byte_ms", self.first_byte.map(millis)),
            ("total_ms", Some(millis(self.total))),
            ("bytes", Some(Field::Count(self.bytes))),
            ("tokens_in", self.tokens.prompt.map(Field::Count)),
            ("tokens_cached", self.tokens.cached.map(Field::Count)),
            ("cached", self.tokens.cached_share().map(|share| Field::Text(format!("{share}%").into()))),
            ("tokens_out", self.tokens.completion.map(Field::Count)),
            ("tokens_per_second", speed.map(|speed| Field::Rate((speed * 10.0).round() / 10.0))),
            ("end", Some(Field::text(self.end.as_str()))),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Field<'a> {
    Text(Cow<'a, str>),
    Count(u64),
    Rate(f64),
}

impl<'a> Field<'a> {
    fn text(text: &'a str) -> Self {
        Self::Text(text.into())
    }

    /// Writes the value; a text in quotes if `quotes` returns true for it.
    pub(super) fn write(&self, out: &mut dyn Write, quotes: impl Fn(&str) -> bool) -> fmt::Result {
        match self {
            Self::Text(text) if quotes(text) => escape::quoted(out, text),
            Self::Text(text) => out.write_str(text),
            Self::Count(count) => write!(out, "{count}"),
            Self::Rate(rate) => write!(out, "{rate}"),
        }
    }
}

/// `POST /v1/chat/completions 200 request_id=... end=done`
impl Display for AccessRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.fields() {
            match name {
                "method" => {}
                "path" | "status" => f.write_char(' ')?,
                name => write!(f, " {name}=")?,
            }
            value.write(f, |text| !is_word(text))?;
        }
        Ok(())
    }
}

/// Whether a value needs no quotes.
fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c == '"' || c == '\\' || escape::harmful(c))
}

#[cfg(test)]
pub(super) mod tests;
