//! An endpoint that may get a request, and what it would get. Pure.

use crate::api::edit::MemberEdit;
use crate::routing::endpoint::Endpoint;
use crate::routing::resolve::{self, Meaning};
use crate::routing::strategy::{CandidateLoad, Rank};
use std::sync::Arc;

#[derive(Clone)]
pub(crate) struct Candidate {
    pub(crate) endpoint: Arc<Endpoint>,
    /// The name to send instead of the client's; `None` leaves the body as it is.
    pub(crate) rename: Option<String>,
    pub(crate) weight: u16,
    /// Its position on the route, available or not.
    pub(crate) position: usize,
    /// How many tokens fit into its context: as it says of itself, else of this model.
    pub(crate) context: Option<u64>,
    /// Changes to the body, if it is JSON.
    pub(crate) edits: Arc<[MemberEdit]>,
    pub(crate) stabilize: bool,
    /// Whether the model takes images, as far as is known.
    pub(crate) vision: Option<bool>,
    pub(super) under: Option<u64>,
    /// The server says that the model is not in its memory.
    pub(super) must_load: bool,
    /// Of this prompt.
    pub(crate) rank: Rank,
}

impl Candidate {
    pub(crate) fn load(&self) -> CandidateLoad {
        let load = self.endpoint.live.load();
        CandidateLoad { position: self.position, weight: self.weight, load, rank: self.rank }
    }

    pub(super) fn take_rank(&mut self, tokens: u64) {
        let by_length = match self.under {
            Some(under) if tokens < under => (0, under),
            None => (1, 0),
            Some(under) => (2, u64::MAX - under),
        };
        self.rank = (by_length, self.must_load);
    }

    /// For a model, with what its route says.
    pub(super) fn meant(self, meaning: &Meaning<'_>, edits: &Arc<[MemberEdit]>) -> Self {
        let stabilize = self.stabilize || meaning.stabilizes() && resolve::may_stabilize(&self.endpoint);
        Self { edits: Arc::clone(edits), stabilize, ..self }
    }
}
