//! The attempts: one candidate after another until one gives an answer to forward. Until then every failure can become
//! another attempt or a clean status.

use super::outcome::{BufferedResponse, ForwardContext, Outcome, ServedBy};
use super::{first_byte, relay, wake};
use crate::api::errors;
use crate::api::paths::{self, ModelSource, Trait};
use crate::config::{Probe, Retry};
use crate::observe::metrics::Family;
use crate::proxy::body::Rendered;
use crate::proxy::retry::{self, Remaining, RetryDecision};
use crate::proxy::select::{Selected, Selector};
use crate::routing::candidate::Candidate;
use crate::routing::endpoint::Endpoint;
use crate::routing::health_status::{Observation, State};
use crate::routing::plan::Plan;
use crate::routing::slots::Slot;
use crate::routing::snapshot::HealthEvent;
use crate::upstream::{
    BodyTail, Stage, UpstreamError, UpstreamErrorKind, UpstreamRequest, UpstreamResponse, Watch, headers,
};
use crate::util::{random, time};
use http::StatusCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// An error answer is buffered up to this size while other endpoints are tried; a longer one is forwarded.
const BUFFER_MAX: usize = 1 << 20;
/// Time limit for buffering it, since the slot and the client wait.
const BUFFER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an endpoint without probes is skipped after it failed, while others are available.
const COOL_DOWN: Duration = Duration::from_secs(5);

struct Attempts<'a> {
    ctx: &'a ForwardContext<'a>,
    retry: &'a Retry,
    reason: &'static str,
    queued: Duration,
    named: bool,
    attempts: u32,
    faults: Vec<(String, UpstreamError)>,
    buffered: Option<(BufferedResponse, Rc<ServedBy>)>,
    retry_after: Option<Duration>,
    exceeded_context: Option<u64>,
    last: Option<Rc<ServedBy>>,
    /// The endpoint of the last attempt and why another one may follow, to be counted if it does.
    retried: Option<(Arc<Endpoint>, &'static str)>,
}

enum Step {
    Next,
    /// The prompt is longer than this context; only a larger one helps.
    Larger(u64),
    End(Outcome),
}

/// Tries the candidates of a plan. If no connection could be made and a machine can be woken, wakes it and tries
/// again.
pub(crate) fn forward(ctx: &ForwardContext<'_>, plan: Plan) -> Outcome {
    let retry = &plan.retry.clone();
    let mut attempts = Attempts::new(ctx, retry);
    let plan = match wake::awake(ctx, plan) {
        Ok(plan) => plan,
        Err(outcome) => return *outcome,
    };
    let mut selector = Selector::new(ctx, plan);
    let outcome = try_all(ctx, &mut selector, &mut attempts);
    if let (Outcome::Buffered(..), Some(context)) = (&outcome, attempts.exceeded_context) {
        return match wake::larger(ctx, selector.plan, context) {
            Ok(Some(plan)) => try_all(ctx, &mut Selector::new(ctx, plan), &mut attempts),
            Ok(None) => outcome,
            Err(outcome) => *outcome,
        };
    }
    let tried = match outcome {
        Outcome::Failed(_, tried) if wake::may_help(ctx, &selector.plan, &attempts.faults) => tried,
        outcome => return outcome,
    };
    match wake::after_failure(ctx, selector.plan).map_err(|outcome| *outcome) {
        Ok(plan) => try_all(ctx, &mut Selector::new(ctx, plan), &mut attempts),
        Err(Outcome::Failed(failure, _)) => Outcome::Failed(failure, tried),
        Err(Outcome::ClientGone(_)) => Outcome::ClientGone(tried),
        Err(outcome) => outcome,
    }
}

/// Tries the candidates in order of preference, in rounds, until `retry.attempts` were tried.
fn try_all(ctx: &ForwardContext<'_>, selector: &mut Selector<'_>, attempts: &mut Attempts<'_>) -> Outcome {
    let retry = attempts.retry;
    ctx.client.hold_pings(selector.plan.candidates.iter().any(|candidate| ctx.is_streamless(candidate)));
    let mut tried = 0;
    let mut round = 0;
    loop {
        if round > 0 {
            if wake::may_help(ctx, &selector.plan, &attempts.faults) {
                return attempts.give_up();
            }
            selector.next_round();
            let pause = retry::pause(retry, round, attempts.retry_after.take(), random::unit());
            if ctx.pause(pause) {
                return Outcome::ClientGone(attempts.last.take());
            }
        }
        while !selector.remaining().is_empty() {
            let (index, slot) = match selector.next() {
                Selected::At(index, slot) => (index, slot),
                Selected::ClientGone => return Outcome::ClientGone(attempts.last.take()),
                Selected::Refused(failure) if attempts.last.is_none() => return Outcome::Failed(failure, None),
                Selected::Refused(_) => return attempts.give_up(),
            };
            if tried == 0 {
                attempts.reason = selector.reason(index);
                attempts.named = selector.plan.is_named;
            }
            attempts.queued = selector.queued;
            tried += 1;
            // Several keys of one candidate count once here. The plan may have grown while the request was queued.
            let attempts_left = tried < retry.attempts.unwrap_or(selector.plan.candidates.len() as u32);
            let candidate = &selector.plan.candidates[index];
            let may_wake = wake::has_larger(ctx, &selector.plan, candidate.context, attempts_left);
            let larger = may_wake || attempts_left && selector.has_larger(candidate.context);
            let remaining = Remaining {
                keys: false,
                candidates: attempts_left && !selector.remaining().is_empty(),
                attempts: attempts_left,
                larger,
            };
            match attempts.try_candidate(candidate, remaining, slot) {
                Step::End(outcome) => return outcome,
                Step::Next if !attempts_left => return attempts.give_up(),
                Step::Next => attempts.reason = "retry",
                Step::Larger(context) => {
                    attempts.reason = "context";
                    attempts.exceeded_context = attempts.exceeded_context.max(Some(context));
                    if !selector.only_larger(context) {
                        return attempts.give_up();
                    }
                }
            }
        }
        round += 1;
    }
}

impl<'a> Attempts<'a> {
    fn new(ctx: &'a ForwardContext<'a>, retry: &'a Retry) -> Self {
        let (reason, queued) = ("", Duration::ZERO);
        Self {
            ctx,
            retry,
            reason,
            queued,
            named: false,
            attempts: 0,
            faults: Vec::new(),
            buffered: None,
            retry_after: None,
            exceeded_context: None,
            last: None,
            retried: None,
        }
    }

    /// One endpoint, with its keys in turn.
    fn try_candidate(&mut self, candidate: &Candidate, remaining: Remaining, mut slot: Option<Slot>) -> Step {
        let keys = candidate.endpoint.config.api_keys.len();
        let first = candidate.endpoint.live.next_key(keys);
        for turn in 0..keys.max(1) {
            if self.ctx.request.cancel.is_cancelled() {
                return Step::End(Outcome::ClientGone(self.last.take()));
            }
            let remaining = Remaining { keys: turn + 1 < keys, ..remaining };
            if let Some(step) = self.try_key(candidate, (first + turn) % keys.max(1), remaining, &mut slot) {
                return step;
            }
        }
        Step::Next
    }

    /// One attempt with one key; `None`: try the next key.
    fn try_key(
        &mut self,
        candidate: &Candidate,
        key: usize,
        remaining: Remaining,
        slot: &mut Option<Slot>,
    ) -> Option<Step> {
        let endpoint = &candidate.endpoint;
        self.attempts += 1;
        if let Some((endpoint, reason)) = self.retried.take() {
            self.ctx.metrics.count(Family::Retries, &[endpoint.name(), reason]);
        }
        let began = time::now();
        let served_by = Rc::new(ServedBy {
            endpoint: Arc::clone(endpoint),
            model: candidate.rename.clone().or_else(|| self.ctx.body.name().map(str::to_owned)),
            attempts: self.attempts,
            reason: self.reason,
            queued: self.queued,
            sent: began,
            named: self.named,
            policy: self.ctx.policy,
        });
        self.last = Some(Rc::clone(&served_by));
        self.ctx.active.at(endpoint.name());
        self.ctx.client.hold_pings(self.ctx.is_streamless(candidate));
        self.ctx.client.set_early_fields(|| relay::routing_fields(&served_by));
        let labels = [self.ctx.scope.group_name(), endpoint.name()];
        let rendered = match self.ctx.body.for_candidate(self.ctx.request, candidate) {
            Ok(rendered) => rendered,
            Err(failure) => return Some(Step::End(Outcome::Failed(failure, self.last.take()))),
        };
        let sent = self.send(candidate, &rendered, key, remaining.candidates);
        self.ctx.metrics.count(Family::UpstreamRequests, &labels);
        self.ctx.metrics.time(Family::UpstreamDuration, &labels, time::now().saturating_duration_since(began));
        match sent {
            Ok(answer) => self.handle_answer(answer, served_by, candidate, key, remaining, slot),
            Err(fault) => Some(self.handle_error(endpoint, fault, slot.take())),
        }
    }

    /// Decides whether an answer is forwarded or, buffered, followed by another attempt.
    fn handle_answer(
        &mut self,
        mut answer: UpstreamResponse,
        served_by: Rc<ServedBy>,
        candidate: &Candidate,
        key: usize,
        remaining: Remaining,
        slot: &mut Option<Slot>,
    ) -> Option<Step> {
        let endpoint = &candidate.endpoint;
        let decision = self.decide(&answer, endpoint, remaining);
        let (name, id) = (endpoint.name(), self.ctx.request_id);
        let answered = || headers::answered(answer.status, &answer.headers);
        if decision == RetryDecision::Forward {
            if answer.headers.contains_key(http::header::LOCATION) {
                log::info!("endpoint {name} {} request_id={id}", answered());
            }
            answer.slot = slot.take();
            return Some(match first_byte::wait(&mut answer, self.ctx, &served_by) {
                Ok(()) => Step::End(Outcome::Response(Box::new(answer), served_by)),
                Err(fault) => self.handle_error(endpoint, fault, answer.slot.take()),
            });
        }
        let keys = endpoint.config.api_keys.len();
        // S003-32: the number of the key, never the key.
        let which = if keys > 1 { format!(" (key {} of {keys})", key + 1) } else { String::new() };
        log::info!("endpoint {name} {}{which} request_id={id}", answered());
        let is_buffered = match self.buffer(answer, served_by, slot) {
            Ok(is_buffered) => is_buffered,
            Err(outcome) => return Some(Step::End(*outcome)),
        };
        self.retried = Some((Arc::clone(endpoint), decision.as_str()));
        match decision {
            RetryDecision::NextKey => None,
            RetryDecision::InspectBody if is_buffered => Some(self.bad_request(candidate.context)),
            RetryDecision::InspectBody | RetryDecision::Next | RetryDecision::Forward => Some(Step::Next),
        }
    }

    /// The 400 just buffered: if the prompt is too long, a larger context is tried; otherwise the client gets it.
    fn bad_request(&mut self, context: Option<u64>) -> Step {
        let exceeded = self.buffered.as_ref().and_then(|(buffered, _)| errors::exceeded_context(&buffered.body));
        match (exceeded, self.buffered.take_if(|_| exceeded.is_none())) {
            // Any known context counts as larger than an unknown one.
            (Some(exceeded), _) => Step::Larger(exceeded.or(context).unwrap_or(0)),
            (None, Some((buffered, served_by))) => Step::End(Outcome::Buffered(buffered, served_by)),
            (None, None) => Step::Next,
        }
    }

    fn send(
        &self,
        candidate: &Candidate,
        rendered: &Rendered<'_>,
        key: usize,
        replaceable: bool,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let ForwardContext { clients, request, body, forward, .. } = self.ctx;
        let config = &candidate.endpoint.config;
        let key = config.api_keys.get(key).map(|key| key.reveal());
        let path = match &rendered.query {
            Some(query) => format!("{}?{query}", forward.path),
            None => forward.path.clone(),
        };
        // Pings need an uncompressed stream, and the id of a response must be readable.
        let pinged = body.stream && forward.has(Trait::Pings) && self.ctx.snapshot.config.server.sse_ping.is_some();
        let client = headers::ClientInfo {
            peer: &request.peer_text,
            trusted: self.ctx.trusted,
            host: request.head.fields.get(http::header::HOST),
            request_id: self.ctx.request_id,
            keyed: self.ctx.keyed,
            policy: self.ctx.policy,
            may_compress: !pinged && !forward.has(Trait::MakesResponse),
        };
        let mut timeouts = config.timeouts;
        // `stream` of a large body is not known.
        if config.stream && (body.stream || body.sealed || request.rest.is_some()) {
            timeouts.total = None;
        }
        let sent = time::now();
        let watch: Rc<dyn Watch> = Rc::clone(self.ctx.client) as _;
        let live = Arc::clone(&candidate.endpoint.live);
        let watch = if replaceable { Rc::new(first_byte::Replaceable { watch, live, sent }) } else { watch };
        let cancels = config.on_client_gone == crate::config::OnClientGone::Cancel;
        let upstream_request = UpstreamRequest {
            method: request.head.method.clone(),
            path: &path,
            raw: forward.source == ModelSource::Raw,
            headers: &|| headers::request(request.head.fields.iter(), &client, config, key),
            body: rendered.parts(),
            tail: request.rest.as_ref().map(|rest| BodyTail { from: rest, length: rest.borrow().length() }),
            timeouts,
            cancel: cancels.then(|| Arc::clone(&request.cancel)),
            watch: Some(watch),
        };
        let client = clients.client(config)?;
        if let Some(id) = request.head.fields.get(paths::CONVERSATION) {
            self.ctx.shared.conversations.put(id.as_bytes(), candidate.endpoint.name().to_owned());
        }
        candidate.endpoint.live.sent(sent, timeouts.first_byte);
        let result = client.send(&upstream_request);
        if result.is_ok() {
            let endpoint = &candidate.endpoint;
            endpoint.live.moved(time::now());
            // Without probes, a successful request is the only sign that the endpoint has recovered.
            if config.probe == Probe::Never && endpoint.health.state == State::Failing {
                self.report(endpoint, Observation::Up);
            }
        }
        result
    }

    fn decide(&mut self, answer: &UpstreamResponse, endpoint: &Endpoint, remaining: Remaining) -> RetryDecision {
        let retry_after = retry::retry_after(&answer.headers, time::wall);
        if let (StatusCode::TOO_MANY_REQUESTS, Some(retry_after)) = (answer.status, retry_after) {
            endpoint.live.cool_down(time::now(), retry_after);
        }
        self.retry_after = self.retry_after.max(retry_after);
        if self.ctx.request.is_spent() {
            return RetryDecision::Forward;
        }
        retry::answer(answer.status, self.retry, remaining)
    }

    /// Buffers an error answer while other endpoints are tried; true if it is the best so far. A long one is the outcome
    /// instead and is forwarded at once.
    fn buffer(
        &mut self,
        mut answer: UpstreamResponse,
        served_by: Rc<ServedBy>,
        slot: &mut Option<Slot>,
    ) -> Result<bool, Box<Outcome>> {
        let mut body = Vec::new();
        let usual = answer.end_by(Some(time::now() + BUFFER_TIMEOUT));
        let is_long = answer.length.is_some_and(|length| length > BUFFER_MAX as u64);
        let fault = match if is_long { Ok(false) } else { answer.read_to_end(&mut body, BUFFER_MAX) } {
            Ok(true) => None,
            Ok(false) => {
                answer.end_by(usual);
                answer.unread(body);
                answer.slot = slot.take();
                return Err(Outcome::Response(Box::new(answer), served_by).into());
            }
            Err(fault) if fault.kind == UpstreamErrorKind::ClientGone => {
                return Err(Outcome::ClientGone(Some(served_by)).into());
            }
            Err(fault) => Some(fault),
        };
        // A truncated error answer is dropped. If it times out, the part received is kept.
        if let Some(fault) = fault.filter(|fault| !matches!(fault.kind, UpstreamErrorKind::Timeout(_))) {
            self.faults.push((served_by.endpoint.name().to_owned(), fault));
            return Ok(false);
        }
        if answer.status == StatusCode::SERVICE_UNAVAILABLE && errors::is_loading(&body) {
            self.report(&served_by.endpoint, Observation::Loading);
        }
        let buffered = BufferedResponse { status: answer.status, headers: answer.headers, body };
        // A rejected key or an unknown model is less specific than any other error.
        let says_less = |status: StatusCode| matches!(status.as_u16(), 401..=404);
        let is_better =
            self.buffered.as_ref().is_none_or(|(old, _)| !says_less(buffered.status) || says_less(old.status));
        if is_better {
            self.buffered = Some((buffered, served_by));
        }
        Ok(is_better)
    }

    fn handle_error(&mut self, endpoint: &Arc<Endpoint>, fault: UpstreamError, slot: Option<Slot>) -> Step {
        release(slot, endpoint, &fault);
        if fault.kind == UpstreamErrorKind::ClientGone || self.ctx.request.cancel.is_cancelled() {
            return Step::End(Outcome::ClientGone(self.last.take()));
        }
        let rest = self.ctx.request.rest.as_ref();
        if let Some(failure) = rest.and_then(|rest| rest.borrow().refusal().cloned()) {
            return Step::End(Outcome::Failed(failure, self.last.take()));
        }
        let (what, id) = (retry::sentence(&fault), self.ctx.request_id);
        log::warn!("endpoint {} {what}: {} request_id={id}", endpoint.name(), fault.cause);
        let cause = || fault.cause.clone();
        let seen = match fault.kind {
            UpstreamErrorKind::Refused => Some(Observation::Refused(cause())),
            UpstreamErrorKind::Connect => Some(Observation::Unreachable(cause())),
            UpstreamErrorKind::Timeout(Stage::Connect) => Some(Observation::Unreachable(what)),
            _ => None,
        };
        if fault.kind == UpstreamErrorKind::Refused {
            endpoint.live.note_refused(time::now());
        }
        if let Some(seen) = seen {
            self.report(endpoint, seen);
        }
        self.ctx
            .metrics
            .count(Family::UpstreamErrors, &["request_error", self.ctx.scope.group_name(), endpoint.name()]);
        let again = retry::may_retry(&fault, self.retry) && !self.ctx.request.is_spent();
        self.retried = Some((Arc::clone(endpoint), retry::reason(&fault)));
        self.faults.push((endpoint.name().to_owned(), fault));
        if again { Step::Next } else { Step::End(self.give_up()) }
    }

    /// Reports an observation to the health thread; an endpoint without probes is skipped for a while.
    fn report(&self, endpoint: &Endpoint, seen: Observation) {
        if endpoint.config.probe == Probe::Never && seen != Observation::Up {
            endpoint.live.cool_down(time::now(), COOL_DOWN);
        }
        self.ctx.shared.notify(HealthEvent::Seen(endpoint.name().to_owned(), seen));
    }

    /// The outcome when nothing is left to try: the best error answer, else what happened.
    fn give_up(&mut self) -> Outcome {
        match self.buffered.take() {
            Some((buffered, served_by)) => {
                let served_by = ServedBy { attempts: self.attempts, ..ServedBy::clone(&served_by) };
                Outcome::Buffered(buffered, Rc::new(served_by))
            }
            None => Outcome::Failed(retry::all_failed(&self.faults), self.last.take()),
        }
    }
}

/// Releases the slot of a failed attempt: at once, or when the endpoint has stopped working on it.
fn release(slot: Option<Slot>, endpoint: &Endpoint, fault: &UpstreamError) {
    if let Some(slot) = slot.filter(|_| endpoint.props.slots.is_some() && retry::works_on(fault)) {
        slot.abandon();
    }
}
