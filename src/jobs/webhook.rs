//! Delivers webhooks: signed, retried, never to an address of the local network that is not allowed.

use super::record::{Bodies, Delivery, Job, Record, State, size};
use super::spool::ROOM;
use super::{JobManager, address, is_hopeless, seconds};
use crate::upstream::post::{self, Post};
use crate::util::lock::lock;
use crate::util::secret::Secret;
use crate::util::time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The limit of one delivery (SPEC section 7).
const TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after the first try, doubled after each.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How often a waiting thread looks for a stop.
const POLL: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    id: Arc<str>,
    attempts: u32,
    /// Host and port; empty until the job is read for the first time after a start.
    target: Arc<str>,
}

/// The webhooks to deliver and when; one at a time per target, so that no target delays another. Bounded by the finished
/// jobs: the call of a removed job is dropped when it is due.
#[derive(Default)]
pub(super) struct WebhookQueue {
    waiting: BTreeMap<(Instant, u64), Call>,
    called: HashSet<Arc<str>>,
    count: u64,
}

impl WebhookQueue {
    pub(super) fn put_new(&mut self, id: &Arc<str>, target: Arc<str>, due: Instant) {
        self.put(Call { id: Arc::clone(id), attempts: 0, target }, due);
    }

    fn put(&mut self, call: Call, due: Instant) {
        self.count += 1;
        self.waiting.insert((due, self.count), call);
    }

    /// The call that is due first, or when one will be. Its target gets no other one until [`WebhookQueue::done`].
    fn take(&mut self, now: Instant) -> Result<Call, Option<Instant>> {
        let free = self.waiting.iter().find(|(_, call)| !self.called.contains(&call.target));
        let (&place, call) = free.ok_or(None)?;
        if place.0 > now {
            return Err(Some(place.0));
        }
        self.called.insert(Arc::clone(&call.target));
        self.waiting.remove(&place).ok_or(None)
    }

    fn done(&mut self, target: &Arc<str>) {
        self.called.remove(target);
    }
}

impl JobManager {
    pub(super) fn queue_webhook(&self, id: &Arc<str>, record: &Record) {
        lock(&self.webhooks).put_new(id, self.target(record), time::now());
        self.webhook_due.notify_one();
    }

    /// `host:port` of a job's webhook; empty if its address is not allowed (any more).
    fn target(&self, record: &Record) -> Arc<str> {
        let url = record.webhook.as_deref().unwrap_or_default();
        let target = address::check(url, &self.settings().webhooks);
        target.map_or_else(|_| "".into(), |target| format!("{}:{}", target.base.host, target.base.port).into())
    }

    pub(super) fn deliver_webhooks(&self) {
        while !self.locked().closed {
            let now = time::now();
            let mut queue = lock(&self.webhooks);
            let call = match queue.take(now) {
                Ok(call) => call,
                Err(due) => {
                    let pause = due.map_or(POLL, |due| (due - now).min(POLL));
                    drop(self.webhook_due.wait_timeout(queue, pause));
                    continue;
                }
            };
            drop(queue);
            // A panic ends one delivery; the hook has logged it.
            let again = catch_unwind(AssertUnwindSafe(|| self.call(&call))).unwrap_or(None);
            let mut queue = lock(&self.webhooks);
            queue.done(&call.target);
            if let Some((call, due)) = again {
                queue.put(call, due);
            }
            drop(queue);
            self.webhook_due.notify_all();
        }
    }

    /// One delivery; what is to be tried again, and when.
    fn call(&self, call: &Call) -> Option<(Call, Instant)> {
        let job = self.locked().get(&call.id).filter(|job| job.webhook_pending).cloned()?;
        let later = || Some((call.clone(), time::now() + PAUSE));
        let mut held = self.proxy.budget.hold(None);
        if !held.resize(job.bytes + ROOM) {
            return later();
        }
        let file = self.file(&job);
        let read = file.as_deref().map_err(|error| error.kind().into()).and_then(Record::read);
        let (mut record, bodies) = match read.inspect_err(|error| log::warn!("job {}: {error}", job.id)) {
            Ok(read) => read,
            Err(error) if is_hopeless(&error) => return None,
            Err(_) => return later(),
        };
        let target = self.target(&record);
        if target != call.target {
            return Some((Call { target, ..call.clone() }, time::now()));
        }
        let settings = self.settings().webhooks;
        let sent = address::check(record.webhook.as_deref()?, &settings).and_then(|target| {
            let head = message(&job, &record, &bodies);
            let response = bodies.response.filter(|_| job.state == State::Completed);
            let body = [head.as_bytes(), response.map_or(b"", |response| response.get().as_bytes()), b"}"];
            let headers = signed(&job, &body, settings.secret.as_ref());
            let allowed = target.allowed;
            let guard = move |ip| allowed || address::is_public(ip);
            let post = Post { base: &target.base, path: &target.path, headers, body };
            post::deliver(&post, TIMEOUT, &self.stopped, Arc::new(guard))
        });
        if self.stopped.is_cancelled() {
            return None;
        }
        let attempts = call.attempts + 1;
        let error = match sent {
            Ok(200..=299) => None,
            Ok(status) => Some(format!("it answered {status}")),
            Err(why) => Some(why),
        };
        let status = match &error {
            None => {
                log::info!("job {}: its webhook was delivered", job.id);
                "delivered"
            }
            Some(why) if attempts < settings.attempts => {
                let most = settings.attempts;
                log::info!("job {}: its webhook was not delivered, try {attempts} of {most}: {why}", job.id);
                let pause = PAUSE.saturating_mul(1 << (attempts - 1).min(16)).min(LONGEST_PAUSE);
                return Some((Call { attempts, ..call.clone() }, time::now() + pause));
            }
            Some(why) => {
                log::warn!("job {}: its webhook was not delivered after {attempts} tries: {why}", job.id);
                "failed"
            }
        };
        record.delivery = Some(Delivery { status: status.into(), attempts, error });
        self.note_delivery(&job, &record, &bodies);
        None
    }

    /// Records the result of the delivery in the job's file.
    fn note_delivery(&self, job: &Job, record: &Record, bodies: &Bodies<'_>) {
        let file = record.file(&[bodies.request.get().as_bytes()], bodies.response);
        let to = Job { webhook_pending: false, bytes: size(&file), ..job.clone() };
        if let Err(error) = self.spool.write(&to, &file) {
            return log::warn!("job {}: the result of its webhook cannot be written: {error}", job.id);
        }
        let mut queue = self.locked();
        // Its owner may have removed it meanwhile.
        let is_there = queue.get(&job.id).is_some();
        if is_there {
            queue.put(to.clone());
        }
        drop(queue);
        self.spool.remove(if is_there { job } else { &to });
    }
}

/// The body, up to the response as it was answered, byte for byte, and the last brace [S004-16].
fn message(job: &Job, record: &Record, bodies: &Bodies<'_>) -> String {
    let id = json!(&*job.id);
    match (bodies.response, job.state) {
        (Some(_), State::Completed) => format!("{{\"request_id\":{id},\"status\":\"completed\",\"response\":"),
        _ => format!("{{\"request_id\":{id},\"status\":\"error\",\"error\":{}", json!(record.error)),
    }
}

/// The fields of Standard Webhooks 1.0; without a secret nothing is signed.
fn signed(job: &Job, body: &[&[u8]; 3], secret: Option<&Secret>) -> Vec<(&'static str, String)> {
    let (id, time) = (format!("msg_{}", job.id), seconds());
    let mut fields = vec![("webhook-id", id.clone()), ("webhook-timestamp", time.to_string())];
    if let Some(secret) = secret {
        let stamp = format!("{id}.{time}.");
        let text = [stamp.as_bytes(), body[0], body[1], body[2]];
        fields.push(("webhook-signature", format!("v1,{}", signature(secret.reveal(), &text))));
    }
    fields
}

fn signature(secret: &str, text: &[&[u8]]) -> String {
    let coded = secret.strip_prefix("whsec_").and_then(|coded| STANDARD.decode(coded).ok());
    let key = coded.unwrap_or_else(|| secret.as_bytes().to_vec());
    let mut context = ring::hmac::Context::with_key(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key));
    text.iter().for_each(|piece| context.update(piece));
    STANDARD.encode(context.sign())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_standards_example() {
        // https://github.com/standard-webhooks/standard-webhooks, the example of its libraries.
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let text = [&b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330."[..], b"{\"test\": ", b"2432232314}"];
        assert_eq!(signature(secret, &text), "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    // U19
    #[test]
    fn one_target_is_called_once_at_a_time_and_others_go_ahead() {
        let (mut queue, now) = (WebhookQueue::default(), time::now());
        let call = |id: &str, target: &str| Call { id: id.into(), attempts: 0, target: target.into() };
        for (id, target) in [("1", "slow"), ("2", "slow"), ("3", "quick"), ("4", "slow")] {
            queue.put(call(id, target), now);
        }
        let ids = |queue: &mut WebhookQueue, now| {
            std::iter::from_fn(|| queue.take(now).ok()).map(|call| call.id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(ids(&mut queue, now), ["1", "3"]);
        queue.done(&"quick".into());
        assert_eq!(queue.take(now), Err(None));
        queue.put(call("5", "quick"), now);
        assert_eq!(ids(&mut queue, now), ["5"]);
        // A try that failed comes after those that are due.
        queue.put(Call { attempts: 1, ..call("1", "slow") }, now + Duration::from_secs(1));
        for id in ["2", "4"] {
            queue.done(&"slow".into());
            assert_eq!(ids(&mut queue, now), [id]);
        }
        queue.done(&"slow".into());
        queue.done(&"quick".into());
        assert_eq!(queue.take(now), Err(Some(now + Duration::from_secs(1))));
        assert_eq!(ids(&mut queue, now + Duration::from_secs(1)), ["1"]);
        queue.done(&"slow".into());
        assert!(queue.waiting.is_empty() && queue.called.is_empty());
    }
}
