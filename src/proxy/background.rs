//! A job's request: sent like a client's, with the lowest priority; its answer is collected in memory.

use super::state::Proxy;
use crate::api::errors::{Failure, Kind};
use crate::api::paths::Forward;
use crate::http::head::{Head, Limits, Parser};
use crate::http::request::{Body, From, Pool, Request};
use crate::proxy::context::{Entry, RequestContext};
use crate::proxy::downstream::{Collected, Sink};
use crate::proxy::serve::Origin;
use crate::routing::scope::Scope;
use crate::upstream::headers::Policy;
use crate::util::cancel::CancelToken;
use crate::util::time;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

pub struct Background<'a> {
    pub(crate) id: &'a str,
    /// Below an endpoint's base.
    pub path: &'a str,
    pub(crate) scope: Arc<Scope>,
    pub(crate) cancel: &'a Arc<CancelToken>,
}

pub enum Ended {
    Answered { status: u16, events: bool, body: Vec<u8> },
    Failed(Failure),
    ClientGone,
}

impl Proxy {
    /// Sends a job with this body, which is put back afterwards, and collects the answer.
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
        let (metrics, activity) = (Arc::clone(&self.metrics), Arc::clone(&self.activity));
        let entry = Entry { forward: "jobs".into(), metrics, activity };
        let origin = Origin {
            context: &RequestContext::new(&request.head, request.from.peer, request.began, &snapshot, entry),
            key: Some("job".into()),
            scope: &job.scope,
            trusted: false,
            background: true,
            keyed: true,
            policy: Policy::default(),
            ping: None,
        };
        let sink = || Sink::Memory(Collected::default());
        match self.send(&origin, request, &Forward::post(job.path), &snapshot, sink) {
            Err(refused) => Ended::Failed(refused.0),
            Ok(Some(Sink::Memory(Collected { failure: Some(failure), .. }))) => Ended::Failed(failure),
            Ok(Some(Sink::Memory(Collected { status, is_events, body, is_complete: true, .. }))) => {
                Ended::Answered { status, events: is_events, body }
            }
            Ok(_) if job.cancel.is_cancelled() => Ended::ClientGone,
            Ok(_) => {
                let text = "The endpoint was lost in the middle of its answer.";
                Ended::Failed(Failure::new(Kind::Upstream, text))
            }
        }
    }
}

/// The head that a client would have sent.
fn head(job: &Background<'_>, length: usize) -> Option<Head> {
    let text = format!(
        "POST {} HTTP/1.1\r\nHost: llmproxy\r\nContent-Type: application/json\r\nX-Request-Id: {}\r\nContent-Length: {}\r\n\r\n",
        job.path, job.id, length
    );
    let limits = Limits { target: 1 << 10, head: 4 << 10, fields: 16, body: u64::MAX };
    Parser::default().parse(text.as_bytes(), &limits).ok().flatten().map(|(head, _)| head)
}
