//! The HTTP clients of all endpoints, made on first use and again when their configuration changes.

use super::error::{UpstreamError, UpstreamErrorKind};
use super::headers::{Identity, Pseudonym};
use crate::config::{Base, CaFile, Endpoint};
use crate::upstream::client::UpstreamClient;
use crate::upstream::resolver::CachedResolver;
use crate::util::lock::{read, write};
use crate::util::secret::Secret;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

/// Beyond this the least recently used client is dropped.
const MOST: usize = 256;

pub struct ClientPool {
    clients: RwLock<Vec<Known>>,
    connections: usize,
    identity: Arc<Identity>,
    turn: AtomicU64,
}

/// A client and the configuration that it depends on.
struct Known {
    base: Base,
    proxy: Option<Secret>,
    ca_file: Option<CaFile>,
    keep_alive: Duration,
    client: Arc<UpstreamClient>,
    /// Turn of its last use.
    used: AtomicU64,
}

impl Known {
    fn fits(&self, endpoint: &Endpoint) -> bool {
        self.base == endpoint.base
            && self.keep_alive == endpoint.keep_alive
            && self.proxy == endpoint.proxy
            && self.ca_file == endpoint.ca_file
    }
}

impl ClientPool {
    /// Clients that keep up to `connections` idle connections each.
    pub fn new(connections: usize) -> Self {
        Self { clients: RwLock::new(Vec::new()), connections, identity: Arc::default(), turn: AtomicU64::new(0) }
    }

    /// For probes: clients that keep no connections, since a probe tests connecting too.
    pub(crate) fn for_probes(&self) -> Self {
        Self { identity: Arc::clone(&self.identity), ..Self::new(0) }
    }

    pub(crate) fn pseudonym(&self) -> &Pseudonym {
        &self.identity.pseudonym
    }

    pub(crate) fn client(&self, endpoint: &Endpoint) -> Result<Arc<UpstreamClient>, UpstreamError> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if let Some(known) = read(&self.clients).iter().find(|known| known.fits(endpoint)) {
            known.used.store(turn, Ordering::Relaxed);
            return Ok(Arc::clone(&known.client));
        }
        let made = UpstreamClient::with(
            endpoint,
            self.connections,
            CachedResolver::default(),
            Some(Arc::clone(&self.identity)),
        );
        let client = Arc::new(made.map_err(|cause| UpstreamError { kind: UpstreamErrorKind::Connect, cause })?);
        let mut clients = write(&self.clients);
        let oldest = clients.iter().enumerate().min_by_key(|(_, known)| known.used.load(Ordering::Relaxed));
        if let Some((oldest, _)) = oldest.filter(|_| clients.len() >= MOST) {
            clients.swap_remove(oldest);
        }
        let Endpoint { base, proxy, ca_file, keep_alive, .. } = endpoint.clone();
        clients.push(Known { base, proxy, ca_file, keep_alive, client: Arc::clone(&client), used: turn.into() });
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S20
    #[test]
    fn of_too_many_clients_one_is_forgotten_and_not_all() {
        let pool = ClientPool::new(1);
        let endpoint = |n: usize| Endpoint::plain(format!("e{n}"), "127.0.0.1", 1 + n as u16);
        let all: Vec<_> = (0..MOST).map(|n| pool.client(&endpoint(n)).expect("a client")).collect();
        let again = |n: usize| Arc::ptr_eq(&pool.client(&endpoint(n)).expect("a client"), &all[n]);
        assert!(again(0), "asked for again, so the next one is the oldest");
        pool.client(&endpoint(MOST)).expect("a client");
        assert!((2..MOST).all(again) && again(0));
        assert!(!again(1));
    }
}
