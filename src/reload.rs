//! Puts configurations in force, one at a time: the file's, with the routes of the page.

use crate::admin::{Admin, ConfigControl};
use crate::config::{Config, Problem};
use crate::http::handler::ServerHandle;
use crate::proxy::state::Proxy;
use crate::routing::snapshot::{HealthEvent, SnapshotStore};
use crate::util::lock::lock;
use crate::util::secret::Secret;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock};

type Read = Box<dyn Fn() -> Result<Config, String> + Send + Sync>;

/// The one place where the configuration of a running proxy changes.
pub(crate) struct ConfigManager {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) shared: Arc<SnapshotStore>,
    /// What the file says, without the page's routes. Held while a configuration comes into force.
    pub(crate) base: Mutex<Config>,
    /// The token of the page while the configuration has none; made at each start.
    pub(crate) token: Secret,
    pub(crate) admin: Option<Arc<Admin>>,
    /// Gets the new limits of heads and bodies.
    pub(crate) server_handle: OnceLock<ServerHandle>,
    /// How the file is read again.
    pub read: OnceLock<Read>,
}

impl ConfigManager {
    /// Puts a configuration in force that was read again; returns what needs a restart.
    pub(crate) fn reload(&self, config: Config) -> Result<Vec<&'static str>, String> {
        if let Some(admin) = &self.admin {
            admin.read_again(&config)?;
        }
        let later = self.apply(Some(config))?;
        self.proxy.warn_of_open_listeners();
        Ok(later)
    }

    /// Puts a new base, or the current one, in force with the routes of the page; returns what needs a restart.
    ///
    /// # Errors
    /// The page's routes do not fit it, or an address that it takes away would be left without keys.
    pub(crate) fn apply(&self, config: Option<Config>) -> Result<Vec<&'static str>, String> {
        let mut base = lock(&self.base);
        let config = config.unwrap_or_else(|| base.clone());
        let mut merged = self.merged(&config)?;
        let snapshot = self.shared.load();
        let old = &snapshot.config.server;
        let new = &merged.server;
        let is_local = old.host == "localhost" || old.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if new.host != old.host && !is_local && merged.keys.is_empty() && !snapshot.key_ring.is_open() {
            let text = "auth.keys is empty now, and server.host changes only with a restart: until then the old address \
                would be open to everybody who reaches it; restart instead";
            return Err(text.into());
        }
        let mut later = Vec::new();
        let mut needs_restart = |key, differs: bool| later.extend(differs.then_some(key));
        needs_restart("server.host", new.host != old.host);
        needs_restart("server.port", new.port != old.port);
        needs_restart("server.workers", new.workers != old.workers);
        needs_restart("server.backlog", new.backlog != old.backlog);
        needs_restart("server.maxConnections", new.max_connections != old.max_connections);
        needs_restart("server.bodyMemory", new.body_memory != old.body_memory);
        let listeners = |config: &Config| -> Vec<(String, String, u16)> {
            config.listeners.iter().map(|one| (one.name.clone(), one.host.clone(), one.port)).collect()
        };
        needs_restart("listeners", listeners(&merged) != listeners(&snapshot.config));
        let (ours, theirs) = (&snapshot.config.jobs, &merged.jobs);
        needs_restart("jobs.enabled", theirs.enabled != ours.enabled);
        needs_restart("jobs.dir", theirs.dir != ours.dir);
        needs_restart("jobs.maxConcurrent", theirs.max_concurrent != ours.max_concurrent);
        let (ours, theirs) = (&snapshot.config.admin, &merged.admin);
        needs_restart("admin.enabled", theirs.enabled != ours.enabled);
        needs_restart("admin.routesFile", theirs.routes_file != ours.routes_file);
        needs_restart("admin.port", (theirs.port, &theirs.host) != (ours.port, &ours.host));
        // A removed token is replaced by the one made at the start, which the user may never have seen.
        let is_gone = theirs.token.is_none() && ours.token.as_ref().is_some_and(|token| *token != self.token);
        needs_restart("admin.token", theirs.enabled && is_gone);
        merged.jobs.enabled = snapshot.config.jobs.enabled;
        merged.admin.enabled = ours.enabled;
        (merged.admin.port, merged.admin.routes_file) = (ours.port, ours.routes_file.clone());
        merged.admin.host.clone_from(&ours.host);
        merged.admin.token.get_or_insert_with(|| self.token.clone());
        let new = &mut merged.server;
        new.host.clone_from(&old.host);
        new.port = old.port;
        (new.workers, new.backlog, new.max_connections) = (old.workers, old.backlog, old.max_connections);
        new.body_memory = old.body_memory;
        self.proxy.note_reload(true);
        if let Some(server_handle) = self.server_handle.get() {
            server_handle.configure(new);
        }
        self.shared.update(|old| old.reconfigured(merged));
        // New and moved endpoints are probed at once.
        if self.server_handle.get().is_some() {
            self.shared.notify(HealthEvent::Force(Box::new(|| ())));
        }
        *base = config;
        Ok(later)
    }

    fn merged(&self, base: &Config) -> Result<Config, String> {
        let Some(admin) = &self.admin else { return Ok(base.clone()) };
        admin.merged(base).map_err(|problems| Problem::lines(&problems))
    }
}

impl ConfigControl for ConfigManager {
    fn apply_routes(&self) -> Result<Vec<&'static str>, String> {
        self.apply(None)
    }

    fn reload_file(&self) -> Result<Vec<&'static str>, String> {
        let read =
            self.read.get().ok_or("it was started without a configuration file; there is nothing to read again")?;
        let loaded = read().and_then(|config| self.reload(config));
        match &loaded {
            Ok(_) => log::info!("the configuration was reloaded from the page"),
            Err(why) => {
                self.proxy.note_reload(false);
                log::error!("the configuration was not reloaded, the old one stays in force: {why}");
            }
        }
        loaded
    }

    fn base(&self) -> Config {
        lock(&self.base).clone()
    }
}
