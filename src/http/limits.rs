//! The limits of heads, bodies and times, and of connections in all and per client address.

use super::head::{FIELDS, Head, Limits};
use super::request::Decide;
use crate::config::{Network, Server};
use crate::util::budget::Budget;
use crate::util::budget::subnet_key;
use crate::util::lock::lock;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The limits for every connection.
pub(super) struct Rules {
    pub(super) limits: Limits,
    pub(super) budget: Arc<Budget>,
    pub(super) handler: Arc<dyn Decide>,
    pub(super) head_timeout: Duration,
    pub(super) body_timeout: Duration,
    pub(super) keep_alive: Duration,
    pub(super) write_timeout: Duration,
    /// Counts the large bodies that workers forward while they arrive.
    pub(super) uploads: Arc<()>,
    /// A quarter of the workers; further large bodies are read whole first.
    max_uploads: usize,
}

impl Rules {
    pub(super) fn new(server: &Server, budget: Arc<Budget>, handler: Arc<dyn Decide>) -> Self {
        Self {
            limits: Limits { target: 8 << 10, head: 32 << 10, fields: FIELDS, body: server.max_body },
            budget,
            handler,
            head_timeout: server.head_timeout,
            body_timeout: server.body_timeout,
            keep_alive: server.keep_alive,
            write_timeout: server.write_timeout,
            uploads: Arc::default(),
            max_uploads: server.workers / 4,
        }
    }

    /// The same for another configuration.
    pub(super) fn with(&self, server: &Server) -> Self {
        Self {
            uploads: Arc::clone(&self.uploads),
            ..Self::new(server, Arc::clone(&self.budget), Arc::clone(&self.handler))
        }
    }

    /// Whether one more large body may be forwarded as it comes.
    pub(super) fn passes_on(&self, head: &Head, listener: usize) -> bool {
        Arc::strong_count(&self.uploads) <= self.max_uploads && self.handler.passes_on(head, listener)
    }
}

/// Counts the open connections.
pub(super) struct OpenConnections {
    count: AtomicUsize,
    per_ip: Mutex<PerIpLimit>,
}

impl OpenConnections {
    pub(super) fn new(server: &Server) -> Self {
        let per_ip = PerIpLimit::new(server.per_client, server.trusted_proxies.clone());
        Self { count: AtomicUsize::new(0), per_ip: Mutex::new(per_ip) }
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub(super) fn configure(&self, server: &Server) {
        lock(&self.per_ip).limit(server.per_client, server.trusted_proxies.clone());
    }

    /// Counts a connection; false if its address is over its limit.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> (ConnectionPermit, bool) {
        self.count.fetch_add(1, Ordering::SeqCst);
        let fits = lock(&self.per_ip).enter(peer);
        (ConnectionPermit { open: Arc::clone(self), peer }, fits)
    }
}

/// Counts one connection until it is dropped.
pub(super) struct ConnectionPermit {
    open: Arc<OpenConnections>,
    peer: IpAddr,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        lock(&self.open.per_ip).leave(self.peer);
        self.open.count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Open connections by client address, IPv6 by /64 (one home). Bounded by the number of connections.
struct PerIpLimit {
    limit: usize,
    exempt: Vec<Network>,
    held: HashMap<IpAddr, usize>,
}

impl PerIpLimit {
    fn new(limit: usize, exempt: Vec<Network>) -> Self {
        Self { limit, exempt, held: HashMap::new() }
    }

    /// Changes the limits; existing connections stay.
    fn limit(&mut self, limit: usize, exempt: Vec<Network>) {
        (self.limit, self.exempt) = (limit, exempt);
    }

    /// Counts a connection; false if the address is over its limit.
    fn enter(&mut self, peer: IpAddr) -> bool {
        let held = self.held.entry(subnet_key(peer)).or_insert(0);
        *held += 1;
        *held <= self.limit || self.exempt.iter().any(|network| network.contains(peer))
    }

    fn leave(&mut self, peer: IpAddr) {
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
    fn ipv6_counts_by_home_and_trusted_proxies_do_not_count() {
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
