//! Ends the work for one request early, and waits in a way that notices it: while a thread waits for anything else it
//! polls its own client's socket too, so no other thread has to report that the client has gone.

pub(crate) use rustix::event::{PollFd, PollFlags};
use rustix::event::{Timespec, poll};
use rustix::io::Errno;
use std::cell::RefCell;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How soon a token that another thread cancelled is noticed.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// The flag of one request or job. Once set it stays set.
#[derive(Debug, Default)]
pub(crate) struct CancelToken {
    cancelled: AtomicBool,
    /// Set when the whole server stops at once.
    all: Option<Arc<AtomicBool>>,
    client: Option<Arc<TcpStream>>,
    /// The client has sent its next request already, so where there is no `POLLRDHUP` its hang-up cannot be seen.
    pipelined: AtomicBool,
}

impl CancelToken {
    /// Cancelled when this client hangs up, or when `all` is set.
    pub(crate) fn of_client(client: Arc<TcpStream>, all: Arc<AtomicBool>) -> Self {
        Self { client: Some(client), all: Some(all), ..Self::default() }
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst) || self.all.as_ref().is_some_and(|all| all.load(Ordering::SeqCst))
    }

    /// Waits until cancelled or until `until`; returns whether it is cancelled.
    pub(crate) fn wait_until(&self, until: Instant, now: impl Fn() -> Instant) -> bool {
        loop {
            let rest = until.saturating_duration_since(now());
            if self.is_cancelled() || rest.is_zero() {
                return self.is_cancelled();
            }
            let mut fds = Vec::from_iter(self.client());
            if wait(&mut fds, rest.min(TICK)).is_err() {
                std::thread::park_timeout(rest.min(TICK));
            }
            self.note(fds.last());
        }
    }

    /// The client's socket, to be polled last among others; [`CancelToken::note`] takes the result.
    pub(crate) fn client(&self) -> Option<PollFd<'_>> {
        let client = self.client.as_ref().filter(|_| !self.pipelined.load(Ordering::Relaxed))?;
        Some(PollFd::new(&**client, HANG_UP))
    }

    /// Cancels if this poll of the client's socket shows a hang-up.
    pub(crate) fn note(&self, client: Option<&PollFd<'_>>) {
        if client.is_none_or(|client| client.revents().is_empty()) {
            return;
        }
        let peeked = || self.client.as_ref().is_some_and(|client| matches!(client.peek(&mut [0]), Ok(1..)));
        let pipelined = !cfg!(target_os = "linux") && peeked();
        self.pipelined.store(pipelined, Ordering::Relaxed);
        if !pipelined {
            self.cancel();
        }
    }
}

/// What tells a hang-up apart from a pipelined request, where there is such a thing.
#[cfg(target_os = "linux")]
const HANG_UP: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const HANG_UP: PollFlags = PollFlags::IN;

/// Waits until a socket is ready for `wanted`, the token is cancelled, or `timeout` is over, and never longer than a
/// [`TICK`]. Returns what the socket is ready for.
///
/// # Errors
/// The kernel is out of memory.
pub(crate) fn ready(
    socket: &impl AsFd,
    wanted: PollFlags,
    cancel: Option<&CancelToken>,
    timeout: Duration,
) -> io::Result<PollFlags> {
    let socket = PollFd::new(socket, wanted);
    let Some(client) = cancel.and_then(CancelToken::client) else {
        let mut fds = [socket];
        wait(&mut fds, timeout.min(TICK))?;
        return Ok(fds[0].revents());
    };
    let mut fds = [socket, client];
    wait(&mut fds, timeout.min(TICK))?;
    if let Some(cancel) = cancel {
        cancel.note(fds.last());
    }
    Ok(fds[0].revents())
}

/// One end of a pair: it becomes readable when the other one is dropped.
pub(crate) type WakeEnd = UnixStream;

/// Lets one thread wake another that waits for a client too. None when the system has no descriptors left.
pub(crate) fn wake_pair() -> Option<(WakeEnd, WakeEnd)> {
    UnixStream::pair().ok()
}

pub(crate) trait WaitObserver {
    fn begin(&self);
    fn end(&self);
}

thread_local! {
    static OBSERVER: RefCell<Option<Arc<dyn WaitObserver>>> = const { RefCell::new(None) };
}

pub(crate) fn observe_waits(observer: Arc<dyn WaitObserver>) {
    OBSERVER.set(Some(observer));
}

/// Polls; an interrupted wait is a short one.
pub(crate) fn wait(fds: &mut [PollFd<'_>], timeout: Duration) -> io::Result<()> {
    OBSERVER.with_borrow(|observer| observer.iter().for_each(|observer| observer.begin()));
    let polled = poll(fds, Timespec::try_from(timeout).ok().as_ref());
    OBSERVER.with_borrow(|observer| observer.iter().for_each(|observer| observer.end()));
    match polled {
        Err(e) if e != Errno::INTR => Err(e.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
