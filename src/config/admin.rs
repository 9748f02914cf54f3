//! `admin`

use crate::util::secret::Secret;
use std::path::PathBuf;

/// `admin` (SPEC section 10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub enabled: bool,
    /// Address of a listener of its own.
    pub host: String,
    /// Its port; none = the main listener.
    pub port: Option<u16>,
    /// Without one a token is made at each start.
    pub token: Option<Secret>,
    pub open: bool,
    /// The file of routes that the page writes, in format 003; without a name (the demo) nothing is written.
    pub routes_file: PathBuf,
    /// More names that `Host` may have.
    pub allowed_hosts: Vec<String>,
    /// Endpoints that only the page's routes have are probed; not where the file is one of routes (format 003).
    pub probe: bool,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            enabled: false,
            host: "127.0.0.1".into(),
            port: None,
            token: None,
            open: false,
            routes_file: "config/dynamic_routing.json".into(),
            allowed_hosts: Vec::new(),
            probe: true,
        }
    }
}
