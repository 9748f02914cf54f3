//! The life of one job: it is taken from the queue and tried; its end is on disk before clients see it.

use super::collect::collect;
use super::queue::{Running, StopReason};
use super::record::{Job, JobError, Record, State, size, span};
use super::spool::ROOM;
use super::{JobManager, seconds};
use crate::api::errors::{Failure, Kind};
use crate::http::request::Body;
use crate::proxy::background::{Background, Ended};
use crate::routing::scope::Scope;
use crate::util::cancel::CancelToken;
use crate::util::time;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// The pause after the first try, doubled after each [S004-15].
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The pause while no endpoint is available (which does not count as a try), or a finished job cannot be written.
const WAIT: Duration = Duration::from_secs(2);
/// Attempts to write a job that failed.
const WRITES: u32 = 3;

/// A job that is not to be tried again has ended, with a response or an error; without an end it was interrupted, and goes
/// back into the queue.
type End = Option<Result<Box<RawValue>, JobError>>;

enum Try {
    End(End),
    Retry(JobError),
    /// It does not count.
    NoEndpoint(JobError),
    /// Nor does this; the job goes back into the queue.
    Asleep,
}

/// A job in progress; dropping this frees its slot.
struct RunningGuard<'a>(&'a JobManager, &'a str, &'a Arc<CancelToken>);

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        self.0.locked().done(self.1, self.2);
        self.0.changed.notify_all();
    }
}

impl JobManager {
    pub(super) fn run(&self) {
        while let Some((was, cancel)) = self.next() {
            let _running = RunningGuard(self, &was.id, &cancel);
            // A panic fails one job; the hook has logged it.
            if catch_unwind(AssertUnwindSafe(|| self.work(&was, &cancel))).is_err() {
                self.give_up(&was);
            }
        }
    }

    fn next(&self) -> Option<(Job, Arc<CancelToken>)> {
        let mut queue = self.locked();
        while !queue.closed {
            let cancel = Arc::new(CancelToken::default());
            let until = time::now() + self.settings().timeout;
            let run = || Running { cancel: Arc::clone(&cancel), until, reason: None };
            queue.epoch = self.shared.load().epoch;
            if let Some(was) = queue.start(self.most, run) {
                return Some((was, cancel));
            }
            let wait = if queue.has_parked() { PAUSE } else { Duration::from_secs(60) };
            queue = self.wait(queue, wait);
        }
        None
    }

    fn work(&self, was: &Job, cancel: &Arc<CancelToken>) {
        let mut job = was.to(State::Processing, was.number + 1);
        // `expire_loop` has a new deadline to watch.
        self.changed.notify_all();
        let (record, mut body) = match self.spool.rename(was, &job).and_then(|()| self.load(&job)) {
            Ok(loaded) => loaded,
            Err(error) => {
                log::error!("job {}: it cannot be read: {error}", job.id);
                return match error.kind() {
                    ErrorKind::NotFound => drop(self.locked().remove(&job.id)),
                    ErrorKind::InvalidData | ErrorKind::UnexpectedEof => self.give_up(&job),
                    // Out of memory or descriptors, or a disk that is away: it is tried again later.
                    _ => {
                        cancel.wait_until(time::now() + PAUSE, time::now);
                        self.requeue(&job);
                    }
                };
            }
        };
        log::info!("job {}: started, try {}", job.id, job.number);
        let end = self.tries(&mut job, &record, &mut body, cancel);
        let reason = self.locked().stop_reason(&job.id);
        let end = match (end, reason) {
            (None, Some(StopReason::Late)) => {
                Some(Err(JobError::new("The job took longer than jobs.timeout.", "timeout", job.number)))
            }
            (None, Some(StopReason::Cancelled)) => Some(Err(JobError::cancelled(job.number))),
            (end, _) => end,
        };
        match end {
            Some(end) => self.finish(&job, record, body.bytes(), end, cancel),
            None => self.requeue(&job),
        }
    }

    fn load(&self, job: &Job) -> io::Result<(Record, Body)> {
        let mut held = self.proxy.budget.hold(None);
        if !held.resize(job.bytes + ROOM) {
            return Err(io::Error::new(ErrorKind::OutOfMemory, "too much is held for clients (server.bodyMemory)"));
        }
        let mut file = self.file(job)?;
        let (record, bodies) = Record::read(&file)?;
        let span = span(&file, bodies.request);
        file.truncate(span.end);
        file.drain(..span.start);
        let mut body = Body::new(held);
        body.grow(|bytes| *bytes = file).ok_or(ErrorKind::OutOfMemory)?;
        Ok((record, body))
    }

    fn tries(&self, job: &mut Job, record: &Record, body: &mut Body, cancel: &Arc<CancelToken>) -> End {
        let most = u64::from(self.settings().attempts);
        if job.number > most {
            let text = "The proxy was stopped or lost power each time while the job was running.";
            return Some(Err(JobError::new(text, "interrupted", job.number - 1)));
        }
        let mut pause = PAUSE;
        loop {
            let epoch = self.shared.load().epoch;
            let wait = match self.attempt(job, record, body, cancel) {
                Try::End(end) => return end,
                Try::Retry(error) if job.number >= most => return Some(Err(error)),
                Try::Retry(error) => {
                    // Not the message: an endpoint's may quote the prompt.
                    log::info!("job {}: try {} of {most} failed ({})", job.id, job.number, error.kind);
                    // The count of tries survives a crash; if this fails, there is one try more.
                    let next = job.to(State::Processing, job.number + 1);
                    if self.rename(job, &next).is_ok() {
                        *job = next;
                    }
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    wait
                }
                Try::Asleep => {
                    log::info!("job {}: waits until one of its endpoints is awake", job.id);
                    self.locked().park(job, epoch);
                    return None;
                }
                Try::NoEndpoint(error) => {
                    log::debug!("job {}: waits ({})", job.id, error.kind);
                    WAIT
                }
            };
            if cancel.wait_until(time::now() + wait, time::now) {
                return None;
            }
        }
    }

    fn attempt(&self, job: &Job, record: &Record, body: &mut Body, cancel: &Arc<CancelToken>) -> Try {
        let error = |message: String, kind: &str| JobError::new(message, kind, job.number);
        let Some(scope) = self.scope(record) else {
            return Try::End(Some(Err(error("The key it came with is no longer known.".into(), "unauthorized"))));
        };
        let order = Background { id: &job.id, path: &record.path, scope, cancel };
        match self.proxy.run(&order, body) {
            Ended::ClientGone | Ended::Failed(Failure { kind: Kind::Draining, .. }) => Try::End(None),
            Ended::Answered { status: 200..=299, events, body } => match answer(events, body) {
                Ok(response) => Try::End(Some(Ok(response))),
                Err(message) => Try::Retry(error(message, "upstream_error")),
            },
            Ended::Answered { status, body, .. } => {
                let (message, kind) = endpoint_error(status, &body);
                let error = error(message, &kind);
                if matches!(status, 408 | 429 | 500..) { Try::Retry(error) } else { Try::End(Some(Err(error))) }
            }
            Ended::Failed(failure) => {
                let error = error(failure.message, failure.kind.wire().1);
                match failure.kind {
                    Kind::Asleep => Try::Asleep,
                    Kind::NoEndpoint | Kind::Overloaded | Kind::QueueTimeout => Try::NoEndpoint(error),
                    kind if kind.status() >= 500 => Try::Retry(error),
                    _ => Try::End(Some(Err(error))),
                }
            }
        }
    }

    /// The scope of its owner in the current configuration.
    fn scope(&self, record: &Record) -> Option<Arc<Scope>> {
        let snapshot = self.shared.load();
        let mut scope = match &record.owner {
            Some(owner) => Scope::clone(&snapshot.key_ring.named(owner)?.scope),
            None => Scope::default(),
        };
        if let Some(name) = &record.group {
            scope.group = Some(snapshot.groups.iter().find(|group| group.config.name == *name).cloned()?);
        }
        Some(Arc::new(scope))
    }

    /// Puts an interrupted job back into the queue; the try does not count.
    fn requeue(&self, job: &Job) {
        // If this fails, the next start finds it as running and runs it again.
        let again = job.to(State::Pending, job.number - 1);
        match self.rename(job, &again) {
            // It could not be started, and its file has this name still.
            Err(error) if error.kind() == ErrorKind::NotFound => self.locked().put(again),
            Err(error) => log::warn!("job {}: it cannot be put back into the queue: {error}", job.id),
            Ok(()) => {}
        }
    }

    /// Ends a job that cannot be read or that panicked. Its file is only renamed.
    fn give_up(&self, job: &Job) {
        let Some(job) = self.locked().get(&job.id).filter(|job| !job.state.is_final()).cloned() else { return };
        if let Err(error) = self.rename(&job, &job.to(State::Error, seconds())) {
            log::error!("job {}: it cannot be given up: {error}", job.id);
        }
    }

    /// Writes a finished job, and only then makes it visible. While the disk is full or away a response is kept until
    /// `cancel`: it is expensive to compute again.
    pub(super) fn finish(
        &self,
        job: &Job,
        mut record: Record,
        request: &[u8],
        end: Result<Box<RawValue>, JobError>,
        cancel: &CancelToken,
    ) {
        let (state, response) = match end {
            Ok(response) => (State::Completed, Some(response)),
            Err(error) => {
                record.error = Some(error);
                (State::Error, None)
            }
        };
        let is_cancelled = record.error.as_ref().is_some_and(|error| error.kind == JobError::CANCELLED);
        let webhook_pending = record.webhook.is_some() && !is_cancelled;
        let file = record.file(&[request], response.as_deref());
        let mut to = Job { webhook_pending, bytes: size(&file), ..job.to(state, seconds()) };
        let mut written = 0;
        while let Err(error) = self.spool.write(&to, &file) {
            written += 1;
            if !cancel.is_cancelled() && (state == State::Completed || written < WRITES) {
                if written == 1 {
                    log::warn!("job {}: its end cannot be written yet: {error}", job.id);
                }
                cancel.wait_until(time::now() + WAIT, time::now);
                continue;
            }
            // It runs again after the next start.
            if self.locked().stop_reason(&job.id) == Some(StopReason::Stopping) {
                return self.requeue(job);
            }
            log::error!("job {}: its end is lost: {error}", job.id);
            // Renaming needs no space.
            to = Job { bytes: job.bytes, ..to.to(State::Error, to.number) };
            if self.spool.rename(job, &to).is_err() {
                to = job.clone();
            }
            break;
        }
        log::info!("job {}: {} after {} tries", job.id, to.state.as_str(), job.number);
        self.locked().put(to.clone());
        if to != *job {
            self.spool.remove(job);
        }
        if to.webhook_pending {
            self.queue_webhook(&to.id, &record);
        }
    }
}

/// A response in the form in which it is stored.
fn answer(events: bool, body: Vec<u8>) -> Result<Box<RawValue>, String> {
    let text = match events {
        true => collect(&body)?.to_string(),
        false => String::from_utf8(body).map_err(|_| "The answer is no text.")?,
    };
    RawValue::from_string(text).map_err(|_| "The answer is no JSON.".into())
}

/// Message and type of an endpoint's error.
fn endpoint_error(status: u16, body: &[u8]) -> (String, String) {
    let body = serde_json::from_slice::<Value>(body).unwrap_or_else(|_| json!({}));
    let error = &body["error"];
    let message = error["message"]
        .as_str()
        .or(error.as_str())
        .map_or_else(|| format!("The endpoint answered {status}."), str::to_owned);
    (message, error["type"].as_str().unwrap_or("upstream_error").to_owned())
}
