//! Authentication: finds the client key of a request, in any of the places where clients put one.

use crate::api::errors::{Failure, Kind};
use crate::http::head::Head;
use crate::routing::keys::{ClientKey, KeyRing};
use crate::routing::snapshot::Snapshot;
use crate::util::secret::Secret;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{HeaderName, HeaderValue};
use std::net::IpAddr;
use std::time::Instant;

/// Lets a request wait behind others.
const PRIORITY: HeaderName = HeaderName::from_static("x-llmproxy-priority");

/// The client key of a request; one valid key among several is enough. `opens` tells which keys this listener accepts.
///
/// # Errors
/// 401 without a valid key; 429 after too many wrong ones from this address.
pub(crate) fn client_key(
    head: &Head,
    peer: IpAddr,
    key_ring: &KeyRing,
    opens: impl Fn(&ClientKey) -> bool,
    now: Instant,
) -> Result<ClientKey, Failure> {
    let presented = presented_keys(head);
    let mut known: Vec<ClientKey> = presented.iter().filter_map(|key| key_ring.identify(key)).collect();
    if let Some(at) = known.iter().position(opens) {
        return Ok(known.swap_remove(at));
    }
    Err(match (known.is_empty(), presented.is_empty()) {
        (false, _) => Failure::new(Kind::Unauthorized, "This key does not open this address."),
        (_, true) => {
            let text = "A key is needed: send it as Authorization: Bearer KEY (or x-api-key).";
            Failure::new(Kind::Unauthorized, text)
        }
        _ => wrong_key(key_ring, peer, "This key is not known here.", now),
    })
}

/// The failure for a wrong key or token: 401 with this text, or 429 after too many from this address.
pub(crate) fn wrong_key(key_ring: &KeyRing, peer: IpAddr, text: &str, now: Instant) -> Failure {
    match key_ring.guessed(peer, now) {
        Some(wait) => {
            let text = "Too many wrong keys came from this address; a right one still works.";
            Failure::new(Kind::RateLimited, text).retry_after(wait)
        }
        None => Failure::new(Kind::Unauthorized, text),
    }
}

pub(crate) fn is_background(head: &Head, client_key: &ClientKey) -> bool {
    let asked = head.fields.get(PRIORITY).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"background"));
    client_key.background || asked
}

/// The non-empty keys in the fields of a request; keys in a query are not accepted.
pub(crate) fn presented_keys(head: &Head) -> Vec<String> {
    let keys = head.fields.iter().filter_map(|(name, value)| match name.as_str() {
        "authorization" => Some(credentials(value)),
        "x-api-key" | "api-key" => Some(text(value)),
        _ => None,
    });
    keys.filter(|key| !key.is_empty()).collect()
}

/// Whether a request carries a client key or the page's token, whether or not one is required.
pub(crate) fn has_our_key(head: &Head, snapshot: &Snapshot) -> bool {
    let token = snapshot.config.admin.token.as_ref();
    presented_keys(head)
        .iter()
        .any(|key| snapshot.key_ring.identify(key).is_some() || token.is_some_and(|token| *token == Secret::new(key)))
}

/// The key in `Authorization`: a Bearer token, or the password of Basic.
fn credentials(value: &HeaderValue) -> String {
    let value = text(value);
    let (scheme, rest) = value.split_once(' ').unwrap_or_default();
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => rest.trim().to_owned(),
        "basic" => {
            let pair = BASE64_STANDARD.decode(rest.trim()).unwrap_or_default();
            let pair = String::from_utf8(pair).unwrap_or_default();
            pair.split_once(':').map(|(_, password)| password.to_owned()).unwrap_or_default()
        }
        _ => String::new(),
    }
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).trim().to_owned()
}
