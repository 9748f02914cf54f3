//! What listens for magic packets, and keeps them. Knows nothing of the proxy under test.

use super::fact::Watched;
use llmproxy::util::time;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// `00:11:22:33:44:55`
pub const MAC: [u8; 6] = [0, 0x11, 0x22, 0x33, 0x44, 0x55];

pub struct Packets {
    received: Arc<Watched<Vec<Instant>>>,
    port: u16,
    listening: Option<JoinHandle<()>>,
}

impl Packets {
    pub fn new() -> Self {
        // Every address, so that what is sent to the broadcast address comes in too.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
        let port = socket.local_addr().expect("bound").port();
        let received = Arc::new(Watched::new(Vec::new()));
        let told = Arc::clone(&received);
        let listening = thread::spawn(move || {
            let mut packet = [0; 256];
            while let Ok(length @ 1..) = socket.recv(&mut packet) {
                let wanted = [[0xff; 6].as_slice(), &MAC.repeat(16)].concat();
                assert_eq!(packet[..length], wanted, "a magic packet");
                told.update(|all: &mut Vec<Instant>| all.push(time::now()));
            }
        });
        Self { received, port, listening: Some(listening) }
    }

    pub fn at(&self, address: [u8; 4]) -> SocketAddr {
        SocketAddr::from((address, self.port))
    }

    pub fn addr(&self) -> SocketAddr {
        self.at([127, 0, 0, 1])
    }

    pub fn count(&self) -> usize {
        self.received.read(Vec::len)
    }

    /// Those that came within this time of the first.
    pub fn within(&self, time: Duration) -> usize {
        self.received.read(|all| all.iter().filter(|at| **at - all[0] <= time).count())
    }

    /// Waits for so many.
    pub fn wait(&self, n: usize) {
        self.received.wait(&format!("magic packet {n}"), |all| (all.len() >= n).then_some(()));
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        // An empty datagram ends the thread.
        let ended = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.send_to(&[], self.addr()));
        let joined = self.listening.take().filter(|_| ended.is_ok()).map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(joined, Some(Ok(()))), "no other packet came");
        }
    }
}
