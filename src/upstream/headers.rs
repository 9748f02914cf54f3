//! Which header fields are forwarded, in both directions, and the detection of proxy loops.

use crate::config::{Auth, Endpoint, Op};
use crate::util::lock::lock;
use crate::util::random;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{StatusCode, Uri};
use std::sync::Mutex;

/// The class of a field: one table for both directions and all listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Passes,
    /// Hop-by-hop (RFC 9110 7.6.1, RFC 2616 13.5.1), or set by this proxy.
    Ends,
    Credential,
    /// The client's address: forwarded from trusted peers only.
    Origin,
    /// Of a web page and its site, which is the proxy, not the endpoint.
    Page,
    /// CORS, which the proxy decides.
    Cors,
    /// Rate limits.
    Limit,
}

fn rule(name: &HeaderName) -> Rule {
    match name.as_str() {
        "connection"
        | "keep-alive"
        | "proxy-connection"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade"
        | "http2-settings"
        | "host"
        | "content-length"
        | "expect"
        | "x-request-id" => Rule::Ends,
        "authorization" | "x-api-key" | "api-key" => Rule::Credential,
        "forwarded"
        | "forwarded-for"
        | "x-forwarded"
        | "x-original-forwarded-for"
        | "x-real-ip"
        | "client-ip"
        | "x-client-ip"
        | "x-cluster-client-ip"
        | "true-client-ip"
        | "cf-connecting-ip"
        | "cf-connecting-ipv6"
        | "cf-pseudo-ipv4"
        | "fastly-client-ip"
        | "fly-client-ip"
        | "x-azure-clientip"
        | "x-appengine-user-ip"
        | "x-envoy-external-address"
        | "x-remote-ip"
        | "x-remote-addr"
        | "x-originating-ip" => Rule::Origin,
        "origin" | "referer" | "cookie" | "set-cookie" | "strict-transport-security" | "alt-svc" => Rule::Page,
        name if name.starts_with("x-llmproxy-") => Rule::Ends,
        name if name.starts_with("x-forwarded-") => Rule::Origin,
        name if name.starts_with("access-control-") => Rule::Cors,
        name if name.starts_with("x-ratelimit-") => Rule::Limit,
        _ => Rule::Passes,
    }
}

/// What a listener leaves to its endpoints: fields that are forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Policy {
    /// Fields of web pages (`mode: raw`).
    pub(crate) pages: bool,
    pub(crate) cors: bool,
    /// The endpoint's rate limits, since no limit of the proxy applies.
    pub(crate) limits: bool,
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub(crate) struct ClientInfo<'a> {
    pub(crate) peer: &'a str,
    pub(crate) trusted: bool,
    /// Its `Host`.
    pub(crate) host: Option<&'a HeaderValue>,
    pub(crate) request_id: &'a str,
    /// Its credentials are for the proxy and are not forwarded.
    pub(crate) keyed: bool,
    pub(crate) policy: Policy,
    /// The answer may be compressed, since the proxy inserts nothing.
    pub(crate) may_compress: bool,
}

/// The fields of the request to an endpoint, with its `key`.
pub(crate) fn request<'a>(
    fields: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> + Clone,
    client: &ClientInfo<'_>,
    endpoint: &Endpoint,
    key: Option<&str>,
) -> HeaderMap {
    let connection = fields.clone().filter(|(name, _)| **name == header::CONNECTION);
    let named = named(connection.map(|(_, value)| value));
    let replaces_credentials = endpoint.auth != Auth::None || client.keyed;
    let mut out = HeaderMap::with_capacity(16);
    for (name, value) in fields {
        let rule = rule(name);
        let passes = match rule {
            Rule::Passes | Rule::Limit => true,
            Rule::Ends => false,
            Rule::Credential => !replaces_credentials,
            Rule::Origin => client.trusted,
            Rule::Page => client.policy.pages,
            Rule::Cors => client.policy.cors,
        };
        // `Connection: authorization` must not strip credentials (FAULTS F11).
        let is_named = rule != Rule::Credential && named.contains(name);
        let is_coding = *name == header::ACCEPT_ENCODING && !client.may_compress;
        if passes && !is_named && !is_coding {
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

/// Several lines of `X-Forwarded-For` are one list (RFC 9110 5.3), to which the peer is appended.
fn forwarded(out: &mut HeaderMap, client: &ClientInfo<'_>) {
    let before = out.get_all(FORWARDED_FOR).into_iter().filter_map(|value| value.to_str().ok());
    let chain: Vec<&str> = before.filter(|line| !line.trim().is_empty()).chain([client.peer]).collect();
    if let Ok(chain) = HeaderValue::from_str(&chain.join(", ")) {
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

/// A value that `Debug` does not show.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether a field of an answer is forwarded; `named`: see [`named`].
pub(crate) fn passes_to_client(name: &HeaderName, named: &[HeaderName], policy: Policy) -> bool {
    let passes = match rule(name) {
        Rule::Passes | Rule::Credential | Rule::Origin => true,
        Rule::Ends => false,
        Rule::Page => policy.pages,
        Rule::Cors => policy.cors,
        Rule::Limit => policy.limits,
    };
    passes && !named.contains(name)
}

/// "answered 502", for logs and errors. Of a `Location` only the server is shown, which tells a wrong base URL; the rest
/// may hold secrets.
pub(crate) fn answered(status: StatusCode, fields: &HeaderMap) -> String {
    let to = fields.get(header::LOCATION).and_then(|to| to.to_str().ok()?.parse::<Uri>().ok());
    let server = to.as_ref().and_then(|to| Some((to.scheme_str()?, to.host()?, to.port())));
    match server {
        Some((scheme, host, Some(port))) => format!("answered {} (go to {scheme}://{host}:{port})", status.as_u16()),
        Some((scheme, host, None)) => format!("answered {} (go to {scheme}://{host})", status.as_u16()),
        None => format!("answered {}", status.as_u16()),
    }
}

/// The fields that these values of `Connection` declare hop-by-hop.
pub(crate) fn named<'a>(connection: impl Iterator<Item = &'a HeaderValue>) -> Vec<HeaderName> {
    let tokens = connection.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    // Nearly all values are these, which name no field.
    let others =
        tokens.filter(|token| !token.eq_ignore_ascii_case(b"keep-alive") && !token.eq_ignore_ascii_case(b"close"));
    others.filter_map(|token| HeaderName::from_bytes(token).ok()).collect()
}

/// The fields of the proxy's own requests to an endpoint, such as probes.
pub(crate) fn own(endpoint: &Endpoint) -> HeaderMap {
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

/// Endpoints remembered as proxies.
const MOST: usize = 256;

/// In answers to other proxies that ask for models: the pseudonym of this one.
pub(crate) const INSTANCE: HeaderName = HeaderName::from_static("x-llmproxy-instance");

/// The pseudonym of this proxy, and those of endpoints that are proxies too.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    pub(crate) pseudonym: Pseudonym,
    /// Pseudonyms of endpoints.
    others: Mutex<Vec<(Authority, HeaderValue)>>,
}

impl Identity {
    /// Remembers the pseudonym of an endpoint.
    pub(super) fn note(&self, endpoint: &Authority, name: &HeaderValue) {
        let mut others = lock(&self.others);
        others.retain(|(known, _)| known != endpoint);
        if others.len() >= MOST {
            others.remove(0);
        }
        others.push((endpoint.clone(), name.clone()));
    }

    /// Whether a request with these `Via` lines came through an endpoint.
    pub(super) fn is_in<'a>(&self, endpoint: &Authority, lines: impl Iterator<Item = &'a HeaderValue>) -> bool {
        let others = lock(&self.others);
        let known = others.iter().find(|(known, _)| known == endpoint);
        known.is_some_and(|(_, name)| is_in(name.as_bytes(), lines))
    }
}

/// A unique name of this proxy (RFC 9110 7.6.3).
#[derive(Debug, Clone)]
pub(crate) struct Pseudonym {
    /// The value of [`INSTANCE`].
    pub(crate) name: HeaderValue,
    /// The `Via` added to requests.
    pub(super) via: HeaderValue,
}

impl Default for Pseudonym {
    fn default() -> Self {
        let name = format!("llmproxy-{:08x}", random::number());
        let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("llmproxy"));
        Self { via: value(&format!("1.1 {name}")), name: value(&name) }
    }
}

impl Pseudonym {
    /// Whether a request with these `Via` lines came through this proxy before.
    pub(crate) fn is_in<'a>(&self, lines: impl Iterator<Item = &'a HeaderValue>) -> bool {
        is_in(self.name.as_bytes(), lines)
    }
}

/// Whether these `Via` lines name a proxy.
fn is_in<'a>(name: &[u8], lines: impl Iterator<Item = &'a HeaderValue>) -> bool {
    let mut entries = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    entries.any(|entry| entry.split(u8::is_ascii_whitespace).any(|word| word == name))
}
