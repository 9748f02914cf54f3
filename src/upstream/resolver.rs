//! Resolves host names: cached, with a time limit, one look-up per name at a time. The system's resolver cannot be
//! interrupted, so it runs in a thread of its own.

use crate::util::lock::lock;
use crate::util::time;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use ureq::Error;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

const FRESH: Duration = Duration::from_secs(30);
/// Cache time of a failure, short since the network may just be coming up.
const FAILED: Duration = Duration::from_secs(2);
/// How long a request waits for a look-up (FAULTS C18).
const PATIENCE: Duration = Duration::from_secs(2);
/// ureq's limit.
const MOST: usize = 16;

/// Bounded: all names come from the configuration.
#[derive(Default)]
pub(super) struct CachedResolver {
    known: Arc<Known>,
    guard: Option<Guard>,
}

/// Whether an address may be connected to. Applied to the resolved addresses themselves, so that a name cannot change its
/// meaning in between.
pub(crate) type Guard = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

impl fmt::Debug for CachedResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CachedResolver")
    }
}

#[derive(Debug, Default)]
struct Known {
    names: Mutex<HashMap<String, Name>>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Name {
    addrs: Vec<IpAddr>,
    until: Option<Instant>,
    pending: bool,
}

impl CachedResolver {
    /// All addresses of a name must pass `guard`.
    pub(super) fn guarded(guard: Guard) -> Self {
        Self { guard: Some(guard), ..Self::default() }
    }

    fn look_up(&self, host: &str) -> Vec<IpAddr> {
        let until = time::now() + PATIENCE;
        let mut names = lock(&self.known.names);
        loop {
            let name = names.entry(host.to_owned()).or_default();
            let now = time::now();
            if name.until.is_some_and(|until| now < until) {
                return name.addrs.clone();
            }
            if !name.pending {
                name.pending = self.start(host);
            }
            let tail = until.saturating_duration_since(now);
            if tail.is_zero() || !name.pending {
                // A stale address is better than none.
                return name.addrs.clone();
            }
            names = match self.known.changed.wait_timeout(names, tail) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    fn start(&self, host: &str) -> bool {
        let (known, host) = (Arc::clone(&self.known), host.to_owned());
        let look = move || {
            let found = (host.as_str(), 0u16).to_socket_addrs();
            let mut names = lock(&known.names);
            let name = names.entry(host).or_default();
            name.pending = false;
            name.until = Some(time::now() + if found.is_ok() { FRESH } else { FAILED });
            if let Ok(found) = found {
                name.addrs = found.map(|addr| addr.ip()).take(MOST).collect();
            }
            known.changed.notify_all();
        };
        std::thread::Builder::new().name("resolve".into()).spawn(look).is_ok()
    }
}

impl Resolver for CachedResolver {
    fn resolve(&self, uri: &Uri, _: &ureq::config::Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().unwrap_or_default();
        let https = uri.scheme() == Some(&ureq::http::uri::Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let mut found = self.empty();
        let all = bare.parse::<IpAddr>().map_or_else(|_| self.look_up(bare), |ip| vec![ip]);
        if self.guard.as_ref().is_some_and(|guard| !all.iter().all(|ip| guard(*ip))) {
            let text = "its name stands for an address inside of this network";
            return Err(Error::Io(io::Error::new(io::ErrorKind::PermissionDenied, text)));
        }
        for ip in all {
            found.push(SocketAddr::new(ip, port));
        }
        if found.is_empty() { Err(Error::HostNotFound) } else { Ok(found) }
    }
}

#[cfg(test)]
mod tests;
