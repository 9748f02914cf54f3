//! The life of one job: it is taken from the queue and tried; its end is on disk before clients see it.

use super::collect::collect;
use super::record::{JobError, Name, Record, State, pieces, size};
use super::{JobManager, Running, StopReason, seconds};
use crate::api::errors::{Failure, Kind};
use crate::http::request::Body;
use crate::proxy::background::{Background, Ended};
use crate::routing::scope::Scope;
use crate::util::cancel::CancelToken;
use crate::util::disk::is_full;
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
/// The pause while no endpoint is available (which does not count as a try), or the disk is full.
const WAIT: Duration = Duration::from_secs(2);
/// Attempts to write a finished job.
const WRITES: u32 = 3;

enum Try {
    Answered(Box<RawValue>),
    Retry(JobError),
    NoEndpoint(JobError),
    Refused(JobError),
    Interrupted,
}

enum End {
    Completed(Box<RawValue>),
    Error(JobError),
    /// It goes back into the queue; this try does not count.
    Stopped,
}

/// A job in progress; dropping this frees its slot.
struct RunningGuard<'a>(&'a JobManager, &'a str);

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        self.0.locked().queue.done(self.1);
        self.0.changed.notify_all();
    }
}

impl JobManager {
    pub(super) fn run(&self) {
        while let Some((was, running)) = self.next() {
            let _running = RunningGuard(self, &was.id);
            // A panic fails one job; the hook has logged it.
            if catch_unwind(AssertUnwindSafe(|| self.begin(&was, &running.cancel))).is_err() {
                self.give_up(&was);
            }
        }
    }

    fn next(&self) -> Option<(Name, Running)> {
        let mut locked = self.locked();
        while !locked.closed {
            let running =
                Running { cancel: Arc::default(), until: time::now() + self.settings().timeout, reason: None };
            if let Some(was) = locked.queue.start(self.most, || running.clone()) {
                return Some((was, running));
            }
            locked = self.wait(locked, Duration::from_secs(60));
        }
        None
    }

    fn begin(&self, was: &Name, cancel: &Arc<CancelToken>) {
        let name = was.to(State::Processing, was.number + 1);
        if let Err(error) = self.spool.rename(was, &name) {
            log::error!("job {}: it cannot be started: {error}", name.id);
        }
        // `expire_loop` has a new deadline to watch.
        self.changed.notify_all();
        self.work(name, cancel);
    }

    /// Record and request of a job that is to run.
    fn load(&self, name: &Name) -> io::Result<(Record, Body)> {
        let mut held = self.proxy.budget.hold(None);
        if !held.resize(self.room(name)) {
            return Err(io::Error::new(ErrorKind::OutOfMemory, "too much is held for clients (server.bodyMemory)"));
        }
        let mut file = self.file(name)?;
        let (record, bodies) = Record::read(&file)?;
        let start = bodies.request.get().as_ptr() as usize - file.as_ptr() as usize;
        let end = start + bodies.request.get().len();
        file.truncate(end);
        file.drain(..start);
        let mut body = Body::new(held);
        body.grow(|bytes| *bytes = file).ok_or(ErrorKind::OutOfMemory)?;
        Ok((record, body))
    }

    fn work(&self, mut name: Name, cancel: &Arc<CancelToken>) {
        let (mut record, mut body) = match self.load(&name) {
            Ok(loaded) => loaded,
            Err(error) => {
                log::error!("job {}: it cannot be read: {error}", name.id);
                return match error.kind() {
                    ErrorKind::NotFound => drop(self.locked().queue.take_out(&name.id)),
                    ErrorKind::InvalidData | ErrorKind::UnexpectedEof => self.give_up(&name),
                    // Out of memory or descriptors, or a disk that is away: it is tried again later.
                    _ => {
                        cancel.wait_until(time::now() + PAUSE, time::now);
                        self.requeue(&name);
                    }
                };
            }
        };
        log::info!("job {}: started, try {}", name.id, name.number);
        let end = self.tries(&mut name, &record, &mut body, cancel);
        let reason = self.stop_reason(&name.id);
        let tries = name.number;
        let error =
            |message: &str, kind: &str| JobError { message: message.into(), kind: kind.into(), attempts: tries };
        let end = match (end, reason) {
            (End::Stopped, Some(StopReason::Late)) => {
                End::Error(error("The job took longer than jobs.timeout.", "timeout"))
            }
            (End::Stopped, Some(StopReason::Cancelled)) => End::Error(JobError::cancelled(tries)),
            (end, _) => end,
        };
        match end {
            End::Stopped => self.requeue(&name),
            End::Completed(response) => self.finish(&name, &record, body.bytes(), Some(&response), cancel),
            End::Error(error) => {
                record.error = Some(error);
                self.finish(&name, &record, body.bytes(), None, cancel);
            }
        }
    }

    /// Tries until it succeeds, or no try is left.
    fn tries(&self, name: &mut Name, record: &Record, body: &mut Body, cancel: &Arc<CancelToken>) -> End {
        let settings = self.settings();
        let most = u64::from(settings.attempts);
        if name.number > most {
            let message = "The proxy was stopped or lost power each time while the job was running.".into();
            return End::Error(JobError { message, kind: "interrupted".into(), attempts: name.number - 1 });
        }
        let mut pause = PAUSE;
        loop {
            let tried = self.attempt(name, record, body, cancel);
            let wait = match tried {
                Try::Interrupted => return End::Stopped,
                Try::Answered(response) => return End::Completed(response),
                Try::Refused(error) => return End::Error(error),
                Try::Retry(error) if name.number >= most => return End::Error(error),
                Try::Retry(error) => {
                    log::info!("job {}: try {} of {most} failed: {}", name.id, name.number, error.message);
                    // The count of tries survives a crash; if this fails, there is one try more.
                    let next = name.to(State::Processing, name.number + 1);
                    if self.rename(name, &next).is_ok() {
                        *name = next;
                    }
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    wait
                }
                Try::NoEndpoint(error) => {
                    log::debug!("job {}: waits: {}", name.id, error.message);
                    WAIT
                }
            };
            if cancel.wait_until(time::now() + wait, time::now) {
                return End::Stopped;
            }
        }
    }

    fn attempt(&self, name: &Name, record: &Record, body: &mut Body, cancel: &Arc<CancelToken>) -> Try {
        let error = |message: String, kind: &str| JobError { message, kind: kind.into(), attempts: name.number };
        let Some(scope) = self.scope(record) else {
            return Try::Refused(error("The key it came with is no longer known.".into(), "unauthorized"));
        };
        let order = Background { id: &name.id, path: &record.path, scope, cancel };
        match self.proxy.run(&order, body) {
            Ended::ClientGone => Try::Interrupted,
            Ended::Answered { status: 200..=299, events, body } => match answer(events, body) {
                Ok(response) => Try::Answered(response),
                Err(message) => Try::Retry(error(message, "upstream_error")),
            },
            Ended::Answered { status, body, .. } => {
                let (message, kind) = endpoint_error(status, &body);
                let error = error(message, &kind);
                if matches!(status, 408 | 429 | 500..) { Try::Retry(error) } else { Try::Refused(error) }
            }
            Ended::Failed(Failure { kind: Kind::Draining, .. }) => Try::Interrupted,
            Ended::Failed(failure) => {
                let error = error(failure.message.clone(), failure.kind.wire().1);
                match failure.kind {
                    Kind::NoEndpoint | Kind::Overloaded | Kind::QueueTimeout => Try::NoEndpoint(error),
                    _ if failure.kind.status() >= 500 => Try::Retry(error),
                    _ => Try::Refused(error),
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
    fn requeue(&self, name: &Name) {
        let again = name.to(State::Pending, name.number - 1);
        // If this fails, the next start finds it as running and runs it again.
        if let Err(error) = self.rename(name, &again) {
            log::warn!("job {}: it cannot be put back into the queue: {error}", name.id);
        }
    }

    /// Ends a job that cannot be read or that panicked. Its file is only renamed.
    fn give_up(&self, name: &Name) {
        let Some(name) = self.locked().queue.name(&name.id).filter(|name| !name.state.is_final()) else { return };
        if let Err(error) = self.rename(&name, &name.to(State::Error, seconds())) {
            log::error!("job {}: it cannot be given up: {error}", name.id);
        }
    }

    fn rename(&self, from: &Name, to: &Name) -> io::Result<()> {
        self.spool.rename(from, to)?;
        let mut locked = self.locked();
        let bytes = locked.queue.size(&from.id);
        locked.queue.put(to, bytes);
        Ok(())
    }

    /// Why a job in progress was interrupted, if it was.
    fn stop_reason(&self, id: &str) -> Option<StopReason> {
        self.locked().queue.running(id).and_then(|running| running.reason)
    }

    /// Writes a finished job, and only then makes it visible. On a full disk a response is kept and written later, until
    /// `cancel`: it is expensive to compute again.
    pub(super) fn finish(
        &self,
        name: &Name,
        record: &Record,
        request: &[u8],
        response: Option<&RawValue>,
        cancel: &CancelToken,
    ) {
        let is_cancelled = record.error.as_ref().is_some_and(|error| error.kind == JobError::CANCELLED);
        let webhook_pending = record.webhook.is_some() && !is_cancelled;
        let state = if response.is_some() { State::Completed } else { State::Error };
        let mut to = Name { webhook_pending, ..name.to(state, seconds()) };
        let head = record.head();
        let pieces = pieces(&head, [request, &[]], response.map(RawValue::get));
        let mut bytes = size(&pieces);
        for written in 1.. {
            match self.spool.write(&to, &pieces) {
                Ok(()) => break,
                Err(error) if is_full(&error) && state == State::Completed && !cancel.is_cancelled() => {
                    if written == 1 {
                        log::warn!("job {}: its response waits for free space on the disk: {error}", name.id);
                    }
                    cancel.wait_until(time::now() + WAIT, time::now);
                }
                Err(error) if written < WRITES && !is_full(&error) => {
                    log::warn!("job {}: its end cannot be written: {error}; once more", name.id);
                    cancel.wait_until(time::now() + PAUSE, time::now);
                }
                // It runs again after the next start.
                Err(_) if self.stop_reason(&name.id) == Some(StopReason::Stopping) => return self.requeue(name),
                // Renaming needs no space.
                Err(error) => {
                    log::error!("job {}: its end is lost: {error}", name.id);
                    to = to.to(State::Error, to.number);
                    bytes = self.locked().queue.size(&name.id);
                    if self.spool.rename(name, &to).is_err() {
                        to.clone_from(name);
                    }
                    break;
                }
            }
        }
        log::info!("job {}: {} after {} tries", name.id, to.state.as_str(), name.number);
        self.locked().queue.put(&to, bytes);
        if to != *name {
            self.spool.remove(name);
        }
        if to.webhook_pending {
            self.queue_webhook(&to.id, record);
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
