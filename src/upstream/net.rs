//! All ways out, one channel per endpoint, made when first needed and anew when its configuration changes.

use super::channel::{Channel, Fault, Trouble};
use crate::base::lock::{read, write};
use crate::config::Endpoint;
use std::collections::HashMap;
use std::sync::{Arc, RwLock};

/// The channels by endpoint name: as many as the configuration has endpoints.
pub struct Net {
    channels: RwLock<HashMap<String, Known>>,
    connections: usize,
}

/// A channel and the configuration it was made from.
struct Known {
    config: Arc<Endpoint>,
    channel: Arc<Channel>,
}

impl Net {
    /// Channels that keep up to `connections` idle connections each.
    pub fn new(connections: usize) -> Self {
        Self { channels: RwLock::new(HashMap::new()), connections }
    }

    /// The way to an endpoint.
    ///
    /// # Errors
    /// Its proxy is not a usable URL.
    pub fn channel(&self, endpoint: &Arc<Endpoint>) -> Result<Arc<Channel>, Fault> {
        if let Some(known) = read(&self.channels).get(&endpoint.name)
            && (Arc::ptr_eq(&known.config, endpoint) || known.config == *endpoint)
        {
            return Ok(Arc::clone(&known.channel));
        }
        let made = Channel::new(endpoint, self.connections);
        let channel = Arc::new(made.map_err(|cause| Fault { trouble: Trouble::Connect, cause })?);
        let entry = Known { config: Arc::clone(endpoint), channel: Arc::clone(&channel) };
        write(&self.channels).insert(endpoint.name.clone(), entry);
        Ok(channel)
    }
}
