//! Where webhooks may go: to public addresses and to listed hosts (FAULTS F10). Pure; the resolver asks for every address.

use crate::config::{Base, Webhooks};
use http::Uri;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) base: Base,
    pub path: String,
    /// The host is in `jobs.webhooks.allow`.
    pub(crate) allowed: bool,
}

/// Parses a URL, and refuses what is forbidden without a look-up of its name.
pub(crate) fn check(url: &str, webhooks: &Webhooks) -> Result<Target, String> {
    const SHAPE: &str = "must be a URL such as https://example.com/done";
    if url.bytes().any(|byte| byte <= b' ' || byte >= 0x7f || byte == b'\\') {
        return Err(format!("{SHAPE}, in plain ASCII"));
    }
    let url = url.split('#').next().unwrap_or_default();
    let uri: Uri = url.parse().map_err(|_| SHAPE.to_owned())?;
    let tls = match uri.scheme_str().map(str::to_ascii_lowercase).as_deref() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(SHAPE.into()),
    };
    let authority = uri.authority().ok_or(SHAPE)?;
    if authority.as_str().contains('@') {
        return Err("must not hold a user name".into());
    }
    let host =
        authority.host().trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    if host.is_empty() || host.contains('%') {
        return Err(SHAPE.into());
    }
    let port = match authority.as_str().rsplit_once(':') {
        Some((_, port)) if !port.is_empty() && !port.ends_with(']') => {
            port.parse().ok().filter(|port| *port > 0).ok_or("has a port that is none")?
        }
        _ if tls => 443,
        _ => 80,
    };
    let allowed = webhooks.allow.contains(&host);
    // No top-level domain begins with a digit: `127.1`, `0x7f.1` and `2130706433` are other spellings of IPv4 addresses.
    let is_number = host.rsplit('.').next().is_some_and(|last| last.starts_with(|first: char| first.is_ascii_digit()));
    let inside = match host.parse::<IpAddr>() {
        Ok(ip) => !is_public(ip),
        Err(_) if host.contains(':') || (is_number && !allowed) => {
            return Err("has a host that is neither a name nor an address".into());
        }
        Err(_) => is_local_name(&host),
    };
    if inside && !allowed {
        return Err("points into this machine or its network; jobs.webhooks.allow can allow its host".into());
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let base = Base { tls, host, port, given: String::new(), root: String::new(), api: "/v1".into() };
    Ok(Target { base, path: if path.starts_with('/') { path } else { format!("/{path}") }, allowed })
}

/// Names that are always local (RFC 6761, 6762, 8375).
fn is_local_name(host: &str) -> bool {
    let inside = ["localhost", "local", "internal", "lan", "home.arpa", "localdomain", "intranet"];
    !host.contains('.') || inside.iter().any(|name| host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')))
}

/// Whether an address is public (IANA's special-purpose registries).
pub(crate) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    const INSIDE: [(u32, u32); 15] = [
        (0x0000_0000, 8),  // this network
        (0x0a00_0000, 8),  // private
        (0x6440_0000, 10), // shared by carriers
        (0x7f00_0000, 8),  // loopback
        (0xa9fe_0000, 16), // link-local, metadata
        (0xac10_0000, 12), // private
        (0xc000_0000, 24), // protocol assignments
        (0xc000_0200, 24), // documentation
        (0xc058_6300, 24), // 6to4 relays
        (0xc0a8_0000, 16), // private
        (0xc612_0000, 15), // benchmarks
        (0xc633_6400, 24), // documentation
        (0xcb00_7100, 24), // documentation
        (0xe000_0000, 4),  // multicast
        (0xf000_0000, 4),  // reserved, broadcast
    ];
    !INSIDE.iter().any(|(network, bits)| (ip.to_bits() ^ network) >> (32 - bits) == 0)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let parts = ip.segments();
    let bits = ip.to_bits();
    let low = |shift: u32| Ipv4Addr::from_bits(u32::try_from((bits >> shift) & 0xffff_ffff).unwrap_or(0));
    match parts {
        // ::, ::1, and mapped or translated IPv4 addresses
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] => parts[5] == 0xffff && is_public_v4(low(0)),
        [0, 0, 0, 0, 0xffff, 0, ..] => is_public_v4(low(0)),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => is_public_v4(low(0)),
        [0x64, 0xff9b, 1, ..] | [0x100, 0, 0, 0 | 1, ..] => false,
        // Teredo, ORCHID, benchmarks, documentation
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x2002, ..] => is_public_v4(low(80)),
        [0x3fff, second, ..] if second < 0x1000 => false,
        // The only block that is assigned.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests;
