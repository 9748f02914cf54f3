//! What the attempts are given, and what they come to. Ground floor of this module: the files above import it, never each
//! other in a ring.

use crate::api::errors::Failure;
use crate::api::usage::Tokens;
use crate::http::request::Request;
use crate::observe::access::End;
use crate::observe::active::ActiveRequest;
use crate::observe::metrics::Metrics;
use crate::proxy::body::RequestBody;
use crate::proxy::downstream::Downstream;
use crate::proxy::paths::Forward;
use crate::routing::endpoint::Endpoint;
use crate::routing::plan::Candidate;
use crate::routing::scope::Scope;
use crate::routing::snapshot::{Snapshot, SnapshotStore};
use crate::upstream::headers::Policy;
use crate::upstream::{ClientPool, UpstreamResponse, Watch};
use http::{HeaderMap, StatusCode};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Everything the attempts need, and nothing of how the answer is delivered.
pub struct ForwardContext<'a> {
    pub net: &'a ClientPool,
    /// For what real requests find out about endpoints.
    pub shared: &'a SnapshotStore,
    /// What was so when the request began.
    pub snapshot: &'a Snapshot,
    pub request: &'a Request,
    pub ask: &'a RequestBody,
    /// Where it goes below an endpoint's base.
    pub forward: &'a Forward,
    /// Who is kept alive in silence.
    pub watch: &'a Rc<dyn Watch>,
    /// The client, if there is one: it gets the comments that come before the first event.
    pub client: Option<&'a Downstream>,
    /// Time spent in the line for a place, also by who never got one.
    pub queued: &'a Cell<Duration>,
    pub request_id: &'a str,
    pub trusted: bool,
    pub scope: &'a Scope,
    pub background: bool,
    pub keyed: bool,
    /// What its listener leaves to endpoints.
    pub policy: Policy,
    pub metrics: &'a Metrics,
    pub ongoing: &'a ActiveRequest,
}

impl ForwardContext<'_> {
    /// Whether it takes a place at an endpoint.
    pub fn takes_place(&self) -> bool {
        self.forward.takes_place(&self.request.head.method)
    }

    /// Whether an endpoint is known to answer such a stream with something else.
    pub fn is_streamless(&self, candidate: &Candidate) -> bool {
        let model = candidate.rename.as_deref().or(self.ask.name());
        candidate.endpoint.live.is_streamless(&self.forward.path, model)
    }
}

pub struct ServedBy {
    pub endpoint: Arc<Endpoint>,
    /// The name it knows the model by.
    pub model: Option<String>,
    /// Tries up to and with this one.
    pub attempts: u32,
    pub reason: &'static str,
    /// Time spent in the line for a place.
    pub queued: Duration,
    /// The model's name is one that somebody is known to serve.
    pub named: bool,
    /// Which of its fields are passed on.
    pub policy: Policy,
}

pub enum Outcome {
    /// An answer, which holds its place at the endpoint.
    Response(Box<UpstreamResponse>, Rc<ServedBy>),
    /// The best of the answers that were kept while others were tried.
    Buffered(BufferedResponse, Rc<ServedBy>),
    Failed(Failure, Option<Rc<ServedBy>>),
    ClientGone(Option<Rc<ServedBy>>),
}

/// An answer that was read whole.
pub struct BufferedResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

pub struct Relayed {
    pub end: End,
    /// When its first body byte came.
    pub first_byte: Option<Instant>,
    pub tokens: Tokens,
}
