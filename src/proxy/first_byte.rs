//! The wait between an answer's head and the first byte of its body: until then another endpoint may take over, unseen.

use super::outcome::{ForwardContext, ServedBy};
use super::relay::{self, BUFFER, CHUNK};
use crate::api::stream::Events;
use crate::config::OnClientGone;
use crate::routing::endpoint::Live;
use crate::upstream::{UpstreamError, UpstreamErrorKind, UpstreamResponse, Watch};
use crate::util::time;
use http::{Method, StatusCode};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// A watch beside an attempt that another endpoint may take over.
pub(crate) struct Replaceable {
    pub(crate) watch: Rc<dyn Watch>,
    /// The endpoint that is waited for.
    pub(crate) live: Arc<Live>,
    pub(crate) sent: Instant,
}

impl Watch for Replaceable {
    fn silent(&self, now: Instant) -> Option<Instant> {
        self.watch.silent(now)
    }

    fn is_stopped(&self) -> bool {
        self.watch.is_stopped()
    }

    fn gives_up(&self) -> bool {
        self.live.refused_since(self.sent)
    }
}

/// Waits for the first byte, which stays in the answer. Of an event stream in an API that we know comments do not
/// count: they are passed on under this answer's head.
///
/// # Errors
/// The endpoint was lost, or `timeouts.firstByte` ran out; nothing but comments reached the client.
pub(crate) fn wait(
    answer: &mut UpstreamResponse,
    ctx: &ForwardContext<'_>,
    served_by: &ServedBy,
) -> Result<(), UpstreamError> {
    let is_stream = answer.status == StatusCode::OK && relay::is_event_stream(&answer.headers);
    let wants_stream = ctx.body.stream && ctx.forward.streams_events();
    let is_plain = !relay::is_compressed(&answer.headers);
    // Compressed unasked: no ping can be put before it either.
    if wants_stream && answer.status.is_success() && !(is_stream && is_plain) {
        served_by.endpoint.live.note_streamless(&ctx.forward.path, served_by.model.as_deref());
    }
    // Comments of ours have no place in such an answer.
    ctx.client.hold_pings(!(is_stream && is_plain));
    let has_none = matches!(answer.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if has_none || answer.length == Some(0) || ctx.request.head.method == Method::HEAD {
        return Ok(());
    }
    let mut buffer = BUFFER.take();
    buffer.resize(CHUNK, 0);
    let found = first(answer, ctx, served_by, is_stream, wants_stream && is_plain, &mut buffer);
    BUFFER.set(buffer);
    found
}

fn first(
    answer: &mut UpstreamResponse,
    ctx: &ForwardContext<'_>,
    served_by: &ServedBy,
    is_stream: bool,
    skips_comments: bool,
    buffer: &mut [u8],
) -> Result<(), UpstreamError> {
    let mut events = Events::default();
    let mut held = Vec::new();
    loop {
        let n = answer.peek(buffer)?;
        if n == 0 && is_stream && answer.until_close {
            return Err(UpstreamError {
                kind: UpstreamErrorKind::Reset,
                cause: "closed before the first event".into(),
            });
        }
        held.extend_from_slice(&buffer[..n]);
        let skips = n > 0 && is_stream && skips_comments && held.len() <= CHUNK;
        if skips {
            events.push(&buffer[..n]);
        }
        if !skips || events.has_begun() {
            answer.unread(held);
            return Ok(());
        }
        served_by.endpoint.live.moved(time::now());
        // Whole lines: whatever follows, from here or from another endpoint, begins a line of its own.
        let whole = memchr::memrchr(b'\n', &held).map_or(0, |at| at + 1);
        let comments: Vec<u8> = held.drain(..whole).collect();
        let cancels = served_by.endpoint.config.on_client_gone == OnClientGone::Cancel;
        let client = ctx.client;
        if client.comments(&comments, || relay::fields(answer.headers.clone(), client, served_by, true)).is_err()
            && cancels
        {
            return Err(UpstreamError { kind: UpstreamErrorKind::ClientGone, cause: "the client has left".into() });
        }
    }
}
