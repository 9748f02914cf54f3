//! Who may use the page: this machine, or who has the token; called by its own name; from its own pages (FAULTS F5 to F9).

use crate::base::secret::same;
use crate::config::Admin;
use crate::http::head::Head;
use crate::model::bucket::Buckets;
use crate::model::caller::Callers;
use crate::model::failure::{Failure, Kind};
use crate::proxy::{gate, key};
use http::{HeaderName, Method, header};
use std::net::IpAddr;
use std::time::Instant;

/// Wrong tokens of one address (SPEC section 3): 20 a minute.
const GUESSES: crate::config::RateLimit = crate::config::RateLimit { per_second: 20.0 / 60.0, burst: 20 };

/// What a request to the page is measured by.
pub struct Rules<'a> {
    /// The page's settings.
    pub admin: &'a Admin,
    /// Keys, of which some open the page.
    pub callers: &'a Callers,
    /// More names that this proxy may be called by.
    pub hosts: &'a [String],
    /// Wrong tokens so far.
    pub wrong: &'a Buckets,
}

/// How somebody got in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// The files of the page, which hold nothing and ask for the token: for everybody who calls it by its name.
    Shell,
    /// From this machine, where no token is asked for.
    Here,
    /// With the token, or a key of an administrator.
    Token,
}

/// Whether a request may come in.
///
/// # Errors
/// 421 for a foreign name, 401 or 403 without a right, 429 after too many guesses, 403 for another page's writing, 415
/// for what is not JSON.
pub fn admit(head: &Head, peer: IpAddr, rules: &Rules<'_>, now: Instant) -> Result<Opened, Failure> {
    let hosts: Vec<String> = rules.hosts.iter().chain(&rules.admin.allowed_hosts).cloned().collect();
    gate::check_host(head.fields.get(header::HOST), &hosts)?;
    let is_read = head.method == Method::GET || head.method == Method::HEAD;
    if !is_read {
        same_site(head)?;
    }
    let asks = rules.admin.token.is_some() || !rules.callers.is_open();
    if is_read && is_shell(&head.target.canonical()) && asks {
        return Ok(Opened::Shell);
    }
    let opened = opened(head, peer, rules, now)?;
    if !is_read && head.method != Method::DELETE && !is_json(head) {
        return Err(Failure::new(Kind::NotJson, "Send JSON, with Content-Type: application/json."));
    }
    Ok(opened)
}

/// The page's own files.
fn is_shell(path: &str) -> bool {
    matches!(path, "/admin" | "/admin.html" | "/admin/" | "/admin/page.css" | "/admin/page.js")
}

fn opened(head: &Head, peer: IpAddr, rules: &Rules<'_>, now: Instant) -> Result<Opened, Failure> {
    let shown = key::shown(head)?;
    let is_token =
        |shown: &str| rules.admin.token.as_ref().is_some_and(|token| same(token.reveal().as_bytes(), shown.as_bytes()));
    let is_admins = |shown: &str| rules.callers.identify(shown).is_some_and(|caller| caller.admin);
    match shown {
        Some(shown) if is_token(&shown) | is_admins(&shown) => Ok(Opened::Token),
        Some(_) if rules.admin.token.is_some() || !rules.callers.is_open() => {
            let left = rules.wrong.take(peer, &GUESSES, now);
            match left.granted {
                true => Err(Failure::new(Kind::Unauthorized, "This token does not open the page.")),
                false => {
                    let text = "Too many wrong tokens came from this address; the right one still works.";
                    Err(Failure::new(Kind::RateLimited, text).retry_after(left.retry_after))
                }
            }
        }
        _ if rules.admin.token.is_some() => {
            Err(Failure::new(Kind::Unauthorized, "The page needs its token: Authorization: Bearer TOKEN."))
        }
        _ if peer.to_canonical().is_loopback() && !came_through(head) => Ok(Opened::Here),
        _ => {
            let text = "Without admin.token only this machine may use the page; set one to use it from elsewhere.";
            Err(Failure::new(Kind::Forbidden, text))
        }
    }
}

/// A proxy on this machine brought it: its client may be anywhere.
fn came_through(head: &Head) -> bool {
    ["x-forwarded-for", "forwarded", "x-real-ip"]
        .iter()
        .any(|name| head.fields.get(HeaderName::from_static(name)).is_some())
}

/// A browser tells who wrote a request; other programs tell nothing.
fn same_site(head: &Head) -> Result<(), Failure> {
    let refused = || Failure::new(Kind::Forbidden, "Another page may not write here.");
    let text = |name: HeaderName| {
        head.fields.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase())
    };
    if text(HeaderName::from_static("sec-fetch-site")).is_some_and(|site| site != "same-origin" && site != "none") {
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
