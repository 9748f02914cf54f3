//! The admin page: status, routes, a few actions. Its access rules are in `guard`.

mod actions;
mod events;
mod guard;
mod routes;
mod routes_file;
mod status;

use self::guard::Rules;
use crate::api::errors::{Failure, Kind};
use crate::config::{Config, Problem, load};
use crate::http::head::Head;
use crate::http::request::From;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::proxy::context::LocalResponse;
use crate::proxy::context::RequestContext;
use crate::proxy::state::Proxy;
use crate::proxy::state::{AdminHandler, Opened};
use crate::routing::snapshot::SnapshotStore;
use crate::util::cancel::CancelToken;
use crate::util::lock::lock;
use crate::util::time;
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

pub(crate) trait ConfigControl: Send + Sync {
    /// Puts the configuration in force with the current routes and switches of the page; returns what needs a restart.
    fn apply_routes(&self) -> Result<Vec<&'static str>, String>;
    /// Reads the file again and puts it in force; returns what needs a restart.
    fn reload_file(&self) -> Result<Vec<&'static str>, String>;
    fn base(&self) -> Config;
}

/// The page and its state.
pub(crate) struct Admin {
    proxy: Arc<Proxy>,
    shared: Arc<SnapshotStore>,
    path: PathBuf,
    /// The file of routes as it was last read or written.
    file: Mutex<String>,
    /// Held while the file is read, changed and written; only threads of the disk queue wait for it.
    changing: Mutex<()>,
    /// Endpoints switched by hand, until the next start.
    switched: Mutex<BTreeMap<String, bool>>,
    config_manager: OnceLock<Weak<dyn ConfigControl>>,
    /// Itself, for threads that outlive a request.
    me: OnceLock<Weak<Self>>,
    viewers: AtomicUsize,
    closed: Arc<CancelToken>,
}

/// Why the page cannot be served.
#[derive(Debug)]
pub enum Unusable {
    /// The file of routes cannot be read.
    File(PathBuf, std::io::Error),
    Routes(Vec<Problem>),
}

impl Admin {
    /// The page over a proxy. A file of routes that is missing or empty is created.
    ///
    /// # Errors
    /// The file is there and cannot be used: it is not overwritten.
    pub(crate) fn new(base: &Config, proxy: &Arc<Proxy>, shared: &Arc<SnapshotStore>) -> Result<Arc<Self>, Unusable> {
        let path = base.admin.routes_file.clone();
        if !path.as_os_str().is_empty() {
            routes_file::tidy(&path);
        }
        let bytes = routes_file::read(&path).map_err(|error| Unusable::File(path.clone(), error))?;
        let mut text =
            String::from_utf8(bytes).map_err(|error| Unusable::File(path.clone(), std::io::Error::other(error)))?;
        if text.trim().is_empty() {
            text = "{\"Models\": {}}\n".into();
            // Created now, so that a folder that is not writable is known before a user saves.
            if !path.as_os_str().is_empty()
                && let Err(error) = routes_file::write(&path, text.as_bytes())
            {
                log::warn!("admin: {} cannot be written: {error}", path.display());
            }
        }
        let admin = Self {
            proxy: Arc::clone(proxy),
            shared: Arc::clone(shared),
            path,
            file: Mutex::new(text),
            changing: Mutex::default(),
            switched: Mutex::default(),
            config_manager: OnceLock::new(),
            me: OnceLock::new(),
            viewers: AtomicUsize::new(0),
            closed: Arc::default(),
        };
        admin.merged(base).map_err(Unusable::Routes)?;
        Ok(Arc::new(admin))
    }

    /// How changes come into force.
    pub(crate) fn set_config_control(self: &Arc<Self>, config_manager: Weak<dyn ConfigControl>) {
        let _ = self.config_manager.set(config_manager);
        let _ = self.me.set(Arc::downgrade(self));
        let page: Arc<dyn AdminHandler> = Arc::clone(self) as _;
        self.proxy.show(Arc::downgrade(&page));
    }

    /// A configuration with the routes of the page's file, and its switches.
    pub(crate) fn merged(&self, base: &Config) -> Result<Config, Vec<Problem>> {
        let text = lock(&self.file).clone();
        self.with(base, &text)
    }

    fn with(&self, base: &Config, text: &str) -> Result<Config, Vec<Problem>> {
        let mut config = load::with_routes(&self.path.display().to_string(), text, base)?.config;
        let switched = lock(&self.switched);
        for endpoint in &mut config.endpoints {
            endpoint.enabled = switched.get(&endpoint.name).copied().unwrap_or(endpoint.enabled);
        }
        Ok(config)
    }

    /// Reads the file of routes again; it may have been edited by hand.
    ///
    /// # Errors
    /// It cannot be read, or says something wrong; what was read before stays.
    pub(crate) fn read_again(&self, base: &Config) -> Result<(), String> {
        let _turn = lock(&self.changing);
        let text = self.on_disk().map_err(|error| format!("{}: {error}", self.path.display()))?;
        let Some(text) = text else { return Ok(()) };
        self.with(base, &text).map_err(|problems| Problem::lines(&problems))?;
        *lock(&self.file) = text;
        Ok(())
    }

    /// What the file says now; nothing where there is none.
    fn on_disk(&self) -> std::io::Result<Option<String>> {
        let bytes = routes_file::read(&self.path)?;
        let text = String::from_utf8(bytes).map_err(std::io::Error::other)?;
        Ok(Some(text).filter(|text| !text.trim().is_empty()))
    }

    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    fn me(&self) -> Option<Arc<Self>> {
        self.me.get()?.upgrade()
    }

    fn config_manager(&self) -> Option<Arc<dyn ConfigControl>> {
        self.config_manager.get()?.upgrade()
    }

    fn opened(&self, head: &Head, peer: std::net::IpAddr) -> Result<Opened, Failure> {
        let snapshot = self.shared.load();
        let rules = Rules {
            admin: &snapshot.config.admin,
            key_ring: &snapshot.key_ring,
            hosts: &snapshot.config.server.allowed_hosts,
            trusted: &snapshot.config.server.trusted_proxies,
        };
        guard::admit(head, peer, &rules, time::now())
    }
}

impl AdminHandler for Admin {
    fn admit(&self, head: &Head, from: From) -> Result<Opened, Failure> {
        self.opened(head, from.peer)
    }

    fn serve(&self, context: RequestContext, request: Request, response: &mut Response) {
        // Again, because the rules can have changed while the body was read.
        let opened = match self.opened(&request.head, request.from.peer) {
            Ok(opened) => opened,
            Err(failure) => return context.refuse(response, &failure),
        };
        let path = request.head.target.canonical().into_owned();
        let rest = path.strip_prefix("/admin").unwrap_or_default().to_owned();
        if !(rest.starts_with("/config") || rest == "/reload") {
            return self.answer(context, request, response, &rest, opened);
        }
        // Disk work is queued, so that a slow disk does not block the control threads.
        let Some(admin) = self.me() else { return context.refuse(response, &actions::cancel()) };
        let mut response = response.detach();
        self.proxy.disk.run(Box::new(move |has_room| match has_room {
            true => admin.answer(context, request, &mut response, &rest, opened),
            false => {
                let text = "Too many requests wait for the disk; try again later.";
                let failure = Failure::new(Kind::Overloaded, text).retry_after(Duration::from_secs(1));
                context.refuse(&mut response, &failure);
            }
        }));
    }
}

impl Admin {
    fn answer(&self, context: RequestContext, request: Request, response: &mut Response, rest: &str, opened: Opened) {
        let is_read = request.head.method == Method::GET || request.head.method == Method::HEAD;
        let asset = |kind: &'static str, text: &str| LocalResponse {
            status: StatusCode::OK,
            body: text.as_bytes().to_vec(),
            fields: vec![(header::CONTENT_TYPE, HeaderValue::from_static(kind))],
        };
        let answer = match rest {
            "" | ".html" if is_read => Ok(LocalResponse {
                status: StatusCode::FOUND,
                body: Vec::new(),
                fields: vec![(header::LOCATION, HeaderValue::from_static("/admin/"))],
            }),
            "/" if is_read => Ok(asset("text/html; charset=utf-8", PAGE)),
            "/page.css" if is_read => Ok(asset("text/css; charset=utf-8", STYLE)),
            "/page.js" if is_read => Ok(asset("text/javascript; charset=utf-8", SCRIPT)),
            "/events" if request.head.method == Method::GET => return self.watch(context, request, response),
            "/status" if is_read => Ok(LocalResponse::json(StatusCode::OK, &self.status(&Value::Null))),
            "/config" if is_read => self.shown(&request, opened),
            _ => self.act(&request, rest),
        };
        match answer {
            Ok(answer) => context.local(response, &answer),
            Err(failure) => context.refuse(response, &failure),
        }
    }
}
