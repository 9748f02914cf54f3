//! Opens TCP connections: tries the addresses of a name in turn without waiting for each (RFC 8305). Knows nothing of HTTP.

use super::call::Call;
use crate::util::cancel::{CancelToken, PollFd, PollFlags, TICK, wait};
use crate::util::lock::lock;
use crate::util::time;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use ureq::{Error, Timeout};

/// "Connection Attempt Delay" (RFC 8305 5).
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// Failed addresses that are remembered: as many as one name can have.
const MOST: usize = 16;

/// Which addresses of one endpoint worked, and so the order in which they are tried.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    worked: Option<SocketAddr>,
    failed: Vec<SocketAddr>,
}

impl Addresses {
    /// The working address first, failed ones last.
    fn request(&self, addrs: &[SocketAddr]) -> Vec<SocketAddr> {
        let known = lock(&self.known);
        let mut addrs = addrs.to_vec();
        addrs.sort_by_key(|addr| (known.worked != Some(*addr), known.failed.contains(addr)));
        addrs
    }

    fn worked(&self, addr: SocketAddr) {
        let mut known = lock(&self.known);
        known.worked = Some(addr);
        known.failed.retain(|failed| *failed != addr);
    }

    fn failed(&self, addr: SocketAddr) {
        let mut known = lock(&self.known);
        if known.worked == Some(addr) {
            known.worked = None;
        }
        if !known.failed.contains(&addr) {
            if known.failed.len() >= MOST {
                known.failed.remove(0);
            }
            known.failed.push(addr);
        }
    }

    /// Connects to the first of these that answers.
    ///
    /// # Errors
    /// All addresses refused, `timeouts.connect` ran out, or the client disconnected.
    pub(crate) fn connect(&self, call: &Call, addrs: &[SocketAddr]) -> Result<TcpStream, Error> {
        let mut waiting = self.request(addrs).into_iter();
        let mut connecting: Vec<(Socket, SocketAddr)> = Vec::new();
        let mut next_at = time::now();
        let mut last = Error::HostNotFound;
        loop {
            if call.is_cancelled() {
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
            }
            let now = time::now();
            let Some(patience) = call.patience(now) else {
                // Addresses that did not answer in time are tried last the next time.
                connecting.iter().for_each(|(_, addr)| self.failed(*addr));
                return Err(Error::Timeout(Timeout::Connect));
            };
            if now >= next_at || connecting.is_empty() {
                match waiting.next() {
                    Some(addr) => {
                        next_at = now + NEXT_AFTER;
                        match begin(addr) {
                            Ok(socket) => connecting.push((socket, addr)),
                            Err(e) => {
                                self.failed(addr);
                                last = e.into();
                                continue;
                            }
                        }
                    }
                    None if connecting.is_empty() => return Err(last),
                    None => {}
                }
            }
            let more = waiting.len() > 0;
            wait_for_any(&connecting, call.cancel.as_deref(), until_next(more, next_at, now).min(patience))?;
            let mut refused = false;
            for (socket, addr) in std::mem::take(&mut connecting) {
                match outcome(&socket) {
                    Ok(false) => connecting.push((socket, addr)),
                    Ok(true) => {
                        // Silent addresses tried before it must not delay the next connection.
                        connecting.iter().for_each(|(_, slower)| self.failed(*slower));
                        self.worked(addr);
                        return Ok(socket.into());
                    }
                    Err(e) => {
                        self.failed(addr);
                        refused = true;
                        last = e.into();
                    }
                }
            }
            if refused {
                next_at = now;
            }
        }
    }
}

fn until_next(more: bool, next_at: Instant, now: Instant) -> Duration {
    if more { TICK.min(next_at.saturating_duration_since(now)) } else { TICK }
}

fn begin(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&addr.into()) {
        Err(e) if Errno::from_io_error(&e) != Some(Errno::INPROGRESS) => Err(e),
        _ => Ok(socket),
    }
}

/// Waits until one of these is connected or refused, or the client disconnects.
fn wait_for_any(
    connecting: &[(Socket, SocketAddr)],
    cancel: Option<&CancelToken>,
    timeout: Duration,
) -> io::Result<()> {
    let client = cancel.and_then(CancelToken::client);
    let mut fds: Vec<_> =
        connecting.iter().map(|(socket, _)| PollFd::new(socket, PollFlags::OUT)).chain(client).collect();
    wait(&mut fds, timeout)?;
    if let Some(cancel) = cancel {
        cancel.note(fds.get(connecting.len()));
    }
    Ok(())
}

/// Whether it is connected by now.
fn outcome(socket: &Socket) -> io::Result<bool> {
    match socket.take_error()? {
        Some(e) => Err(e),
        None => Ok(socket.peer_addr().is_ok()),
    }
}

#[cfg(test)]
#[path = "../../tests/support/blackhole.rs"]
#[allow(unreachable_pub, reason = "shared with the integration tests")]
mod blackhole;

#[cfg(test)]
mod tests;
