//! The live view of the page: one thread per viewer, one event per second.

use super::Admin;
use crate::api::errors::{Failure, Kind};
use crate::http::head::Fields;
use crate::http::request::Request;
use crate::http::response::{Length, Response};
use crate::proxy::context::RequestContext;
use crate::util::time;
use crossbeam_channel::bounded;
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Live views at the same time.
const MAX_VIEWERS: usize = 8;
const EVERY: Duration = Duration::from_secs(1);
/// Memory per event, as a multiple of its size: its text, and the values that it is made of and compared with.
const COPIES: usize = 4;

impl Admin {
    /// `GET /admin/events`: the whole status first, then the changes.
    pub(super) fn watch(self: &Arc<Self>, context: RequestContext, request: Request, response: &mut Response) {
        let (admin, viewer) = (Arc::clone(self), Arc::clone(&self.viewers));
        let is_full = Arc::strong_count(&self.viewers) > MAX_VIEWERS + 1;
        let (give, take) = bounded(1);
        let work = move || {
            let _viewer = viewer;
            if let Ok((context, request, mut response)) = take.recv() {
                admin.show(&context, &request, &mut response);
            }
        };
        let thread = std::thread::Builder::new().name("page".into()).stack_size(512 << 10);
        let why = match if is_full { Ok(None) } else { thread.spawn(work).map(Some) } {
            Ok(Some(_)) => return drop(give.send((context, request, response.detach()))),
            Ok(None) => "Too many pages are open; close one of them.",
            Err(error) => {
                log::warn!("admin: cannot start a thread for a live view: {error}");
                "The system cannot start another thread."
            }
        };
        context.refuse(response, &Failure::new(Kind::Overloaded, why).retry_after(EVERY));
    }

    /// Makes an event only after the client has received the one before, so that slow clients need no buffers.
    fn show(&self, context: &RequestContext, request: &Request, response: &mut Response) {
        let mut held = self.proxy.budget.hold(Some(context.record.client));
        let mut fields = Fields::clone(&context.common);
        fields.push(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response.wait_for_client();
        response.start(StatusCode::OK, &fields, Length::Open);
        let (mut seen, mut models, mut running) = (Value::Null, Value::Null, HashMap::new());
        while !self.closed.is_cancelled() {
            let mut status = self.status(&seen);
            seen = status["seen"].take();
            // The list of models is long and rarely changes.
            if status["models"] == models {
                status.as_object_mut().map(|all| all.shift_remove("models"));
            } else {
                models.clone_from(&status["models"]);
            }
            running = shorten(&mut status["running"], &running);
            let event = format!("data: {status}\n\n");
            let is_taken = held.resize((event.len() * COPIES) as u64)
                && response.write_chunk(event.as_bytes()).and_then(|()| response.flush()).is_ok();
            if !is_taken || request.cancel.wait_until(time::now() + EVERY, time::now) {
                return response.abort();
            }
        }
        response.finish();
    }
}

/// Reduces requests that the page knows to the members that have changed, except for the age, which it computes itself.
/// Returns the complete requests by id, for the next event.
fn shorten(running: &mut Value, before: &HashMap<String, Value>) -> HashMap<String, Value> {
    let mut now = HashMap::new();
    for one in running.as_array_mut().into_iter().flatten() {
        let id = one["id"].as_str().unwrap_or_default().to_owned();
        let whole = one.clone();
        if let (Some(old), Some(members)) = (before.get(&id), one.as_object_mut()) {
            members.retain(|name, value| name == "id" || (name != "age_ms" && old[name] != *value));
        }
        now.insert(id, whole);
    }
    now
}
