//! How many connections each client address holds. Bounded by the connections themselves.

use crate::config::Network;
use crate::util::subnet::subnet_key;
use std::collections::HashMap;
use std::net::IpAddr;

/// Open connections by client address; IPv6 by /64, which is what one household has.
pub(super) struct PerIpLimit {
    limit: usize,
    exempt: Vec<Network>,
    held: HashMap<IpAddr, usize>,
}

impl PerIpLimit {
    pub(super) fn new(limit: usize, exempt: Vec<Network>) -> Self {
        Self { limit, exempt, held: HashMap::new() }
    }

    /// Other bounds from now on; who is over them already stays.
    pub(crate) fn limit(&mut self, limit: usize, exempt: Vec<Network>) {
        (self.limit, self.exempt) = (limit, exempt);
    }

    /// Counts one more; false if the address now holds more than it may.
    pub(crate) fn enter(&mut self, peer: IpAddr) -> bool {
        let held = self.held.entry(subnet_key(peer)).or_insert(0);
        *held += 1;
        *held <= self.limit || self.exempt.iter().any(|network| network.contains(peer))
    }

    pub(crate) fn leave(&mut self, peer: IpAddr) {
        let key = subnet_key(peer);
        if let Some(held) = self.held.get_mut(&key) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_holds_so_many_and_no_more() {
        let mut per_ip = PerIpLimit::new(2, vec![]);
        assert!(per_ip.enter(ip("10.0.0.1")) && per_ip.enter(ip("10.0.0.1")));
        assert!(!per_ip.enter(ip("10.0.0.1")));
        assert!(per_ip.enter(ip("10.0.0.2")));
        per_ip.leave(ip("10.0.0.1"));
        per_ip.leave(ip("10.0.0.1"));
        assert!(per_ip.enter(ip("10.0.0.1")));
    }

    #[test]
    fn ipv6_counts_by_household_and_trusted_proxies_do_not_count() {
        let exempt = Network { address: ip("192.168.1.0"), prefix: 24 };
        let mut per_ip = PerIpLimit::new(1, vec![exempt]);
        assert!(per_ip.enter(ip("2001:db8::1")));
        assert!(!per_ip.enter(ip("2001:db8::2")));
        assert!(per_ip.enter(ip("2001:db8:0:1::1")));
        assert!(per_ip.enter(ip("192.168.1.7")) && per_ip.enter(ip("192.168.1.7")));
    }

    #[test]
    fn what_left_is_forgotten() {
        let mut per_ip = PerIpLimit::new(1, vec![]);
        per_ip.enter(ip("10.0.0.1"));
        per_ip.leave(ip("10.0.0.1"));
        assert!(per_ip.held.is_empty());
    }
}
