//! Tells who asked for it that a job has ended: signed, tried again, never into this house.

use super::address;
use super::record::{Delivery, Name, Record, State};
use super::seconds;
use super::{Office, is_hopeless};
use crate::base::clock;
use crate::base::secret::Secret;
use crate::upstream::courier::{self, Letter};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One try to tell takes at most this long (SPEC section 7).
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after the first try, doubled after each.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How soon a stop is noticed.
const GLANCE: Duration = Duration::from_millis(500);

/// Somebody to be told.
struct Errand {
    id: Arc<str>,
    tries: u32,
    due: Instant,
}

/// The thread's life: as many errands as there are jobs with an address at most.
pub(super) fn tell(office: &Office, news: &Receiver<Arc<str>>) {
    let mut errands: Vec<Errand> = Vec::new();
    while !office.floor().closed {
        let now = clock::now();
        let wait = errands.iter().map(|errand| errand.due.saturating_duration_since(now)).min();
        match news.recv_timeout(wait.map_or(GLANCE, |wait| wait.min(GLANCE))) {
            Ok(id) => errands.push(Errand { id, tries: 0, due: now }),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = clock::now();
        let (due, later): (Vec<_>, Vec<_>) = errands.into_iter().partition(|errand| errand.due <= now);
        errands = later;
        errands.extend(due.into_iter().filter_map(|errand| office.run_errand(errand)));
    }
}

impl Office {
    /// One try; the errand again if it is to be tried once more.
    fn run_errand(&self, errand: Errand) -> Option<Errand> {
        let name = self.floor().queue.name(&errand.id).filter(|name| name.owed)?;
        let mut record = match self.record(&name).inspect_err(|error| log::warn!("job {}: {error}", name.id)) {
            Ok(record) => record,
            Err(error) if is_hopeless(&error) => return None,
            Err(_) => return Some(Errand { due: clock::now() + PAUSE, ..errand }),
        };
        let settings = self.settings().webhooks;
        let url = record.webhook.clone()?;
        let tries = errand.tries + 1;
        let told = address::check(&url, &settings).and_then(|target| {
            let body = message(&name, &record);
            let headers = signed(&name, &body, settings.secret.as_ref());
            let allowed = target.allowed;
            let guard = move |ip| allowed || address::is_public(ip);
            let letter = Letter { base: &target.base, path: &target.path, headers, body: body.as_bytes() };
            courier::deliver(&letter, PATIENCE, &self.hushed, Arc::new(guard))
        });
        if self.hushed.has_left() {
            return None;
        }
        let wrong = match told {
            Ok(200..=299) => None,
            Ok(status) => Some(format!("it answered {status}")),
            Err(why) => Some(why),
        };
        match &wrong {
            None => log::info!("job {}: its webhook was told", name.id),
            Some(why) if tries < settings.attempts => {
                log::info!("job {}: its webhook was not told, try {tries} of {}: {why}", name.id, settings.attempts);
                let pause = PAUSE.saturating_mul(1 << (tries - 1).min(16)).min(LONGEST_PAUSE);
                return Some(Errand { tries, due: clock::now() + pause, ..errand });
            }
            Some(why) => log::warn!("job {}: its webhook was not told after {tries} tries: {why}", name.id),
        }
        let status = if wrong.is_none() { "delivered" } else { "failed" };
        record.delivery = Some(Delivery { status: status.into(), attempts: tries, error: wrong });
        self.note(&name, &record);
        None
    }

    /// Writes down that nobody waits to be told any more.
    fn note(&self, name: &Name, record: &Record) {
        let to = Name { owed: false, ..name.clone() };
        let bytes = serde_json::to_vec(record).unwrap_or_default();
        if let Err(error) = self.spool.write(&to, &bytes) {
            return log::warn!("job {}: it cannot be noted: {error}", name.id);
        }
        let mut floor = self.floor();
        // Its owner may have dropped it meanwhile.
        let is_there = floor.queue.name(&name.id).is_some();
        if is_there {
            floor.queue.put(&to, bytes.len() as u64);
        }
        drop(floor);
        self.spool.remove(if is_there { name } else { &to });
    }
}

/// What is told [S004-16].
fn message(name: &Name, record: &Record) -> String {
    match (&record.response, name.state) {
        (Some(response), State::Completed) => {
            // As it was answered, byte for byte.
            format!("{{\"request_id\":{},\"status\":\"completed\",\"response\":{response}}}", json!(&*name.id))
        }
        _ => json!({"request_id": &*name.id, "status": "error", "error": record.error}).to_string(),
    }
}

/// The fields of Standard Webhooks 1.0; without a secret nothing is signed.
fn signed(name: &Name, body: &str, secret: Option<&Secret>) -> Vec<(&'static str, String)> {
    let (id, time) = (format!("msg_{}", name.id), seconds());
    let mut fields = vec![("webhook-id", id.clone()), ("webhook-timestamp", time.to_string())];
    if let Some(secret) = secret {
        fields
            .push(("webhook-signature", format!("v1,{}", signature(secret.reveal(), &format!("{id}.{time}.{body}")))));
    }
    fields
}

fn signature(secret: &str, text: &str) -> String {
    let coded = secret.strip_prefix("whsec_").and_then(|coded| STANDARD.decode(coded).ok());
    let key = coded.unwrap_or_else(|| secret.as_bytes().to_vec());
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    STANDARD.encode(ring::hmac::sign(&key, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_standards_example() {
        // https://github.com/standard-webhooks/standard-webhooks, the example of its libraries.
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let text = "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}";
        assert_eq!(signature(secret, text), "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
