//! Addresses of clients, as far as they are counted.

use std::net::{IpAddr, Ipv6Addr};

/// What one subnet_key has: an IPv4 address, or a /64 of IPv6.
pub(crate) fn subnet_key(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}
