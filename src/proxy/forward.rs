//! The attempts: one candidate after another until somebody gives an answer worth passing on. Up to here
//! every fault may still become another attempt or a clean status.

use super::outcome::{BufferedResponse, ForwardContext, Outcome, ServedBy};
use super::{first_byte, relay};
use crate::api::paths::{self, ModelSource};
use crate::config::{Probe, Retry};
use crate::observe::metrics::Family;
use crate::proxy::retry::{self, Remaining, RetryDecision};
use crate::proxy::select::{Admitted, Selector};
use crate::routing::endpoint::Endpoint;
use crate::routing::health_status::{Observation, State};
use crate::routing::plan::{Candidate, Plan};
use crate::routing::slots::Slot;
use crate::routing::snapshot::HealthEvent;
use crate::upstream::{BodyTail, Stage, UpstreamError, UpstreamErrorKind, UpstreamRequest, UpstreamResponse, headers};
use crate::util::{random, time};
use http::StatusCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// An error answer that may yet be the last word is kept whole up to this size; a longer one is passed on.
const KEEP: usize = 1 << 20;
/// And read for so long: errors are short, and the slot and the client wait for it.
const KEEP_FOR: Duration = Duration::from_secs(2);
/// How long one that nobody probes is left alone after it was away, while others are there.
const REST: Duration = Duration::from_secs(5);

struct Attempts<'a> {
    ctx: &'a ForwardContext<'a>,
    retry: &'a Retry,
    reason: &'static str,
    queued: Duration,
    named: bool,
    attempts: u32,
    faults: Vec<(String, UpstreamError)>,
    kept: Option<(BufferedResponse, Rc<ServedBy>)>,
    told: Option<Duration>,
    last: Option<Rc<ServedBy>>,
}

enum Step {
    Next,
    /// The prompt is longer than this context: only a larger one will do.
    Larger(u64),
    End(Outcome),
}

/// Tries the candidates of a plan, the strategy's choice first, then in rounds as `retry` allows.
pub(crate) fn forward(ctx: &ForwardContext<'_>, plan: Plan) -> Outcome {
    let retry = &plan.retry.clone();
    if let Some(client) = ctx.client {
        client.hold_pings(plan.candidates.iter().any(|candidate| ctx.is_streamless(candidate)));
    }
    let mut admission = Selector::new(ctx, plan);
    let mut attempts_so_far = Attempts::new(ctx, retry);
    let mut tried = 0;
    for round in 0.. {
        if round > 0 {
            admission.next_round();
            let pause = retry::pause(retry, round, attempts_so_far.told.take(), random::unit());
            if ctx.request.cancel.wait_until(time::now() + pause, time::now) {
                return Outcome::ClientGone(attempts_so_far.last);
            }
        }
        while !admission.left().is_empty() {
            let (index, slot) = match admission.next() {
                Admitted::At(index, slot) => (index, slot),
                Admitted::ClientGone => return Outcome::ClientGone(attempts_so_far.last),
                Admitted::Refused(failure) if attempts_so_far.last.is_none() => return Outcome::Failed(failure, None),
                Admitted::Refused(_) => return attempts_so_far.give_up(),
            };
            if tried == 0 {
                attempts_so_far.reason = admission.reason(index);
                attempts_so_far.named = admission.plan.is_named;
            }
            attempts_so_far.queued = admission.queued;
            tried += 1;
            // The plan may have grown in the line.
            let any = tried < retry.attempts.unwrap_or(admission.plan.candidates.len() as u32);
            let candidate = &admission.plan.candidates[index];
            let larger = admission.has_larger(candidate.context);
            let left = Remaining { keys: false, candidates: any && !admission.left().is_empty(), any, larger };
            match attempts_so_far.candidate(candidate, left, slot) {
                Step::End(outcome) => return outcome,
                Step::Next if !any => return attempts_so_far.give_up(),
                Step::Next => attempts_so_far.reason = "retry",
                Step::Larger(context) => {
                    attempts_so_far.reason = "context";
                    admission.only_larger(context);
                }
            }
        }
    }
    attempts_so_far.give_up()
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
            kept: None,
            told: None,
            last: None,
        }
    }

    /// One endpoint, with its keys in turn.
    fn candidate(&mut self, candidate: &Candidate, left: Remaining, mut slot: Option<Slot>) -> Step {
        let endpoint = &candidate.endpoint;
        let retry = self.retry;
        let keys = endpoint.config.api_keys.len();
        let first = endpoint.live.next_key(keys);
        for turn in 0..keys.max(1) {
            if self.ctx.request.cancel.is_cancelled() {
                return Step::End(Outcome::ClientGone(self.last.take()));
            }
            let left = Remaining { keys: turn + 1 < keys, ..left };
            let key = endpoint.config.api_keys.get((first + turn) % keys.max(1));
            self.attempts += 1;
            let by = Rc::new(ServedBy {
                endpoint: Arc::clone(endpoint),
                model: candidate.rename.clone().or_else(|| self.ctx.ask.name().map(str::to_owned)),
                attempts: self.attempts,
                reason: self.reason,
                queued: self.queued,
                named: self.named,
                policy: self.ctx.policy,
            });
            self.last = Some(Rc::clone(&by));
            self.ctx.ongoing.at(endpoint.name());
            if let Some(client) = self.ctx.client {
                client.hold_pings(self.ctx.is_streamless(candidate));
                client.asking(|| relay::told(&by));
            }
            let labels = [self.group(), endpoint.name()];
            let began = time::now();
            let sent = self.send(candidate, key.map(|key| key.reveal()), left.candidates);
            self.ctx.metrics.count(Family::UpstreamRequests, &labels);
            self.ctx.metrics.time(Family::UpstreamDuration, &labels, time::now().saturating_duration_since(began));
            let mut answer = match sent {
                Ok(answer) => answer,
                Err(fault) => return self.faulted(endpoint, fault, retry, slot),
            };
            let verdict = self.weighed(&answer, endpoint, retry, left);
            let (name, id) = (endpoint.name(), self.ctx.request_id);
            let answered = || headers::answered(answer.status, &answer.headers);
            if verdict == RetryDecision::Permit {
                if answer.headers.contains_key(http::header::LOCATION) {
                    log::info!("endpoint {name} {} request_id={id}", answered());
                }
                answer.place = slot;
                return match first_byte::wait(&mut answer, self.ctx, &by) {
                    Ok(()) => Step::End(Outcome::Response(Box::new(answer), by)),
                    Err(fault) => self.faulted(endpoint, fault, retry, answer.place.take()),
                };
            }
            // S003-32: which key, never the key.
            let key = if keys > 1 { format!(" (key {} of {keys})", (first + turn) % keys + 1) } else { String::new() };
            log::info!("endpoint {name} {}{key}; trying elsewhere request_id={id}", answered());
            if let Some(outcome) = self.keep(answer, by, &mut slot) {
                return Step::End(outcome);
            }
            self.ctx.metrics.count(Family::Retries, &[endpoint.name(), verdict.as_str()]);
            match verdict {
                RetryDecision::NextKey => {}
                RetryDecision::Look => return self.looked_into(candidate.context),
                RetryDecision::Next | RetryDecision::Permit => return Step::Next,
            }
        }
        Step::Next
    }

    fn group(&self) -> &'a str {
        self.ctx.scope.group.as_ref().map_or("default", |group| &group.config.name)
    }

    /// A 400 that may say that the prompt is too long; any other is the client's.
    fn looked_into(&mut self, context: Option<u64>) -> Step {
        let told = self.kept.as_ref().and_then(|(kept, _)| retry::exceeded_context(&kept.body));
        match told.map(|told| told.or(context).unwrap_or(0)) {
            Some(context) => Step::Larger(context),
            None => match self.kept.take() {
                Some((kept, by)) => Step::End(Outcome::Buffered(kept, by)),
                None => Step::Next,
            },
        }
    }

    fn send(
        &self,
        candidate: &Candidate,
        key: Option<&str>,
        replaceable: bool,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let ForwardContext { net, request, ask, forward, .. } = self.ctx;
        let config = &candidate.endpoint.config;
        let rendered = ask.render(request, candidate.rename.as_deref());
        let path = match &rendered.query {
            Some(query) => format!("{}?{query}", forward.path),
            None => forward.path.clone(),
        };
        // What follows a ping must be readable, and so must the id of a response.
        let pinged = ask.stream && forward.streams_events() && self.ctx.snapshot.config.server.sse_ping.is_some();
        let client = headers::ClientInfo {
            peer: &request.peer_text,
            trusted: self.ctx.trusted,
            host: request.head.fields.get(http::header::HOST),
            request_id: self.ctx.request_id,
            keyed: self.ctx.keyed,
            policy: self.ctx.policy,
            may_compress: !pinged && !forward.makes_response(),
        };
        let mut timeouts = config.timeouts;
        // Whether a large body asks for a stream is not known.
        if config.stream && (ask.stream || ask.sealed || request.rest.is_some()) {
            timeouts.total = None;
        }
        let sent = time::now();
        let watch = Rc::clone(self.ctx.watch);
        let live = Arc::clone(&candidate.endpoint.live);
        let watch = if replaceable { Rc::new(first_byte::Replaceable { watch, live, sent }) } else { watch };
        let cancels = config.on_client_gone == crate::config::OnClientGone::Cancel;
        let order = UpstreamRequest {
            method: request.head.method.clone(),
            path: &path,
            raw: forward.names == ModelSource::Raw,
            headers: &|| headers::request(request.head.fields.iter(), &client, config, key),
            body: rendered.parts(),
            rest: request.rest.as_ref().map(|rest| BodyTail { from: rest, length: rest.borrow().length() }),
            timeouts,
            cancel: cancels.then(|| Arc::clone(&request.cancel)),
            watch: Some(watch),
        };
        let channel = net.channel(config)?;
        if let Some(id) = request.head.fields.get(paths::CONVERSATION) {
            self.ctx.shared.note_conversation(id.as_bytes(), candidate.endpoint.name());
        }
        candidate.endpoint.live.sent(sent, timeouts.first_byte);
        let result = channel.send(&order);
        if result.is_ok() {
            let endpoint = &candidate.endpoint;
            endpoint.live.moved(time::now());
            // No probe tells that it is back.
            if config.probe == Probe::Never && endpoint.health.state == State::Failing {
                self.tell(endpoint, Observation::Up);
            }
        }
        result
    }

    fn weighed(
        &mut self,
        answer: &UpstreamResponse,
        endpoint: &Endpoint,
        retry: &Retry,
        left: Remaining,
    ) -> RetryDecision {
        let told = retry::retry_after(&answer.headers, time::wall);
        if let (StatusCode::TOO_MANY_REQUESTS, Some(told)) = (answer.status, told) {
            endpoint.live.cool_down(time::now(), told);
        }
        self.told = self.told.max(told);
        if self.ctx.request.is_spent() {
            return RetryDecision::Permit;
        }
        retry::answer(answer.status, retry, left)
    }

    /// Keeps an error answer while others are tried; too long a one is the client's at once, from its first byte on.
    fn keep(&mut self, mut answer: UpstreamResponse, by: Rc<ServedBy>, slot: &mut Option<Slot>) -> Option<Outcome> {
        let mut body = Vec::new();
        let mut piece = [0; 4096];
        let usual = answer.end_by(Some(time::now() + KEEP_FOR));
        let fault = loop {
            if body.len() > KEEP || answer.length.is_some_and(|length| length > KEEP as u64) {
                answer.end_by(usual);
                answer.unread(body);
                answer.place = slot.take();
                return Some(Outcome::Response(Box::new(answer), by));
            }
            match answer.read(&mut piece) {
                Ok(0) => break None,
                Ok(n) => body.extend_from_slice(&piece[..n]),
                Err(fault) if fault.trouble == UpstreamErrorKind::ClientGone => {
                    return Some(Outcome::ClientGone(Some(by)));
                }
                Err(fault) => break Some(fault),
            }
        };
        // An error that broke off is worth less than none; one that takes too long still has its status.
        if let Some(fault) = fault.filter(|fault| !matches!(fault.trouble, UpstreamErrorKind::Timeout(_))) {
            self.faults.push((by.endpoint.name().to_owned(), fault));
            return None;
        }
        if answer.status == StatusCode::SERVICE_UNAVAILABLE && retry::is_loading(&body) {
            self.tell(&by.endpoint, Observation::Loading);
        }
        let kept = BufferedResponse { status: answer.status, headers: answer.headers, body };
        // A refusal of one endpoint's key or catalogue says less than a real error of another.
        let says_less = |status: StatusCode| matches!(status.as_u16(), 401..=404);
        if self.kept.as_ref().is_none_or(|(old, _)| !says_less(kept.status) || says_less(old.status)) {
            self.kept = Some((kept, by));
        }
        None
    }

    fn faulted(&mut self, endpoint: &Arc<Endpoint>, fault: UpstreamError, retry: &Retry, slot: Option<Slot>) -> Step {
        give_up(slot, endpoint, &fault);
        if fault.trouble == UpstreamErrorKind::ClientGone || self.ctx.request.cancel.is_cancelled() {
            return Step::End(Outcome::ClientGone(self.last.take()));
        }
        let rest = self.ctx.request.rest.as_ref();
        if let Some(failure) = rest.and_then(|rest| rest.borrow().refusal().cloned()) {
            return Step::End(Outcome::Failed(failure, self.last.take()));
        }
        let (what, id) = (retry::sentence(&fault), self.ctx.request_id);
        log::warn!("endpoint {} {what}: {} request_id={id}", endpoint.name(), fault.cause);
        let cause = || fault.cause.clone();
        let seen = match fault.trouble {
            UpstreamErrorKind::Refused => Some(Observation::Refused(cause())),
            UpstreamErrorKind::Connect => Some(Observation::Down(cause())),
            UpstreamErrorKind::Timeout(Stage::Connect) => Some(Observation::Down(what)),
            _ => None,
        };
        if fault.trouble == UpstreamErrorKind::Refused {
            endpoint.live.note_refused(time::now());
        }
        if let Some(seen) = seen {
            self.tell(endpoint, seen);
        }
        self.ctx.metrics.count(Family::UpstreamErrors, &["request_error", self.group(), endpoint.name()]);
        let again = retry::may_retry(&fault, retry) && !self.ctx.request.is_spent();
        if again {
            self.ctx.metrics.count(Family::Retries, &[endpoint.name(), retry::word(&fault)]);
        }
        self.faults.push((endpoint.name().to_owned(), fault));
        if again {
            return Step::Next;
        }
        Step::End(Outcome::Failed(retry::all_failed(&self.faults), self.last.take()))
    }

    /// Tells the health thread what a request found out. One that no probe would bring back rests from this moment on.
    fn tell(&self, endpoint: &Endpoint, seen: Observation) {
        if endpoint.config.probe == Probe::Never && seen != Observation::Up {
            endpoint.live.cool_down(time::now(), REST);
        }
        self.ctx.shared.notify(HealthEvent::Seen(endpoint.name().to_owned(), seen));
    }

    fn give_up(self) -> Outcome {
        match self.kept {
            Some((kept, by)) => {
                let (endpoint, model) = (Arc::clone(&by.endpoint), by.model.clone());
                let ServedBy { reason, queued, named, policy, .. } = *by;
                Outcome::Buffered(
                    kept,
                    Rc::new(ServedBy { endpoint, model, attempts: self.attempts, reason, queued, named, policy }),
                )
            }
            None => Outcome::Failed(retry::all_failed(&self.faults), self.last),
        }
    }
}

/// Gives back the slot of an attempt that failed, at once or when its server is through.
fn give_up(slot: Option<Slot>, endpoint: &Endpoint, fault: &UpstreamError) {
    if let Some(slot) = slot.filter(|_| endpoint.slots.is_some() && retry::works_on(fault)) {
        slot.abandon();
    }
}
