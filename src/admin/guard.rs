//! Access to the page: requires the token or, with `admin.open`, a loopback peer; a known `Host`; and no foreign
//! `Origin` (FAULTS F5 to F9).

use crate::api::errors::{Failure, Kind};
use crate::config::Config;
use crate::http::head::{Head, Version};
use crate::proxy::state::Opened;
use crate::proxy::{auth, cors};
use crate::routing::snapshot::Snapshot;
use crate::util::secret::Secret;
use http::{HeaderName, Method, header};
use std::net::IpAddr;
use std::time::Instant;

/// # Errors
/// 421 for an unknown `Host`, 403 for requests by other web pages, 401 without a valid token, 429 after too many wrong
/// ones, 415 for a body that is not JSON.
pub(super) fn admit(head: &Head, peer: IpAddr, snapshot: &Snapshot, now: Instant) -> Result<Opened, Failure> {
    let Config { server, admin, .. } = &*snapshot.config;
    let hosts: Vec<String> = server.allowed_hosts.iter().chain(&admin.allowed_hosts).cloned().collect();
    cors::check_host(head.fields.get(header::HOST), &hosts)?;
    let is_read = head.method == Method::GET || head.method == Method::HEAD;
    if is_read && is_shell(&head.target.canonical()) {
        return Ok(Opened::Shell);
    }
    same_site(head)?;
    let opened = opened(head, peer, snapshot, now)?;
    if !is_read && head.method != Method::DELETE && !is_json(head) {
        return Err(Failure::new(Kind::NotJson, "Send JSON, with Content-Type: application/json."));
    }
    Ok(opened)
}

/// The page's static files, and redirects to them.
fn is_shell(path: &str) -> bool {
    matches!(path, "/" | "/admin" | "/admin.html" | "/admin/" | "/admin/page.css" | "/admin/page.js")
}

fn opened(head: &Head, peer: IpAddr, snapshot: &Snapshot, now: Instant) -> Result<Opened, Failure> {
    let (admin, key_ring) = (&snapshot.config.admin, &snapshot.key_ring);
    let is_token = |shown: &str| admin.token.as_ref().is_some_and(|token| *token == Secret::new(shown));
    let is_admins = |shown: &str| key_ring.identify(shown).is_some_and(|client_key| client_key.admin);
    let shown = auth::presented_keys(head);
    if shown.iter().any(|shown| is_token(shown) | is_admins(shown)) {
        return Ok(Opened::Token);
    }
    if admin.open && peer.to_canonical().is_loopback() && !came_through(head) {
        return Ok(Opened::Loopback);
    }
    if shown.is_empty() {
        return Err(Failure::new(Kind::Unauthorized, "The page needs its token: Authorization: Bearer TOKEN."));
    }
    let client = cors::client(head, peer, &snapshot.config.server.trusted_proxies);
    Err(auth::wrong_key(key_ring, client, "This token does not open the page.", now))
}

/// Whether a request was forwarded by a proxy, so that its client may be anywhere. HTTP/1.0 is the default of nginx
/// before 1.29.
fn came_through(head: &Head) -> bool {
    const MARKS: [&str; 5] = ["via", "forwarded", "x-real-ip", "x-client-ip", "true-client-ip"];
    let is_mark = |name: &str| MARKS.contains(&name) || name.starts_with("x-forwarded-") || name.starts_with("cf-");
    head.version == Version::Http10 || head.fields.iter().any(|(name, _)| is_mark(name.as_str()))
}

/// Rejects requests by other web pages. Only browsers send these header fields.
fn same_site(head: &Head) -> Result<(), Failure> {
    let refused = || Failure::new(Kind::Forbidden, "Other web pages may not send requests to this one.");
    let text = |name: HeaderName| {
        head.fields.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase())
    };
    if text(HeaderName::from_static("sec-fetch-site")).is_some_and(|policy| policy != "same-origin" && policy != "none")
    {
        return Err(refused());
    }
    let Some(origin) = text(header::ORIGIN) else { return Ok(()) };
    let host = text(header::HOST).unwrap_or_default();
    let own = origin.strip_prefix("http://").or(origin.strip_prefix("https://"));
    if own.is_some_and(|own| own == host) { Ok(()) } else { Err(refused()) }
}

fn is_json(head: &Head) -> bool {
    let kind = head.fields.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}
