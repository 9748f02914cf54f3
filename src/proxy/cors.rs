//! Which `Host` names a local listener accepts, and which web pages may use it and read its answers. Pure.

use crate::api::errors::{Failure, Kind};
use crate::config::{CorsOrigin, Network};
use crate::http::head::{Fields, Head};
use http::Method;
use http::header::{self, HeaderName, HeaderValue};
use std::net::IpAddr;

const EXPOSED: &str = "x-request-id, retry-after, x-llmproxy-endpoint, x-llmproxy-model, x-llmproxy-attempts, x-llmproxy-cached, \
     x-llmproxy-reason, x-llmproxy-queue-ms, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, \
     x-ratelimit-reset-requests";

/// Refuses a foreign `Host` on a loopback listener: DNS rebinding (FAULTS F8).
pub(crate) fn check_host(host: Option<&HeaderValue>, allowed: &[String]) -> Result<(), Failure> {
    let Some(host) = host else {
        return Ok(()); // HTTP/1.0, which no browser speaks
    };
    let name = String::from_utf8_lossy(host.as_bytes()).to_ascii_lowercase();
    let bare = without_port(&name);
    let literal = bare.trim_start_matches('[').trim_end_matches(']');
    let known = bare == "localhost"
        || literal.parse::<IpAddr>().is_ok()
        || allowed.iter().any(|a| a.eq_ignore_ascii_case(bare) || a.eq_ignore_ascii_case(&name));
    if known {
        return Ok(());
    }
    let text = "This proxy is called by a name it does not know; add it to server.allowedHosts to allow it.";
    Err(Failure::new(Kind::Misdirected, text))
}

/// The client's address: behind a trusted proxy, the last one in `X-Forwarded-For` that is not itself trusted.
pub(crate) fn client(head: &Head, peer: IpAddr, trusted: &[Network]) -> IpAddr {
    let is_trusted = |ip: IpAddr| trusted.iter().any(|network| network.contains(ip));
    if !is_trusted(peer) {
        return peer;
    }
    let chain: Vec<&[u8]> = head.fields.list("x-forwarded-for").collect();
    let mut client = peer;
    for hop in chain.iter().rev() {
        let Some(ip) = std::str::from_utf8(hop).ok().and_then(address) else {
            break;
        };
        client = ip;
        if !is_trusted(ip) {
            break;
        }
    }
    client
}

/// An entry of `X-Forwarded-For`, with or without the port that some proxies add.
fn address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim().trim_matches('"');
    let bare = without_port(hop).trim_start_matches('[').trim_end_matches(']');
    hop.parse().or_else(|_| bare.parse()).ok()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// Refuses requests of web pages that `rules` do not list, at listeners without keys. Programs other than browsers send
/// neither `Origin` nor `Sec-Fetch-Site` and are allowed.
pub(crate) fn check_page(head: &Head, rules: &[CorsOrigin]) -> Result<(), Failure> {
    let host = head.fields.get(header::HOST).map(lower).unwrap_or_default();
    let is_own = |origin: &HeaderValue| lower(origin).split_once("://").is_some_and(|(_, own)| own == host);
    let mut origins = head.fields.all("origin").peekable();
    let may = if origins.peek().is_some() {
        origins.all(|origin| is_own(origin) || allowed_origin(rules, origin).is_some())
    } else {
        // Some requests of pages, such as images, have no `Origin`.
        let is_listed = |policy: &str| match policy {
            "none" | "same-origin" => true,
            "same-site" => rules.contains(&CorsOrigin::Local) && is_local(&format!("http://{host}")),
            _ => false,
        };
        rules.contains(&CorsOrigin::Any) || head.fields.all("sec-fetch-site").all(|policy| is_listed(&lower(policy)))
    };
    if may { Ok(()) } else { Err(origin_refused()) }
}

/// Whether a page can send this without a preflight, so that an endpoint's own CORS rules cannot prevent it.
pub(crate) fn is_simple(head: &Head) -> bool {
    const SIMPLE: [&str; 4] = ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];
    let kind = head.fields.get(header::CONTENT_TYPE).map(lower).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    match head.method {
        Method::GET | Method::HEAD => head.fields.get(header::ORIGIN).is_none(),
        Method::POST => SIMPLE.contains(&kind),
        _ => false,
    }
}

fn lower(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase()
}

fn origin_refused() -> Failure {
    let text = "Pages of this origin may not use this proxy; add the origin to server.cors to allow it.";
    Failure::new(Kind::OriginRefused, text)
}

/// `Access-Control-Allow-Origin` for this request, if its origin is allowed.
fn allowed_origin(rules: &[CorsOrigin], origin: &HeaderValue) -> Option<HeaderValue> {
    if rules.contains(&CorsOrigin::Any) {
        return Some(HeaderValue::from_static("*"));
    }
    let text = origin.to_str().ok()?.to_ascii_lowercase();
    let matches = rules.iter().any(|rule| match rule {
        CorsOrigin::Any => true,
        CorsOrigin::Origin(allowed) => *allowed == text,
        CorsOrigin::Scheme(allowed) => text.split_once("://").is_some_and(|(scheme, _)| scheme == allowed),
        CorsOrigin::Local => is_local(&text),
    });
    matches.then(|| origin.clone())
}

/// A page served from a loopback address.
fn is_local(origin: &str) -> bool {
    let Some(host) = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) else {
        return false;
    };
    let host = without_port(host);
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || literal.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Adds the fields that let an allowed page read the answer.
pub(crate) fn add_cors(fields: &mut Fields, rules: &[CorsOrigin], head: &Head) {
    let mut origins = head.fields.all("origin");
    let (Some(origin), None) = (origins.next(), origins.next()) else { return };
    let Some(allow) = allowed_origin(rules, origin) else { return };
    if allow != "*" {
        fields.push(header::VARY, HeaderValue::from_static("Origin"));
    }
    fields.push(header::ACCESS_CONTROL_ALLOW_ORIGIN, allow);
    fields.push(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
}

/// The answer to a preflight: fields of a 204, or a refusal without any `Access-Control-*` (FAULTS F9).
pub(crate) fn preflight(rules: &[CorsOrigin], head: &Head) -> Result<Fields, Failure> {
    const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, DELETE, OPTIONS");
    let mut fields = Fields::default();
    if head.fields.get(header::ORIGIN).is_none() {
        fields.push(header::ALLOW, METHODS);
        return Ok(fields);
    }
    if head.fields.all("origin").any(|origin| allowed_origin(rules, origin).is_none()) {
        return Err(origin_refused());
    }
    fields.push(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    if let Some(asked) = head.fields.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        fields.push(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    fields.push(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    Ok(fields)
}

/// The client's own request id when it is 1 to 64 safe characters.
pub(crate) fn request_id(head: &Head) -> Option<String> {
    let value = head.fields.get(HeaderName::from_static("x-request-id"))?.to_str().ok()?;
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/' | b'=' | b'+');
    ((1..=64).contains(&value.len()) && value.bytes().all(safe)).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_listener_answers_to_addresses_localhost_and_allowed_names() {
        let allowed = vec!["pi.lan".to_owned()];
        let check = |host: &'static str| check_host(Some(&HeaderValue::from_static(host)), &allowed).is_ok();
        for good in ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080", "[::1]", "192.168.1.2", "pi.lan:80"]
        {
            assert!(check(good), "{good}");
        }
        for bad in ["evil.example", "localhost.evil.example:8080", "127.0.0.1.nip.io", "pi.lan.evil", ""] {
            assert!(!check(bad), "{bad}");
        }
    }

    #[test]
    fn local_pages_are_those_served_from_loopback() {
        for good in ["http://localhost:3000", "http://127.0.0.1", "https://[::1]:8443", "http://127.9.9.9:1"] {
            assert!(is_local(good), "{good}");
        }
        for bad in ["http://localhost.evil.example", "null", "file://", "http://192.168.1.2", "https://evil.example"] {
            assert!(!is_local(bad), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_echoed_only_when_allowed() {
        let origin = HeaderValue::from_static("https://app.example");
        let rules = [CorsOrigin::Local, CorsOrigin::Origin("https://app.example".into())];
        assert_eq!(allowed_origin(&rules, &origin), Some(origin.clone()));
        assert_eq!(allowed_origin(&[CorsOrigin::Local], &origin), None);
        assert_eq!(allowed_origin(&[CorsOrigin::Any], &origin), Some(HeaderValue::from_static("*")));
        assert_eq!(allowed_origin(&[], &HeaderValue::from_static("http://localhost")), None);
        let extensions = [CorsOrigin::Scheme("moz-extension".into())];
        let of = |origin: &'static str| allowed_origin(&extensions, &HeaderValue::from_static(origin)).is_some();
        assert!(
            of("moz-extension://7c0e") && !of("moz-extensions://7c0e") && !of("null") && !of("https://moz-extension")
        );
    }
}
