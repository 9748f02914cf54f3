//! Which header fields cross the proxy, in both directions. Pure.

use crate::config::{Auth, Endpoint, Op};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Uri};

/// RFC 9110 7.6.1 and RFC 2616 13.5.1: fields of one connection, not of the message.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Where a client's credentials may stand.
pub const CREDENTIALS: [HeaderName; 3] =
    [header::AUTHORIZATION, HeaderName::from_static("x-api-key"), HeaderName::from_static("api-key")];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDING: [HeaderName; 4] = [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, header::FORWARDED];
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is known of the client's side of a request.
pub struct Client<'a> {
    /// The client's address as text.
    pub peer: &'a str,
    /// Its forwarding fields are believed.
    pub trusted: bool,
    /// The `Host` it asked.
    pub host: Option<&'a HeaderValue>,
    /// The request's id.
    pub request_id: &'a str,
    /// Its credentials are for us: they go no further.
    pub keyed: bool,
}

/// The fields of the request to an endpoint. `key` is the endpoint's key of this try.
pub fn request<'a>(
    fields: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> + Clone,
    client: &Client<'_>,
    endpoint: &Endpoint,
    key: Option<&str>,
) -> HeaderMap {
    let named = named_by_connection(fields.clone());
    let replaces_credentials = endpoint.auth != Auth::None || client.keyed;
    let mut out = HeaderMap::with_capacity(16);
    for (name, value) in fields {
        let dropped = HOP_BY_HOP.contains(name)
            || *name == header::HOST
            || *name == header::CONTENT_LENGTH
            || *name == header::EXPECT
            || name.as_str().starts_with("x-llmproxy-")
            || *name == REQUEST_ID
            || (replaces_credentials && CREDENTIALS.contains(name))
            // `Connection: authorization` must not strip credentials (FAULTS F11).
            || (named.iter().any(|n| n == name.as_str()) && !CREDENTIALS.contains(name))
            || (!client.trusted && FORWARDING.contains(name));
        if !dropped {
            out.append(name.clone(), value.clone());
        }
    }
    forwarded(&mut out, client);
    if let Ok(id) = HeaderValue::from_str(client.request_id) {
        out.insert(REQUEST_ID, id);
    }
    credentials(&mut out, endpoint, key);
    if let (Some(agent), false) = (&endpoint.user_agent, out.contains_key(header::USER_AGENT))
        && let Ok(agent) = HeaderValue::from_str(agent)
    {
        out.insert(header::USER_AGENT, agent);
    }
    for change in &endpoint.headers {
        let Ok(name) = HeaderName::from_bytes(change.key.as_bytes()) else { continue };
        match (change.op, secret(change.value.reveal())) {
            (Op::Remove, _) => drop(out.remove(name)),
            (Op::Insert, Some(value)) if !out.contains_key(&name) => drop(out.insert(name, value)),
            (Op::Replace, Some(value)) => drop(out.insert(name, value)),
            (Op::Insert | Op::Replace, _) => {}
        }
    }
    out
}

fn forwarded(out: &mut HeaderMap, client: &Client<'_>) {
    let before = out.get(FORWARDED_FOR).and_then(|value| value.to_str().ok());
    let chain = before.and_then(|before| HeaderValue::from_str(&format!("{before}, {}", client.peer)).ok());
    let chain = chain.or_else(|| HeaderValue::from_str(client.peer).ok());
    if let Some(chain) = chain {
        out.insert(FORWARDED_FOR, chain);
    }
    out.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    if let Some(host) = client.host {
        out.entry(FORWARDED_HOST).or_insert_with(|| host.clone());
    }
}

fn credentials(out: &mut HeaderMap, endpoint: &Endpoint, key: Option<&str>) {
    match (&endpoint.auth, key) {
        (Auth::Bearer, Some(key)) => set(out, header::AUTHORIZATION, &format!("Bearer {key}")),
        (Auth::Basic { username, password }, _) => {
            let pair = BASE64_STANDARD.encode(format!("{username}:{}", password.reveal()));
            set(out, header::AUTHORIZATION, &format!("Basic {pair}"));
        }
        (Auth::Header { name }, Some(key)) => {
            if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                set(out, name, key);
            }
        }
        (Auth::None | Auth::Bearer | Auth::Header { .. }, _) => {}
    }
}

fn set(out: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Some(value) = secret(value) {
        out.insert(name, value);
    }
}

/// A value that no debug output shows.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether a field of an endpoint's answer goes on to the client. Framing is ours, CORS is ours.
pub fn passes_to_client(name: &HeaderName, named: &[String]) -> bool {
    !(HOP_BY_HOP.contains(name)
        || *name == header::CONTENT_LENGTH
        || *name == REQUEST_ID
        || name.as_str().starts_with("access-control-")
        || name.as_str().starts_with("x-llmproxy-")
        || named.iter().any(|n| n == name.as_str()))
}

/// What an answer says in one word, for logs and errors. Of a `Location` only the server is told, which is what is
/// wrong with a base URL; the rest may hold secrets.
pub fn answered(status: StatusCode, fields: &HeaderMap) -> String {
    let to = fields.get(header::LOCATION).and_then(|to| to.to_str().ok()?.parse::<Uri>().ok());
    let server = to.as_ref().and_then(|to| Some((to.scheme_str()?, to.host()?, to.port())));
    match server {
        Some((scheme, host, Some(port))) => format!("answered {} (go to {scheme}://{host}:{port})", status.as_u16()),
        Some((scheme, host, None)) => format!("answered {} (go to {scheme}://{host})", status.as_u16()),
        None => format!("answered {}", status.as_u16()),
    }
}

/// The fields that `Connection` declares to be of this connection only.
fn named_by_connection<'a>(fields: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>) -> Vec<String> {
    let values = fields.filter(|(name, _)| **name == header::CONNECTION);
    values.flat_map(|(_, value)| tokens(value)).collect()
}

/// The lower-case tokens of a `Connection` value.
pub fn tokens(value: &HeaderValue) -> Vec<String> {
    let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    text.split(',').map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()).collect()
}

/// The fields of a request of our own to an endpoint: a probe, or the end of a conversation.
pub fn own(endpoint: &Endpoint) -> HeaderMap {
    let mut out = HeaderMap::new();
    out.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    out.insert(header::USER_AGENT, HeaderValue::from_static(concat!("llmproxy/", env!("CARGO_PKG_VERSION"))));
    credentials(&mut out, endpoint, endpoint.api_keys.first().map(|key| key.reveal()));
    for change in endpoint.headers.iter().filter(|change| change.op != Op::Remove) {
        if let (Ok(name), Some(value)) = (HeaderName::from_bytes(change.key.as_bytes()), secret(change.value.reveal()))
        {
            out.insert(name, value);
        }
    }
    out
}
