//! What clients can do with jobs: submit, look, cancel, list.

use super::queue::StopReason;
use super::record::{JobError, Name, Record, State, owner_id, pieces, size};
use super::spool::ROOM;
use super::views::{self, Page};
use super::{JobManager, QueueState, is_hopeless, millis, seconds};
use crate::api::body::{JsonBody, WEBHOOK};
use crate::api::errors::{Failure, Kind};
use crate::config::Jobs as Settings;
use crate::jobs::validate;
use crate::proxy::context::LocalResponse;
use crate::proxy::state::{JobRequest, JobStore};
use crate::routing::plan::View;
use crate::util::budget::Held;
use crate::util::cancel::CancelToken;
use crate::util::disk::is_full;
use crate::util::random;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// `Retry-After` when the queue of jobs is full.
const COME_BACK: Duration = Duration::from_secs(30);

impl JobStore for JobManager {
    fn submit(&self, job_request: &JobRequest<'_>) -> Result<LocalResponse, Failure> {
        let settings = self.settings();
        let members = JsonBody::read(job_request.body)?;
        members.check_once()?;
        let details = validate::check(job_request.path, &members, &settings.webhooks);
        if !details.is_empty() {
            return Ok(LocalResponse::json(StatusCode::BAD_REQUEST, &validate::refusal(&details)));
        }
        let text = |name: &str| members.get(name).and_then(validate::text);
        if let Some(model) = text("model").filter(|model| !model.is_empty() && !job_request.scope.has_model(model)) {
            return Err(View { snapshot: &self.shared.load(), scope: job_request.scope }.not_found(&model));
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
        let head = record.head();
        let request = members.without_webhook();
        let pieces = pieces(&head, [&request[0], &request[2]], None);
        let bytes = size(&pieces);
        let name = self.reserve(&settings, &id, job_request.owner, bytes)?;
        // Without the lock: the disk may be slow.
        if let Err(error) = self.spool.write(&name, &pieces) {
            log::error!("jobs: a job cannot be kept in {}: {error}", self.spool.dir().display());
            let (kind, text) = match is_full(&error) {
                true => (Kind::StorageFull, "The disk is full; the job was not taken."),
                false => (Kind::Internal, "The job cannot be stored; the log has the details."),
            };
            return Err(Failure::new(kind, text));
        }
        let mut locked = self.locked();
        locked.queue.put(&name, bytes);
        let (position, active) = (locked.queue.position(&id, self.most), locked.queue.active());
        drop(locked);
        self.changed.notify_all();
        let body = json!({"request_id": &*id, "status": "pending", "queue_position": position, "active_requests": active + usize::from(position == 0)});
        let mut response = LocalResponse::json(StatusCode::ACCEPTED, &body);
        if let Ok(place) = HeaderValue::from_str(&format!("/v1/chat/completions/{id}")) {
            response.fields.push((header::LOCATION, place));
        }
        if job_request.preferred {
            let applied = HeaderName::from_static("preference-applied");
            response.fields.push((applied, HeaderValue::from_static("respond-async")));
        }
        Ok(response)
    }

    fn look(&self, id: &str, owner: Option<&str>, held: &mut Held) -> Result<LocalResponse, Failure> {
        // The file may be renamed meanwhile.
        for _ in 0..10 {
            let locked = self.locked();
            let Some(name) = self.known(&locked, id, owner) else { break };
            let (position, active) = (locked.queue.position(id, self.most), locked.queue.active());
            drop(locked);
            if !held.resize(self.room(&name)) {
                return Err(busy());
            }
            let seen = self.file(&name).and_then(|file| views::job(&name, file, position, active));
            match seen {
                // It may have been replaced meanwhile by the finished one.
                Ok(response) if held.resize(response.body.capacity() as u64) => return Ok(response),
                Ok(_) => return Err(busy()),
                Err(error) if is_hopeless(&error) => {}
                Err(_) => return Ok(views::unreadable()),
            }
        }
        Ok(views::not_found())
    }

    fn cancel(&self, id: &str, owner: Option<&str>, held: &mut Held) -> Result<LocalResponse, Failure> {
        let mut locked = self.locked();
        let Some(name) = self.known(&locked, id, owner) else {
            return Ok(views::not_found());
        };
        if name.state == State::Pending && !held.resize(locked.queue.size(id) + ROOM as u64) {
            return Err(busy());
        }
        match name.state {
            State::Processing => locked.queue.interrupt(id, StopReason::Cancelled),
            _ => drop(locked.queue.take_out(id)),
        }
        drop(locked);
        let file = if name.state == State::Pending { self.file(&name).ok() } else { None };
        match file.as_deref().and_then(|file| Record::read(file).ok()) {
            Some((mut record, bodies)) => {
                record.error = Some(JobError::cancelled(0));
                // A client does not wait for a disk to recover.
                let impatient = CancelToken::default();
                impatient.cancel();
                self.finish(&name, &record, bodies.request.get().as_bytes(), None, &impatient);
            }
            None if name.state == State::Processing => {}
            None => self.spool.remove(&name),
        }
        self.changed.notify_all();
        log::info!("job {id}: cancelled by its owner");
        Ok(views::cancelled(&name))
    }

    fn list(&self, owner: Option<&str>, query: &str) -> LocalResponse {
        let page = Page::of(query);
        let owner = owner_id(owner);
        let oldest = seconds().saturating_sub(self.settings().retention.as_secs());
        let locked = self.locked();
        let after = page.after.map(|id| locked.queue.name(id).filter(|name| name.owner == owner));
        let before = match after {
            None => u64::MAX,
            Some(Some(name)) => name.sequence,
            Some(None) => return views::not_found(),
        };
        let names = locked.queue.of(&owner, before);
        let mut names = names.filter(|name| !name.state.is_final() || name.number >= oldest);
        let place = |name: Name| (locked.queue.position(&name.id, self.most), name);
        let listed: Vec<_> = names.by_ref().take(page.limit).map(place).collect();
        let (has_more, counts) = (names.next().is_some(), locked.queue.counts());
        drop(names);
        drop(locked);
        views::list(&listed, has_more, counts)
    }

    fn counts(&self) -> [(&'static str, usize); 4] {
        let counts = self.locked().queue.counts();
        State::ALL.map(|state| (state.as_str(), counts[state as usize]))
    }
}

impl JobManager {
    /// The job of an owner, unless it has expired.
    fn known(&self, locked: &QueueState, id: &str, owner: Option<&str>) -> Option<Name> {
        let name = locked.queue.name(id).filter(|name| *name.owner == *owner_id(owner))?;
        let oldest = seconds().saturating_sub(self.settings().retention.as_secs());
        (!name.state.is_final() || name.number >= oldest).then_some(name)
    }

    /// The name of a new job, if the limits allow one more.
    fn reserve(&self, settings: &Settings, id: &Arc<str>, owner: Option<&str>, bytes: u64) -> Result<Name, Failure> {
        let mut locked = self.locked();
        if locked.closed {
            return Err(Failure::new(Kind::Draining, "The proxy is being stopped."));
        }
        if locked.queue.waiting() >= settings.max_queued {
            let text = "The job queue is full (jobs.maxQueued); try again later.";
            return Err(Failure::new(Kind::Overloaded, text).retry_after(COME_BACK));
        }
        let old = self.sweep(&mut locked, bytes);
        let has_room = locked.queue.has_room(bytes);
        let sequence = locked.queue.next_sequence(millis());
        drop(locked);
        old.iter().for_each(|name| self.spool.remove(name));
        if !has_room {
            return Err(Failure::new(Kind::StorageFull, "There is no disk space for more jobs; try again later."));
        }
        let owner = owner_id(owner);
        Ok(Name { sequence, id: Arc::clone(id), owner, state: State::Pending, number: 0, webhook_pending: false })
    }
}

/// `server.bodyMemory` is used up.
fn busy() -> Failure {
    let text = "Too much is held for clients (server.bodyMemory); try again shortly.";
    Failure::new(Kind::Overloaded, text).retry_after(Duration::from_secs(1))
}
