//! Who a request is from: the key it shows, wherever clients put one.

use crate::http::head::Head;
use crate::model::caller::{Caller, Callers};
use crate::model::failure::{Failure, Kind};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use std::net::IpAddr;
use std::time::Instant;

/// Asks a request to wait behind others.
const PRIORITY: HeaderName = HeaderName::from_static("x-llmproxy-priority");

/// The caller of a request.
///
/// # Errors
/// 401 without a right key; 429 after too many wrong ones from this address.
pub fn caller(head: &Head, peer: IpAddr, callers: &Callers, now: Instant) -> Result<Caller, Failure> {
    if callers.is_open() {
        return Ok(Caller::anybody());
    }
    let text = "A key is needed: send it as Authorization: Bearer KEY (or x-api-key).";
    let Some(shown) = shown(head)? else {
        return Err(Failure::new(Kind::Unauthorized, text));
    };
    callers.identify(&shown).ok_or_else(|| match callers.guessed(peer, now) {
        Some(wait) => {
            let text = "Too many wrong keys came from this address; a right one still works.";
            Failure::new(Kind::RateLimited, text).retry_after(wait)
        }
        None => Failure::new(Kind::Unauthorized, "This key is not known here."),
    })
}

/// Whether a request waits behind others.
pub fn is_background(head: &Head, caller: &Caller) -> bool {
    let asked = head.fields.get(PRIORITY).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"background"));
    caller.background || asked
}

/// Everything in a request that may be a key of ours, wherever credentials stand.
pub fn all_shown(head: &Head) -> impl Iterator<Item = String> {
    head.fields.iter().filter_map(|(name, value)| match name.as_str() {
        "authorization" => Some(credentials(value)),
        "x-api-key" | "api-key" => Some(text(value)),
        _ => None,
    })
}

/// The one key that a request shows; a query is no place for one.
///
/// # Errors
/// 401 if it shows two that differ.
pub fn shown(head: &Head) -> Result<Option<String>, Failure> {
    let mut shown: Option<String> = None;
    let mut authorizations = 0;
    for (name, value) in head.fields.iter() {
        let key = match name.as_str() {
            _ if *name == AUTHORIZATION => {
                authorizations += 1;
                credentials(value)
            }
            "x-api-key" | "api-key" => text(value),
            _ => continue,
        };
        if authorizations > 1 || shown.as_ref().is_some_and(|before| *before != key) {
            return Err(Failure::new(Kind::Unauthorized, "The request shows more than one key; send just one."));
        }
        shown = Some(key);
    }
    Ok(shown)
}

/// The key in `Authorization`: a Bearer token, or the password of Basic, which browsers can be made to send.
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
