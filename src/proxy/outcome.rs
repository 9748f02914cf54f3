//! The types that the files of this module share: what the attempts are given, and their results.

use crate::api::answer::Tokens;
use crate::api::errors::Failure;
use crate::api::paths::Forward;
use crate::http::request::Request;
use crate::observe::access::End;
use crate::observe::active::ActiveRequest;
use crate::observe::metrics::Metrics;
use crate::proxy::body::RequestBody;
use crate::proxy::downstream::Downstream;
use crate::routing::affinity::Prompt;
use crate::routing::candidate::Candidate;
use crate::routing::endpoint::Endpoint;
use crate::routing::recall::Recomputed;
use crate::routing::scope::Scope;
use crate::routing::snapshot::{Snapshot, SnapshotStore};
use crate::upstream::headers::Policy;
use crate::upstream::{ClientPool, UpstreamResponse, Watch};
use crate::util::time;
use http::{HeaderMap, StatusCode};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Everything the attempts need.
pub(crate) struct ForwardContext<'a> {
    pub(crate) clients: &'a ClientPool,
    /// Takes observations about endpoints.
    pub(crate) shared: &'a SnapshotStore,
    /// As it was when the request began.
    pub(crate) snapshot: &'a Snapshot,
    pub request: &'a Request,
    pub(crate) body: &'a RequestBody<'a>,
    pub(crate) forward: &'a Forward,
    pub(crate) client: &'a Rc<Downstream>,
    /// Time spent in the queue for a slot, also without getting one.
    pub(crate) queued: &'a Cell<Duration>,
    pub(crate) request_id: &'a str,
    pub(crate) trusted: bool,
    pub(crate) scope: &'a Scope,
    /// Of the conversation: for the affinity strategy, and for the page.
    pub(crate) prompt: Option<&'a Prompt>,
    pub(crate) background: bool,
    pub(crate) keyed: bool,
    pub(crate) policy: Policy,
    pub(crate) metrics: &'a Metrics,
    pub(crate) active: &'a ActiveRequest,
}

impl ForwardContext<'_> {
    pub(crate) fn takes_slot(&self) -> bool {
        self.forward.takes_slot(&self.request.head.method)
    }

    /// Waits, with pings; true when the request was cancelled.
    pub(crate) fn pause(&self, length: Duration) -> bool {
        let until = time::now() + length;
        loop {
            let due = self.client.silent(time::now()).unwrap_or(until).min(until);
            if self.request.cancel.wait_until(due, time::now) {
                return true;
            }
            if due == until {
                return false;
            }
        }
    }

    /// Whether an endpoint is known not to stream this model.
    pub(crate) fn is_streamless(&self, candidate: &Candidate) -> bool {
        let model = candidate.rename.as_deref().or(self.body.name());
        self.body.stream && candidate.endpoint.live.is_streamless(&self.forward.path, model)
    }
}

#[derive(Clone)]
pub(crate) struct ServedBy {
    pub(crate) endpoint: Arc<Endpoint>,
    /// The model's name at the endpoint.
    pub(crate) model: Option<String>,
    /// Attempts so far, this one included.
    pub(crate) attempts: u32,
    pub(crate) reason: &'static str,
    /// Time spent in the queue for a slot.
    pub(crate) queued: Duration,
    /// When this attempt began.
    pub(crate) sent: Instant,
    /// The model's name is one that an endpoint is known to serve.
    pub(crate) named: bool,
    pub(crate) policy: Policy,
}

pub(crate) enum Outcome {
    /// An answer, which holds its slot at the endpoint.
    Response(Box<UpstreamResponse>, Rc<ServedBy>),
    /// The best of the error answers that came while other endpoints were tried.
    Buffered(BufferedResponse, Rc<ServedBy>),
    Failed(Failure, Option<Rc<ServedBy>>),
    ClientGone(Option<Rc<ServedBy>>),
}

/// An answer that was read whole.
pub(crate) struct BufferedResponse {
    pub status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Relayed {
    pub(crate) end: End,
    /// When its first body byte came.
    pub(crate) first_byte: Option<Instant>,
    pub(crate) tokens: Tokens,
    /// Generated tokens that were added to the endpoint's while they came.
    pub(crate) counted: u64,
    /// For the page.
    pub(crate) recomputed: Option<Recomputed>,
}

impl Relayed {
    /// No byte of an answer reached the client.
    pub(crate) fn nothing(end: End) -> Self {
        Self { end, first_byte: None, tokens: Tokens::default(), counted: 0, recomputed: None }
    }
}
