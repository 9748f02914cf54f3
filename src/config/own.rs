//! Detects endpoints that are this proxy itself, where requests would loop.

use crate::config::{Config, Problem};
use std::net::IpAddr;

/// The name and addresses of this machine.
pub(super) struct Machine<'a> {
    pub name: Option<String>,
    /// Whether an address is one of its own.
    pub has: &'a dyn Fn(IpAddr) -> bool,
}

/// A problem for each endpoint at an address of one of the listeners. `name` is that of the file.
pub(super) fn problems(name: &str, config: &Config, machine: &Machine) -> Vec<Problem> {
    let server = ("server", config.server.host.as_str(), config.server.port);
    let listeners = config.listeners.iter().map(|one| (one.name.as_str(), one.host.as_str(), one.port));
    let admin = config.admin.port.filter(|_| config.admin.enabled);
    let admin = admin.map(|port| ("admin", config.admin.host.as_str(), port));
    let ours: Vec<_> = [server].into_iter().chain(listeners).chain(admin).filter(|(_, _, port)| *port != 0).collect();
    let mut problems = Vec::new();
    for (index, endpoint) in config.endpoints.iter().enumerate() {
        let base = &endpoint.base;
        let serves = |(_, host, port): &&(&str, &str, u16)| *port == base.port && reaches(&base.host, host, machine);
        if let Some((listener, _, port)) = ours.iter().find(serves).filter(|_| endpoint.enabled && !base.tls) {
            let text = format!(
                "{}:{port} is this proxy's own address (`{listener}`); llama-server uses port 8080 too: give one of \
                 them another port",
                base.host
            );
            let text = if *port == 8080 { text } else { text.replace("llama-server uses port 8080 too: ", "") };
            problems.push(Problem { place: name.into(), key: format!("endpoints[{index}]"), text });
        }
    }
    problems
}

/// Whether a connection to `host` reaches a socket bound to `listener`.
fn reaches(host: &str, listener: &str, machine: &Machine) -> bool {
    let address = |host: &str| host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    let is_local_name = |name: &str| name == "localhost" || name.ends_with(".localhost");
    let bound = address(listener);
    let any = bound.is_some_and(|ip| ip.is_unspecified());
    let only_v4 = bound.is_some_and(|ip| ip.is_ipv4());
    match address(host) {
        // On Linux, connections to the unspecified address go to loopback.
        Some(ip) if ip.is_unspecified() => any || bound.is_some_and(|ip| ip.is_loopback()) || is_local_name(listener),
        Some(ip) if any && only_v4 && ip.is_ipv6() => false,
        Some(ip) if any => ip.is_loopback() || (machine.has)(ip),
        Some(ip) => bound == Some(ip) || ip.is_loopback() && is_local_name(listener),
        None if is_local_name(host) => any || bound.is_some_and(|ip| ip.is_loopback()) || is_local_name(listener),
        None => host == listener || any && machine.name.as_deref().is_some_and(|own| is_own_name(host, own)),
    }
}

/// `box` is also `box.local` and `box.lan`.
fn is_own_name(host: &str, own: &str) -> bool {
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    host.eq_ignore_ascii_case(own) || short(host) == short(own) && host.split('.').count() <= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_our_own_when_a_connection_to_it_comes_back() {
        // U16
        let machine = Machine { name: Some("Box".into()), has: &|ip| ip.to_string() == "192.168.1.5" };
        let own = [
            ("127.0.0.1", "127.0.0.1"),
            ("localhost", "127.0.0.1"),
            ("localhost", "::1"),
            ("127.0.0.1", "0.0.0.0"),
            ("127.0.0.2", "0.0.0.0"),
            ("::1", "::"),
            ("127.0.0.1", "::"),
            ("::ffff:127.0.0.1", "0.0.0.0"),
            ("0.0.0.0", "127.0.0.1"),
            ("192.168.1.5", "0.0.0.0"),
            ("192.168.1.5", "192.168.1.5"),
            ("box", "0.0.0.0"),
            ("box.local", "::"),
            ("llm.lan", "llm.lan"),
        ];
        for (host, listener) in own {
            assert!(reaches(host, listener, &machine), "{host} {listener}");
        }
        let others = [
            ("127.0.0.1", "192.168.1.5"),
            ("127.0.0.2", "127.0.0.1"),
            ("::1", "127.0.0.1"),
            ("::1", "0.0.0.0"),
            ("192.168.1.6", "0.0.0.0"),
            ("192.168.1.5", "127.0.0.1"),
            ("api.example.com", "0.0.0.0"),
            ("box", "127.0.0.1"),
            ("box.example.com", "0.0.0.0"),
        ];
        for (host, listener) in others {
            assert!(!reaches(host, listener, &machine), "{host} {listener}");
        }
    }
}
