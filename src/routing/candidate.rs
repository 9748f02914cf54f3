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
    pub(crate) rank: Rank,
}

impl Candidate {
    pub(crate) fn load(&self) -> CandidateLoad {
        let load = self.endpoint.live.load();
        CandidateLoad { position: self.position, weight: self.weight, load, rank: self.rank }
    }

    /// Before others for a prompt of fewer tokens than `under`, the smallest first; for a longer one after them, the largest
    /// first.
    pub(super) fn rank_for(&mut self, tokens: u64) {
        self.rank.0 = match self.under {
            Some(under) if tokens < under => under,
            None => u64::MAX / 2,
            Some(under) => u64::MAX - under,
        };
    }

    /// For a model, with what its route says, and with its name unless that is the one `asked` for.
    pub(super) fn meant(self, meaning: &Meaning<'_>, asked: &str) -> Self {
        let sent = self.rename.as_deref().unwrap_or(meaning.model);
        let rename = (sent != asked).then(|| sent.to_owned());
        let by_route = meaning.route.is_some_and(|route| route.stabilize.is_some());
        let stabilize = self.stabilize || by_route && resolve::may_stabilize(&self.endpoint);
        Self { rename, edits: meaning.edits(), stabilize, ..self }
    }
}
