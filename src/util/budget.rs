//! `server.bodyMemory`: the bytes that are held for clients, all together and for each client address.

use crate::util::lock::lock;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

/// Bounds what is held: `limit` in all, `share` for one client address.
pub struct Budget {
    limit: u64,
    share: u64,
    used: Mutex<Used>,
}

/// Only clients that hold something have an entry, so there are never more entries than [`Held`]s.
#[derive(Default)]
struct Used {
    total: u64,
    clients: HashMap<IpAddr, u64>,
}

/// Bytes held for one client; given back when dropped.
pub struct Held {
    budget: Arc<Budget>,
    client: Option<IpAddr>,
    bytes: u64,
}

impl Budget {
    /// One client address gets a quarter of `limit`, but always one body of `max_body` bytes.
    pub fn new(limit: u64, max_body: u64) -> Arc<Self> {
        Arc::new(Self { limit, share: (limit / 4).max(max_body.min(limit)), used: Mutex::default() })
    }

    /// Holds nothing yet. `None` is no client in particular (a trusted proxy, a job that runs): only `limit` counts.
    pub(crate) fn hold(self: &Arc<Self>, client: Option<IpAddr>) -> Held {
        Held { budget: Arc::clone(self), client: client.map(subnet_key), bytes: 0 }
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        lock(&self.used).total
    }
}

impl Held {
    /// Holds `bytes` instead of what it held. False, and nothing changes, if that exceeds the budget or the client's share.
    pub(crate) fn resize(&mut self, bytes: u64) -> bool {
        if bytes == self.bytes {
            return true;
        }
        let mut used = lock(&self.budget.used);
        let total = used.total - self.bytes + bytes;
        let client = self.client.map(|client| {
            let others = used.clients.get(&client).copied().unwrap_or(0) - self.bytes;
            (client, others + bytes)
        });
        let grows = bytes > self.bytes;
        if grows && (total > self.budget.limit || client.is_some_and(|(_, sum)| sum > self.budget.share)) {
            return false;
        }
        match client {
            Some((client, 0)) => drop(used.clients.remove(&client)),
            Some((client, sum)) => drop(used.clients.insert(client, sum)),
            None => {}
        }
        used.total = total;
        self.bytes = bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.resize(0);
    }
}

/// What counts as one client address: an IPv4 address, or a /64 of IPv6.
pub(crate) fn subnet_key(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const ANN: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
    const BOB: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));

    // U38
    #[test]
    fn a_client_gets_its_share_and_leaves_the_rest_to_others() {
        let budget = Budget::new(1000, 100);
        let (mut first, mut second, mut other) = (budget.hold(ANN), budget.hold(ANN), budget.hold(BOB));
        assert!(first.resize(200) && second.resize(50));
        assert!(!second.resize(51), "200 + 51 is over a quarter of 1000");
        assert!(other.resize(250));
        drop(first);
        assert!(second.resize(250));
        assert_eq!(budget.used(), 500);
        drop((second, other));
        assert_eq!((budget.used(), lock(&budget.used).clients.len()), (0, 0));
    }

    #[test]
    fn all_together_never_exceed_the_limit_and_one_body_always_fits() {
        let budget = Budget::new(1000, 900);
        let (mut body, mut job) = (budget.hold(ANN), budget.hold(None));
        assert!(body.resize(900) && job.resize(100));
        assert!(!job.resize(101));
        assert!(body.resize(10) && job.resize(990));
    }
}
