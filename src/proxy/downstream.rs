//! Where an answer goes: to a client, or into memory for a job. Keeps silent streams alive with pings, and reports a failure
//! in the way that is still possible: a status, an error event, or an aborted answer.

use crate::api::errors::{Dialect, Failure, Kind};
use crate::config::SsePing;
use crate::http::head::Fields;
use crate::http::response::{Length, Response};
use crate::observe::active::ActiveRequest;
use crate::upstream::Watch;
use crate::util::cancel::CancelToken;
use crate::util::time;
use http::{HeaderName, HeaderValue, StatusCode, header};
use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A comment, which every parser of event streams skips (WHATWG HTML 9.2.6).
const PING: &[u8] = b": ping\n\n";

pub(crate) enum Sink {
    Client(Response),
    /// For a job.
    Memory(Collected),
}

#[derive(Default)]
pub(crate) struct Collected {
    pub(crate) status: u16,
    pub(crate) is_events: bool,
    pub(crate) body: Vec<u8>,
    pub(crate) is_complete: bool,
    pub(crate) failure: Option<Failure>,
}

/// The longest answer to a job, in bytes.
const COLLECTED: usize = 32 << 20;

pub(crate) struct Downstream {
    /// `None` after `take_sink`.
    sink: RefCell<Option<Sink>>,
    /// Fields of every answer: request id, CORS.
    common: Arc<Fields>,
    dialect: Dialect,
    cancel: Arc<CancelToken>,
    every: Duration,
    due: Cell<Option<Instant>>,
    /// No pings: the answer may turn out not to be a stream.
    held: Cell<bool>,
    /// The `x-llmproxy-*` fields of the current attempt, for a head that is sent early.
    early_fields: RefCell<Fields>,
    early: Cell<bool>,
    sent: Cell<u64>,
    active: Arc<ActiveRequest>,
}

impl Downstream {
    /// `ping`: the intervals, and the time of the request from which they count.
    pub(super) fn new(
        sink: Sink,
        common: Arc<Fields>,
        dialect: Dialect,
        cancel: Arc<CancelToken>,
        ping: Option<(SsePing, Instant)>,
        active: Arc<ActiveRequest>,
    ) -> Self {
        Self {
            sink: RefCell::new(Some(sink)),
            common,
            dialect,
            cancel,
            every: ping.map_or(Duration::MAX, |(ping, _)| ping.every),
            due: Cell::new(ping.and_then(|(ping, asked)| asked.checked_add(ping.after))),
            held: Cell::new(false),
            early_fields: RefCell::default(),
            early: Cell::new(false),
            sent: Cell::new(0),
            active,
        }
    }

    pub(crate) fn common(&self) -> &Fields {
        &self.common
    }

    /// The `x-request-id`.
    pub(crate) fn request_id(&self) -> &str {
        let field = self.common.get(HeaderName::from_static("x-request-id"));
        field.and_then(|value| value.to_str().ok()).unwrap_or("-")
    }

    /// Responses API: later requests refer to the id of the answer.
    pub(crate) fn makes_responses(&self) -> bool {
        self.dialect == Dialect::Responses
    }

    /// Suspends pings while the answer may turn out not to be a stream.
    pub(crate) fn hold_pings(&self, held: bool) {
        self.held.set(held);
    }

    /// Sets the fields of a head that is sent early.
    pub(crate) fn set_early_fields(&self, fields: impl FnOnce() -> Fields) {
        if self.due.get().is_some() {
            self.early_fields.replace(fields());
        }
    }

    /// Forwards the comment lines that an endpoint sends before its first event; `fields` makes the head if none was sent.
    pub(crate) fn comments(&self, lines: &[u8], fields: impl FnOnce() -> Fields) -> io::Result<()> {
        if self.is_collected() {
            return Ok(());
        }
        if !self.early.replace(true) {
            self.start(StatusCode::OK, &fields(), Length::Open);
        }
        self.write_chunk(lines)?;
        if let Some(due) = self.due.get() {
            self.due.set(time::now().checked_add(self.every).map(|next| next.max(due)));
        }
        Ok(())
    }

    /// The 200 head of an event stream was sent before the first event.
    pub(crate) fn is_early(&self) -> bool {
        self.early.get()
    }

    pub(crate) fn stop_pings(&self) {
        self.due.set(None);
    }

    pub(crate) fn active(&self) -> &ActiveRequest {
        &self.active
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.get()
    }

    pub(crate) fn is_collected(&self) -> bool {
        matches!(*self.sink.borrow(), Some(Sink::Memory(_)))
    }

    pub(super) fn start(&self, status: StatusCode, fields: &Fields, length: Length) {
        match self.sink.borrow_mut().as_mut() {
            Some(Sink::Client(response)) => response.start(status, fields, length),
            Some(Sink::Memory(collected)) => collected.start(status, fields),
            None => {}
        }
    }

    pub(crate) fn write_chunk(&self, bytes: &[u8]) -> io::Result<()> {
        let mut sink = self.sink.borrow_mut();
        match sink.as_mut() {
            Some(Sink::Client(response)) => {
                let result = response.write_chunk(bytes);
                self.sent.set(response.sent());
                if result.is_err() {
                    self.cancel.cancel();
                }
                result
            }
            Some(Sink::Memory(collected)) => {
                let result = collected.write(bytes);
                self.sent.set(collected.body.len() as u64);
                result
            }
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    pub(crate) fn finish(&self) {
        match self.sink.borrow_mut().as_mut() {
            Some(Sink::Client(response)) => response.finish(),
            Some(Sink::Memory(collected)) => collected.is_complete = true,
            None => {}
        }
    }

    pub(crate) fn abort(&self) {
        if let Some(Sink::Client(response)) = self.sink.borrow_mut().as_mut() {
            response.abort();
        }
    }

    pub(super) fn take_sink(&self) -> Option<Sink> {
        self.sink.take()
    }

    pub(crate) fn send(&self, status: StatusCode, fields: &Fields, body: &[u8]) {
        self.sent.set(body.len() as u64);
        match self.sink.borrow_mut().as_mut() {
            Some(Sink::Client(response)) => response.send(status, fields, body),
            Some(Sink::Memory(collected)) => {
                collected.start(status, fields);
                collected.is_complete = collected.write(body).is_ok();
            }
            None => {}
        }
    }

    /// Reports a failure: as an error answer if no head was sent, else as an error event before the answer is aborted.
    pub(crate) fn fail(&self, failure: &Failure, extra: &Fields) {
        self.stop_pings();
        if let Some(Sink::Memory(collected)) = self.sink.borrow_mut().as_mut() {
            // The first failure is the cause.
            collected.failure.get_or_insert_with(|| failure.clone());
            return;
        }
        if self.is_early() {
            return self.send_error_event(failure, true);
        }
        let (mut fields, body) = refusal(failure, self.dialect, &self.common);
        fields.extend(extra);
        self.send(status(failure), &fields, &body);
    }

    /// Sends one error event and aborts the answer; `follows`: the last event is complete and need not be ended first.
    pub(crate) fn send_error_event(&self, failure: &Failure, follows: bool) {
        if self.is_collected() {
            return self.fail(failure, &Fields::default());
        }
        let mut event = Vec::new();
        if !follows {
            event.extend_from_slice(b"\n\n");
        }
        event.extend_from_slice(&failure.event(self.dialect));
        let _ = self.write_chunk(&event);
        self.abort();
    }
}

impl Collected {
    fn start(&mut self, status: StatusCode, fields: &Fields) {
        self.status = status.as_u16();
        let kind = fields.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        self.is_events = kind.get(..17).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"));
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.body.len() + bytes.len() > COLLECTED {
            let text = "The answer is longer than the 32 MiB that are kept for a job.";
            self.failure = Some(Failure::new(Kind::Upstream, text));
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.body.extend_from_slice(bytes);
        Ok(())
    }
}

impl Watch for Downstream {
    fn is_stopped(&self) -> bool {
        self.active.is_stopped()
    }

    fn silent(&self, now: Instant) -> Option<Instant> {
        let due = self.due.get().filter(|_| !self.held.get())?;
        if now < due {
            return Some(due);
        }
        let is_started = match &*self.sink.borrow() {
            Some(Sink::Client(response)) => response.is_started(),
            _ => true,
        };
        if !is_started {
            let mut fields = Fields::clone(&self.common);
            event_stream(&mut fields);
            fields.extend(&self.early_fields.take());
            self.start(StatusCode::OK, &fields, Length::Open);
            self.early.set(true);
        }
        if self.write_chunk(PING).is_err() {
            self.stop_pings();
            return None;
        }
        self.due.set(now.checked_add(self.every));
        self.due.get()
    }
}

pub(crate) fn event_stream(fields: &mut Fields) {
    fields.push(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    unbuffered(fields);
}

/// Keeps other proxies from buffering an event stream.
pub(crate) fn unbuffered(fields: &mut Fields) {
    fields.push(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    fields.push(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
}

pub(super) fn status(failure: &Failure) -> StatusCode {
    StatusCode::from_u16(failure.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The fields and the body of an error answer.
pub(crate) fn refusal(failure: &Failure, dialect: Dialect, common: &Fields) -> (Fields, Vec<u8>) {
    let mut fields = common.clone();
    fields.push(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if failure.kind == Kind::Unauthorized {
        // RFC 9110 11.6.1
        fields.push(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"llmproxy\""));
    }
    if let Some(wait) = failure.retry_after {
        fields.push(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)));
    }
    (fields, failure.body(dialect))
}
