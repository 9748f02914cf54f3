//! Obtains a slot at the first candidate in order of preference that has a free one. Otherwise the request is queued,
//! with pings, until a slot is free or its client disconnects.

use super::outcome::ForwardContext;
use crate::api::errors::{Failure, Kind};
use crate::config::Strategy;
use crate::http::request::Request;
use crate::proxy::body::RequestBody;
use crate::routing::affinity::{self, Affinity, PrefixHashes, Prompt};
use crate::routing::candidate::Candidate;
use crate::routing::endpoint::Live;
use crate::routing::plan::{Plan, View};
use crate::routing::slots::{Entry, Home, Queue, Slot, WaitResult, Waiting, Wanted};
use crate::routing::strategy::{self, CandidateLoad, Turn};
use crate::upstream::Watch;
use crate::util::{random, time};
use http::HeaderName;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `Retry-After` when the queue is full, or when `queue.timeout` has passed.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How long a request waits for the endpoint that has its conversation while the prompt speed of the others is
/// unknown.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(2);
/// The longest such wait.
const MAX_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a request per prompt token, an estimate.
const BYTES_PER_TOKEN: f64 = 4.0;

/// Header fields that identify a conversation, most specific first.
const SESSIONS: [&str; 4] = ["x-session-id", "x-session-affinity", "x-claude-code-session-id", "x-conversation-id"];

pub(crate) enum Selected {
    /// The index of a candidate, and the slot if the path takes one.
    At(usize, Option<Slot>),
    ClientGone,
    /// No slot in time, or a full queue.
    Refused(Failure),
}

/// Selects among the candidates of a plan, and tracks which ones remain in this round.
pub(crate) struct Selector<'a> {
    ctx: &'a ForwardContext<'a>,
    pub(crate) plan: Plan,
    /// Indexes of candidates in order of preference; empty before the first slot.
    preferred: Vec<usize>,
    remaining: Vec<usize>,
    pub(crate) queued: Duration,
    /// Identify the conversation, if the strategy is affinity.
    hashes: Option<&'a PrefixHashes>,
    /// The candidate that has the conversation in its cache, and the reason.
    home: Option<(usize, &'static str)>,
    /// Why the home was bypassed: it is full, or much busier than another candidate.
    bypassed: Option<&'static str>,
}

impl<'a> Selector<'a> {
    pub(super) fn new(ctx: &'a ForwardContext<'a>, plan: Plan) -> Self {
        let remaining = (0..plan.candidates.len()).collect();
        // Also remembered while only one is available, since others may come back.
        let others = plan.candidates.len() > 1 || ctx.snapshot.enabled().nth(1).is_some();
        let hashes = ctx.prompt.filter(|_| plan.strategy == Strategy::Affinity && others).map(|prompt| &prompt.hashes);
        let (preferred, queued) = (Vec::new(), ctx.queued.get());
        Self { ctx, plan, preferred, remaining, queued, hashes, home: None, bypassed: None }
    }

    pub(crate) fn remaining(&self) -> &[usize] {
        &self.remaining
    }

    pub(crate) fn next_round(&mut self) {
        self.remaining.clone_from(&self.preferred);
    }

    /// Whether a remaining candidate has a larger context, or any known context if `context` is `None`.
    pub(crate) fn has_larger(&self, context: Option<u64>) -> bool {
        let size = |index: &usize| self.plan.candidates[*index].context;
        self.remaining.iter().any(|index| size(index) > context)
    }

    /// Keeps only candidates with a larger context, smallest first, in later rounds too. False if there are none.
    pub(crate) fn only_larger(&mut self, context: u64) -> bool {
        let size = |index: &usize| self.plan.candidates[*index].context.unwrap_or(0);
        for indexes in [&mut self.remaining, &mut self.preferred] {
            indexes.retain(|index| size(index) > context);
            indexes.sort_by_key(size);
        }
        !self.preferred.is_empty()
    }

    /// The candidate that would be chosen now. Takes neither a slot nor a turn.
    pub(super) fn first_choice(&self) -> usize {
        let home = self.find_home();
        self.ctx.shared.capacity.peek(&self.plan.route, |turn| preference(&self.plan, home, turn).0[0])
    }

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
            self.home = self.find_home();
        }
        let home = self.home.filter(|_| is_first);
        let lives = lives(&self.plan);
        // Without a known limit there is nothing to wait for.
        let limited = home.filter(|(index, _)| lives[*index].load().limit.is_some());
        let wanted = Wanted {
            home: limited.map(|(index, _)| Home { index, patience: self.patience(index) }),
            lives,
            background: self.ctx.background,
        };
        let queue = Queue { route: &self.plan.route, length: self.ctx.snapshot.config.queue.length };
        let (remaining, plan, bypassed) = (&mut self.remaining, &self.plan, &mut self.bypassed);
        // Called under the lock of the slots, so that no two requests decide by the same loads.
        let entry = self.ctx.shared.capacity.enter(wanted, &queue, time::now(), |turn| {
            if is_first {
                (*remaining, *bypassed) = preference(plan, home, turn);
            }
            remaining.clone()
        });
        match entry {
            Entry::In(index, slot) => Selected::At(index, Some(slot)),
            Entry::Full => refused(Kind::Overloaded, "All matching endpoints are busy and the queue is full."),
            Entry::Closed => refused(Kind::Draining, "The proxy is being stopped."),
            Entry::Wait(waiting) => self.wait(&waiting, is_first),
        }
    }

    fn find_home(&self) -> Option<(usize, &'static str)> {
        let hashes = self.hashes?;
        let caches: Vec<u32> = self.plan.candidates.iter().map(|one| one.endpoint.live.cache_id()).collect();
        let (index, reason) = self.ctx.shared.affinity.home(hashes, &caches)?;
        // Ranks precede the cache: the prompt may be too long for that endpoint, or its model unloaded.
        let comes_first =
            |other: &Candidate| other.rank < self.plan.candidates[index].rank && other.endpoint.live.has_room();
        (!self.plan.candidates.iter().any(comes_first)).then_some((index, reason))
    }

    /// The time that the fastest of the other candidates needs to compute the prompt.
    fn patience(&self, home: usize) -> Duration {
        let others = self.plan.candidates.iter().enumerate().filter(|(index, _)| *index != home);
        let speed = others.map(|(_, one)| one.endpoint.live.prompt_speed.get()).fold(0.0, f64::max);
        let seconds = self.ctx.request.body.bytes().len() as f64 / BYTES_PER_TOKEN / speed;
        let known =
            Duration::try_from_secs_f64(seconds).unwrap_or(if speed > 0.0 { MAX_PATIENCE } else { DEFAULT_PATIENCE });
        // Leaves time to wait for any slot.
        known.min(MAX_PATIENCE).min(self.ctx.snapshot.config.queue.timeout / 2)
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
                WaitResult::In(index, slot) => break Selected::At(index, Some(slot)),
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

    /// Follows changes of health and configuration, keeping the position in the queue.
    fn look_again(&mut self, waiting: &Waiting, now: Instant) {
        let ForwardContext { shared, body, scope, .. } = self.ctx;
        let Ok(plan) = View { snapshot: &shared.load(), scope }.plan(body.query(), *body, now) else {
            return;
        };
        let configs =
            |plan: &'_ Plan| plan.candidates.iter().map(|one| Arc::as_ptr(&one.endpoint.config)).collect::<Vec<_>>();
        if plan.route != self.plan.route || plan.candidates.is_empty() || configs(&plan) == configs(&self.plan) {
            return;
        }
        let lives = lives(&plan);
        let at =
            |index: usize| lives.iter().position(|live| Arc::ptr_eq(live, &self.plan.candidates[index].endpoint.live));
        let home = self.home.and_then(|(index, reason)| Some((at(index)?, reason)));
        let order = shared.capacity.peek(&plan.route, |turn| preference(&plan, home, turn).0);
        if waiting.widen(lives, &order, now) {
            (self.plan, self.remaining, self.home) = (plan, order, home);
        }
    }

    /// `x-llmproxy-reason` of the first attempt.
    pub(crate) fn reason(&self, index: usize) -> &'static str {
        let is_named = ["model", "failover"].contains(&self.plan.reason) && self.plan.candidates.len() > 1;
        let has_choice = is_named && self.plan.reason == "model";
        match self.home.filter(|_| is_named) {
            Some((home, reason)) if home == index => return reason,
            Some(_) => return self.bypassed.unwrap_or("affinity_full"),
            None => {}
        }
        match self.plan.strategy {
            _ if !self.queued.is_zero() && self.plan.reason != "woken" => "queued",
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

/// The reason if a rank decided for a candidate, or, for failover, if the candidates before it had no free slot.
fn rank_reason(candidates: &[Candidate], chosen: usize, in_order: bool) -> Option<&'static str> {
    let rank = candidates[chosen].rank;
    let passed_over = if in_order { &candidates[..chosen] } else { candidates };
    if candidates.iter().any(|other| other.rank < rank) || in_order && passed_over.iter().any(|one| one.rank == rank) {
        return in_order.then_some("full");
    }
    let other = passed_over.iter().find(|other| other.rank > rank)?;
    Some(if other.rank.0 == rank.0 { "loaded" } else { "under" })
}

/// Hashes the prompt of a request.
pub(super) fn prompt(affinity: &Affinity, request: &Request, body: &RequestBody<'_>, route: &str) -> Prompt {
    let fields = &request.head.fields;
    let sessions = SESSIONS.iter().filter_map(|name| Some(fields.get(HeaderName::from_static(name))?.as_bytes()));
    affinity.prompt(body.json.as_ref(), route, sessions)
}

/// The order of preference: the endpoint that has the conversation in its cache, then the strategy's order. If that
/// endpoint is full or much busier than another, only the strategy's order, with the reason.
fn preference(plan: &Plan, home: Option<(usize, &'static str)>, turn: &mut Turn) -> (Vec<usize>, Option<&'static str>) {
    let loads: Vec<CandidateLoad> = plan.candidates.iter().map(|one| one.load()).collect();
    // Only new conversations take turns, so that each endpoint gets as many of them.
    let mut unmoved = turn.clone();
    let turn = if home.is_some() { &mut unmoved } else { turn };
    let mut order = strategy::order(plan.strategy, &loads, turn, &mut random::unit);
    let Some((index, _)) = home else { return (order, None) };
    let others = order.iter().filter(|other| **other != index).map(|&other| loads[other].load);
    let bypassed = affinity::bypass(loads[index].load, others);
    if bypassed.is_none() {
        order.retain(|other| *other != index);
        order.insert(0, index);
    }
    (order, bypassed)
}

fn lives(plan: &Plan) -> Vec<Arc<Live>> {
    plan.candidates.iter().map(|one| Arc::clone(&one.endpoint.live)).collect()
}

fn refused(kind: Kind, text: &str) -> Selected {
    Selected::Refused(Failure::new(kind, text).retry_after(RETRY_AFTER))
}
