//! A request that nobody waits for, sent like any other and behind all others; its answer is read whole.

use super::outcome::ForwardContext;
use super::state::Proxy;
use crate::api::errors::{Failure, Kind};
use crate::api::paths::Forward;
use crate::http::head::{Head, Limits, Parser};
use crate::http::request::{Body, From, Pool, Request};
use crate::observe::active::Started;
use crate::proxy::body;
use crate::proxy::context::{Entry, RequestContext};
use crate::proxy::downstream::{Collected, Downstream, Sink};
use crate::routing::scope::Scope;
use crate::upstream::headers::Policy;
use crate::util::cancel::CancelToken;
use crate::util::time;
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;

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

impl Proxy {
    /// Sends it with a body, which is given back, and reads the answer.
    pub fn run(&self, job: &Background<'_>, body: &mut Body) -> Ended {
        let Some(head) = head(job, body.bytes().len()) else {
            return Ended::Failed(Failure::new(Kind::Internal, "The request cannot be sent."));
        };
        let peer = IpAddr::from(Ipv4Addr::LOCALHOST);
        let request = Request {
            head,
            body: std::mem::replace(body, Body::new(self.budget.hold(None))),
            rest: None,
            from: From { peer, listener: 0 },
            peer_text: peer.to_string().into(),
            pool: Pool::Proxy,
            client: None,
            began: time::now(),
            cancel: Arc::clone(job.cancel),
            decided: None,
        };
        let ended = self.collect(job, &request);
        *body = request.body;
        ended
    }

    fn collect(&self, job: &Background<'_>, request: &Request) -> Ended {
        let snapshot = self.shared.load();
        let activity = Arc::clone(&self.activity);
        let here = Entry { forward: "jobs".into(), metrics: Arc::clone(&self.metrics), activity };
        let context = RequestContext::new(&request.head, request.from.peer, request.began, &snapshot, here);
        let forward = Forward::post(job.path);
        let planned = body::read(request, &forward)
            .and_then(|body| Ok((self.plan(request, &body, &snapshot, &job.scope)?, body)));
        let ((plan, fresh), body) = match planned {
            Ok(planned) => planned,
            Err(failure) => return Ended::Failed(failure),
        };
        let shown = self.activity.begin(&Started {
            id: job.id,
            client: request.from.peer,
            key: Some("job".into()),
            path: job.path,
            model: body.name(),
            began: request.began,
            cancel: job.cancel,
        });
        let (common, cancel) = (Arc::clone(&context.common), Arc::clone(job.cancel));
        let sink = Sink::Memory(Collected::default());
        let client = Rc::new(Downstream::new(sink, common, context.row.dialect, cancel, None, shown.active()));
        let ctx = ForwardContext {
            clients: &self.clients,
            shared: &self.shared,
            snapshot: fresh.as_deref().unwrap_or(&snapshot),
            request,
            body: &body,
            forward: &forward,
            client: &client,
            queued: &Cell::default(),
            request_id: job.id,
            trusted: false,
            scope: &job.scope,
            background: true,
            keyed: true,
            policy: Policy::default(),
            metrics: &self.metrics,
            active: &shown,
        };
        self.send(&ctx, &context, plan);
        match client.take_sink() {
            Some(Sink::Memory(Collected { failure: Some(failure), .. })) => Ended::Failed(failure),
            Some(Sink::Memory(Collected { status, is_events, body, is_complete: true, .. })) => {
                Ended::Answered { status, events: is_events, body }
            }
            _ if job.cancel.is_cancelled() => Ended::ClientGone,
            _ => {
                let text = "The endpoint was lost in the middle of its answer.";
                Ended::Failed(Failure::new(Kind::Upstream, text))
            }
        }
    }
}

/// What a client would have sent.
fn head(job: &Background<'_>, length: usize) -> Option<Head> {
    let text = format!(
        "POST {} HTTP/1.1\r\nHost: llmproxy\r\nContent-Type: application/json\r\nX-Request-Id: {}\r\nContent-Length: {}\r\n\r\n",
        job.path, job.id, length
    );
    let limits = Limits { target: 1 << 10, head: 4 << 10, fields: 16, body: u64::MAX };
    Parser::default().parse(text.as_bytes(), &limits).ok().flatten().map(|(head, _)| head)
}
