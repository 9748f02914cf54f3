//! Opens TCP connections: every address of a name gets its turn, and none is waited for alone (RFC 8305). Knows nothing of HTTP.

use super::call::Call;
use crate::util::lock::lock;
use crate::util::time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use ureq::{Error, Timeout};

/// Between the beginnings of two attempts (RFC 8305 5, "Connection Attempt Delay").
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// How soon it is noticed that the client has left.
const TICK: Duration = Duration::from_millis(100);
/// Addresses that failed and are remembered, as many as one name has at most.
const MOST: usize = 16;

/// What is known of the addresses of one endpoint: the order in which they are tried.
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
    /// The one that worked first, those that failed last.
    fn order(&self, addrs: &[SocketAddr]) -> Vec<SocketAddr> {
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
    /// All refused, the stage's time is over, or the client has left.
    pub fn connect(&self, call: &Call, addrs: &[SocketAddr]) -> Result<TcpStream, Error> {
        let mut waiting = self.order(addrs).into_iter();
        let mut trying: Vec<(Socket, SocketAddr)> = Vec::new();
        let mut next_at = time::now();
        let mut last = Error::HostNotFound;
        loop {
            if call.is_cancelled() {
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
            }
            let now = time::now();
            let Some(patience) = call.patience(now) else {
                // Those that were slower than another one are no better the next time.
                trying.iter().for_each(|(_, addr)| self.failed(*addr));
                return Err(Error::Timeout(Timeout::Connect));
            };
            if now >= next_at || trying.is_empty() {
                match waiting.next() {
                    Some(addr) => {
                        next_at = now + NEXT_AFTER;
                        match begin(addr) {
                            Ok(socket) => trying.push((socket, addr)),
                            Err(e) => {
                                self.failed(addr);
                                last = e.into();
                                continue;
                            }
                        }
                    }
                    None if trying.is_empty() => return Err(last),
                    None => {}
                }
            }
            let more = waiting.len() > 0;
            wait(&trying, until_next(more, next_at, now).min(patience))?;
            let mut refused = false;
            for (socket, addr) in std::mem::take(&mut trying) {
                match outcome(&socket) {
                    Ok(false) => trying.push((socket, addr)),
                    Ok(true) => {
                        // Those that were asked before it and are silent must not delay the next connection.
                        trying.iter().for_each(|(_, slower)| self.failed(*slower));
                        self.worked(addr);
                        socket.set_nonblocking(false)?;
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

/// Waits until one of these is connected or refused.
fn wait(trying: &[(Socket, SocketAddr)], patience: Duration) -> io::Result<()> {
    let mut fds: Vec<_> = trying.iter().map(|(socket, _)| PollFd::new(socket, PollFlags::OUT)).collect();
    match poll(&mut fds, Timespec::try_from(patience).ok().as_ref()) {
        Err(e) if e != Errno::INTR => Err(e.into()),
        _ => Ok(()),
    }
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
mod blackhole;

#[cfg(test)]
mod tests {
    use super::blackhole::Blackhole;
    use super::*;
    use crate::config::Timeouts;
    use crate::util::cancel::CancelToken;
    use std::net::TcpListener;
    use std::rc::Rc;
    use std::sync::Arc;

    fn call(gone: Option<Arc<CancelToken>>, connect: u64) -> Rc<Call> {
        let limits = Timeouts { connect: Some(Duration::from_secs(connect)), ..Timeouts::default() };
        Call::new(limits, false, gone, None, time::now())
    }

    fn refusing() -> SocketAddr {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        let addr = socket.local_addr().expect("bound").as_socket().expect("an address");
        // Bound for as long as the tests run, and never listening.
        std::mem::forget(socket);
        addr
    }

    // S12, R17
    #[test]
    fn dead_addresses_of_a_name_delay_the_first_connection_a_little_and_later_ones_not_at_all() {
        let holes = [Blackhole::new(), Blackhole::new(), Blackhole::new(), Blackhole::new()];
        let good = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let good = (good.local_addr().expect("bound"), good);
        let addrs: Vec<_> = holes.iter().map(Blackhole::addr).chain([refusing(), good.0]).collect();
        let addresses = Addresses::default();
        // With the old way, a second for each of them, the limit would be met.
        let stream = addresses.connect(&call(None, 3), &addrs).expect("the last one listens");
        assert_eq!(stream.peer_addr().expect("connected"), good.0);
        assert_eq!(addresses.order(&addrs)[0], good.0);
        assert_eq!(addresses.connect(&call(None, 3), &addrs).expect("again").peer_addr().expect("connected"), good.0);
    }

    #[test]
    fn an_address_that_refuses_is_tried_last_and_the_next_one_at_once() {
        let good = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addrs: Vec<_> = (0..8).map(|_| refusing()).chain([good.local_addr().expect("bound")]).collect();
        let addresses = Addresses::default();
        assert!(addresses.connect(&call(None, 1), &addrs).is_ok(), "eight refusals take no time");
        assert_eq!(addresses.order(&addrs)[0], addrs[8]);
        drop(good);
        let refused = addresses.connect(&call(None, 1), &addrs).expect_err("nobody listens");
        assert!(matches!(refused, Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused));
    }

    // S12
    #[test]
    fn connecting_goes_on_for_all_of_its_time_and_then_names_it() {
        let hole = Blackhole::new();
        let call = call(None, 1);
        let ended = Addresses::default().connect(&call, &[hole.addr()]);
        assert!(matches!(ended, Err(Error::Timeout(Timeout::Connect))));
        assert_eq!(call.expired.get(), Some(super::super::call::Stage::Connect));
    }

    #[test]
    fn a_client_that_leaves_ends_it() {
        let (hole, gone) = (Blackhole::new(), Arc::new(CancelToken::default()));
        let other = Arc::clone(&gone);
        let leaver = std::thread::spawn(move || other.cancel());
        let ended = Addresses::default().connect(&call(Some(gone), 600), &[hole.addr()]);
        assert!(matches!(ended, Err(Error::Io(e)) if e.kind() == io::ErrorKind::ConnectionAborted));
        leaver.join().expect("it does not panic");
    }
}
