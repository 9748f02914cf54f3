//! Gets a slot at an endpoint: the first in order of preference with a free one, else the request is queued, with pings and
//! with an eye on its client.

use super::outcome::ForwardContext;
use crate::api::errors::{Failure, Kind};
use crate::config::Strategy;
use crate::http::request::Request;
use crate::proxy::body::RequestBody;
use crate::routing::affinity::{self, Affinity, PrefixHashes, Prompt};
use crate::routing::candidate::Candidate;
use crate::routing::endpoint::Live;
use crate::routing::plan::{Plan, View};
use crate::routing::slots::{Entry, Home, Line, Slot, WaitResult, Waiting, Wanted};
use crate::routing::strategy::{self, CandidateLoad, Turn};
use crate::upstream::Watch;
use crate::util::{random, time};
use http::HeaderName;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `Retry-After` when the queue is full, or when `queue.timeout` has passed.
const COME_BACK: Duration = Duration::from_secs(5);

/// How long a request waits for the endpoint that has its conversation while it is not known how fast another one would be,
const PATIENCE: Duration = Duration::from_secs(2);
/// and at most.
const MOST_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a request for each token of its prompt, an estimate.
const BYTES: f64 = 4.0;

/// Fields that identify a conversation, most explicit first.
const SESSIONS: [&str; 4] = ["x-session-id", "x-session-affinity", "x-claude-code-session-id", "x-conversation-id"];

/// The result of asking for a slot.
pub(crate) enum Selected {
    /// At this candidate; without a slot where none is needed.
    At(usize, Option<Slot>),
    ClientGone,
    /// No slot in time, or the queue is full.
    Refused(Failure),
}

/// The candidates of one request, and those not tried in this round.
pub(crate) struct Selector<'a> {
    ctx: &'a ForwardContext<'a>,
    pub(crate) plan: Plan,
    /// Indexes of candidates in order of preference; empty until the first slot is chosen.
    preferred: Vec<usize>,
    remaining: Vec<usize>,
    pub(crate) queued: Duration,
    /// Of the conversation, for the affinity strategy.
    hashes: Option<&'a PrefixHashes>,
    /// The candidate that has the conversation in its cache, and how that is known.
    home: Option<(usize, &'static str)>,
    /// Why it does not go there, if others are idler.
    spilled: Option<&'static str>,
}

impl<'a> Selector<'a> {
    pub(super) fn new(ctx: &'a ForwardContext<'a>, plan: Plan) -> Self {
        let remaining = (0..plan.candidates.len()).collect();
        // Also while only one is available: the others may come back.
        let others = plan.candidates.len() > 1 || ctx.snapshot.enabled().nth(1).is_some();
        let hashes = ctx.prompt.filter(|_| plan.strategy == Strategy::Affinity && others).map(|prompt| &prompt.hashes);
        let (preferred, queued) = (Vec::new(), Duration::ZERO);
        Self { ctx, plan, preferred, remaining, queued, hashes, home: None, spilled: None }
    }

    /// Candidates not tried in this round.
    pub(crate) fn remaining(&self) -> &[usize] {
        &self.remaining
    }

    pub(crate) fn next_round(&mut self) {
        self.remaining.clone_from(&self.preferred);
    }

    /// Whether a remaining candidate has a larger context (any known one if this is unknown).
    pub(crate) fn has_larger(&self, context: Option<u64>) -> bool {
        let size = |index: &usize| self.plan.candidates[*index].context;
        self.remaining.iter().any(|index| size(index) > context)
    }

    /// Keeps only candidates with a larger context than `context`, smallest first.
    pub(crate) fn only_larger(&mut self, context: u64) {
        let size = |index: &usize| self.plan.candidates[*index].context.unwrap_or(0);
        self.remaining.retain(|index| size(index) > context);
        self.remaining.sort_by_key(size);
    }

    /// The index of the candidate that would be chosen now. Takes no slot and no turn.
    pub(super) fn first_choice(&self) -> usize {
        let favourite = self.favourite();
        self.ctx.shared.capacity.peek(&self.plan.route, |turn| preference(&self.plan, favourite, turn).0[0])
    }

    /// A slot at the next candidate.
    pub(crate) fn next(&mut self) -> Selected {
        let admitted = if self.ctx.takes_slot() { self.slot() } else { Selected::At(self.remaining[0], None) };
        if let Selected::At(index, _) = admitted {
            if let Some(hashes) = self.hashes {
                let cache = self.plan.candidates[index].endpoint.live.cache_id();
                self.ctx.shared.affinity.remember(hashes, cache);
            }
            if self.preferred.is_empty() {
                self.preferred.clone_from(&self.remaining);
            }
            self.remaining.retain(|other| *other != index);
        }
        admitted
    }

    fn slot(&mut self) -> Selected {
        let is_first = self.preferred.is_empty();
        if is_first {
            self.home = self.favourite();
        }
        let home = self.home.filter(|_| is_first);
        let lives = lives(&self.plan, &self.remaining);
        // Where no limit is known nobody waits.
        let limited = home.filter(|(index, _)| lives[*index].load().limit.is_some());
        let wanted = Wanted {
            home: limited.map(|(index, _)| Home { index, patience: self.patience(index) }),
            lives,
            background: self.ctx.background,
        };
        let line = Line { route: &self.plan.route, length: self.ctx.snapshot.config.queue.length };
        let (remaining, plan, spilled) = (&mut self.remaining, &self.plan, &mut self.spilled);
        // Chosen under the lock of the slots: two requests must not decide by the same loads.
        let entry = self.ctx.shared.capacity.enter(wanted, &line, time::now(), |turn| {
            if !is_first {
                return (0..remaining.len()).collect();
            }
            (*remaining, *spilled) = preference(plan, home, turn);
            remaining.clone()
        });
        match entry {
            // First an index into all candidates, later a position in `remaining`.
            Entry::In(index, slot) if is_first => Selected::At(index, Some(slot)),
            Entry::In(at, slot) => Selected::At(self.remaining[at], Some(slot)),
            Entry::Full => refused(Kind::Overloaded, "All matching endpoints are busy and the queue is full."),
            Entry::Closed => refused(Kind::Draining, "The proxy is being stopped."),
            Entry::Wait(waiting) => self.wait(&waiting, is_first),
        }
    }

    fn favourite(&self) -> Option<(usize, &'static str)> {
        let hashes = self.hashes?;
        let caches: Vec<u32> = self.plan.candidates.iter().map(|one| one.endpoint.live.cache_id()).collect();
        let (index, reason) = self.ctx.shared.affinity.favourite(hashes, &caches)?;
        // What its cache holds is no reason to send a prompt that is too long there, or one whose model was unloaded.
        let comes_first =
            |other: &Candidate| other.rank < self.plan.candidates[index].rank && other.endpoint.live.has_room();
        (!self.plan.candidates.iter().any(comes_first)).then_some((index, reason))
    }

    /// How long waiting for this candidate costs less than computing the prompt at the fastest of the others.
    fn patience(&self, home: usize) -> Duration {
        let others = self.plan.candidates.iter().enumerate().filter(|(index, _)| *index != home);
        let speed = others.map(|(_, one)| one.endpoint.live.prompt_speed.get()).fold(0.0, f64::max);
        let seconds = self.ctx.request.body.bytes().len() as f64 / BYTES / speed;
        let known = Duration::try_from_secs_f64(seconds).unwrap_or(if speed > 0.0 { MOST_PATIENCE } else { PATIENCE });
        // Time must be left in which any slot will do.
        known.min(MOST_PATIENCE).min(self.ctx.snapshot.config.queue.timeout / 2)
    }

    fn wait(&mut self, waiting: &Waiting, is_first: bool) -> Selected {
        let began = time::now();
        let until = began + self.ctx.snapshot.config.queue.timeout;
        let admitted = loop {
            let now = time::now();
            if now >= until {
                let text = "No endpoint became free within queue.timeout.";
                break refused(Kind::QueueTimeout, text);
            }
            let due = self.ctx.client.silent(now).unwrap_or(until);
            match waiting.wait(&self.ctx.request.cancel, until.min(due)) {
                WaitResult::In(index, slot) if is_first => break Selected::At(index, Some(slot)),
                WaitResult::In(at, slot) => break Selected::At(self.remaining[at], Some(slot)),
                WaitResult::Closed => break refused(Kind::Draining, "The proxy is being stopped."),
                WaitResult::ClientGone => break Selected::ClientGone,
                WaitResult::Late if is_first => self.look_again(waiting, now),
                WaitResult::Late => {}
            }
        };
        self.queued += time::now().saturating_duration_since(began);
        self.ctx.queued.set(self.queued);
        admitted
    }

    /// Adds endpoints that came back meanwhile, at the same position in the queue.
    fn look_again(&mut self, waiting: &Waiting, now: Instant) {
        let ForwardContext { shared, body, scope, .. } = self.ctx;
        let Ok(plan) = View { snapshot: &shared.load(), scope }.plan(body.query(), *body, now) else {
            return;
        };
        let positions = |plan: &Plan| plan.candidates.iter().map(|one| one.position).collect::<Vec<_>>();
        if plan.route != self.plan.route || plan.candidates.is_empty() || positions(&plan) == positions(&self.plan) {
            return;
        }
        let all: Vec<usize> = (0..plan.candidates.len()).collect();
        let lives = lives(&plan, &all);
        let at =
            |index: usize| lives.iter().position(|live| Arc::ptr_eq(live, &self.plan.candidates[index].endpoint.live));
        let home = self.home.and_then(|(index, reason)| Some((at(index)?, reason)));
        if waiting.widen(lives, now) {
            (self.plan, self.remaining, self.home) = (plan, all, home);
        }
    }

    /// The reason of the first attempt.
    pub(crate) fn reason(&self, index: usize) -> &'static str {
        let has_choice = self.plan.reason == "model" && self.plan.candidates.len() > 1;
        match self.home.filter(|_| has_choice) {
            Some((home, reason)) if home == index => return reason,
            Some(_) => return self.spilled.unwrap_or("affinity_full"),
            None => {}
        }
        match self.plan.strategy {
            _ if !self.queued.is_zero() => "queued",
            _ if !has_choice => self.plan.reason,
            strategy => match rank_reason(&self.plan.candidates, index, strategy == Strategy::Failover) {
                Some(reason) => reason,
                None if strategy == Strategy::Affinity => "affinity_new",
                None if strategy == Strategy::Failover => self.plan.reason,
                None => strategy.as_str(),
            },
        }
    }
}

/// The reason, if ranks decided for a candidate; in the order of the file, that others had no slot is a reason too.
fn rank_reason(candidates: &[Candidate], chosen: usize, in_order: bool) -> Option<&'static str> {
    let rank = candidates[chosen].rank;
    let passed_over = if in_order { &candidates[..chosen] } else { candidates };
    if candidates.iter().any(|other| other.rank < rank) || in_order && passed_over.iter().any(|one| one.rank == rank) {
        return in_order.then_some("full");
    }
    let other = passed_over.iter().find(|other| other.rank > rank)?;
    Some(if other.rank.0 == rank.0 { "loaded" } else { "under" })
}

/// What the conversation of a request is recognised by.
pub(super) fn prompt(affinity: &Affinity, request: &Request, body: &RequestBody<'_>, route: &str) -> Prompt {
    let fields = &request.head.fields;
    let sessions = SESSIONS.iter().filter_map(|name| Some(fields.get(HeaderName::from_static(name))?.as_bytes()));
    affinity.prompt(body.json.as_ref(), route, sessions)
}

/// The order of preference: the strategy's, preceded by the endpoint that has the conversation in its cache unless that is
/// full or much busier than another; the reason if it is.
fn preference(plan: &Plan, home: Option<(usize, &'static str)>, turn: &mut Turn) -> (Vec<usize>, Option<&'static str>) {
    let loads: Vec<CandidateLoad> = plan.candidates.iter().map(|one| one.load()).collect();
    // Only new conversations take turns, so that each endpoint gets as many.
    let mut unmoved = turn.clone();
    let turn = if home.is_some() { &mut unmoved } else { turn };
    let mut order = strategy::order(plan.strategy, &loads, turn, &mut random::unit);
    let Some((index, _)) = home else { return (order, None) };
    let others = order.iter().filter(|other| **other != index).map(|&other| loads[other].load);
    let spilled = affinity::spill(loads[index].load, others);
    if spilled.is_none() {
        order.retain(|other| *other != index);
        order.insert(0, index);
    }
    (order, spilled)
}

fn lives(plan: &Plan, indexes: &[usize]) -> Vec<Arc<Live>> {
    indexes.iter().map(|&index| Arc::clone(&plan.candidates[index].endpoint.live)).collect()
}

fn refused(kind: Kind, text: &str) -> Selected {
    Selected::Refused(Failure::new(kind, text).retry_after(COME_BACK))
}
