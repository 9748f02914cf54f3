//! Copies an answer to the client, chunk by chunk. This is past the point of no return: nothing is retried and the status is
//! sent, so an answer is finished or aborted.

use super::outcome::{BufferedResponse, Relayed, ServedBy};
use crate::api::answer::{Events, IdReader, UsageReader};
use crate::api::errors::{Attempted, Failure, Kind};
use crate::config::OnClientGone;
use crate::http::head::Fields;
use crate::http::response::Length;
use crate::observe::access::End;
use crate::proxy::downstream::{self, Downstream};
use crate::proxy::retry;
use crate::upstream::headers::Policy;
use crate::upstream::{UpstreamError, UpstreamErrorKind, UpstreamResponse, headers};
use crate::util::time;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// The longest read and write.
pub(super) const CHUNK: usize = 32 << 10;
/// The first one: enough for the events of a stream.
const FIRST_CHUNK: usize = 4 << 10;

/// A JSON answer up to this size is read completely, for up to `READ_AHEAD_TIMEOUT`, before its head is sent:
/// `x-llmproxy-cached` depends on its body.
const READ_AHEAD_MAX: usize = 64 << 10;
const READ_AHEAD_TIMEOUT: Duration = Duration::from_millis(100);
/// A prompt of which fewer tokens were computed says nothing about speed.
const MEASURABLE: u64 = 256;

/// Longest part read of an error answer that comes after an early head.
const LATE_ERROR_MAX: usize = 64 << 10;

thread_local! {
    /// A worker relays one answer at a time.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Calls `act` with the buffer of this thread.
pub(super) fn with_buffer<T>(act: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut buffer = BUFFER.take();
    if buffer.is_empty() {
        buffer.resize(FIRST_CHUNK, 0);
    }
    let result = act(&mut buffer);
    BUFFER.set(buffer);
    result
}

/// Makes more room after a read that filled the buffer.
pub(super) fn grow(buffer: &mut Vec<u8>, read: usize) {
    if read == buffer.len() && read < CHUNK {
        buffer.resize(2 * read, 0);
    }
}

#[derive(Default)]
struct Passed {
    usage: UsageReader,
    /// The whole answer was read ahead, so `usage` is final.
    usage_is_final: bool,
    /// Of uncompressed event streams only.
    events: Events,
    first_byte: Option<Instant>,
    /// See [`Relayed::counted`].
    counted: u64,
}

impl Passed {
    /// Whether a stream that ended with its connection is complete: it has its API's end marker or, where the API has
    /// none, a complete last line.
    fn is_whole(&self, has_end_marker: bool) -> bool {
        self.events.saw_end_marker() || !(has_end_marker || self.events.is_torn())
    }

    fn count(&mut self, chunk: &[u8]) {
        if !self.usage_is_final {
            self.usage.push(chunk);
        }
    }

    fn ended(self, end: End) -> Relayed {
        let mut tokens = self.usage.tokens();
        // An incomplete stream has no usage object, so its events are counted.
        if end != End::Done && self.events.tokens() > tokens.completion.unwrap_or(0) {
            tokens.completion = Some(self.events.tokens());
        }
        Relayed { end, first_byte: self.first_byte, tokens, counted: self.counted, recomputed: None }
    }
}

/// Forwards an answer as it arrives. `has_end_marker`: the API has an end marker; otherwise a clean close ends a stream.
pub(crate) fn relay(
    mut answer: UpstreamResponse,
    client: &Downstream,
    served_by: &ServedBy,
    is_head: bool,
    has_end_marker: bool,
) -> Relayed {
    let is_events = is_event_stream(&answer.headers);
    // Pings and error events need an uncompressed stream.
    let is_plain = !is_compressed(&answer.headers);
    if client.is_early() && !(answer.status == StatusCode::OK && is_events && is_plain) {
        return fail_late(answer, client, served_by);
    }
    let mut passed = Passed::default();
    if !client.is_early() {
        let length = match (is_head, answer.length) {
            (true, _) => declared(&answer.headers),
            // Room for an error event.
            (false, Some(bytes)) if !(is_events && is_plain) => Length::Sized(bytes),
            (false, _) => Length::Open,
        };
        if let Some(usage) = (!is_head && is_plain).then(|| usage_ahead(&mut answer)).flatten() {
            (passed.usage, passed.usage_is_final) = (usage, true);
        }
        let mut fields = fields(std::mem::take(&mut answer.headers), client, served_by, is_events);
        let cached = passed.usage.tokens().cached_share();
        if let Some(Ok(share)) = cached.map(|share| HeaderValue::from_str(&format!("{share}%"))) {
            fields.push(HeaderName::from_static("x-llmproxy-cached"), share);
        }
        client.start(answer.status, &fields, length);
    }
    client.stop_pings();
    let mut relayed =
        with_buffer(|buffer| copy(answer, client, served_by, is_events && is_plain, has_end_marker, passed, buffer));
    if is_events && relayed.tokens.prompt_per_second.is_none() {
        relayed.tokens.prompt_per_second = prompt_speed(&relayed, served_by);
    }
    relayed
}

/// The counts of an answer if it is JSON, short, and complete at once, as llama-server sends it. All of it stays in the
/// answer.
fn usage_ahead(answer: &mut UpstreamResponse) -> Option<UsageReader> {
    let kind = answer.headers.get(header::CONTENT_TYPE)?.as_bytes();
    let is_json = kind.get(..16).is_some_and(|start| start.eq_ignore_ascii_case(b"application/json"));
    let may_be_short = answer.length.is_none_or(|length| length <= READ_AHEAD_MAX as u64);
    if !answer.status.is_success() || !is_json || !may_be_short {
        return None;
    }
    let mut usage = UsageReader::default();
    usage.push(with_buffer(|buffer| answer.read_ahead(time::now() + READ_AHEAD_TIMEOUT, READ_AHEAD_MAX, buffer))?);
    Some(usage)
}

/// Where the endpoint does not say how fast it was: a stream's first event comes when the prompt has been computed.
fn prompt_speed(relayed: &Relayed, served_by: &ServedBy) -> Option<f64> {
    let computed = relayed.tokens.prompt?.checked_sub(relayed.tokens.cached?)?;
    let took = relayed.first_byte?.checked_duration_since(served_by.sent)?;
    (computed >= MEASURABLE && !took.is_zero()).then(|| computed as f64 / took.as_secs_f64())
}

/// Copies the body until it ends, breaks off, or is no longer wanted.
fn copy(
    mut answer: UpstreamResponse,
    client: &Downstream,
    served_by: &ServedBy,
    is_events: bool,
    has_end_marker: bool,
    mut passed: Passed,
    buffer: &mut Vec<u8>,
) -> Relayed {
    let mut ids = client.makes_responses().then(IdReader::default);
    loop {
        match answer.read(buffer) {
            Ok(0) if is_events && answer.until_close && !passed.is_whole(has_end_marker) => {
                let fault =
                    UpstreamError { kind: UpstreamErrorKind::Reset, cause: "closed without an end marker".into() };
                return lost(&fault, client, served_by, is_events, passed);
            }
            Ok(0) => {
                client.finish();
                return passed.ended(End::Done);
            }
            Ok(n) => {
                let chunk = &buffer[..n];
                // Noted before the client can refer to it.
                if let Some(ids) = &mut ids {
                    ids.push(chunk, |id| served_by.endpoint.live.responses.put(id, ()));
                }
                let sent = client.write_chunk(chunk);
                // After the write, so that counting delays no chunk.
                let now = time::now();
                passed.first_byte.get_or_insert(now);
                served_by.endpoint.live.moved(now);
                passed.count(chunk);
                let before = passed.events.tokens();
                if is_events {
                    passed.events.push(chunk);
                }
                if client.active().is_shown() {
                    let new = passed.events.tokens() - before;
                    client.active().moved(now, new);
                    served_by.endpoint.live.count_tokens([new, 0, 0, 0]);
                    passed.counted += new;
                }
                if client.active().is_stopped() {
                    end_early(client, is_events, &passed.events);
                    return client_left(answer, client, served_by, passed);
                }
                if sent.is_err() && client.is_collected() {
                    let cause = "longer than what is kept for a job".into();
                    let fault = UpstreamError { kind: UpstreamErrorKind::Garbled, cause };
                    return lost(&fault, client, served_by, is_events, passed);
                }
                if sent.is_err() {
                    return client_left(answer, client, served_by, passed);
                }
                grow(buffer, n);
            }
            // TLS closed without close_notify: the API's end marker proves that the stream is complete.
            Err(fault)
                if fault.kind == UpstreamErrorKind::Reset && answer.until_close && passed.events.saw_end_marker() =>
            {
                client.finish();
                return passed.ended(End::Done);
            }
            Err(fault) if fault.kind == UpstreamErrorKind::ClientGone => {
                end_early(client, is_events, &passed.events);
                return client_left(answer, client, served_by, passed);
            }
            Err(fault) => return lost(&fault, client, served_by, is_events, passed),
        }
    }
}

/// The `end` of a request without an answer.
pub(crate) fn end(kind: Kind) -> End {
    match kind {
        Kind::UpstreamTimeout => End::Timeout,
        Kind::Upstream | Kind::NoEndpoint => End::UpstreamLost,
        _ => End::Refused,
    }
}

pub(crate) fn stopped() -> Failure {
    Failure::new(Kind::Stopped, "An administrator stopped this request.")
}

/// Ends an incomplete answer after a disconnect, or when an administrator stopped the request.
fn end_early(client: &Downstream, is_events: bool, events: &Events) {
    if is_events && client.active().is_stopped() {
        client.send_error_event(&stopped(), events.is_between_events());
    } else {
        client.abort();
    }
}

/// The client disconnected, or an administrator stopped the request. Many clients disconnect right after the end marker;
/// then the answer is complete.
fn client_left(mut answer: UpstreamResponse, client: &Downstream, served_by: &ServedBy, mut passed: Passed) -> Relayed {
    if passed.events.saw_end_marker() {
        return passed.ended(End::Done);
    }
    if client.active().is_stopped() {
        return passed.ended(End::Refused);
    }
    if served_by.endpoint.config.on_client_gone == OnClientGone::Finish {
        let mut rest = vec![0; CHUNK];
        while let Ok(n @ 1..) = answer.read(&mut rest) {
            served_by.endpoint.live.moved(time::now());
            passed.count(&rest[..n]);
        }
    }
    passed.ended(End::ClientGone)
}

/// The upstream failed in the middle of its answer.
fn lost(fault: &UpstreamError, client: &Downstream, served_by: &ServedBy, is_events: bool, passed: Passed) -> Relayed {
    let name = served_by.endpoint.name();
    let word = if matches!(fault.kind, UpstreamErrorKind::Timeout(_)) { "upstream_stall" } else { "upstream_lost" };
    let (what, id) = (retry::sentence(fault), client.request_id());
    log::warn!("{word}: endpoint {name} {what}: {} request_id={id}", fault.cause);
    if is_events || client.is_collected() {
        let (kind, what) = match fault.kind {
            UpstreamErrorKind::Timeout(_) => (Kind::UpstreamTimeout, retry::sentence(fault)),
            _ => (Kind::Upstream, "was lost in the middle of its answer".to_owned()),
        };
        let text = format!("The endpoint `{name}` {what}; the answer is not complete.");
        client.send_error_event(&Failure::new(kind, text), passed.events.is_between_events());
    } else {
        client.abort();
    }
    passed.ended(match fault.kind {
        UpstreamErrorKind::Timeout(_) => End::Timeout,
        _ => End::UpstreamLost,
    })
}

/// After an early head of an event stream any other kind of answer becomes an error event.
fn fail_late(mut answer: UpstreamResponse, client: &Downstream, served_by: &ServedBy) -> Relayed {
    if answer.status.is_success() {
        let name = served_by.endpoint.name();
        let what = match is_compressed(&answer.headers) {
            true => "sent a compressed stream, which cannot follow the pings that were already sent uncompressed",
            false => {
                "ignored \"stream\": true and sent one whole answer, which does not fit into the stream that was \
                      already started to keep the connection alive"
            }
        };
        let text = format!("The endpoint `{name}` {what}. Send the request again: it will get no pings.");
        log::warn!("endpoint {name} {what} request_id={}", client.request_id());
        client.fail(&Failure::new(Kind::Upstream, text), &Fields::default());
        return Relayed::nothing(End::Refused);
    }
    let mut body = Vec::new();
    let _ = answer.read_to_end(&mut body, LATE_ERROR_MAX);
    send_buffered(BufferedResponse { status: answer.status, headers: answer.headers, body }, client, served_by)
}

/// Sends a buffered answer.
pub(crate) fn send_buffered(buffered: BufferedResponse, client: &Downstream, served_by: &ServedBy) -> Relayed {
    if client.is_early() {
        let status = buffered.status.as_u16();
        let said = serde_json::from_slice::<serde_json::Value>(&buffered.body).ok();
        let said = said.as_ref().and_then(|body| body.get("error")?.get("message")?.as_str());
        let name = served_by.endpoint.name();
        let what = headers::answered(buffered.status, &buffered.headers);
        let text = said.map_or_else(|| format!("The endpoint `{name}` {what}, no stream."), str::to_owned);
        let mut failure = Failure::new(kind_of(status), text);
        failure.attempts = vec![Attempted { endpoint: name.to_owned(), what }];
        client.fail(&failure, &Fields::default());
    } else {
        let fields = fields(buffered.headers, client, served_by, false);
        client.send(buffered.status, &fields, &buffered.body);
    }
    Relayed::nothing(End::Done)
}

fn kind_of(status: u16) -> Kind {
    match status {
        401 | 403 => Kind::Unauthorized,
        404 => Kind::ModelNotFound,
        429 => Kind::RateLimited,
        503 => Kind::NoEndpoint,
        400..=499 => Kind::InvalidBody,
        504 => Kind::UpstreamTimeout,
        _ => Kind::Upstream,
    }
}

/// The fields of a proxied answer: the endpoint's, then ours.
pub(super) fn fields(theirs: HeaderMap, client: &Downstream, served_by: &ServedBy, is_events: bool) -> Fields {
    let named = headers::named(theirs.get_all(header::CONNECTION).into_iter());
    let mut fields = Fields::with_capacity(theirs.len() + 12);
    let is_limited = client.common().iter().any(|(name, _)| name.as_str().starts_with("x-ratelimit-"));
    let policy = Policy { limits: !is_limited, ..served_by.policy };
    let mut last = None;
    for (name, value) in theirs {
        // Further values of a field come without its name.
        let name = name.or_else(|| last.take());
        let Some(name) = name else { continue };
        let replaced = is_events && (name == header::CACHE_CONTROL || name == "x-accel-buffering");
        if headers::passes_to_client(&name, &named, policy) && !replaced {
            fields.push(name.clone(), value);
        }
        last = Some(name);
    }
    fields.extend(client.common());
    if is_events {
        downstream::unbuffered(&mut fields);
    }
    fields.extend(&routing_fields(served_by));
    fields
}

/// `x-llmproxy-*`: which endpoint answered, under which model name, at which attempt, and why.
pub(crate) fn routing_fields(served_by: &ServedBy) -> Fields {
    let mut fields = Fields::with_capacity(5);
    fields.push(HeaderName::from_static("x-llmproxy-attempts"), HeaderValue::from(served_by.attempts));
    fields.push(HeaderName::from_static("x-llmproxy-reason"), HeaderValue::from_static(served_by.reason));
    if !served_by.queued.is_zero() {
        let waited = u64::try_from(served_by.queued.as_millis()).unwrap_or(u64::MAX);
        fields.push(HeaderName::from_static("x-llmproxy-queue-ms"), HeaderValue::from(waited));
    }
    if let Ok(name) = HeaderValue::from_bytes(served_by.endpoint.name().as_bytes()) {
        fields.push(HeaderName::from_static("x-llmproxy-endpoint"), name);
    }
    if let Some(Ok(model)) = served_by.model.as_deref().map(|model| HeaderValue::from_bytes(model.as_bytes())) {
        fields.push(HeaderName::from_static("x-llmproxy-model"), model);
    }
    fields
}

/// Adds the tokens of an answer to the endpoint's, except those already added while it was streamed, and notes its speed.
pub(crate) fn note_tokens(relayed: &Relayed, served_by: &ServedBy) {
    let tokens = &relayed.tokens;
    if let Some(speed) = tokens.prompt_per_second {
        served_by.endpoint.live.prompt_speed.add(speed);
    }
    let generated = tokens.completion.map(|count| count.saturating_sub(relayed.counted));
    let counts = [generated, tokens.prompt, tokens.cached, tokens.cached.and(tokens.prompt)];
    served_by.endpoint.live.count_tokens(counts.map(Option::unwrap_or_default));
}

pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.get(..17).is_some_and(|start| start.eq_ignore_ascii_case("text/event-stream"))
}

/// Whether a body is compressed, so that nothing can be inserted.
pub(super) fn is_compressed(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).into_iter();
    codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// The length that an answer to HEAD declares.
fn declared(headers: &HeaderMap) -> Length {
    let value = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    value.map_or(Length::Empty, Length::Sized)
}
