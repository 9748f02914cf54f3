//! The answer on its way to the client, piece by piece. After the line of no return: there is neither a plan
//! nor an error page here; an answer is finished or cut.

use super::client::{self, Client};
use super::forward::{By, Kept};
use super::tokens::{Tail, Tokens};
use super::weigh;
use crate::base::clock;
use crate::config::OnClientGone;
use crate::http::head::Fields;
use crate::http::reply::Length;
use crate::model::failure::{Attempted, Failure, Kind};
use crate::observe::access::End;
use crate::upstream::headers::Policy;
use crate::upstream::{Answer, Fault, Trouble, headers};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use memchr::memmem;
use std::cell::RefCell;
use std::time::Instant;

/// One read of a body, and so one write: what ureq holds at most.
const PIECE: usize = 32 << 10;

/// What is read of an error that comes after the head is out; the message stands in its first lines.
const LATE: usize = 64 << 10;

thread_local! {
    /// A worker relays one answer at a time.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How an answer went.
pub struct Relayed {
    /// How it ended.
    pub end: End,
    /// When its first body byte came.
    pub first_byte: Option<Instant>,
    /// What it cost.
    pub tokens: Tokens,
}

/// Sends an answer on as it comes.
pub fn relay(answer: Answer, client: &Client, by: &By, is_head: bool) -> Relayed {
    let is_events = is_event_stream(&answer.headers);
    if client.is_early() && !(answer.status == StatusCode::OK && is_events) {
        return tell_late(answer, client, by);
    }
    // Comment lines and error events fit only into a stream that is not compressed.
    let is_plain = !answer.headers.contains_key(header::CONTENT_ENCODING);
    if !client.is_early() {
        let length = match (is_head, answer.length) {
            (true, _) => declared(&answer.headers),
            (false, Some(bytes)) => Length::Sized(bytes),
            (false, None) => Length::Open,
        };
        client.start(answer.status, &fields(&answer.headers, client, by, is_events), length);
        // A stream's head may be minutes ahead of its first event.
        if !(is_events && is_plain && length == Length::Open && answer.status == StatusCode::OK) {
            client.hush();
        }
        if length == Length::Open && client.flush().is_err() {
            return left(answer, by, None, Tail::default());
        }
    }
    let mut buffer = BUFFER.take();
    buffer.resize(PIECE, 0);
    let relayed = body(answer, client, by, is_events && is_plain, &mut buffer);
    BUFFER.set(buffer);
    relayed
}

fn body(mut answer: Answer, client: &Client, by: &By, is_events: bool, buffer: &mut [u8]) -> Relayed {
    let mut tail = Tail::default();
    let mut first_byte = None;
    loop {
        match answer.read(buffer) {
            Ok(0) if is_events && answer.until_close && !tail.has_end_marker() => {
                let fault = Fault { trouble: Trouble::Reset, cause: "closed without an end marker".into() };
                return lost(&fault, client, by, is_events, &tail, first_byte);
            }
            Ok(0) => {
                client.finish();
                return Relayed { end: End::Done, first_byte, tokens: tail.tokens() };
            }
            Ok(n) => {
                client.hush();
                let sent = client.piece(&buffer[..n]);
                // The piece is on its way; the bookkeeping may take its time.
                let now = clock::now();
                first_byte.get_or_insert(now);
                by.endpoint.live.moved(now);
                if client.ongoing().is_shown() {
                    let events = if is_events { events(&buffer[..n]) } else { 0 };
                    client.ongoing().moved(now, events);
                    by.endpoint.live.count_tokens([events, 0, 0]);
                }
                tail.push(&buffer[..n]);
                if client.ongoing().is_stopped() {
                    part(client, is_events, &tail);
                    return left(answer, by, first_byte, tail);
                }
                if sent.is_err() {
                    return left(answer, by, first_byte, tail);
                }
            }
            Err(fault) if fault.trouble == Trouble::Gone => {
                part(client, is_events, &tail);
                return left(answer, by, first_byte, tail);
            }
            // Over TLS an end may come without its close_notify; the API's own end counts as well.
            Err(fault) if fault.trouble == Trouble::Reset && answer.until_close && tail.has_end_marker() => {
                client.finish();
                return Relayed { end: End::Done, first_byte, tokens: tail.tokens() };
            }
            Err(fault) => return lost(&fault, client, by, is_events, &tail, first_byte),
        }
    }
}

/// How a request ended that got no answer.
pub fn end(kind: Kind) -> End {
    match kind {
        Kind::UpstreamTimeout => End::Timeout,
        Kind::Upstream | Kind::NoEndpoint => End::UpstreamLost,
        _ => End::Refused,
    }
}

/// What a client hears whose request was stopped.
pub fn stopped() -> Failure {
    Failure::new(Kind::Stopped, "The request was stopped by who runs this proxy.")
}

/// Ends an answer in its midst, for a client that has left or one that is to leave.
fn part(client: &Client, events: bool, tail: &Tail) {
    if events && client.ongoing().is_stopped() {
        client.tell_in_band(&stopped(), tail);
    } else {
        client.cut();
    }
}

/// The client has left. Many leave as soon as they have seen the end marker: those have all they wanted.
fn left(mut answer: Answer, by: &By, first_byte: Option<Instant>, mut tail: Tail) -> Relayed {
    if tail.has_end_marker() && is_event_stream(&answer.headers) {
        return Relayed { end: End::Done, first_byte, tokens: tail.tokens() };
    }
    if by.endpoint.config.on_client_gone == OnClientGone::Finish {
        let mut rest = vec![0; PIECE];
        while let Ok(n @ 1..) = answer.read(&mut rest) {
            by.endpoint.live.moved(clock::now());
            tail.push(&rest[..n]);
        }
    }
    Relayed { end: End::ClientGone, first_byte, tokens: tail.tokens() }
}

/// The upstream is lost inside its answer: nothing is retried, nothing is made up.
fn lost(fault: &Fault, client: &Client, by: &By, events: bool, tail: &Tail, first_byte: Option<Instant>) -> Relayed {
    let name = by.endpoint.name();
    let word = if matches!(fault.trouble, Trouble::Timeout(_)) { "upstream_stall" } else { "upstream_lost" };
    let (what, id) = (weigh::sentence(fault), client.request_id());
    log::warn!("{word}: endpoint {name} {what}: {} request_id={id}", fault.cause);
    client.hush();
    if events {
        let (kind, what) = match fault.trouble {
            Trouble::Timeout(_) => (Kind::UpstreamTimeout, weigh::sentence(fault)),
            _ => (Kind::Upstream, "was lost in the middle of its answer".to_owned()),
        };
        let text = format!("The endpoint `{name}` {what}; the answer is not complete.");
        client.tell_in_band(&Failure::new(kind, text), tail);
    } else {
        client.cut();
    }
    let end = match fault.trouble {
        Trouble::Timeout(_) => End::Timeout,
        _ => End::UpstreamLost,
    };
    Relayed { end, first_byte, tokens: tail.tokens() }
}

/// The 200 head is out already: what is not a stream can only be told as an error event.
fn tell_late(mut answer: Answer, client: &Client, by: &By) -> Relayed {
    let (mut body, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = answer.read(&mut piece) {
        body.extend_from_slice(&piece[..n]);
        if body.len() > LATE {
            break;
        }
    }
    deliver(&Kept { status: answer.status, headers: answer.headers.clone(), body }, client, by)
}

/// Sends an answer that was kept while others were tried.
pub fn deliver(kept: &Kept, client: &Client, by: &By) -> Relayed {
    if client.is_early() {
        let status = kept.status.as_u16();
        let said = serde_json::from_slice::<serde_json::Value>(&kept.body).ok();
        let said = said.as_ref().and_then(|body| body.get("error")?.get("message")?.as_str());
        let name = by.endpoint.name();
        let text = said.map_or_else(|| format!("The endpoint `{name}` answered {status}, no stream."), str::to_owned);
        let mut failure = Failure::new(kind_of(status), text);
        failure.attempts = vec![Attempted { endpoint: name.to_owned(), what: format!("answered {status}") }];
        client.fail(&failure, &[]);
    } else {
        client.send(kept.status, &fields(&kept.headers, client, by, false), &kept.body);
    }
    Relayed { end: End::Done, first_byte: None, tokens: Tokens::default() }
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
fn fields(theirs: &HeaderMap, client: &Client, by: &By, is_events: bool) -> Fields {
    let connection = theirs.get_all(header::CONNECTION).into_iter().flat_map(headers::tokens);
    let named: Vec<String> = connection.collect();
    let mut fields = Fields::with_capacity(theirs.len() + 12);
    let is_limited = client.common().iter().any(|(name, _)| name.as_str().starts_with("x-ratelimit-"));
    let policy = Policy { limits: !is_limited, ..by.policy };
    for (name, value) in theirs {
        let replaced = is_events && (*name == header::CACHE_CONTROL || name == "x-accel-buffering");
        if headers::passes_to_client(name, &named, policy) && !replaced {
            fields.push(name.clone(), value.clone());
        }
    }
    for (name, value) in client.common().iter() {
        fields.push(name.clone(), value.clone());
    }
    if is_events {
        client::unbuffered(&mut fields);
    }
    for (name, value) in told(by) {
        fields.push(name, value);
    }
    fields
}

/// `x-llmproxy-*`: who answered, as what, at which try, and why.
pub fn told(by: &By) -> Vec<(HeaderName, HeaderValue)> {
    let mut told = vec![
        (HeaderName::from_static("x-llmproxy-attempts"), HeaderValue::from(by.attempts)),
        (HeaderName::from_static("x-llmproxy-reason"), HeaderValue::from_static(by.reason)),
    ];
    if !by.queued.is_zero() {
        let waited = u64::try_from(by.queued.as_millis()).unwrap_or(u64::MAX);
        told.push((HeaderName::from_static("x-llmproxy-queue-ms"), HeaderValue::from(waited)));
    }
    if let Ok(name) = HeaderValue::from_bytes(by.endpoint.name().as_bytes()) {
        told.push((HeaderName::from_static("x-llmproxy-endpoint"), name));
    }
    if let Some(Ok(model)) = by.model.as_deref().map(|model| HeaderValue::from_bytes(model.as_bytes())) {
        told.push((HeaderName::from_static("x-llmproxy-model"), model));
    }
    told
}

/// Events in a piece of a stream: about a token each.
fn events(piece: &[u8]) -> u64 {
    memmem::find_iter(piece, b"data: {").count() as u64
}

/// Notes what a whole answer cost; of a stream the tokens were counted as they came.
pub fn note_tokens(relayed: &Relayed, by: &By, streamed: bool) {
    let tokens = &relayed.tokens;
    let generated = if streamed { None } else { tokens.completion };
    by.endpoint.live.count_tokens([generated, tokens.prompt, tokens.cached].map(|count| count.unwrap_or(0)));
}

pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.get(..17).is_some_and(|start| start.eq_ignore_ascii_case("text/event-stream"))
}

/// The length that an answer to HEAD declares without sending it.
fn declared(headers: &HeaderMap) -> Length {
    let value = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    value.map_or(Length::Empty, Length::Sized)
}
