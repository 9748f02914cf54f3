//! Parses hosts, base URLs, origins, networks and proxies. Pure; errors are predicates (`is not ...`) to follow the
//! text.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The base URL of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// `https` or `http`.
    pub tls: bool,
    /// A host name or address; IPv6 without brackets.
    pub host: String,
    pub port: u16,
    /// The path as given, without a trailing slash: the prefix of raw paths.
    pub given: String,
    /// The prefix of paths outside `/v1` (`/health`, `/props`), without a trailing slash; may be empty.
    pub root: String,
    /// Replaces `/v1`: `root` + `/v1`, or the given path if it contains a version (`/api/v1`, `/v1beta/openai`,
    /// `/api/coding/v3`). Without a trailing slash.
    pub api: String,
}

impl Base {
    pub fn plain(host: impl Into<String>, port: u16) -> Self {
        Self { tls: false, host: host.into(), port, given: String::new(), root: String::new(), api: "/v1".into() }
    }
}

/// Prints the URL as it was given.
impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = if self.tls { ("https", 443) } else { ("http", 80) };
        let port = if self.port == usual { String::new() } else { format!(":{}", self.port) };
        write!(f, "{scheme}://{}{port}{}", bracketed(&self.host), self.given)
    }
}

/// A host as in a URL.
pub(super) fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// One entry of `server.cors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigin {
    /// `local`: pages from a loopback address.
    Local,
    /// `*`
    Any,
    /// `scheme://*`, lower case: all pages of browser extensions or a desktop program.
    Scheme(String),
    /// `scheme://host[:port]`, lower case.
    Origin(String),
}

impl fmt::Display for CorsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Any => f.write_str("*"),
            Self::Scheme(scheme) => write!(f, "{scheme}://*"),
            Self::Origin(origin) => f.write_str(origin),
        }
    }
}

/// An address or a CIDR block of `server.trustedProxies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    pub address: IpAddr,
    /// The prefix length: 0..=32 or 0..=128.
    pub prefix: u8,
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |ip: IpAddr| match ip.to_canonical() {
            IpAddr::V4(v4) => (32, u128::from(v4.to_bits())),
            IpAddr::V6(v6) => (128, v6.to_bits()),
        };
        let ((width, ours), (other, theirs)) = (bits(self.address), bits(address));
        let shift = width - u32::from(self.prefix).min(width);
        width == other && (ours ^ theirs).checked_shr(shift).unwrap_or(0) == 0
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// An IP address, without brackets, or a name.
pub(super) fn host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<IpAddr>().is_ok() {
        return Ok(bare.to_ascii_lowercase());
    }
    if text.contains("://") {
        return Err("is a URL, not a host".into());
    }
    let label = |label: &str| {
        let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(inner)
    };
    let looks_like_an_address = text.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() > 253 || looks_like_an_address || !name.split('.').all(label) {
        return Err("is not an IP address or a host name".into());
    }
    Ok(text.to_ascii_lowercase())
}

/// An address or name to listen on.
pub(super) fn listen_host(text: &str) -> Result<String, String> {
    if text == "*" {
        return Err("is not an address; 0.0.0.0 is every IPv4 address, \"::\" IPv4 and IPv6".into());
    }
    host(text)
}

/// A base URL: scheme, host, port, and a path with or without `/v1` or a trailing slash.
pub(super) fn base(url: &str) -> Result<Base, String> {
    let (scheme, rest) = url.split_once("://").ok_or("is not a URL; write http://host:port or https://host/v1")?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "https" => true,
        "http" => false,
        _ => return Err("is not an http:// or https:// URL".into()),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err("has a user or password in it; use `apiKey` or `auth`".into());
    }
    if path.contains(['?', '#']) {
        return Err("has a query or a fragment; give the base only".into());
    }
    if path.contains('\\') || path.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err("has a character in its path that cannot stand in a URL".into());
    }
    let path = path.trim_end_matches('/');
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err("has `.` or `..` in its path".into());
    }
    if let Some(route) = route(path) {
        return Err(format!("ends in a path of the API; give the base, without {route}"));
    }
    let (host, port) = host_and_port(authority)?;
    let (root, api) = root_and_api(path);
    Ok(Base { tls, host, port: port.unwrap_or(if tls { 443 } else { 80 }), given: path.to_owned(), root, api })
}

/// The first segments of API paths, after the version.
const ROUTES: &str = "apply-template audio batches chat completion completions detokenize edits embed embedding \
    embeddings files fine_tuning generate health images infill messages metrics models \
    moderations props rerank reranking responses slots tags tokenize videos realtime";

/// The part of a path that is an API path: what follows the last version, or else the last segments. A server behind a
/// prefix of such a name must be given with `/v1`: `http://nas/embeddings/v1`.
fn route(path: &str) -> Option<&str> {
    let starts: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
    let segment = |n: usize| &path[starts[n] + 1..starts.get(n + 1).copied().unwrap_or(path.len())];
    let is_route = |n: usize| ROUTES.split(' ').any(|route| route.eq_ignore_ascii_case(segment(n)));
    let behind = (0..starts.len()).rev().find(|n| is_version(segment(*n))).map_or(0, |n| n + 1);
    let last = starts.len().checked_sub(1)?;
    let first = match behind {
        0 if is_route(last) => last,
        // `audio/speech`, `images/edits`
        0 if last > 0 && ["audio", "images"].contains(&segment(last - 1)) => last - 1,
        1.. if behind <= last && is_route(behind) => behind,
        _ => return None,
    };
    // `chat/completions`, and Ollama's `api/chat`.
    let ahead = |n: usize| n > behind && ["api", "chat", "audio", "images"].contains(&segment(n - 1));
    let first = if ahead(first) { first - 1 } else { first };
    Some(&path[starts[first]..])
}

/// A path with a version is complete; `/v1` is added to any other.
fn root_and_api(path: &str) -> (String, String) {
    if !path.split('/').any(is_version) {
        return (path.to_owned(), format!("{path}/v1"));
    }
    let root = path.rsplit_once('/').filter(|(_, last)| is_version(last)).map_or(path, |(before, _)| before);
    (root.to_owned(), path.to_owned())
}

fn is_version(segment: &str) -> bool {
    let tail = segment.strip_prefix('v').unwrap_or("");
    tail.starts_with(|c: char| c.is_ascii_digit()) && tail.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn host_and_port(authority: &str) -> Result<(String, Option<u16>), String> {
    let colon = authority.rfind(':').filter(|at| !authority[*at..].contains(']'));
    let (name, port) = authority.split_at(colon.unwrap_or(authority.len()));
    let port = match port.strip_prefix(':') {
        None | Some("") => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => match digits.parse::<u16>() {
            Ok(port) if port > 0 => Some(port),
            _ => return Err("has a port that is not a port (1 to 65535)".into()),
        },
        Some(_) => return Err("has a port that is not a number".into()),
    };
    if name.contains(':') && !name.starts_with('[') {
        return Err("has an IPv6 address without brackets; write http://[::1]:8001".into());
    }
    Ok((host(name).map_err(|_| "has no host name or IP address in it")?, port))
}

/// `http://[user:password@]host:port`, unchanged.
pub(super) fn proxy(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix("http://").ok_or("is not an http:// proxy; write http://user:password@host:port")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let authority = rest.rsplit_once('@').map_or(rest, |(_, authority)| authority);
    if rest.contains(['/', '?', '#']) || rest.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err("has more than user, password, host and port; percent-encode odd characters".into());
    }
    match host_and_port(authority)? {
        (_, Some(_)) => Ok(()),
        (_, None) => Err("has no port".into()),
    }
}

/// `local`, `*`, `scheme://*` or `scheme://host[:port]`, as browsers send it.
pub(super) fn origin(text: &str) -> Result<CorsOrigin, String> {
    match text {
        "local" => return Ok(CorsOrigin::Local),
        "*" => return Ok(CorsOrigin::Any),
        _ => {}
    }
    const SHAPE: &str = "is not `local`, `*` or an origin like https://chat.example.com";
    let lower = text.to_ascii_lowercase();
    let (scheme, authority) = lower.split_once("://").ok_or(SHAPE)?;
    let scheme_fits = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(scheme_fits) {
        return Err(SHAPE.into());
    }
    if authority.contains('/') {
        return Err("is more than an origin; leave out what follows the host and port".into());
    }
    // Firefox uses another host for each installation of an extension.
    if authority == "*" && !matches!(scheme, "http" | "https") {
        return Ok(CorsOrigin::Scheme(scheme.to_owned()));
    }
    let (name, port) = host_and_port(authority)?;
    // Browsers omit the default port.
    let port = port.filter(|port| !matches!((scheme, *port), ("http", 80) | ("https", 443)));
    let port = port.map_or(String::new(), |port| format!(":{port}"));
    Ok(CorsOrigin::Origin(format!("{scheme}://{}{port}", bracketed(&name))))
}

/// An address or a block such as `10.0.0.0/8`.
pub(super) fn network(text: &str) -> Result<Network, String> {
    const SHAPE: &str = "is not an IP address or a block like 10.0.0.0/8";
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| SHAPE)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => most,
        Some(bits) => bits.parse().ok().filter(|bits| *bits <= most).ok_or(SHAPE)?,
    };
    Ok(Network { address: first(address, prefix), prefix })
}

/// Clears all bits after the prefix.
fn first(address: IpAddr, prefix: u8) -> IpAddr {
    let mask = |width: u32| u128::MAX.checked_shl(width - u32::from(prefix)).unwrap_or(0);
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & mask(32) as u32).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & mask(128)).into(),
    }
}

#[cfg(test)]
mod tests;
