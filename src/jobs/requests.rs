//! What clients can do with jobs: submit, look, cancel, list [S004-04..13].

use super::queue::StopReason;
use super::record::{Delivery, Job, JobError, Record, State, owner_id, size, span};
use super::spool::ROOM;
use super::{JobManager, is_hopeless, validate};
use crate::api::body::{JsonBody, WEBHOOK};
use crate::api::errors::{Failure, Kind};
use crate::api::query::parameter;
use crate::proxy::context::LocalResponse;
use crate::proxy::state::{JobRequest, JobStore};
use crate::routing::catalog;
use crate::routing::plan::View;
use crate::routing::resolve;
use crate::util::budget::Held;
use crate::util::cancel::CancelToken;
use crate::util::disk::is_full;
use crate::util::{random, time};
use http::{HeaderName, StatusCode, header};
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// `Retry-After` when the queue of jobs is full.
const COME_BACK: Duration = Duration::from_secs(30);
/// Jobs in one answer at most, and without `limit`.
const MOST_LISTED: usize = 1000;

impl JobStore for JobManager {
    fn submit(&self, job_request: &JobRequest<'_>) -> Result<LocalResponse, Failure> {
        let members = JsonBody::read(job_request.body)?;
        members.check_once()?;
        let details = validate::check(job_request.path, &members, &self.settings().webhooks);
        if !details.is_empty() {
            return Ok(LocalResponse::json(StatusCode::BAD_REQUEST, &validate::refusal(&details)));
        }
        let text = |name: &str| members.get(name).and_then(validate::text);
        let view = View { snapshot: &self.shared.load(), scope: job_request.scope };
        if let Some(model) = text("model").filter(|model| !may_ask(view, model)) {
            return Err(view.not_found(&model));
        }
        let id: Arc<str> = random::request_id().into();
        let record = Record {
            version: 1,
            id: id.to_string(),
            owner: job_request.owner.map(str::to_owned),
            group: job_request.scope.group.as_ref().map(|group| group.config.name.clone()),
            path: job_request.path.to_owned(),
            webhook: text(WEBHOOK),
            error: None,
            delivery: None,
        };
        let request = members.without_webhook();
        let request: Vec<&[u8]> = request.iter().map(|part| &**part).collect();
        let file = record.file(&request, None);
        let job = self.reserve(&id, job_request.owner, size(&file))?;
        // Without the lock: the disk may be slow.
        if let Err(error) = self.spool.write(&job, &file) {
            log::error!("jobs: a job cannot be kept in {}: {error}", self.spool.dir().display());
            let (kind, text) = match is_full(&error) {
                true => (Kind::StorageFull, "The disk is full; the job was not taken."),
                false => (Kind::Internal, "The job cannot be stored; the log has the details."),
            };
            return Err(Failure::new(kind, text));
        }
        let mut queue = self.locked();
        queue.put(job.clone());
        let (position, active) = (queue.position(&job, self.most), queue.active());
        drop(queue);
        self.changed.notify_all();
        let active = active + usize::from(position == 0);
        let body =
            json!({"request_id": &*id, "status": "pending", "queue_position": position, "active_requests": active});
        let response = LocalResponse::json(StatusCode::ACCEPTED, &body)
            .with(header::LOCATION, &format!("/v1/chat/completions/{id}"));
        let applied = HeaderName::from_static("preference-applied");
        Ok(if job_request.preferred { response.with(applied, "respond-async") } else { response })
    }

    fn look(&self, id: &str, owner: Option<&str>, held: &mut Held) -> Result<LocalResponse, Failure> {
        // The file may be renamed, or replaced by the finished one, meanwhile.
        for _ in 0..10 {
            let queue = self.locked();
            let Some(job) = self.known(queue.get(id), owner) else { break };
            let (position, active) = (queue.position(&job, self.most), queue.active());
            drop(queue);
            if !held.resize(job.bytes + ROOM) {
                return Err(busy(FULL));
            }
            match self.file(&job).and_then(|file| whole(&job, file, position, active)) {
                Ok(body) if held.resize(body.capacity() as u64) => {
                    return Ok(LocalResponse { body, ..LocalResponse::json(StatusCode::OK, &Value::Null) });
                }
                Ok(_) => return Err(busy(FULL)),
                Err(error) if is_hopeless(&error) => {}
                Err(_) => return Err(busy("The job cannot be read at the moment; ask again.")),
            }
        }
        Ok(not_found())
    }

    fn cancel(&self, id: &str, owner: Option<&str>, held: &mut Held) -> Result<LocalResponse, Failure> {
        let mut queue = self.locked();
        let Some(job) = self.known(queue.get(id), owner) else { return Ok(not_found()) };
        if job.state == State::Pending && !held.resize(job.bytes + ROOM) {
            return Err(busy(FULL));
        }
        match job.state {
            State::Processing => queue.interrupt(StopReason::Cancelled, |running, _| running == id),
            _ => drop(queue.remove(id)),
        }
        drop(queue);
        let file = if job.state == State::Pending { self.file(&job).ok() } else { None };
        match file.as_deref().and_then(|file| Record::read(file).ok()) {
            Some((record, bodies)) => {
                // A client does not wait for a disk to recover.
                let impatient = CancelToken::default();
                impatient.cancel();
                let end = Err(JobError::cancelled(0));
                self.finish(&job, record, bodies.request.get().as_bytes(), end, &impatient);
            }
            None if job.state == State::Processing => {}
            None => self.spool.remove(&job),
        }
        self.changed.notify_all();
        log::info!("job {id}: cancelled by its owner");
        Ok(ok(&json!({"request_id": id, "status": "cancelled", "was": job.state.as_str()})))
    }

    /// In pages, as OpenAI's lists are: `limit` jobs that came before `after`. A `limit` that is no number is ignored.
    fn list(&self, owner: Option<&str>, query: &str) -> LocalResponse {
        let limit =
            parameter(query, "limit").and_then(|limit| limit.parse().ok()).unwrap_or(MOST_LISTED).clamp(1, MOST_LISTED);
        let (owner, oldest, queue) = (owner_id(owner), self.oldest(), self.locked());
        let before = match parameter(query, "after") {
            None => u64::MAX,
            Some(id) => match queue.get(id).filter(|job| job.owner == owner) {
                Some(job) => job.sequence,
                None => return not_found(),
            },
        };
        let mut jobs = queue.of(owner, before).filter(|job| !job.has_expired(oldest));
        let page: Vec<_> = jobs.by_ref().take(limit).map(|job| (queue.position(job, self.most), job.clone())).collect();
        let (has_more, counts) = (jobs.next().is_some(), queue.counts());
        drop(jobs);
        drop(queue);
        let data: Vec<_> = page.iter().map(|(position, job)| summary(job, *position)).collect();
        let counts: Value = State::ALL.iter().map(|state| (state.as_str(), counts[*state as usize])).collect();
        ok(&json!({"object": "list", "data": data, "has_more": has_more, "counts": counts}))
    }

    fn counts(&self) -> [(&'static str, usize); 4] {
        let counts = self.locked().counts();
        State::ALL.map(|state| (state.as_str(), counts[state as usize]))
    }
}

impl JobManager {
    /// The job of an owner, unless it has expired.
    fn known(&self, job: Option<&Job>, owner: Option<&str>) -> Option<Job> {
        job.filter(|job| job.owner == owner_id(owner) && !job.has_expired(self.oldest())).cloned()
    }

    /// A new job, if the limits allow one more.
    fn reserve(&self, id: &Arc<str>, owner: Option<&str>, bytes: u64) -> Result<Job, Failure> {
        let mut queue = self.locked();
        if queue.closed {
            return Err(Failure::new(Kind::Draining, "The proxy is being stopped."));
        }
        if queue.waiting() >= self.settings().max_queued {
            let text = "The job queue is full (jobs.maxQueued); try again later.";
            return Err(Failure::new(Kind::Overloaded, text).retry_after(COME_BACK));
        }
        let expired = queue.expire(self.oldest(), bytes);
        let has_room = queue.has_room(bytes);
        let sequence = queue.next_sequence(time::unix().as_millis() as u64);
        drop(queue);
        expired.iter().for_each(|job| self.spool.remove(job));
        if !has_room {
            return Err(Failure::new(Kind::StorageFull, "There is no disk space for more jobs; try again later."));
        }
        let (id, owner) = (Arc::clone(id), owner_id(owner));
        Ok(Job { sequence, id, owner, state: State::Pending, number: 0, webhook_pending: false, bytes })
    }
}

fn summary(job: &Job, position: usize) -> Value {
    json!({"request_id": &*job.id, "status": job.state.as_str(), "timestamp": job.timestamp(), "queue_position": position})
}

/// A whole job, built in the buffer of its file, which may be long.
fn whole(job: &Job, mut file: Vec<u8>, position: usize, active: usize) -> io::Result<Vec<u8>> {
    let (record, bodies) = Record::read(&file)?;
    // Request and response are adjacent in the buffer, and are not copied.
    let response = bodies.response.filter(|_| job.state == State::Completed);
    let mut kept = vec![("request", span(&file, bodies.request))];
    kept.extend(response.map(|response| ("response", span(&file, response))));
    kept.sort_by_key(|(_, span)| span.start);
    let (first, start, end) = (kept[0].0, kept[0].1.start, kept[kept.len() - 1].1.end);
    let mut head = summary(job, position);
    head["active_requests"] = active.into();
    if job.state == State::Error {
        // On a full disk the end of a job is known but not written.
        let lost =
            || JobError::new("The end of this job could not be stored; the log has the details.", "storage_error", 0);
        head["error"] = json!(record.error.unwrap_or_else(lost));
    }
    if let Some(url) = record.webhook {
        head["webhook"] = match record.delivery {
            Some(Delivery { status, attempts, error }) => {
                json!({"url": url, "status": status, "attempts": attempts, "error": error})
            }
            None => json!({"url": url, "status": "pending"}),
        };
    }
    let mut head = head.to_string();
    head.pop();
    head += &format!(",\"{first}\":");
    file.truncate(end);
    file.splice(..start, head.bytes());
    file.push(b'}');
    Ok(file)
}

fn ok(body: &Value) -> LocalResponse {
    LocalResponse::json(StatusCode::OK, body)
}

/// As for any other request: a variant is in a scope with its model, and the default model of a scope is in it.
fn may_ask(View { snapshot, scope }: View<'_>, name: &str) -> bool {
    let is_within = |name: &str| catalog::within(scope, name, |bare| resolve::exact(snapshot, bare).is_some());
    let by_model = || resolve::exact(snapshot, name).and_then(|meaning| meaning.base().map(is_within)) == Some(true);
    name.is_empty() || name == "auto" || is_within(name) || by_model()
}

/// No such job, or another owner's [S004-11].
fn not_found() -> LocalResponse {
    let kind = "request_not_found";
    let error = json!({"message": "Request not found", "type": kind, "code": kind, "param": null});
    LocalResponse::json(StatusCode::NOT_FOUND, &json!({ "error": error }))
}

const FULL: &str = "Too much is held for clients (server.bodyMemory); try again shortly.";

fn busy(text: &str) -> Failure {
    Failure::new(Kind::Overloaded, text).retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_told_from_its_file_whatever_stands_first_there() {
        let finished = Job::parse("01932f0a1b2c0003.abc.00000000.completed.9", 0).expect("a name");
        let (about, request, response) = (
            r#""version":1,"id":"abc","owner":null,"group":null,"path":"/","webhook":null"#,
            r#""request":{"n": 1e400}"#,
            r#""response":[ 1.0 ]"#,
        );
        for file in [[about, request, response], [response, request, about], [request, response, about]] {
            let shown = whole(&finished, format!("{{{}}}", file.join(",")).into_bytes(), 0, 3).expect("a job");
            let text = String::from_utf8(shown).expect("text");
            assert!(
                text.contains(request) && text.contains(response) && text.contains(r#""active_requests":3"#),
                "{text}"
            );
            assert!(
                text.starts_with(r#"{"request_id":"abc","status":"completed","#) && !text.contains("version"),
                "{text}"
            );
            let waiting = whole(&finished.to(State::Pending, 0), format!("{{{}}}", file.join(",")).into_bytes(), 1, 3)
                .expect("a job");
            let value: serde_json::Value =
                serde_json::from_str(&String::from_utf8(waiting).expect("text").replace("1e400", "1")).expect("JSON");
            assert_eq!((value.get("response"), &value["request"]["n"]), (None, &json!(1)));
        }
        assert!(whole(&finished, b"{ half".to_vec(), 0, 0).is_err());
    }
}
