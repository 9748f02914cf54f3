//! What becomes of a connection when its answer is out: the rest is flushed, the next request is read, or it ends.

use crate::http::connection::State;
use crate::http::response::Returned;
use crate::http::server::{EventLoop, LISTENERS};
use mio::unix::SourceFd;
use mio::{Interest, Token};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl EventLoop {
    /// Takes connections back from workers. What comes back meanwhile has its turn after the others: whoever gives it
    /// back with something left to do wakes us (see `ReturnQueue::give`).
    pub(super) fn take_back(&mut self, now: Instant) {
        let mut returned = std::mem::take(&mut self.returned);
        self.shared.returns.take(&mut returned);
        for back in returned.drain(..) {
            self.guard(back.token, |front| front.settle(back, now));
        }
        self.returned = returned;
    }

    fn settle(&mut self, back: Returned, now: Instant) {
        let slot = back.token;
        let Some(conn) = self.conns.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        self.served -= 1;
        conn.state = State::Head { since: None };
        if back.late {
            conn.owes_nothing();
        }
        if back.reset {
            return self.close(slot);
        }
        if back.blocking && conn.stream.set_nonblocking(true).is_err() {
            return self.close(slot);
        }
        if !back.rest.is_empty() {
            conn.state = State::Flush { rest: back.rest, keep: back.keep };
            conn.deadline = now + self.rules.write_timeout;
            let fd = conn.stream.as_raw_fd();
            let both = Interest::READABLE | Interest::WRITABLE;
            if self.poll.registry().reregister(&mut SourceFd(&fd), Token(slot + LISTENERS + 1), both).is_err() {
                return self.close(slot);
            }
            return self.flush(slot, now);
        }
        self.resume(slot, back.keep, now);
    }

    pub(super) fn flush(&mut self, slot: usize, now: Instant) {
        let Some(conn) = self.conns.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let keep = matches!(conn.state, State::Flush { keep: true, .. });
        match conn.flush(now, &self.rules) {
            Err(_) => self.close(slot),
            Ok(false) if conn.deadline <= now => self.close(slot),
            Ok(false) => self.note_deadline(slot),
            Ok(true) => {
                if !keep {
                    let _ = conn.stream.shutdown(Shutdown::Write);
                }
                self.resume(slot, keep, now);
            }
        }
    }

    /// After an answer: the next request, or the end.
    fn resume(&mut self, slot: usize, keep: bool, now: Instant) {
        let Some(conn) = self.conns.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        if keep {
            conn.park(now, &self.rules);
            let unread = conn.has_unread() || conn.closed;
            if self.shared.draining.load(Ordering::SeqCst) && !unread {
                return self.close(slot);
            }
            self.note_deadline(slot);
            if unread {
                self.advance(slot, now);
            }
        } else {
            conn.linger(now, &self.rules, self.shared.draining.load(Ordering::SeqCst));
            self.note_deadline(slot);
            self.advance(slot, now);
        }
    }
}
