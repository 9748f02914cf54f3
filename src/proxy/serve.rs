//! One request in a straight line: snapshot, route, key, body, plan, attempts, relay, access line.

use super::outcome::{ForwardContext, Outcome, Relayed, ServedBy};
use super::state::Proxy;
use super::{forward, relay, select};
use crate::api::errors::{Failure, Kind};
use crate::api::paths::{self, Forward, ModelSource, Route, Trait};
use crate::api::query::encoded;
use crate::config::{Mode, OnClientGone, SsePing, Strategy};
use crate::http::handler::ServerHandle;
use crate::http::head::Head;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::observe::access::End;
use crate::observe::active::Activity;
use crate::observe::metrics::{Family, Gauge};
use crate::proxy::body::{self, RequestBody};
use crate::proxy::context::RequestContext;
use crate::proxy::downstream::{Downstream, Sink};
use crate::proxy::status::RuntimeStats;
use crate::proxy::{auth, status};
use crate::routing::affinity::Prompt;
use crate::routing::endpoint::Endpoint;
use crate::routing::keys::{ClientKey, Permit};
use crate::routing::plan::{self, ModelQuery, NoPlan, Plan, View};
use crate::routing::rate_limit::Quota;
use crate::routing::recall::{self, Sent};
use crate::routing::scope::Scope;
use crate::routing::snapshot::{HealthEvent, Snapshot};
use crate::upstream::headers::{INSTANCE, Policy};
use crate::util::time;
use http::{StatusCode, header};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

impl Proxy {
    /// Serves one request.
    pub(super) fn serve_request(&self, mut request: Request, response: &mut Response) {
        let snapshot = self.shared.load();
        let (route, decided) = self.decide(&mut request, &snapshot);
        let mut context = self.context(&request.head, request.from, request.began, &snapshot, &route);
        let mode = self.mode(&snapshot, request.from.listener);
        if route == Route::Admin
            && let Some(page) = self.page(&snapshot, request.from.listener)
        {
            return page.serve(context, request, response);
        }
        let client_key = match self.authorize(&mut context, &request, &route, &snapshot, decided) {
            Ok(client_key) => client_key,
            Err(failure) => return context.refuse(response, &failure),
        };
        context.record.key.clone_from(&client_key.name);
        match route {
            Route::Models if request.head.fields.get(header::VIA).is_some() => {
                context.add_field(INSTANCE, Some(self.clients.pseudonym().name.clone()));
                let listing = self.listing_for_proxy(&request.head, &snapshot, &client_key.scope);
                context.json(response, StatusCode::OK, &listing);
            }
            Route::Models => context.json(response, StatusCode::OK, &snapshot.listing(&client_key.scope).text),
            Route::Model(id) => match snapshot.listing(&client_key.scope).entry(&id) {
                Some(entry) => context.json(response, StatusCode::OK, entry),
                None => {
                    context.refuse(response, &View { snapshot: &snapshot, scope: &client_key.scope }.not_found(&id))
                }
            },
            Route::Health if mode == Mode::Status => context.text(response, "OK"),
            Route::Health => self.health(&context, &client_key, response, request.head.target.query()),
            Route::Metrics if self.has_metrics(&snapshot, request.from.listener) => {
                context.text(response, &self.metrics.render(&self.gauges(&snapshot)));
            }
            Route::ForceCheck => self.force_check(context, client_key.scope, response),
            Route::Preflight => {
                let rules = self.cors(&snapshot, request.from.listener).unwrap_or_default();
                context.preflight(response, &request.head, rules);
            }
            Route::NotAllowed(methods) => context.not_allowed(response, methods),
            Route::Job(..) | Route::Jobs if self.job_store().is_some() => {
                self.job_request(context, route, response, request)
            }
            Route::Unknown | Route::Metrics | Route::Job(..) | Route::Jobs | Route::Admin => {
                let text = "Unknown path. The API is below /v1/; see also GET /health and GET /v1/models.";
                context.refuse(response, &Failure::new(Kind::PathNotFound, text));
            }
            Route::Forward(forward) => {
                if let Err(failure) = body::check_models(&request, &forward, &client_key.scope) {
                    return context.refuse(response, &failure);
                }
                let _permit = match permit(&mut context, &client_key) {
                    Ok(permit) => permit,
                    Err(failure) => return context.refuse(response, &failure),
                };
                if let Some(answer) = self.submit_job(&context, &client_key, &request, &forward) {
                    return context.local(response, answer);
                }
                self.forward(&Authorized { context, client_key, snapshot }, response, &request, &forward);
            }
        }
    }

    /// The client key of a request that may be served: it is not a proxy loop, and its address is within `rateLimit`.
    fn authorize(
        &self,
        context: &mut RequestContext,
        request: &Request,
        route: &Route,
        snapshot: &Snapshot,
        decided: Option<Result<ClientKey, Failure>>,
    ) -> Result<ClientKey, Failure> {
        if self.clients.pseudonym().is_in(request.head.fields.all("via")) {
            let text = "Proxy loop: an endpoint forwards requests back to this proxy (Via).";
            return Err(Failure::new(Kind::Loop, text));
        }
        let client_key = decided.unwrap_or_else(|| self.client_key(&request.head, request.from, route, snapshot))?;
        let listener = &self.listeners[request.from.listener];
        let limit = listener.policy(&snapshot.config).and_then(|policy| policy.rate_limit);
        if let Some(limit) = limit.filter(|_| route.is_limited()) {
            let quota = listener.buckets.take(context.record.client, &limit, time::now());
            context.report_limit(&quota);
            refuse_above(&quota, "Too many requests from this address (rateLimit).")?;
        }
        Ok(client_key)
    }

    /// The model list for another proxy, without the models known from that proxy alone: two proxies that are each other's
    /// endpoints would keep the models of a dead server.
    fn listing_for_proxy(&self, head: &Head, snapshot: &Snapshot, scope: &Scope) -> Arc<[u8]> {
        let asks = |endpoint: &Endpoint| {
            self.clients.client(&endpoint.config).is_ok_and(|client| client.is_in(head.fields.all("via")))
        };
        let Snapshot { endpoints, config, .. } = snapshot;
        snapshot.catalog.listing(endpoints, &config.models, scope, |endpoint| !asks(endpoint)).text
    }

    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    fn gauges(&self, snapshot: &Snapshot) -> Vec<Gauge> {
        status::gauges(snapshot, &self.stats())
    }

    /// Current values of the gauges.
    pub(crate) fn stats(&self) -> RuntimeStats {
        RuntimeStats {
            waiting: self.shared.capacity.waiting(),
            busy: self.busy.load(Ordering::Relaxed),
            connections: self.server_handle.get().map_or(0, ServerHandle::connections),
            reloaded: self.reloaded.load(Ordering::Relaxed),
            jobs: self.job_store().map(|job_store| job_store.counts().to_vec()).unwrap_or_default(),
        }
    }

    /// Answered by the health thread after its round, so that no worker waits.
    fn force_check(&self, context: RequestContext, scope: Arc<Scope>, response: &mut Response) {
        let shared = Arc::clone(&self.shared);
        let mut response = response.detach();
        let answer = Box::new(move || {
            let body = status::health(&shared.load(), &scope, shared.capacity.waiting(), false).to_string();
            context.json(&mut response, StatusCode::OK, body.as_bytes());
        });
        self.shared.notify(HealthEvent::Force(answer));
    }

    fn forward(&self, authorized: &Authorized, response: &mut Response, request: &Request, forward: &Forward) {
        let Authorized { context, client_key, snapshot } = authorized;
        let _busy = Busy::new(&self.busy);
        let listener = request.from.listener;
        let origin = Origin {
            context,
            scope: &client_key.scope,
            trusted: snapshot.config.server.trusted_proxies.iter().any(|network| network.contains(request.from.peer)),
            background: auth::is_background(&request.head, client_key),
            keyed: !self.asks_nothing(snapshot, listener) || auth::has_our_key(&request.head, snapshot),
            policy: self.policy(snapshot, listener),
            ping: snapshot.config.server.sse_ping,
        };
        match self.send(&origin, request, forward, snapshot, || Sink::Client(response.detach())) {
            Ok(Some(Sink::Client(done))) => *response = done,
            Ok(_) => {}
            Err(refused) => context.refuse_model(response, refused.1.as_deref(), &refused.0),
        }
    }

    /// Sends a request of a client or a job, delivers the answer to `sink`, which is returned, and writes the access line.
    ///
    /// # Errors
    /// The body cannot be read or no endpoint may serve it; with the name of the model. `sink` was not used.
    pub(super) fn send(
        &self,
        origin: &Origin<'_>,
        request: &Request,
        forward: &Forward,
        snapshot: &Arc<Snapshot>,
        sink: impl FnOnce() -> Sink,
    ) -> Result<Option<Sink>, Box<(Failure, Option<String>)>> {
        let Origin { context, scope, trusted, background, keyed, policy, .. } = *origin;
        let body = body::read(request, forward).map_err(|failure| Box::new((failure, None)))?;
        let planned = match self.known_plan(request, forward, snapshot, scope) {
            Some(plan) => Ok((plan, None)),
            None => self.plan(request, &body, snapshot, scope),
        };
        let (plan, fresh) = planned.map_err(|failure| {
            if failure.kind == Kind::NoEndpoint {
                self.metrics.count(Family::UpstreamErrors, &["select_error", scope.group_name(), "none"]);
            }
            Box::new((failure, body.name().map(str::to_owned)))
        })?;
        let snapshot = fresh.as_deref().unwrap_or(snapshot);
        let active = self.activity.begin(&context.record, body.name(), request.began, &request.cancel);
        // Embeddings and the like find nothing in a cache; an API that is not known here may.
        let generates = forward.has(Trait::Pings);
        let is_unknown = matches!(forward.source, ModelSource::BodyOnly | ModelSource::Raw);
        let needs_prompt = forward.takes_slot(&request.head.method)
            && match plan.strategy {
                Strategy::Affinity => generates || is_unknown,
                _ => generates && active.active.is_shown(),
            };
        let prompt = needs_prompt.then(|| select::prompt(&self.shared.affinity, request, &body, &plan.route));
        let ping = origin.ping.filter(|_| body.stream && forward.has(Trait::Pings)).map(|ping| (ping, request.began));
        let (common, cancel) = (Arc::clone(&context.common), Arc::clone(&request.cancel));
        let client =
            Downstream::new(sink(), common, context.record.row.dialect, cancel, ping, Arc::clone(&active.active));
        let ctx = ForwardContext {
            clients: &self.clients,
            shared: &self.shared,
            snapshot,
            request,
            body: &body,
            forward,
            client: &Rc::new(client),
            queued: &Cell::default(),
            request_id: &context.record.request_id,
            trusted,
            scope,
            prompt: prompt.as_ref(),
            background,
            keyed,
            policy,
            metrics: &self.metrics,
            active: &active.active,
        };
        self.exchange(&ctx, context, plan);
        Ok(ctx.client.take_sink())
    }

    fn exchange(&self, ctx: &ForwardContext<'_>, context: &RequestContext, plan: Plan) {
        let ForwardContext { request, client, active, .. } = *ctx;
        let is_head = request.head.method == http::Method::HEAD;
        let routing = |served_by: &Option<Rc<ServedBy>>| served_by.as_deref().map(relay::routing_fields);
        // A request with `previous_response_id` does not contain the earlier messages.
        let has_messages =
            |prompt: &&Prompt| prompt.messages > 0 && !matches!(ctx.body.query(), ModelQuery::Follow(..));
        let prompt = ctx.prompt.filter(|_| ctx.forward.has(Trait::Pings) && active.is_shown()).filter(has_messages);
        let before = prompt.and_then(|prompt| self.recall.before(prompt, &plan));
        let remember = |served_by: &ServedBy, tokens| {
            prompt.inspect(|prompt| self.recall.remember(prompt, &served_by.endpoint.live, tokens)).is_some()
        };
        let (status, served_by, mut relayed) = match forward::forward(ctx, plan) {
            Outcome::Response(answer, served_by) => {
                let status = answer.status.as_u16();
                if status == 200 {
                    // Before the client can continue.
                    remember(&served_by, None);
                }
                let relayed = relay::relay(*answer, client, &served_by, is_head, ctx.forward.has(Trait::Ends));
                (status, Some(served_by), relayed)
            }
            Outcome::Buffered(buffered, served_by) => {
                let status = buffered.status.as_u16();
                let relayed = relay::send_buffered(buffered, client, &served_by);
                (status, Some(served_by), relayed)
            }
            Outcome::Failed(failure, served_by) => {
                client.fail(&failure, &routing(&served_by).unwrap_or_default());
                (failure.kind.status(), served_by, Relayed::nothing(relay::end(failure.kind)))
            }
            Outcome::ClientGone(served_by) if active.is_stopped() => {
                client.fail(&relay::stopped(), &routing(&served_by).unwrap_or_default());
                (Kind::Stopped.status(), served_by, Relayed::nothing(End::Refused))
            }
            Outcome::ClientGone(served_by) => {
                client.abort();
                (499, served_by, Relayed::nothing(End::ClientGone))
            }
        };
        if let Some(served_by) = &served_by {
            relay::note_tokens(&relayed, served_by);
            if status == 200 && remember(served_by, relayed.tokens.prompt) {
                let ServedBy { endpoint, attempts, reason, .. } = &**served_by;
                let sent = Sent { live: &endpoint.live, attempts: *attempts, reason };
                relayed.recomputed = recall::recomputed(before, &sent, &relayed.tokens);
            }
            let finishes = served_by.endpoint.config.on_client_gone == OnClientGone::Finish;
            if active.is_stopped() || relayed.end == End::ClientGone && !finishes {
                self.end_conversation(request, served_by);
            }
        }
        let status = if relayed.end == End::ClientGone { 499 } else { status };
        context.log(status, ctx, served_by.as_deref(), &relayed);
    }

    /// The plan of a request about a conversation whose endpoint is known.
    fn known_plan(&self, request: &Request, forward: &Forward, snapshot: &Snapshot, scope: &Scope) -> Option<Plan> {
        let named = request.head.fields.get(paths::CONVERSATION).map(|value| value.as_bytes());
        let id = forward.conversation(request.head.target.query(), named)?;
        View { snapshot, scope }.at(&self.shared.conversations.get(&*id)?)
    }

    /// The plan, after one refresh of the catalog if no endpoint is known to serve the model.
    pub(super) fn plan(
        &self,
        request: &Request,
        body: &RequestBody<'_>,
        snapshot: &Snapshot,
        scope: &Scope,
    ) -> Result<(Plan, Option<Arc<Snapshot>>), Failure> {
        if body.sealed && !(scope.models.is_empty() && (body.name().is_some() || snapshot.config.models.is_empty())) {
            return Err(body::unreadable());
        }
        let editable = |plan: Plan| if body.sealed && plan.has_edits() { Err(body::unreadable()) } else { Ok(plan) };
        let planned = |snapshot: &Snapshot| {
            let planned = View { snapshot, scope }.plan(body.query(), body, time::now());
            if plan::is_degraded(&planned) {
                self.shared.want();
            }
            Ok(editable(planned?)?)
        };
        match planned(snapshot) {
            Ok(plan) => return Ok((plan, None)),
            Err(NoPlan::Refused(failure)) if body.sealed && failure.kind == Kind::ModelRequired => {
                return Err(body::unreadable());
            }
            Err(NoPlan::Refused(failure)) => return Err(failure),
            Err(NoPlan::Unknown) => {}
        }
        self.shared.refresh(&request.cancel);
        let fresh = self.shared.load();
        match planned(&fresh) {
            Ok(plan) => Ok((plan, Some(fresh))),
            Err(NoPlan::Refused(failure)) => Err(failure),
            Err(NoPlan::Unknown) => {
                let name = body.name().unwrap_or_default();
                let plan = editable(View { snapshot: &fresh, scope }.unknown(body.query(), body, time::now())?)?;
                let first = plan.first();
                let model = plan::shown(first.rename.as_deref().unwrap_or(name));
                let (name, endpoint) = (plan::shown(name), first.endpoint.name());
                log::warn!("model {name} is not served; using {model} at {endpoint} instead ({})", plan.reason);
                Ok((plan, Some(fresh)))
            }
        }
    }

    /// llama-server continues a generation with an `X-Conversation-Id` after a disconnect, so it is ended explicitly
    /// (LLAMA-SERVER facts).
    fn end_conversation(&self, request: &Request, served_by: &ServedBy) {
        let Some(id) = request.head.fields.get(paths::CONVERSATION).and_then(|value| value.to_str().ok()) else {
            return;
        };
        let path = format!("/v1/stream?conv_id={}", encoded(id));
        let ending = crate::upstream::UpstreamRequest {
            method: http::Method::DELETE,
            path: &path,
            raw: false,
            headers: &|| crate::upstream::headers::own(&served_by.endpoint.config),
            body: Vec::new(),
            tail: None,
            timeouts: crate::config::Timeouts {
                total: Some(Duration::from_secs(2)),
                ..served_by.endpoint.config.timeouts
            },
            cancel: None,
            watch: None,
        };
        let sent = self.clients.client(&served_by.endpoint.config).and_then(|client| client.send(&ending));
        if let Err(fault) = sent {
            log::debug!("endpoint {}: the conversation could not be ended: {}", served_by.endpoint.name(), fault.cause);
        }
    }
}

/// Counts one until it is dropped.
struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Properties of the sender, a client or a job, that determine how a request is forwarded.
pub(super) struct Origin<'a> {
    pub(super) context: &'a RequestContext,
    pub(super) scope: &'a Scope,
    /// Its peer is a trusted proxy.
    pub(super) trusted: bool,
    pub(super) background: bool,
    /// Its credentials are for this proxy and are not forwarded.
    pub(super) keyed: bool,
    pub(super) policy: Policy,
    pub(super) ping: Option<SsePing>,
}

/// A request that may be forwarded.
struct Authorized {
    context: RequestContext,
    client_key: ClientKey,
    snapshot: Arc<Snapshot>,
}

/// A permit within `maxParallel` and `rateLimit` of the key.
fn permit(context: &mut RequestContext, client_key: &ClientKey) -> Result<Permit, Failure> {
    let second = Duration::from_secs(1);
    let Some(permit) = client_key.enter() else {
        let text = "Too many concurrent requests with this key (maxParallel).";
        return Err(Failure::new(Kind::RateLimited, text).retry_after(second));
    };
    if let Some(quota) = client_key.take(time::now()) {
        context.report_limit(&quota);
        refuse_above(&quota, "Too many requests with this key (rateLimit).")?;
    }
    Ok(permit)
}

fn refuse_above(quota: &Quota, text: &str) -> Result<(), Failure> {
    if quota.granted { Ok(()) } else { Err(Failure::new(Kind::RateLimited, text).retry_after(quota.retry_after)) }
}
