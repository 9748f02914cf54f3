//! `endpoints[].wake`: wake-on-LAN for the endpoint's machine. `config/full.yml` explains each key.

use super::reader::Field;
use super::table::*;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// `discard` (RFC 863), the usual port for magic packets.
const PORT: u16 = 9;

table! {
    /// `endpoints[].wake`
    #[derive(Copy, Eq)]
    pub struct Wake (check = check) {
        pub mac: Mac = Mac([0; 6]), key("mac", text(mac));
        /// Destination of magic packets: a broadcast address or the machine's own.
        pub via: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::BROADCAST), PORT), key("via", text(via));
        pub timeout: Duration = Duration::from_secs(180), key("timeout", time(SOME_TIME));
        /// Whether background requests and jobs wake it, too.
        pub background: bool = false, key("background", flag());
        pub prefer: Prefer = Prefer::Awake, key("prefer", word());
    }
}

words! {
    /// `endpoints[].wake.prefer`
    pub enum Prefer {
        /// Wake it only if no other endpoint can answer.
        Awake = "awake",
        /// Wake it whenever the strategy chooses it.
        Wake = "wake",
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

fn mac(text: &str) -> Result<Mac, String> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let bytes = text.split(separator).map(|part| u8::from_str_radix(part, 16).ok().filter(|_| digits(part)));
    let bytes = bytes.collect::<Option<Vec<u8>>>().and_then(|bytes| bytes.try_into().ok());
    bytes.map(Mac).ok_or_else(|| "is not a MAC address; write it as 00:11:22:33:44:55".into())
}

/// An IP address with or without a port. Host names are refused: resolving one could need the sleeping machine.
fn via(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let without_port = bare.parse().map(|ip| SocketAddr::new(ip, PORT));
    match without_port.or_else(|_| text.parse::<SocketAddr>()) {
        Ok(address) if address.port() > 0 && !address.ip().is_unspecified() => Ok(address),
        Ok(_) => Err("is not an address that packets can be sent to".into()),
        Err(_) => {
            Err("is not an IP address with or without a port; give the broadcast address of the network, such as \
            192.168.1.255, not a name"
                .into())
        }
    }
}

fn check(_: &Wake, section: &Field) {
    if section.is_given() && !section.gives("mac") {
        section.problem("`mac` is missing");
    }
}
