//! Accepts connections within the configured limits. Errors of `accept` never end the loop (FAULTS E1, E2).

use super::connection::Connection;
use super::request::Refused;
use super::server::EventLoop;
use crate::api::errors::{Failure, Kind};
use std::io;
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

/// Connections accepted per turn of the loop, so that a flood does not starve deadlines and disconnects.
const ACCEPTS: usize = 64;

impl EventLoop {
    pub(super) fn note_listener(&mut self, n: usize) {
        if !self.waiting_listeners.contains(&n) {
            self.waiting_listeners.push_back(n);
        }
    }

    pub(super) fn accept(&mut self, now: Instant) {
        if let Some((at, _)) = self.accept_pause
            && at > now
        {
            return;
        }
        for _ in 0..ACCEPTS {
            let Some(n) = self.waiting_listeners.pop_front() else { break };
            let Some(listener) = self.listeners.get(n) else { continue };
            match listener.accept() {
                Ok((stream, peer)) => {
                    self.accept_pause = None;
                    // Listeners take turns.
                    self.waiting_listeners.push_back(n);
                    self.welcome(stream, peer.ip(), n, now);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.accept_pause = None,
                Err(e) if is_one_connections_fault(&e) => self.waiting_listeners.push_back(n),
                Err(e) => {
                    // Out of descriptors or memory: retry shortly, connections wait in the kernel's queue.
                    self.waiting_listeners.push_back(n);
                    let pause = self.accept_pause.map_or(10, |(_, last)| (last.as_millis() * 2).min(100) as u64);
                    let pause = Duration::from_millis(pause);
                    if pause.as_millis() == 10 {
                        log::warn!("cannot accept a connection: {e}; trying again");
                    }
                    self.accept_pause = Some((now + pause, pause));
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, stream: TcpStream, peer: IpAddr, listener: usize, now: Instant) {
        let peer = peer.to_canonical();
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let _ = stream.set_nodelay(true);
        let (permit, fits) = self.shared.open.enter(peer);
        if self.shared.is_full() {
            // Some of them may be expendable.
            self.take_returned(now);
        }
        // An address over its limit evicts only connections that linger, but its own refusals need room too.
        let full = self.shared.is_full() && !self.evict(!fits);
        let identity = (listener, self.token());
        let connection = Box::new(Connection::new(stream, permit, peer, identity, now, &self.rules));
        if fits && !full {
            return self.insert(connection, now);
        }
        let limit = if full { "server.maxConnections" } else { "server.perClient" };
        let failure = Failure::new(Kind::Overloaded, format!("Too many open connections ({limit})."));
        let failure = failure.retry_after(Duration::from_secs(1));
        let refused = Refused { from: connection.from(), head: None, client: Some(peer), failure, began: now };
        self.answer_refusal(connection, &refused, now);
    }

    /// Closes the most expendable connection; false if there is none.
    fn evict(&mut self, lingering_only: bool) -> bool {
        let all = self.connections.iter();
        let expendable = all.filter_map(|(token, connection)| Some((connection.expendable()?, *token)));
        match expendable.min() {
            Some(((is_waiting, _), token)) if !(is_waiting && lingering_only) => {
                self.close(token);
                true
            }
            _ => false,
        }
    }
}

/// Errors that concern the connection that was to be accepted, not the listener (accept(2)).
fn is_one_connections_fault(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        e.kind(),
        K::Interrupted
            | K::ConnectionAborted
            | K::ConnectionReset
            | K::TimedOut
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::NetworkDown
            | K::PermissionDenied
    )
}
