//! The access line: what one request was and how it ended. Knows nothing of where lines go.

use super::escape;
use log::kv::{self, Key, Source, Value, VisitSource};
use log::{Level, Record};
use std::fmt::{self, Display, Write};
use std::net::IpAddr;
use std::time::Duration;

/// The target of access lines.
pub const TARGET: &str = "access";

/// Characters of a model or path that a line shows: clients choose them.
const SHOWN: usize = 128;

/// Asked again and again by machines: only worth a line when looking for a fault.
const POLLED: [&str; 7] =
    ["/health", "/v1/health", "/v1/models", "/models", "/metrics", "/admin/status", "/admin/events"];

/// What is told of a request when it has ended. The time is taken when it is written.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// The `x-request-id` of the answer.
    pub request_id: &'a str,
    /// Who asked.
    pub client: IpAddr,
    /// Name of the caller's key.
    pub key: Option<&'a str>,
    /// Method as sent.
    pub method: &'a str,
    /// Path as sent; a query is left out.
    pub path: &'a str,
    /// Model as asked for.
    pub model: Option<&'a str>,
    /// Endpoint that answered, or was tried last.
    pub endpoint: Option<&'a str>,
    /// Why that endpoint, the word of `x-llmproxy-reason`.
    pub reason: Option<&'a str>,
    /// Status sent, or 499 when the client left before there was one.
    pub status: u16,
    /// Upstream tries; 0 = nothing was sent to any.
    pub attempts: u32,
    /// Wait for a free slot.
    pub queue: Option<Duration>,
    /// From the complete request to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// From the complete request to the end.
    pub total: Duration,
    /// Body bytes sent to the client.
    pub bytes: u64,
    /// Prompt tokens, as the upstream counted.
    pub tokens_in: Option<u64>,
    /// Prompt tokens that the upstream had in its cache.
    pub tokens_cached: Option<u64>,
    /// Generated tokens.
    pub tokens_out: Option<u64>,
    /// Speed of generation.
    pub tokens_per_second: Option<f64>,
    /// How it ended.
    pub end: End,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Answered to the last byte.
    Done,
    /// The client left first.
    ClientGone,
    /// The upstream broke off inside an answer.
    UpstreamLost,
    /// A stage took too long.
    Timeout,
    /// Answered by us with an error.
    Refused,
}

impl End {
    /// The word in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::ClientGone => "client_gone",
            Self::UpstreamLost => "upstream_lost",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
        }
    }
}

/// Jobs, which their clients ask for again and again.
const JOBS: [&str; 3] = ["/v1/jobs", "/v1/chat/completions/", "/chat/completions/"];

/// Hands a line to the process logger: at `level`, at debug when the path is polled.
pub fn record(line: &Line<'_>, level: Level) {
    let level = line.level(level);
    if level <= log::max_level() {
        line.write(level, log::logger());
    }
}

impl Line<'_> {
    fn level(&self, level: Level) -> Level {
        // What the page reads for itself is no news; what it changes is.
        let reads = self.method == "GET" && self.is_polled();
        if reads || POLLED.contains(&self.path()) { level.max(Level::Debug) } else { level }
    }

    /// Whether nobody wants to see the request among others: machines ask again and again, and the page itself.
    pub fn is_polled(&self) -> bool {
        let path = self.path();
        POLLED.contains(&path)
            || path == "/admin"
            || path.starts_with("/admin/")
            || self.method == "GET" && JOBS.iter().any(|start| path.starts_with(start))
    }

    /// Text loggers print the message, JSON loggers the pairs.
    pub(super) fn write(&self, level: Level, logger: &dyn log::Log) {
        logger.log(
            &Record::builder()
                .level(level)
                .target(TARGET)
                .module_path_static(Some(module_path!()))
                .args(format_args!("{self}"))
                .key_values(self)
                .build(),
        );
    }

    fn path(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }
}

/// Every field that has a value, in the order in which both formats show them.
impl Source for Line<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        let mut pair = |key: &'static str, value: Option<Value<'kvs>>| match value {
            Some(value) => visitor.visit_pair(Key::from_str(key), value),
            None => Ok(()),
        };
        let millis = |time: Duration| Value::from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        pair("method", Some(self.method.into()))?;
        pair("path", Some(escape::cut(self.path(), SHOWN).into()))?;
        pair("status", Some(self.status.into()))?;
        pair("request_id", Some(self.request_id.into()))?;
        pair("client", Some(Value::from_display(&self.client)))?;
        pair("key", self.key.map(Value::from))?;
        pair("model", self.model.map(|model| escape::cut(model, SHOWN).into()))?;
        pair("endpoint", self.endpoint.map(Value::from))?;
        pair("reason", self.reason.map(Value::from))?;
        pair("attempts", (self.attempts > 0).then_some(self.attempts.into()))?;
        pair("queue_ms", self.queue.map(millis))?;
        pair("first_byte_ms", self.first_byte.map(millis))?;
        pair("total_ms", Some(millis(self.total)))?;
        pair("bytes", Some(self.bytes.into()))?;
        pair("tokens_in", self.tokens_in.map(Value::from))?;
        pair("tokens_cached", self.tokens_cached.map(Value::from))?;
        pair("tokens_out", self.tokens_out.map(Value::from))?;
        // Infinity is not a number in JSON, and not one that tells anything in text.
        let speed = self.tokens_per_second.filter(|speed| speed.is_finite());
        pair("tokens_per_second", speed.map(|speed| ((speed * 10.0).round() / 10.0).into()))?;
        pair("end", Some(self.end.as_str().into()))
    }
}

/// `POST /v1/chat/completions 200 request_id=... end=done`
impl Display for Line<'_> {
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
pub(super) mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// A chat that went well.
    pub const CHAT: Line<'static> = Line {
        request_id: "req-1",
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        key: Some("alice"),
        method: "POST",
        path: "/v1/chat/completions",
        model: Some("qwen3-8b"),
        endpoint: Some("server1"),
        reason: Some("only"),
        status: 200,
        attempts: 1,
        queue: Some(Duration::ZERO),
        first_byte: Some(Duration::from_millis(41)),
        total: Duration::from_micros(2_300_900),
        bytes: 8123,
        tokens_in: Some(120),
        tokens_cached: Some(100),
        tokens_out: Some(96),
        tokens_per_second: Some(42.4444),
        end: End::Done,
    };

    #[test]
    fn a_line_says_all_that_is_known_in_a_fixed_order() {
        assert_eq!(
            CHAT.to_string(),
            "POST /v1/chat/completions 200 request_id=req-1 client=127.0.0.1 key=alice model=qwen3-8b \
             endpoint=server1 reason=only attempts=1 queue_ms=0 first_byte_ms=41 total_ms=2300 bytes=8123 \
             tokens_in=120 tokens_cached=100 tokens_out=96 tokens_per_second=42.4 end=done"
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let line = Line {
            key: None,
            model: None,
            endpoint: None,
            reason: None,
            status: 404,
            attempts: 0,
            queue: None,
            first_byte: None,
            tokens_in: None,
            tokens_cached: None,
            tokens_out: None,
            tokens_per_second: Some(f64::INFINITY),
            end: End::Refused,
            ..CHAT
        };
        assert_eq!(
            line.to_string(),
            "POST /v1/chat/completions 404 request_id=req-1 client=127.0.0.1 total_ms=2300 bytes=8123 end=refused"
        );
    }

    #[test]
    fn values_that_would_confuse_a_reader_are_quoted() {
        // F12, F11
        let shown = |model: &str| {
            let line = Line { model: Some(model), ..CHAT }.to_string();
            let (_, rest) = line.split_once("model=").unwrap();
            rest.split_once(" endpoint=").unwrap().0.to_owned()
        };
        assert_eq!(shown("org/name:8b"), "org/name:8b");
        assert_eq!(shown(""), r#""""#);
        assert_eq!(shown("a b"), r#""a b""#);
        assert_eq!(shown("x status=200"), r#""x status=200""#);
        assert_eq!(shown("say \"hi\""), r#""say \"hi\"""#);
        assert_eq!(shown("\u{1b}[2J\r\nPOST"), r#""\u001b[2J\r\nPOST""#);
        assert_eq!(shown("back\\slash"), r#""back\\slash""#);
    }

    #[test]
    fn long_names_are_cut_and_a_query_never_shows() {
        // B9, F2
        let long = "漢".repeat(10_000);
        let path = format!("/v1/models/{}?key=canary", "x".repeat(10_000));
        let line = Line { model: Some(&long), path: &path, ..CHAT }.to_string();
        assert_eq!(line.matches('漢').count(), SHOWN);
        assert_eq!(line.split(' ').nth(1).unwrap().len(), SHOWN);
        let line = Line { path: "/v1/models?key=canary", ..CHAT };
        assert!(!line.to_string().contains("canary"));
        assert_eq!(line.level(Level::Info), Level::Debug);
    }

    #[test]
    fn polled_paths_only_show_at_debug() {
        for path in POLLED {
            assert_eq!(Line { path, ..CHAT }.level(Level::Info), Level::Debug);
            assert_eq!(Line { path, ..CHAT }.level(Level::Error), Level::Debug);
        }
        assert_eq!(CHAT.level(Level::Info), Level::Info);
        assert_eq!(Line { path: "/v1/models/x", ..CHAT }.level(Level::Warn), Level::Warn);
    }

    #[test]
    fn each_end_has_its_word() {
        let ends = [End::Done, End::ClientGone, End::UpstreamLost, End::Timeout, End::Refused];
        let words = ends.map(End::as_str);
        assert_eq!(words, ["done", "client_gone", "upstream_lost", "timeout", "refused"]);
    }
}
