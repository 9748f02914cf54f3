//! The straight line of one request: route, gate, snapshot, ask, plan, forward, relay, access line.

use super::ask::{self, Ask};
use super::client::{self, Client};
use super::forward::{self, By, Errand, Outcome};
use super::relay::{self, Relayed};
use super::route::{Forward, Route, route};
use super::tokens::Tokens;
use super::{gate, views};
use crate::base::{clock, dice};
use crate::http::door::{Desk, LaneName, Refused};
use crate::http::head::{Fields, Head};
use crate::http::pool::Job;
use crate::http::reply::Reply;
use crate::http::request::Request;
use crate::model::failure::{Dialect, Failure, Kind};
use crate::model::peek;
use crate::model::plan::{self, Plan, Planned};
use crate::model::scope::Scope;
use crate::model::snapshot::{Notice, Shared, Snapshot};
use crate::observe::access::{self, End, Line};
use crate::upstream::Net;
use http::{HeaderName, HeaderValue, StatusCode, header};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Everything that serving a request needs. One per process.
pub struct Proxy {
    shared: Arc<Shared>,
    net: Arc<Net>,
    /// By listener: bound to a loopback address, so browsers of this machine reach it.
    loopback: Vec<bool>,
    draining: AtomicBool,
}

impl Proxy {
    /// A proxy over these endpoints; `loopback` tells of each listener whether it is one.
    pub fn new(shared: Arc<Shared>, net: Arc<Net>, loopback: Vec<bool>) -> Self {
        Self { shared, net, loopback, draining: AtomicBool::new(false) }
    }

    /// From now on the proxy says that it is being stopped.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.shared.capacity().close();
    }

    /// Serves one request of either lane.
    pub fn serve(&self, job: Job) {
        let Job { request, reply } = job;
        let snapshot = self.shared.load();
        let visit = Visit::new(&request.head, request.peer, request.began, &snapshot);
        let local = self.loopback.get(request.listener).copied().unwrap_or(false);
        if local
            && let Err(failure) =
                gate::check_host(request.head.fields.get(header::HOST), &snapshot.config.server.allowed_hosts)
        {
            return visit.refuse(reply, &request.head, &failure);
        }
        match route_of(&request.head) {
            Route::Models => visit.json(reply, &request, StatusCode::OK, &snapshot.catalog.listing),
            Route::Model(id) => self.model(&visit, reply, &request, &id, &snapshot),
            Route::Health => self.health(&visit, reply, &request),
            Route::ForceCheck => self.force_check(visit, reply, request),
            Route::Preflight => visit.preflight(reply, &request, &snapshot),
            Route::NotAllowed(methods) => visit.not_allowed(reply, &request.head, methods),
            Route::Unknown => {
                let text = "Nothing is served at this path; the API is below /v1/, /health and /v1/models tell more.";
                visit.refuse(reply, &request.head, &Failure::new(Kind::PathNotFound, text));
            }
            Route::Forward(forward) => self.forward(&visit, reply, &request, &forward, &snapshot),
        }
    }

    fn model(&self, visit: &Visit, reply: Reply, request: &Request, id: &str, snapshot: &Snapshot) {
        match snapshot.catalog.entry(id) {
            Some(entry) => visit.json(reply, request, StatusCode::OK, &entry),
            None => visit.refuse(reply, &request.head, &plan::not_found(snapshot, id, &Scope::default())),
        }
    }

    fn health(&self, visit: &Visit, reply: Reply, request: &Request) {
        let draining = self.draining.load(Ordering::SeqCst);
        let snapshot = self.shared.load();
        let strict = request.head.target.query().is_some_and(|q| q.split('&').any(|pair| pair == "strict=1"));
        let unwell = draining || (strict && !snapshot.is_healthy());
        let status = if unwell { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        visit.json(
            reply,
            request,
            status,
            views::health(&snapshot, self.shared.capacity().waiting(), draining).to_string().as_bytes(),
        );
    }

    /// Answered by the health thread when its round is done: no worker waits.
    fn force_check(&self, visit: Visit, reply: Reply, request: Request) {
        let shared = Arc::clone(&self.shared);
        let answer = Box::new(move || {
            let body = views::health(&shared.load(), shared.capacity().waiting(), false).to_string();
            visit.json(reply, &request, StatusCode::OK, body.as_bytes());
        });
        self.shared.notify(Notice::Force(answer));
    }

    fn forward(&self, visit: &Visit, reply: Reply, request: &Request, forward: &Forward, snapshot: &Snapshot) {
        let scope = Scope::default();
        let planned = ask::ask(request, forward).and_then(|ask| {
            let plan = self.plan(request, &ask, snapshot, &scope)?;
            Ok((ask, plan))
        });
        let (ask, (plan, fresh)) = match planned {
            Ok(planned) => planned,
            Err(failure) => return visit.refuse(reply, &request.head, &failure),
        };
        let snapshot = fresh.as_deref().unwrap_or(snapshot);
        let ping = snapshot.config.server.sse_ping.filter(|_| ask.stream).map(|ping| (ping, request.began));
        let common = Arc::clone(&visit.common);
        let client = Rc::new(Client::new(reply, common, visit.dialect, Arc::clone(&request.gone), ping));
        let trusted = snapshot.config.server.trusted_proxies.iter().any(|network| network.contains(request.peer));
        let errand = Errand {
            net: &self.net,
            shared: &self.shared,
            snapshot,
            request,
            ask: &ask,
            forward,
            client: &client,
            request_id: &visit.id,
            trusted,
            scope: &scope,
            background: false,
        };
        let is_head = request.head.method == http::Method::HEAD;
        let (status, by, relayed) = match forward::forward(&errand, plan) {
            Outcome::Answer(answer, by, _slot) => {
                let status = answer.status;
                (status.as_u16(), Some(by.clone()), relay::relay(*answer, &client, &by, is_head))
            }
            Outcome::Kept(kept, by) => (kept.status.as_u16(), Some(by.clone()), relay::deliver(&kept, &client, &by)),
            Outcome::Failed(failure, by) => {
                client.fail(&failure, &by.as_deref().map(relay::told).unwrap_or_default());
                let end = match failure.kind {
                    Kind::UpstreamTimeout => End::Timeout,
                    Kind::Overloaded | Kind::QueueTimeout | Kind::Draining => End::Refused,
                    _ => End::UpstreamLost,
                };
                (failure.kind.status(), by, nothing_relayed(end))
            }
            Outcome::Gone(by) => {
                client.cut();
                (499, by, nothing_relayed(End::ClientGone))
            }
        };
        let status = if relayed.end == End::ClientGone { 499 } else { status };
        if relayed.end == End::ClientGone {
            self.end_conversation(request, by.as_deref());
        }
        visit.log(
            &request.head,
            status,
            client.sent(),
            &Outline { ask: Some(&ask), by: by.as_deref(), relayed: &relayed },
        );
    }

    /// The plan, after one refresh of the catalogue if nobody is known to serve the name.
    fn plan(
        &self,
        request: &Request,
        ask: &Ask,
        snapshot: &Snapshot,
        scope: &Scope,
    ) -> Result<(Plan, Option<Arc<Snapshot>>), Failure> {
        match plan::plan(snapshot, ask.wish(), scope, clock::now()) {
            Planned::Plan(plan) => return Ok((plan, None)),
            Planned::Refused(failure) => return Err(failure),
            Planned::Unknown => {}
        }
        // A probe round is bounded by its own time-out; a little more for its bookkeeping.
        let until = clock::now() + snapshot.config.health_check.timeout + Duration::from_secs(1);
        self.shared.refresh(&request.gone, until);
        let fresh = self.shared.load();
        match plan::plan(&fresh, ask.wish(), scope, clock::now()) {
            Planned::Plan(plan) => Ok((plan, Some(fresh))),
            Planned::Refused(failure) => Err(failure),
            Planned::Unknown => {
                let name = ask.name().unwrap_or_default();
                let plan = plan::unknown(&fresh, name, scope)?;
                log::warn!(
                    "model {} is not served; it goes to {} ({})",
                    plan::shown(name),
                    plan.candidates[0].endpoint.name(),
                    plan.reason
                );
                Ok((plan, Some(fresh)))
            }
        }
    }

    /// llama-server keeps a generation alive for `X-Conversation-Id` after its client has left: since the
    /// client's leaving is passed on, that is ended too (LLAMA-SERVER facts).
    fn end_conversation(&self, request: &Request, by: Option<&By>) {
        let name = HeaderName::from_static("x-conversation-id");
        let (Some(by), Some(id)) = (by, request.head.fields.get(name).and_then(|v| v.to_str().ok())) else {
            return;
        };
        if by.endpoint.config.on_client_gone == crate::config::OnClientGone::Finish {
            return;
        }
        let id: String = id
            .bytes()
            .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
            .collect();
        let path = format!("/v1/stream?conv_id={id}");
        let order = crate::upstream::Order {
            method: http::Method::DELETE,
            path: &path,
            headers: crate::upstream::headers::own(&by.endpoint.config),
            body: [&[], &[], &[]],
            timeouts: crate::config::Timeouts { total: Some(Duration::from_secs(2)), ..by.endpoint.config.timeouts },
            gone: None,
            watch: None,
        };
        let sent = self.net.channel(&by.endpoint.config).and_then(|channel| channel.send(&order));
        if let Err(fault) = sent {
            log::debug!("endpoint {}: the conversation could not be ended: {}", by.endpoint.name(), fault.cause);
        }
    }
}

impl Desk for Proxy {
    fn lane(&self, head: &Head) -> LaneName {
        match route_of(head) {
            Route::Forward(_) if !self.draining.load(Ordering::SeqCst) => LaneName::Proxy,
            _ => LaneName::Control,
        }
    }

    fn refuse(&self, refused: Refused<'_>, reply: Reply) {
        let snapshot = self.shared.load();
        match refused.head {
            Some(head) => {
                Visit::new(head, refused.peer, refused.began, &snapshot).refuse(reply, head, &refused.failure)
            }
            None => Visit::unread(refused.peer, refused.began).turn_away(reply, "-", "-", &refused.failure),
        }
    }

    fn left(&self, request: &Request, reply: Reply) {
        reply.cut();
        let visit = Visit::new(&request.head, request.peer, request.began, &self.shared.load());
        let relayed = nothing_relayed(End::ClientGone);
        visit.log(&request.head, 499, 0, &Outline { ask: None, by: None, relayed: &relayed });
    }
}

fn nothing_relayed(end: End) -> Relayed {
    Relayed { end, first_byte: None, tokens: Tokens::default() }
}

fn route_of(head: &Head) -> Route {
    let has_model = head.target.query().is_some_and(|q| matches!(peek::query_model(q), Ok(Some(_))));
    route(&head.method, &head.target.canonical(), has_model)
}

/// One request as the access line and every answer of ours see it.
struct Visit {
    id: String,
    peer: IpAddr,
    began: Instant,
    dialect: Dialect,
    /// Request id and CORS, on every answer.
    common: Arc<Fields>,
    access: bool,
}

struct Outline<'a> {
    ask: Option<&'a Ask>,
    by: Option<&'a By>,
    relayed: &'a Relayed,
}

impl Visit {
    fn new(head: &Head, peer: IpAddr, began: Instant, snapshot: &Snapshot) -> Self {
        let id = gate::request_id(head).unwrap_or_else(dice::request_id);
        let mut common = with_id(&id);
        gate::add_cors(&mut common, &snapshot.config.server.cors, head);
        let dialect = Dialect::of(head.target.path());
        Self { id, peer, began, dialect, common: Arc::new(common), access: snapshot.config.log.access }
    }

    /// A request whose head was not understood.
    fn unread(peer: IpAddr, began: Instant) -> Self {
        let id = dice::request_id();
        let common = Arc::new(with_id(&id));
        Self { id, peer, began, dialect: Dialect::OpenAi, common, access: true }
    }

    fn json(&self, reply: Reply, request: &Request, status: StatusCode, body: &[u8]) {
        let mut fields = Fields::clone(&self.common);
        fields.push(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        reply.send(status, &fields, body);
        self.done(&request.head, status, body.len());
    }

    fn preflight(&self, reply: Reply, request: &Request, snapshot: &Snapshot) {
        match gate::preflight(&snapshot.config.server.cors, &request.head) {
            Err(failure) => self.refuse(reply, &request.head, &failure),
            Ok(answer) => {
                let mut fields = Fields::clone(&self.common);
                for (name, value) in answer.iter() {
                    fields.push(name.clone(), value.clone());
                }
                reply.send(StatusCode::NO_CONTENT, &fields, &[]);
                self.done(&request.head, StatusCode::NO_CONTENT, 0);
            }
        }
    }

    fn not_allowed(&self, reply: Reply, head: &Head, methods: &'static str) {
        let failure = Failure::new(Kind::MethodNotAllowed, format!("This path takes {methods} only."));
        let (mut fields, body) = client::refusal(&failure, self.dialect, &self.common);
        fields.push(header::ALLOW, HeaderValue::from_static(methods));
        reply.send(client::status(&failure), &fields, &body);
        self.done(head, client::status(&failure), body.len());
    }

    fn refuse(&self, reply: Reply, head: &Head, failure: &Failure) {
        self.turn_away(reply, head.method.as_str(), head.target.path(), failure);
    }

    fn turn_away(&self, reply: Reply, method: &str, path: &str, failure: &Failure) {
        let (fields, body) = client::refusal(failure, self.dialect, &self.common);
        reply.send(client::status(failure), &fields, &body);
        let (status, _, code) = failure.kind.wire();
        self.write(
            method,
            path,
            Line { end: End::Refused, reason: Some(code), ..self.line(status, body.len() as u64) },
        );
        // Who speaks something else than HTTP here cannot read the answer: the log says what it was.
        let level = if path == "-" { log::Level::Info } else { log::Level::Debug };
        log::log!(level, "request {} of {} refused: {}", self.id, self.peer, failure.message);
    }

    fn done(&self, head: &Head, status: StatusCode, bytes: usize) {
        self.write(head.method.as_str(), head.target.path(), self.line(status.as_u16(), bytes as u64));
    }

    fn log(&self, head: &Head, status: u16, bytes: u64, outline: &Outline<'_>) {
        let Outline { ask, by, relayed } = outline;
        let line = Line {
            model: by.and_then(|by| by.model.as_deref()).or_else(|| ask.and_then(Ask::name)),
            endpoint: by.map(|by| by.endpoint.name()),
            reason: by.map(|by| by.reason),
            attempts: by.map_or(0, |by| by.attempts),
            queue: by.map(|by| by.queued).filter(|queued| !queued.is_zero()),
            first_byte: relayed.first_byte.map(|at| at.saturating_duration_since(self.began)),
            tokens_in: relayed.tokens.prompt,
            tokens_cached: relayed.tokens.cached,
            tokens_out: relayed.tokens.completion,
            tokens_per_second: relayed.tokens.per_second,
            end: relayed.end,
            ..self.line(status, bytes)
        };
        self.write(head.method.as_str(), head.target.path(), line);
    }

    fn line(&self, status: u16, bytes: u64) -> Line<'_> {
        Line {
            request_id: &self.id,
            client: self.peer,
            key: None,
            method: "",
            path: "",
            model: None,
            endpoint: None,
            reason: None,
            status,
            attempts: 0,
            queue: None,
            first_byte: None,
            total: clock::now().saturating_duration_since(self.began),
            bytes,
            tokens_in: None,
            tokens_cached: None,
            tokens_out: None,
            tokens_per_second: None,
            end: End::Done,
        }
    }

    fn write(&self, method: &str, path: &str, line: Line<'_>) {
        if self.access {
            access::record(&Line { method, path, ..line }, log::Level::Info);
        }
    }
}

fn with_id(id: &str) -> Fields {
    let mut fields = Fields::with_capacity(4);
    if let Ok(value) = HeaderValue::from_str(id) {
        fields.push(HeaderName::from_static("x-request-id"), value);
    }
    fields
}
