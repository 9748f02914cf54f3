//! Idle connections to one endpoint, below ureq's own pool, which is switched off: it takes the connection that was idle
//! longest, which keeps the memory of all of them in use, and walks over all of them twice per request.

use super::call::current;
use crate::util::lock::lock;
use crate::util::time;
use http::uri::Authority;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// Takes an idle connection, or lets `connector` open one.
pub(super) struct Reusing<C: Connector> {
    /// The endpoint's; the connection to an outgoing proxy is not reused by itself.
    authority: Authority,
    connector: C,
    idle: Arc<Idle<C::Out>>,
}

/// At most `most`, the last used at the end.
struct Idle<T> {
    most: usize,
    longest: Duration,
    connections: Mutex<VecDeque<(Instant, T)>>,
}

impl<T> Idle<T> {
    fn put(&self, connection: T, now: Instant) {
        let mut connections = lock(&self.connections);
        let is_old = |since: Instant| now.saturating_duration_since(since) >= self.longest;
        while connections.front().is_some_and(|(since, _)| is_old(*since)) || connections.len() >= self.most.max(1) {
            connections.pop_front();
        }
        if self.most > 0 {
            connections.push_back((now, connection));
        }
    }

    fn take(&self, now: Instant) -> Option<T> {
        let (since, connection) = lock(&self.connections).pop_back()?;
        (now.saturating_duration_since(since) < self.longest).then_some(connection)
    }
}

impl<C: Connector> Reusing<C> {
    /// Keeps up to `most` connections, each for `longest` at most.
    pub(super) fn new(connector: C, authority: Authority, most: usize, longest: Duration) -> Self {
        Self { connector, authority, idle: Arc::new(Idle { most, longest, connections: Mutex::default() }) }
    }
}

impl<C: Connector> fmt::Debug for Reusing<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reusing")
    }
}

impl<C: Connector> Connector for Reusing<C> {
    type Out = Reusable<C::Out>;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Self::Out>, Error> {
        let idle = (details.uri.authority() == Some(&self.authority)).then_some(&self.idle);
        if let Some(idle) = idle.filter(|_| !current().is_some_and(|call| call.fresh.get())) {
            while let Some(mut transport) = idle.take(time::now()) {
                if transport.is_open() {
                    return Ok(Some(Reusable { transport: Some(transport), idle: Some(Arc::clone(idle)) }));
                }
            }
        }
        let made = self.connector.connect(details, None)?;
        Ok(made.map(|transport| Reusable { transport: Some(transport), idle: idle.cloned() }))
    }
}

/// A connection that becomes idle when ureq asks whether it is open.
pub(super) struct Reusable<T> {
    /// `None` once idle; ureq drops this then.
    transport: Option<T>,
    idle: Option<Arc<Idle<T>>>,
}

impl<T> Reusable<T> {
    fn transport(&mut self) -> &mut T {
        self.transport.as_mut().expect("ureq uses no connection that is not open")
    }
}

impl<T: Transport> fmt::Debug for Reusable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reusable")
    }
}

impl<T: Transport> Transport for Reusable<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.transport().buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.transport().transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.transport().await_input(timeout)
    }

    /// ureq asks this once, after an answer.
    fn is_open(&mut self) -> bool {
        if let (Some(mut transport), Some(idle)) = (self.transport.take(), &self.idle)
            && transport.is_open()
        {
            idle.put(transport, time::now());
        }
        false
    }

    fn is_tls(&self) -> bool {
        self.transport.as_ref().is_some_and(Transport::is_tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(most: usize) -> Idle<u32> {
        Idle { most, longest: Duration::from_secs(4), connections: Mutex::default() }
    }

    #[test]
    fn the_last_used_is_taken_first_and_an_old_one_never() {
        let (idle, start) = (idle(8), time::now());
        let at = |second| start + Duration::from_secs(second);
        for n in 0..4 {
            idle.put(n, at(u64::from(n)));
        }
        assert_eq!((idle.take(at(4)), idle.take(at(4))), (Some(3), Some(2)));
        assert_eq!(idle.take(at(5)), None, "used at second 1");
    }

    #[test]
    fn there_are_never_more_than_may_be() {
        let (none, two, now) = (idle(0), idle(2), time::now());
        none.put(1, now);
        assert_eq!(none.take(now), None);
        (1..=3).for_each(|n| two.put(n, now));
        assert_eq!([two.take(now), two.take(now), two.take(now)], [Some(3), Some(2), None]);
    }
}
