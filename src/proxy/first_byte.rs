//! Waits for the first byte of an answer's body; until then another endpoint can take over.

use super::outcome::{ForwardContext, ServedBy};
use super::relay::{self, CHUNK};
use crate::api::answer::Events;
use crate::api::paths::Trait;
use crate::config::OnClientGone;
use crate::routing::endpoint::Live;
use crate::upstream::{UpstreamError, UpstreamErrorKind, UpstreamResponse, Watch};
use crate::util::time;
use http::{Method, StatusCode};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// The watch of an attempt that another endpoint can take over: it gives up when its endpoint shuts down.
pub(crate) struct Replaceable {
    pub(crate) watch: Rc<dyn Watch>,
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

/// Waits for the first byte, which stays in the answer. In an event stream of a known API comments do not count; they are
/// forwarded under the head of this answer.
///
/// # Errors
/// The endpoint was lost, or `timeouts.firstByte` ran out; nothing but comments reached the client.
pub(crate) fn wait(
    answer: &mut UpstreamResponse,
    ctx: &ForwardContext<'_>,
    served_by: &ServedBy,
) -> Result<(), UpstreamError> {
    let is_stream = answer.status == StatusCode::OK && relay::is_event_stream(&answer.headers);
    let wants_stream = ctx.body.stream && ctx.forward.has(Trait::Pings);
    let is_plain = !relay::is_compressed(&answer.headers);
    // A compressed stream cannot follow pings either.
    if wants_stream && answer.status.is_success() && !(is_stream && is_plain) {
        served_by.endpoint.live.note_streamless(&ctx.forward.path, served_by.model.as_deref());
    }
    // Pings fit only into an uncompressed event stream.
    ctx.client.hold_pings(!(is_stream && is_plain));
    let has_none = matches!(answer.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if has_none || answer.length == Some(0) || ctx.request.head.method == Method::HEAD {
        return Ok(());
    }
    relay::with_buffer(|buffer| first(answer, ctx, served_by, is_stream, wants_stream && is_plain, buffer))
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
        // Whole lines only, since another endpoint may continue the stream.
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
