//! What the attempts are given, and what they come to. The other files of this module import it, never each other in a
//! circle.

use crate::api::errors::Failure;
use crate::api::paths::Forward;
use crate::api::usage::Tokens;
use crate::http::request::Request;
use crate::observe::access::End;
use crate::observe::active::ActiveRequest;
use crate::observe::metrics::Metrics;
use crate::proxy::body::RequestBody;
use crate::proxy::downstream::Downstream;
use crate::routing::endpoint::Endpoint;
use crate::routing::plan::Candidate;
use crate::routing::scope::Scope;
use crate::routing::snapshot::{Snapshot, SnapshotStore};
use crate::upstream::headers::Policy;
use crate::upstream::{ClientPool, UpstreamResponse};
use http::{HeaderMap, StatusCode};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Everything the attempts need, and nothing of how the answer is delivered.
pub(crate) struct ForwardContext<'a> {
    pub(crate) clients: &'a ClientPool,
    /// For what real requests find out about endpoints.
    pub(crate) shared: &'a SnapshotStore,
    /// What was so when the request began.
    pub(crate) snapshot: &'a Snapshot,
    pub request: &'a Request,
    pub(crate) body: &'a RequestBody<'a>,
    /// Where it goes below an endpoint's base.
    pub(crate) forward: &'a Forward,
    /// Where the answer goes.
    pub(crate) client: &'a Rc<Downstream>,
    /// Time spent in the queue for a slot, also without getting one.
    pub(crate) queued: &'a Cell<Duration>,
    pub(crate) request_id: &'a str,
    pub(crate) trusted: bool,
    pub(crate) scope: &'a Scope,
    pub(crate) background: bool,
    pub(crate) keyed: bool,
    /// What its listener leaves to endpoints.
    pub(crate) policy: Policy,
    pub(crate) metrics: &'a Metrics,
    pub(crate) active: &'a ActiveRequest,
}

impl ForwardContext<'_> {
    pub(crate) fn takes_slot(&self) -> bool {
        self.forward.takes_slot(&self.request.head.method)
    }

    /// Whether an endpoint is known to answer such a stream with something else.
    pub(crate) fn is_streamless(&self, candidate: &Candidate) -> bool {
        let model = candidate.rename.as_deref().or(self.body.name());
        candidate.endpoint.live.is_streamless(&self.forward.path, model)
    }
}

#[derive(Clone)]
pub(crate) struct ServedBy {
    pub(crate) endpoint: Arc<Endpoint>,
    /// The name it knows the model by.
    pub(crate) model: Option<String>,
    /// Attempts so far, this one included.
    pub(crate) attempts: u32,
    pub(crate) reason: &'static str,
    /// Time spent in the queue for a slot.
    pub(crate) queued: Duration,
    /// The model's name is one that an endpoint is known to serve.
    pub(crate) named: bool,
    /// Which of its fields are passed on.
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
}

impl Relayed {
    /// No byte of an answer reached the client.
    pub(crate) fn nothing(end: End) -> Self {
        Self { end, first_byte: None, tokens: Tokens::default(), counted: 0 }
    }
}
