//! An endpoint that a request may be sent to, and how the request would be changed for it. Pure.

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
    /// Its position on the route, counting unavailable endpoints.
    pub(crate) position: usize,
    /// The context size in tokens, as reported for the endpoint or else for the model.
    pub(crate) context: Option<u64>,
    /// Applied to JSON bodies.
    pub(crate) edits: Arc<[MemberEdit]>,
    pub(crate) stabilize: bool,
    /// Whether the model accepts images; `None` if unknown.
    pub(crate) vision: Option<bool>,
    pub(super) under: Option<u64>,
    pub(crate) rank: Rank,
}

impl Candidate {
    pub(crate) fn load(&self) -> CandidateLoad {
        let load = self.endpoint.live.load();
        CandidateLoad { position: self.position, weight: self.weight, load, rank: self.rank }
    }

    /// A prompt shorter than `under` prefers this candidate, the one with the smallest `under` first. A longer prompt
    /// prefers candidates without `under`, then the one with the largest.
    pub(super) fn rank_for(&mut self, tokens: u64) {
        self.rank.0 = match self.under {
            Some(under) if tokens < under => under,
            None => u64::MAX / 2,
            Some(under) => u64::MAX - under,
        };
    }

    /// Applies what the route of a name configures. The model is renamed unless the client asked for it by the
    /// endpoint's name.
    pub(super) fn meant(self, meaning: &Meaning<'_>, asked: &str) -> Self {
        let sent = self.rename.as_deref().unwrap_or(meaning.model);
        let rename = (sent != asked).then(|| sent.to_owned());
        let by_route = meaning.route.is_some_and(|route| route.stabilize.is_some());
        let stabilize = self.stabilize || by_route && resolve::may_stabilize(&self.endpoint);
        Self { rename, edits: meaning.edits(), stabilize, ..self }
    }
}
