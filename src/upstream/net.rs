//! All ways out, one channel per endpoint, made when first needed and anew when its configuration changes.

use super::channel::{Channel, Fault, Trouble};
use crate::base::lock::{read, write};
use crate::base::secret::Secret;
use crate::config::{Base, Endpoint};
use std::sync::{Arc, RwLock};
use std::time::Duration;

/// Channels that are kept at most; beyond it, which takes many reloads, all are made anew.
const MOST: usize = 256;

/// The channels, found by all that makes one differ from another.
pub struct Net {
    channels: RwLock<Vec<Known>>,
    connections: usize,
}

/// A channel and what it was made from.
struct Known {
    base: Base,
    proxy: Option<Secret>,
    keep_alive: Duration,
    channel: Arc<Channel>,
}

impl Known {
    fn fits(&self, endpoint: &Endpoint) -> bool {
        self.base == endpoint.base && self.keep_alive == endpoint.keep_alive && self.proxy == endpoint.proxy
    }
}

impl Net {
    /// Channels that keep up to `connections` idle connections each.
    pub fn new(connections: usize) -> Self {
        Self { channels: RwLock::new(Vec::new()), connections }
    }

    /// The way to an endpoint.
    ///
    /// # Errors
    /// Its proxy is not a usable URL.
    pub fn channel(&self, endpoint: &Endpoint) -> Result<Arc<Channel>, Fault> {
        if let Some(known) = read(&self.channels).iter().find(|known| known.fits(endpoint)) {
            return Ok(Arc::clone(&known.channel));
        }
        let made = Channel::new(endpoint, self.connections);
        let channel = Arc::new(made.map_err(|cause| Fault { trouble: Trouble::Connect, cause })?);
        let mut channels = write(&self.channels);
        if channels.len() >= MOST {
            channels.clear();
        }
        let Endpoint { base, proxy, keep_alive, .. } = endpoint.clone();
        channels.push(Known { base, proxy, keep_alive, channel: Arc::clone(&channel) });
        Ok(channel)
    }
}
