//! Delivers webhooks: signed, retried, never to an address of the local network that is not allowed.

use super::record::{Bodies, Delivery, Name, Record, State, pieces, size};
use super::webhook_queue::Call;
use super::{JobManager, address, is_hopeless, seconds};
use crate::upstream::post::{self, Post};
use crate::util::lock::lock;
use crate::util::secret::Secret;
use crate::util::time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
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

impl JobManager {
    /// Queues the webhook of a finished job.
    pub(super) fn queue_webhook(&self, id: &Arc<str>, record: &Record) {
        lock(&self.webhooks).put_new(Arc::clone(id), self.target(record), time::now());
        self.webhook_due.notify_one();
    }

    /// `host:port` of a job's webhook; empty if its address is not allowed (any more).
    fn target(&self, record: &Record) -> Arc<str> {
        let url = record.webhook.as_deref().unwrap_or_default();
        let target = address::check(url, &self.settings().webhooks);
        target.map_or_else(|_| "".into(), |target| format!("{}:{}", target.base.host, target.base.port).into())
    }

    /// The loop of a webhook thread.
    pub(super) fn deliver_webhooks(&self) {
        while let Some(call) = self.next_call() {
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

    fn next_call(&self) -> Option<Call> {
        while !self.locked().closed {
            let now = time::now();
            let mut queue = lock(&self.webhooks);
            if let Some(call) = queue.take(now) {
                return Some(call);
            }
            let pause = queue.next_due().map_or(POLL, |due| (due - now).min(POLL));
            drop(self.webhook_due.wait_timeout(queue, pause));
        }
        None
    }

    /// One delivery; what is to be tried again, and when.
    fn call(&self, call: &Call) -> Option<(Call, Instant)> {
        let name = self.locked().queue.name(&call.id).filter(|name| name.webhook_pending)?;
        let mut held = self.proxy.budget.hold(None);
        if !held.resize(self.room(&name)) {
            return Some((call.clone(), time::now() + PAUSE));
        }
        let file = self.file(&name);
        let read = file.as_deref().map_err(|error| error.kind().into()).and_then(Record::read);
        let (mut record, bodies) = match read.inspect_err(|error| log::warn!("job {}: {error}", name.id)) {
            Ok(read) => read,
            Err(error) if is_hopeless(&error) => return None,
            Err(_) => return Some((call.clone(), time::now() + PAUSE)),
        };
        let target = self.target(&record);
        if target != call.target {
            return Some((Call { target, ..call.clone() }, time::now()));
        }
        let settings = self.settings().webhooks;
        let url = record.webhook.clone()?;
        let attempts = call.attempts + 1;
        let sent = address::check(&url, &settings).and_then(|target| {
            let head = message(&name, &record, &bodies);
            let response = bodies.response.filter(|_| name.state == State::Completed);
            let body = [head.as_bytes(), response.map_or(b"", |response| response.get().as_bytes()), b"}"];
            let headers = signed(&name, &body, settings.secret.as_ref());
            let allowed = target.allowed;
            let guard = move |ip| allowed || address::is_public(ip);
            let post = Post { base: &target.base, path: &target.path, headers, body };
            post::deliver(&post, TIMEOUT, &self.stopped, Arc::new(guard))
        });
        if self.stopped.is_cancelled() {
            return None;
        }
        let wrong = match sent {
            Ok(200..=299) => None,
            Ok(status) => Some(format!("it answered {status}")),
            Err(why) => Some(why),
        };
        match &wrong {
            None => log::info!("job {}: its webhook was delivered", name.id),
            Some(why) if attempts < settings.attempts => {
                log::info!(
                    "job {}: its webhook was not delivered, try {attempts} of {}: {why}",
                    name.id,
                    settings.attempts
                );
                let pause = PAUSE.saturating_mul(1 << (attempts - 1).min(16)).min(LONGEST_PAUSE);
                return Some((Call { attempts, ..call.clone() }, time::now() + pause));
            }
            Some(why) => log::warn!("job {}: its webhook was not delivered after {attempts} tries: {why}", name.id),
        }
        let status = if wrong.is_none() { "delivered" } else { "failed" };
        record.delivery = Some(Delivery { status: status.into(), attempts, error: wrong });
        self.note_delivery(&name, &record, &bodies);
        None
    }

    /// Records the result of the delivery in the job's file.
    fn note_delivery(&self, name: &Name, record: &Record, bodies: &Bodies<'_>) {
        let to = Name { webhook_pending: false, ..name.clone() };
        let head = record.head();
        let response = bodies.response.map(|response| response.get());
        let pieces = pieces(&head, [bodies.request.get().as_bytes(), &[]], response);
        if let Err(error) = self.spool.write(&to, &pieces) {
            return log::warn!("job {}: the result of its webhook cannot be written: {error}", name.id);
        }
        let mut locked = self.locked();
        // Its owner may have removed it meanwhile.
        let is_there = locked.queue.name(&name.id).is_some();
        if is_there {
            locked.queue.put(&to, size(&pieces));
        }
        drop(locked);
        self.spool.remove(if is_there { name } else { &to });
    }
}

/// The body, up to the response as it was answered, byte for byte, and the last brace [S004-16].
fn message(name: &Name, record: &Record, bodies: &Bodies<'_>) -> String {
    let id = json!(&*name.id);
    match (bodies.response, name.state) {
        (Some(_), State::Completed) => format!("{{\"request_id\":{id},\"status\":\"completed\",\"response\":"),
        _ => format!("{{\"request_id\":{id},\"status\":\"error\",\"error\":{}", json!(record.error)),
    }
}

/// The fields of Standard Webhooks 1.0; without a secret nothing is signed.
fn signed(name: &Name, body: &[&[u8]; 3], secret: Option<&Secret>) -> Vec<(&'static str, String)> {
    let (id, time) = (format!("msg_{}", name.id), seconds());
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
}
