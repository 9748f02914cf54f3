//! The state of one call that its transport needs: stage, time-outs, cancellation. ureq hands nothing through to its
//! transports, hence the thread-local.

use crate::config::Timeouts;
use crate::util::cancel::{CancelToken, TICK};
use std::cell::{Cell, RefCell};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A pooled connection that its peer has closed fails within one round trip.
const STALE: Duration = Duration::from_secs(1);

/// What a call is doing, and the time-out that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// DNS, TCP, TLS: `timeouts.connect`.
    Connect,
    /// Sending the request: `timeouts.idle` between writes.
    Send,
    /// Waiting for the first byte of the body: `timeouts.firstByte`.
    FirstByte,
    /// Reading the body: `timeouts.idle` between reads.
    Body,
    /// All of it, for an answer that is not streamed: `timeouts.total`.
    Total,
}

/// What happens while a call is silent: pings.
pub(crate) trait Watch {
    /// Called before each wait; returns when it is to be called next.
    fn silent(&self, now: Instant) -> Option<Instant>;

    /// Whether to stop waiting for the first byte: the endpoint is shutting down.
    fn gives_up(&self) -> bool {
        false
    }

    /// Whether an administrator stopped the request, which overrides `onClientGone: finish`.
    fn is_stopped(&self) -> bool {
        false
    }
}

pub(super) struct Call {
    limits: Timeouts,
    pub(crate) whole_by: Cell<Option<Instant>>,
    pub(crate) cancel: Option<Arc<CancelToken>>,
    watch: Option<Rc<dyn Watch>>,
    stage: Cell<Stage>,
    since: Cell<Instant>,
    /// Bytes were transferred since the last wait.
    moved: Cell<bool>,
    /// The stage that timed out.
    pub(crate) expired: Cell<Option<Stage>>,
    /// The connection has served another call.
    pub(crate) reused: Cell<bool>,
    /// A byte of the answer has come.
    pub(crate) answered: Cell<bool>,
    pub(crate) headed: Cell<bool>,
    /// See [`Watch::gives_up`].
    pub(crate) given_up: Cell<bool>,
    /// The connection must not be reused.
    pub(crate) spoiled: Cell<bool>,
    /// Use no pooled connection: one was just found dead, or the body can be sent only once.
    pub(crate) fresh: Cell<bool>,
    /// A pooled connection delivered something that is no answer to this request.
    pub(crate) unexpected: Cell<bool>,
    /// A HEAD request: the answer has no body.
    pub(crate) is_head: bool,
    pub(crate) peeking: Cell<bool>,
    /// While sending, look for an early answer.
    pub(crate) listening: Cell<bool>,
    /// A write would block and the socket is readable.
    pub(crate) interrupted: Cell<bool>,
    /// The rest of the request is not sent.
    pub(crate) upload_over: Cell<bool>,
    /// Bytes of the buffer for output.
    pub(crate) output: Cell<usize>,
    /// The length of the request's body is not known.
    pub(crate) is_chunked: Cell<bool>,
    /// The socket of a tunnel that an outgoing proxy is asked for.
    pub(crate) tunnel: Cell<Option<TcpStream>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Call>>> = const { RefCell::new(None) };
}

/// The call of this thread; `None` for a connection that is closed in the pool.
pub(super) fn current() -> Option<Rc<Call>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Keeps a call current on its thread until dropped.
pub(super) struct Entered;

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

impl Call {
    pub(super) fn new(
        limits: Timeouts,
        is_head: bool,
        cancel: Option<Arc<CancelToken>>,
        watch: Option<Rc<dyn Watch>>,
        now: Instant,
    ) -> Rc<Self> {
        Rc::new(Self {
            whole_by: Cell::new(limits.total.map(|total| now + total)),
            limits,
            cancel,
            watch,
            stage: Cell::new(Stage::Connect),
            since: Cell::new(now),
            moved: Cell::new(false),
            expired: Cell::new(None),
            reused: Cell::new(false),
            answered: Cell::new(false),
            headed: Cell::new(false),
            given_up: Cell::new(false),
            spoiled: Cell::new(false),
            fresh: Cell::new(false),
            unexpected: Cell::new(false),
            is_head,
            peeking: Cell::new(false),
            listening: Cell::new(true),
            interrupted: Cell::new(false),
            upload_over: Cell::new(false),
            output: Cell::new(0),
            is_chunked: Cell::new(false),
            tunnel: Cell::new(None),
        })
    }

    pub(crate) fn restart(&self, now: Instant) {
        self.fresh.set(true);
        for flag in [&self.answered, &self.spoiled, &self.unexpected, &self.interrupted, &self.upload_over, &self.moved]
        {
            flag.set(false);
        }
        self.listening.set(true);
        self.enter_stage(Stage::Connect, now);
    }

    pub(crate) fn enter(self: &Rc<Self>) -> Entered {
        CURRENT.set(Some(Rc::clone(self)));
        Entered
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage.get()
    }

    pub(crate) fn enter_stage(&self, stage: Stage, now: Instant) {
        self.stage.set(stage);
        self.since.set(now);
    }

    /// Bytes were transferred: the next wait restarts the stage's time-out, so that no clock is read here.
    pub(crate) fn progress(&self) {
        self.moved.set(true);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|cancel| cancel.is_cancelled())
            || self.watch.as_ref().is_some_and(|watch| watch.is_stopped())
    }

    /// Whether a lost connection was dead before it was reused: pooled, silent, and lost at once. If it was lost later, the
    /// endpoint may have the request, which must not be sent twice (FAULTS C3, C4).
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        let at_once = now.saturating_duration_since(self.since.get()) < STALE;
        self.reused.get() && !self.answered.get() && at_once
    }

    /// The longest wait now; `None` after a time-out, which is then in `expired`.
    pub(crate) fn patience(&self, now: Instant) -> Option<Duration> {
        if self.moved.take() {
            self.since.set(now);
        }
        let limit = match self.stage.get() {
            Stage::Connect => self.limits.connect,
            Stage::FirstByte => self.limits.first_byte,
            Stage::Send | Stage::Body | Stage::Total => self.limits.idle,
        };
        let stage_by = limit.map(|limit| (self.since.get() + limit, self.stage.get()));
        let whole_by = self.whole_by.get().map(|by| (by, Stage::Total));
        let first = match (stage_by, whole_by) {
            (Some(a), Some(b)) => Some(if b.0 < a.0 { b } else { a }),
            (a, b) => a.or(b),
        };
        if self.stage.get() == Stage::FirstByte && self.watch.as_ref().is_some_and(|watch| watch.gives_up()) {
            self.given_up.set(true);
            return None;
        }
        let mut wait = TICK;
        if let Some((by, stage)) = first {
            let tail = by.saturating_duration_since(now);
            if tail.is_zero() {
                self.expired.set(Some(stage));
                return None;
            }
            wait = wait.min(tail);
        }
        if let Some(next) = self.watch.as_ref().and_then(|watch| watch.silent(now)) {
            wait = wait.min(next.saturating_duration_since(now));
        }
        Some(wait.max(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests;
