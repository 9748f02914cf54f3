//! A request that nobody waits for, sent like any other and behind all others; its answer is read whole.

use super::outcome::{ForwardContext, Outcome, Relayed, ServedBy};
use super::state::Proxy;
use super::{forward, relay};
use crate::api::errors::{Failure, Kind};
use crate::api::paths::Forward;
use crate::api::usage::Tail;
use crate::http::head::{Head, Limits, Parser};
use crate::http::request::{Body, Request};
use crate::observe::access::End;
use crate::observe::active::{ActiveRequest, Started};
use crate::proxy::body::ask;
use crate::proxy::context::{Entry, RequestContext, Summary, nothing_relayed};
use crate::routing::scope::Scope;
use crate::upstream::headers::Policy;
use crate::upstream::{UpstreamError, UpstreamErrorKind, UpstreamResponse, Watch};
use crate::util::cancel::CancelToken;
use crate::util::time;
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// What is kept of an answer at most.
const MOST: usize = 32 << 20;
const READ: usize = 32 << 10;

pub struct Background<'a> {
    pub(crate) id: &'a str,
    /// Where it goes below an endpoint's base.
    pub path: &'a str,
    pub(crate) scope: Arc<Scope>,
    pub(crate) cancel: &'a Arc<CancelToken>,
}

pub enum Ended {
    Answered {
        status: u16,
        events: bool,
        body: Vec<u8>,
    },
    /// None.
    Failed(Failure),
    ClientGone,
}

/// Nobody is kept alive by comment lines.
struct Nobody;

impl Watch for Nobody {
    fn silent(&self, _: Instant) -> Option<Instant> {
        None
    }
}

impl Proxy {
    /// Sends it with a body, which is given back, and reads the answer.
    pub fn run(&self, order: &Background<'_>, body: &mut Body) -> Ended {
        let Some(head) = head(order, body.bytes().len()) else {
            return Ended::Failed(Failure::new(Kind::Internal, "The request cannot be sent."));
        };
        let peer = IpAddr::from(Ipv4Addr::LOCALHOST);
        let request = Request {
            head,
            body: std::mem::replace(body, Body::new(self.budget.hold(None))),
            rest: None,
            peer,
            peer_text: peer.to_string().into(),
            listener: 0,
            began: time::now(),
            cancel: Arc::clone(order.cancel),
            decided: None,
        };
        let ended = self.send(order, &request);
        *body = request.body;
        ended
    }

    fn send(&self, order: &Background<'_>, request: &Request) -> Ended {
        let peer = request.peer;
        let snapshot = self.shared.load();
        let activity = Arc::clone(&self.activity);
        let here = Entry { forward: "jobs".into(), metrics: Arc::clone(&self.metrics), activity };
        let context = RequestContext::new(&request.head, peer, request.began, &snapshot, here);
        let forward = Forward::post(order.path);
        let planned =
            ask(request, &forward).and_then(|ask| Ok((self.plan(request, &ask, &snapshot, &order.scope)?, ask)));
        let ((plan, fresh), ask) = match planned {
            Ok(planned) => planned,
            Err(failure) => return Ended::Failed(failure),
        };
        let watch: Rc<dyn Watch> = Rc::new(Nobody);
        let shown = self.activity.begin(&Started {
            id: order.id,
            client: peer,
            key: Some("job".into()),
            path: order.path,
            model: ask.name(),
            began: request.began,
            cancel: order.cancel,
        });
        let queued = Cell::default();
        let ctx = ForwardContext {
            net: &self.net,
            shared: &self.shared,
            snapshot: fresh.as_deref().unwrap_or(&snapshot),
            request,
            ask: &ask,
            forward: &forward,
            watch: &watch,
            client: None,
            queued: &queued,
            request_id: order.id,
            trusted: false,
            scope: &order.scope,
            background: true,
            keyed: true,
            policy: Policy::default(),
            metrics: &self.metrics,
            ongoing: &shown,
        };
        let (ended, status, by, relayed) = match forward::forward(&ctx, plan) {
            Outcome::Response(answer, by) => {
                let (status, events) = (answer.status.as_u16(), relay::is_event_stream(&answer.headers));
                let (read, relayed) = whole(*answer, &by);
                let ended = match read {
                    Ok(body) => Ended::Answered { status, events, body },
                    Err(fault) if fault.trouble == UpstreamErrorKind::ClientGone => cancel(&shown),
                    Err(fault) => {
                        let name = by.endpoint.name();
                        log::warn!("upstream_lost: endpoint {name}: {} request_id={}", fault.cause, order.id);
                        let text = format!("The endpoint `{name}` was lost in the middle of its answer.");
                        Ended::Failed(Failure::new(Kind::Upstream, text))
                    }
                };
                (ended, status, Some(by), relayed)
            }
            Outcome::Buffered(kept, by) => {
                let status = kept.status.as_u16();
                let ended = Ended::Answered { status, events: false, body: kept.body };
                (ended, status, Some(by), nothing_relayed(End::Done))
            }
            Outcome::Failed(failure, by) => {
                let (status, end) = (failure.kind.status(), relay::end(failure.kind));
                (Ended::Failed(failure), status, by, nothing_relayed(end))
            }
            Outcome::ClientGone(by) => (cancel(&shown), 499, by, nothing_relayed(End::ClientGone)),
        };
        if let Some(by) = &by {
            relay::note_tokens(&relayed, by, false);
        }
        let bytes = if let Ended::Answered { body, .. } = &ended { body.len() as u64 } else { 0 };
        let outline = Summary { ask: Some(&ask), by: by.as_deref(), relayed: &relayed, queued: queued.get() };
        context.log(&request.head, status, bytes, &outline);
        ended
    }
}

/// Interrupted by who wants it later, or stopped for good.
fn cancel(shown: &ActiveRequest) -> Ended {
    if shown.is_stopped() { Ended::Failed(relay::stopped()) } else { Ended::ClientGone }
}

/// What a client would have sent.
fn head(order: &Background<'_>, length: usize) -> Option<Head> {
    let text = format!(
        "POST {} HTTP/1.1\r\nHost: llmproxy\r\nContent-Type: application/json\r\nX-Request-Id: {}\r\nContent-Length: {}\r\n\r\n",
        order.path, order.id, length
    );
    let limits = Limits { target: 1 << 10, head: 4 << 10, fields: 16, body: u64::MAX };
    Parser::default().parse(text.as_bytes(), &limits).ok().flatten().map(|(head, _)| head)
}

/// Reads an answer to its end.
fn whole(mut answer: UpstreamResponse, by: &ServedBy) -> (Result<Vec<u8>, UpstreamError>, Relayed) {
    let (mut body, mut piece, mut tail) = (Vec::new(), vec![0; READ], Tail::default());
    let mut first_byte = None;
    let read = loop {
        match answer.read(&mut piece) {
            Ok(0) => break Ok(body),
            Ok(n) if body.len() + n > MOST => {
                break Err(UpstreamError {
                    trouble: UpstreamErrorKind::Garbled,
                    cause: "the answer is longer than 32 MiB".into(),
                });
            }
            Ok(n) => {
                let now = time::now();
                first_byte.get_or_insert(now);
                by.endpoint.live.moved(now);
                tail.push(&piece[..n]);
                body.extend_from_slice(&piece[..n]);
            }
            Err(fault) => break Err(fault),
        }
    };
    let end = match &read {
        Ok(_) => End::Done,
        Err(fault) if fault.trouble == UpstreamErrorKind::ClientGone => End::ClientGone,
        Err(_) => End::UpstreamLost,
    };
    (read, Relayed { end, first_byte, tokens: tail.tokens() })
}
