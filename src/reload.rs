//! Puts configurations in force, one at a time: the file's, with the routes of the page.

use crate::config::{Config, Problem, load};
use crate::http::handler::ServerHandle;
use crate::proxy::state::Proxy;
use crate::routing::snapshot::{HealthEvent, SnapshotStore};
use crate::util::lock::lock;
use crate::util::secret::Secret;
use crate::util::{disk, random};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

/// Reads the configuration file again.
pub(crate) type Read = Box<dyn Fn() -> Result<Config, String> + Send + Sync>;

/// More than any file of routes.
pub(crate) const MOST_ROUTES: u64 = 1 << 20;

/// The one place where the configuration of a running proxy changes.
pub(crate) struct ConfigManager {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) shared: Arc<SnapshotStore>,
    /// What the file says, without the page's routes. Held while a configuration comes into force.
    pub(crate) base: Mutex<Config>,
    /// The token of the page while the configuration has none; made at each start.
    pub(crate) token: Secret,
    pub(crate) page: Option<PageChanges>,
    /// Gets the new limits of heads and bodies.
    pub(crate) server_handle: OnceLock<ServerHandle>,
    read: Option<Read>,
}

impl ConfigManager {
    pub(crate) fn new(
        proxy: Arc<Proxy>,
        shared: Arc<SnapshotStore>,
        base: Config,
        page: Option<PageChanges>,
        read: Option<Read>,
    ) -> Arc<Self> {
        let token = Secret::new(random::request_id() + &random::request_id());
        Arc::new(Self { proxy, shared, base: Mutex::new(base), token, page, server_handle: OnceLock::new(), read })
    }

    /// Reads the file again and puts it in force; returns what needs a restart.
    pub(crate) fn reload_file(&self) -> Result<Vec<&'static str>, String> {
        let read = || self.read.as_ref().map(|read| read());
        let absent = || Err("it was started without a configuration file; there is nothing to read again".into());
        let loaded = read().unwrap_or_else(absent).and_then(|config| self.reload(config));
        match &loaded {
            Ok(later) if later.is_empty() => log::info!("the configuration was reloaded"),
            Ok(later) => {
                log::warn!("the configuration was reloaded; a restart is needed for {}", later.join(", "));
            }
            Err(why) => {
                self.proxy.note_reload(false);
                log::error!("the configuration was not reloaded, the old one stays in force: {why}");
            }
        }
        loaded
    }

    /// Puts a configuration in force that was read again; returns what needs a restart.
    pub(crate) fn reload(&self, config: Config) -> Result<Vec<&'static str>, String> {
        if let Some(page) = &self.page {
            page.read_again(&config)?;
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
        let mut merged = match &self.page {
            Some(page) => page.merged(&config, &page.text()).map_err(|problems| Problem::lines(&problems))?,
            None => config.clone(),
        };
        let snapshot = self.shared.load();
        let (old, new) = (&*snapshot.config, &mut merged);
        let host = &old.server.host;
        let is_local = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if new.server.host != *host && !is_local && new.keys.is_empty() && !snapshot.key_ring.is_open() {
            let text = "auth.keys is empty now, and server.host changes only with a restart: until then the old address \
                would be open to everybody who reaches it; restart instead";
            return Err(text.into());
        }
        let mut later = Vec::new();
        keep("log.format", &mut new.log.format, &old.log.format, &mut later);
        keep("server.host", &mut new.server.host, host, &mut later);
        keep("server.port", &mut new.server.port, &old.server.port, &mut later);
        keep("server.workers", &mut new.server.workers, &old.server.workers, &mut later);
        keep("server.backlog", &mut new.server.backlog, &old.server.backlog, &mut later);
        keep("server.maxConnections", &mut new.server.max_connections, &old.server.max_connections, &mut later);
        keep("server.bodyMemory", &mut new.server.body_memory, &old.server.body_memory, &mut later);
        let addresses = |config: &Config| -> Vec<(String, String, u16)> {
            config.listeners.iter().map(|one| (one.name.clone(), one.host.clone(), one.port)).collect()
        };
        later.extend((addresses(new) != addresses(old)).then_some("listeners"));
        keep("jobs.enabled", &mut new.jobs.enabled, &old.jobs.enabled, &mut later);
        keep("jobs.dir", &mut new.jobs.dir, &old.jobs.dir, &mut later);
        keep("jobs.maxConcurrent", &mut new.jobs.max_concurrent, &old.jobs.max_concurrent, &mut later);
        keep("admin.enabled", &mut new.admin.enabled, &old.admin.enabled, &mut later);
        keep("admin.routesFile", &mut new.admin.routes_file, &old.admin.routes_file, &mut later);
        keep("admin.host", &mut new.admin.host, &old.admin.host, &mut later);
        keep("admin.port", &mut new.admin.port, &old.admin.port, &mut later);
        // A removed token is replaced by the one made at the start, which the user may never have seen.
        let had_token = old.admin.token.as_ref().is_some_and(|token| *token != self.token);
        later.extend((new.admin.enabled && had_token && new.admin.token.is_none()).then_some("admin.token"));
        new.admin.token.get_or_insert_with(|| self.token.clone());
        self.proxy.note_reload(true);
        if let Some(server_handle) = self.server_handle.get() {
            server_handle.configure(&merged.server);
        }
        self.shared.update(|old| old.reconfigured(merged));
        // New and moved endpoints are probed at once.
        if self.server_handle.get().is_some() {
            self.shared.notify(HealthEvent::Force(Box::new(|| ())));
        }
        *base = config;
        Ok(later)
    }

    pub(crate) fn base(&self) -> Config {
        lock(&self.base).clone()
    }
}

/// A value that changes only with a restart stays what it was.
fn keep<T: PartialEq + Clone>(key: &'static str, new: &mut T, old: &T, later: &mut Vec<&'static str>) {
    if new != old {
        new.clone_from(old);
        later.push(key);
    }
}

/// What the page adds to the configuration: routes in a file of format 003, and endpoints switched by hand.
pub(crate) struct PageChanges {
    pub(crate) path: PathBuf,
    /// The file as it was last read or written.
    text: Mutex<String>,
    /// Held while the file is read, changed and written.
    pub(crate) changing: Mutex<()>,
    /// Until the next start.
    pub(crate) switched: Mutex<BTreeMap<String, bool>>,
}

impl PageChanges {
    /// A file that is missing or empty is created.
    ///
    /// # Errors
    /// The file is there and cannot be used: it is not overwritten.
    pub(crate) fn open(base: &Config) -> Result<Self, String> {
        let path = base.admin.routes_file.clone();
        let is_kept = !path.as_os_str().is_empty();
        if is_kept {
            disk::tidy(&path);
        }
        let read = disk::read_text(&path, MOST_ROUTES);
        let mut text = read.map_err(|e| format!("admin.routesFile {} cannot be used: {e}", path.display()))?;
        if text.trim().is_empty() {
            text = "{\"Models\": {}}\n".into();
            // Created now, so that a folder that is not writable is known before a user saves.
            if is_kept && let Err(error) = disk::replace(&path, text.as_bytes()) {
                log::warn!("admin: {} cannot be written: {error}", path.display());
            }
        }
        let (changing, switched) = Default::default();
        let page = Self { path, text: Mutex::new(text), changing, switched };
        page.merged(base, &page.text()).map_err(|problems| Problem::lines(&problems))?;
        Ok(page)
    }

    pub(crate) fn text(&self) -> String {
        lock(&self.text).clone()
    }

    pub(crate) fn set_text(&self, text: String) {
        *lock(&self.text) = text;
    }

    /// What the file says now; manual edits are in it. Where there is none, what it said last.
    pub(crate) fn on_disk(&self) -> io::Result<String> {
        let text = disk::read_text(&self.path, MOST_ROUTES)?;
        Ok(if text.trim().is_empty() { self.text() } else { text })
    }

    /// A configuration with these routes and the switches.
    pub(crate) fn merged(&self, base: &Config, text: &str) -> Result<Config, Vec<Problem>> {
        let mut config = load::with_routes(&self.path.display().to_string(), text, base)?.config;
        let switched = lock(&self.switched);
        for endpoint in &mut config.endpoints {
            endpoint.enabled = switched.get(&endpoint.name).copied().unwrap_or(endpoint.enabled);
        }
        Ok(config)
    }

    /// Reads the file again; what was read before stays when it says something wrong.
    fn read_again(&self, base: &Config) -> Result<(), String> {
        let _turn = lock(&self.changing);
        let text = self.on_disk().map_err(|error| format!("{}: {error}", self.path.display()))?;
        self.merged(base, &text).map_err(|problems| Problem::lines(&problems))?;
        self.set_text(text);
        Ok(())
    }
}
