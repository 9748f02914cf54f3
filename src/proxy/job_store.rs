//! Requests to be run as jobs, and the API to read and cancel jobs. Knows nothing of disks and queues.

use super::state::{JobRequest, Proxy};
use crate::api::body::has_webhook;
use crate::api::errors::{Failure, Kind};
use crate::api::paths::{Forward, Route, Trait};
use crate::config::Jobs;
use crate::http::head::Head;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::proxy::context::{LocalResponse, RequestContext};
use crate::routing::keys::ClientKey;
use std::time::Duration;

/// What `Prefer` asks for (RFC 7240).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preference {
    /// `respond-async`
    RespondAsync,
    /// `wait`, with or without a time.
    Now,
    Either,
}

/// The first preference counts (RFC 7240 2).
pub(crate) fn preference(head: &Head) -> Preference {
    let values = head.fields.iter().filter(|(name, _)| *name == "prefer").filter_map(|(_, value)| value.to_str().ok());
    let words = values.flat_map(|value| value.split(',')).map(|item| {
        let name = item.split([';', '=']).next().unwrap_or_default().trim();
        match name {
            _ if name.eq_ignore_ascii_case("respond-async") => Preference::RespondAsync,
            _ if name.eq_ignore_ascii_case("wait") => Preference::Now,
            _ => Preference::Either,
        }
    });
    words.into_iter().find(|word| *word != Preference::Either).unwrap_or(Preference::Either)
}

/// Whether a request becomes a job.
pub(crate) fn is_wanted(jobs: &Jobs, preference: Preference, forward: &Forward, body: &[u8]) -> bool {
    if !jobs.enabled || !forward.has(Trait::MayBeJob) {
        return false;
    }
    match preference {
        Preference::RespondAsync => true,
        Preference::Either if jobs.always => true,
        _ => has_webhook(body),
    }
}

impl Proxy {
    /// Submits a request as a job if it is to be one.
    pub(super) fn submit_job(
        &self,
        context: &RequestContext,
        client_key: &ClientKey,
        request: &Request,
        forward: &Forward,
    ) -> Option<Result<LocalResponse, Failure>> {
        let (job_store, body, preference) = (self.job_store()?, request.body.bytes(), preference(&request.head));
        if !is_wanted(&self.shared.load().config.jobs, preference, forward, body) {
            return None;
        }
        let preferred = preference == Preference::RespondAsync;
        let (path, owner, scope) = (forward.path.as_str(), context.key.as_deref(), &*client_key.scope);
        Some(job_store.submit(&JobRequest { path, body, owner, scope, preferred }))
    }

    /// Lists, reads or cancels jobs. Disk access is queued, so that it never blocks other control threads.
    pub(super) fn job_request(&self, context: RequestContext, route: Route, response: &mut Response, request: Request) {
        let Some(job_store) = self.job_store() else { return };
        let Route::Job(id) = route else {
            let answer = job_store.list(context.key.as_deref(), request.head.target.query().unwrap_or_default());
            return context.local(response, &answer);
        };
        let mut held = self.budget.hold(Some(context.client));
        let mut response = response.detach();
        self.disk.run(Box::new(move |has_room| {
            let owner = context.key.as_deref();
            let answer = match request.head.method == http::Method::DELETE {
                _ if !has_room => Err(disk_is_busy()),
                true => job_store.cancel(&id, owner, &mut held),
                false => job_store.look(&id, owner, &mut held),
            };
            // The response counts its own unsent bytes.
            drop(held);
            match answer {
                Ok(answer) => context.local(&mut response, &answer),
                Err(failure) => context.refuse(&mut response, &failure),
            }
        }));
    }
}

pub(crate) fn disk_is_busy() -> Failure {
    let text = "Too many requests wait for the disk; try again later.";
    Failure::new(Kind::Overloaded, text).retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests;
