//! The client's end while an answer is awaited and relayed: keeps a silent stream alive with comment lines,
//! and says what went wrong in the way that is still open: a status, an event, or a cut.

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

pub(crate) struct Downstream {
    response: RefCell<Option<Response>>,
    /// Fields of every answer of ours: request id, CORS.
    common: Arc<Fields>,
    dialect: Dialect,
    cancel: Arc<CancelToken>,
    every: Duration,
    due: Cell<Option<Instant>>,
    /// What is being waited for takes no pings.
    held: Cell<bool>,
    /// Who is being asked: the fields of a head that goes out early.
    asked: RefCell<Vec<(HeaderName, HeaderValue)>>,
    early: Cell<bool>,
    sent: Cell<u64>,
    ongoing: Arc<ActiveRequest>,
}

impl Downstream {
    /// A client that is sent pings, if wanted, counted from when it `asked`.
    pub(super) fn new(
        response: Response,
        common: Arc<Fields>,
        dialect: Dialect,
        cancel: Arc<CancelToken>,
        ping: Option<(SsePing, Instant)>,
        ongoing: Arc<ActiveRequest>,
    ) -> Self {
        Self {
            response: RefCell::new(Some(response)),
            common,
            dialect,
            cancel,
            every: ping.map_or(Duration::MAX, |(ping, _)| ping.every),
            due: Cell::new(ping.and_then(|(ping, asked)| asked.checked_add(ping.after))),
            held: Cell::new(false),
            asked: RefCell::default(),
            early: Cell::new(false),
            sent: Cell::new(0),
            ongoing,
        }
    }

    /// Fields of every answer of ours.
    pub(crate) fn common(&self) -> &Fields {
        &self.common
    }

    /// What the client and the log call this request.
    pub(crate) fn request_id(&self) -> &str {
        let field = self.common.get(HeaderName::from_static("x-request-id"));
        field.and_then(|value| value.to_str().ok()).unwrap_or("-")
    }

    /// Whose answers carry ids that later requests name.
    pub(crate) fn makes_responses(&self) -> bool {
        self.dialect == Dialect::Responses
    }

    /// No comment lines until further notice, if so: they would spoil what is being waited for.
    pub(crate) fn hold_pings(&self, held: bool) {
        self.held.set(held);
    }

    /// What an early head tells of who is being asked.
    pub(crate) fn asking(&self, asked: impl FnOnce() -> Vec<(HeaderName, HeaderValue)>) {
        if self.due.get().is_some() {
            self.asked.replace(asked());
        }
    }

    /// Passes on comments of an endpoint before its first event, whole lines, under the head that `fields` makes if
    /// none is out.
    pub(crate) fn comments(&self, lines: &[u8], fields: impl FnOnce() -> Fields) -> io::Result<()> {
        if !self.early.replace(true) {
            self.start(StatusCode::OK, &fields(), Length::Open);
        }
        self.write_chunk(lines)?;
        if let Some(due) = self.due.get() {
            self.due.set(time::now().checked_add(self.every).map(|next| next.max(due)));
        }
        Ok(())
    }

    /// A 200 head of an event stream went out before the first event.
    pub(crate) fn is_early(&self) -> bool {
        self.early.get()
    }

    /// No comment lines any more: real bytes follow.
    pub(crate) fn stop_pings(&self) {
        self.due.set(None);
    }

    pub(crate) fn ongoing(&self) -> &ActiveRequest {
        &self.ongoing
    }

    /// Body bytes given to the client.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Prepares the head of an answer.
    pub(super) fn start(&self, status: StatusCode, fields: &Fields, length: Length) {
        if let Some(response) = self.response.borrow_mut().as_mut() {
            response.start(status, fields, length);
        }
    }

    /// Sends one piece.
    pub(crate) fn write_chunk(&self, bytes: &[u8]) -> io::Result<()> {
        self.with(|response| response.write_chunk(bytes))
    }

    fn with(&self, act: impl FnOnce(&mut Response) -> io::Result<()>) -> io::Result<()> {
        let mut response = self.response.borrow_mut();
        let Some(response) = response.as_mut() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let result = act(response);
        self.sent.set(response.sent());
        if result.is_err() {
            self.cancel.cancel();
        }
        result
    }

    pub(crate) fn finish(&self) {
        if let Some(response) = self.response.borrow_mut().as_mut() {
            response.finish();
        }
    }

    /// Ends the answer so that the client sees that it is not complete.
    pub(crate) fn abort(&self) {
        if let Some(response) = self.response.borrow_mut().as_mut() {
            response.abort();
        }
    }

    /// Takes the response back.
    pub(super) fn take_response(&self) -> Option<Response> {
        self.response.take()
    }

    pub(crate) fn send(&self, status: StatusCode, fields: &Fields, body: &[u8]) {
        if let Some(response) = self.response.borrow_mut().as_mut() {
            self.sent.set(body.len() as u64);
            response.send(status, fields, body);
        }
    }

    /// Tells a failure: as an answer while no head is out, else as an event, then the cut.
    pub(crate) fn fail(&self, failure: &Failure, extra: &[(HeaderName, HeaderValue)]) {
        self.stop_pings();
        if self.is_early() {
            self.tell_in_band(failure, true);
            return;
        }
        let (mut fields, body) = refusal(failure, self.dialect, &self.common);
        for (name, value) in extra {
            fields.push(name.clone(), value.clone());
        }
        self.send(status(failure), &fields, &body);
    }

    /// One error event, after the end of the one that broke off unless it `follows` a whole one; then the cut: never
    /// a made-up end.
    pub(crate) fn tell_in_band(&self, failure: &Failure, follows: bool) {
        let mut event = Vec::new();
        if !follows {
            event.extend_from_slice(b"\n\n");
        }
        event.extend_from_slice(&failure.event(self.dialect));
        let _ = self.write_chunk(&event);
        self.abort();
    }
}

impl Watch for Downstream {
    fn silent(&self, now: Instant) -> Option<Instant> {
        let due = self.due.get().filter(|_| !self.held.get())?;
        if now < due {
            return Some(due);
        }
        let started = self.response.borrow().as_ref().is_none_or(Response::is_started);
        if !started {
            let mut fields = Fields::clone(&self.common);
            event_stream(&mut fields);
            for (name, value) in self.asked.take() {
                fields.push(name, value);
            }
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

/// The fields that every event stream needs to pass other proxies unbuffered.
pub(crate) fn event_stream(fields: &mut Fields) {
    fields.push(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    unbuffered(fields);
}

/// Added to every event stream, ours or an endpoint's.
pub(crate) fn unbuffered(fields: &mut Fields) {
    fields.push(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    fields.push(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
}

pub(super) fn status(failure: &Failure) -> StatusCode {
    StatusCode::from_u16(failure.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Fields and body that tell a failure.
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
