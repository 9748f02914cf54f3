//! The page: what is going on, what goes where, and a few buttons. Its own rules of who may come in stand in `guard`.

mod guard;
mod routes;
mod routes_file;
mod status;
mod viewers;

use self::guard::{Opened, Rules};
use crate::base::clock;
use crate::base::dice;
use crate::base::gone::Gone;
use crate::base::lock::lock;
use crate::config::{Config, Problem, load};
use crate::http::door::From;
use crate::http::head::Head;
use crate::http::reply::Reply;
use crate::http::request::Request;
use crate::model::bucket::Buckets;
use crate::model::failure::{Failure, Kind};
use crate::model::query::decoded;
use crate::model::snapshot::Shared;
use crate::proxy::later::Told;
use crate::proxy::page::Page;
use crate::proxy::serve::Proxy;
use crate::proxy::visit::Visit;
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock, Weak};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Who puts configurations in force.
pub trait Helm: Send + Sync {
    /// What the file says, with the routes of the page's file and its switches, comes into force; what needs a restart.
    ///
    /// # Errors
    /// It cannot.
    fn steer(&self) -> Result<Vec<&'static str>, String>;
    /// Reads the configuration again.
    ///
    /// # Errors
    /// It is wrong, and the old one stays in force.
    fn reload(&self) -> Result<Vec<&'static str>, String>;
    /// What the file says.
    fn base(&self) -> Config;
}

/// The page and what it knows.
pub struct Admin {
    proxy: Arc<Proxy>,
    shared: Arc<Shared>,
    path: PathBuf,
    /// What the file of routes says; held while it is written.
    file: Mutex<Stored>,
    /// Endpoints switched by hand, until the next start.
    switched: Mutex<BTreeMap<String, bool>>,
    helm: OnceLock<Weak<dyn Helm>>,
    /// Itself, for threads that outlive a request.
    me: OnceLock<Weak<Self>>,
    wrong: Buckets,
    viewers: AtomicUsize,
    closed: Arc<Gone>,
}

/// The file of routes as it was last read or written.
struct Stored {
    text: String,
}

/// Why the page cannot be served.
#[derive(Debug)]
pub enum Unusable {
    /// The file of routes cannot be read.
    File(PathBuf, std::io::Error),
    /// It says something wrong.
    Routes(Vec<Problem>),
}

impl Admin {
    /// The page over a proxy; a file of routes that is missing or empty is made.
    ///
    /// # Errors
    /// The file is there and cannot be used: it is not overwritten.
    pub fn new(base: &Config, proxy: &Arc<Proxy>, shared: &Arc<Shared>) -> Result<Arc<Self>, Unusable> {
        let path = base.admin.routes_file.clone();
        if !path.as_os_str().is_empty() {
            routes_file::tidy(&path);
        }
        let bytes = routes_file::read(&path).map_err(|error| Unusable::File(path.clone(), error))?;
        let mut text =
            String::from_utf8(bytes).map_err(|error| Unusable::File(path.clone(), std::io::Error::other(error)))?;
        if path.as_os_str().is_empty() {
            text = "{\"Models\": {}}".into();
        } else if text.trim().is_empty() {
            text = pretty(&routes::samples());
            match routes_file::write(&path, text.as_bytes()) {
                Ok(()) => log::info!("admin: {} was made, with samples that are all switched off", path.display()),
                Err(error) => log::warn!("admin: {} cannot be made: {error}", path.display()),
            }
        }
        let admin = Self {
            proxy: Arc::clone(proxy),
            shared: Arc::clone(shared),
            path,
            file: Mutex::new(Stored { text }),
            switched: Mutex::default(),
            helm: OnceLock::new(),
            me: OnceLock::new(),
            wrong: Buckets::default(),
            viewers: AtomicUsize::new(0),
            closed: Arc::default(),
        };
        admin.merged(base).map_err(Unusable::Routes)?;
        Ok(Arc::new(admin))
    }

    /// From now on changes come into force through this.
    pub fn take_helm(self: &Arc<Self>, helm: Weak<dyn Helm>) {
        let _ = self.helm.set(helm);
        let _ = self.me.set(Arc::downgrade(self));
        let page: Arc<dyn Page> = Arc::clone(self) as _;
        self.proxy.show(Arc::downgrade(&page));
    }

    /// A configuration with the routes of the page's file, and its switches.
    ///
    /// # Errors
    /// The file of routes does not fit to it.
    pub fn merged(&self, base: &Config) -> Result<Config, Vec<Problem>> {
        let text = lock(&self.file).text.clone();
        self.with(base, &text)
    }

    fn with(&self, base: &Config, text: &str) -> Result<Config, Vec<Problem>> {
        let mut config = load::with_routes(&self.path.display().to_string(), text, base)?;
        let switched = lock(&self.switched);
        for endpoint in &mut config.endpoints {
            endpoint.enabled = switched.get(&endpoint.name).copied().unwrap_or(endpoint.enabled);
        }
        Ok(config)
    }

    /// Reads the file of routes again, as somebody may have edited it by hand.
    ///
    /// # Errors
    /// It cannot be read, or says something wrong; what was read before stays.
    pub fn read_again(&self, base: &Config) -> Result<(), String> {
        let text = self.on_disk().map_err(|error| format!("{}: {error}", self.path.display()))?;
        let Some(text) = text else { return Ok(()) };
        self.with(base, &text).map_err(|problems| lines(&problems))?;
        lock(&self.file).text = text;
        Ok(())
    }

    /// What the file says now; nothing where there is none.
    fn on_disk(&self) -> std::io::Result<Option<String>> {
        let bytes = routes_file::read(&self.path)?;
        let text = String::from_utf8(bytes).map_err(std::io::Error::other)?;
        Ok(Some(text).filter(|text| !text.trim().is_empty()))
    }

    /// Nobody looks any more.
    pub fn close(&self) {
        self.closed.leave();
    }

    fn me(&self) -> Option<Arc<Self>> {
        self.me.get()?.upgrade()
    }

    fn helm(&self) -> Option<Arc<dyn Helm>> {
        self.helm.get()?.upgrade()
    }

    fn opened(&self, head: &Head, peer: std::net::IpAddr) -> Result<Opened, Failure> {
        let snapshot = self.shared.load();
        let rules = Rules {
            admin: &snapshot.config.admin,
            callers: &snapshot.callers,
            hosts: &snapshot.config.server.allowed_hosts,
            wrong: &self.wrong,
        };
        guard::admit(head, peer, &rules, clock::now())
    }
}

impl Page for Admin {
    fn admit(&self, head: &Head, from: From) -> Result<(), Failure> {
        self.opened(head, from.peer).map(drop)
    }

    fn serve(&self, mut visit: Visit, request: Request, reply: Reply) {
        visit.add(&guard::fields());
        // Asked again, because who may come in can have changed while the body came.
        let opened = match self.opened(&request.head, request.peer) {
            Ok(opened) => opened,
            Err(failure) => return visit.refuse(reply, &request.head, &failure),
        };
        let path = request.head.target.canonical().into_owned();
        let rest = path.strip_prefix("/admin").unwrap_or_default();
        let is_read = request.head.method == Method::GET || request.head.method == Method::HEAD;
        let asset = |kind: &'static str, text: &str| Told {
            status: StatusCode::OK,
            body: text.as_bytes().to_vec(),
            fields: vec![(header::CONTENT_TYPE, HeaderValue::from_static(kind))],
        };
        let told = match rest {
            "" | ".html" if is_read => Ok(Told {
                status: StatusCode::FOUND,
                body: Vec::new(),
                fields: vec![(header::LOCATION, HeaderValue::from_static("/admin/"))],
            }),
            "/" if is_read => Ok(asset("text/html; charset=utf-8", PAGE)),
            "/page.css" if is_read => Ok(asset("text/css; charset=utf-8", STYLE)),
            "/page.js" if is_read => Ok(asset("text/javascript; charset=utf-8", SCRIPT)),
            "/events" if request.head.method == Method::GET => return self.watch(visit, request, reply),
            "/status" if is_read => Ok(Told::json(StatusCode::OK, &self.status(&Value::Null))),
            "/config" if is_read => self.shown(&request, opened),
            _ => self.act(&request, rest),
        };
        match told {
            Ok(told) => visit.told(reply, &request, &told),
            Err(failure) => visit.refuse(reply, &request.head, &failure),
        }
    }
}

impl Admin {
    /// `GET /admin/config`: keys as masks, in clear only for who has the token.
    fn shown(&self, request: &Request, opened: Opened) -> Result<Told, Failure> {
        let reveal = request.head.target.query().is_some_and(|query| query.split('&').any(|pair| pair == "reveal=1"));
        if reveal && opened != Opened::Token {
            return Err(Failure::new(Kind::Forbidden, "Keys are shown in clear only to who shows admin.token."));
        }
        let stored = lock(&self.file);
        let text = self.on_disk().ok().flatten().unwrap_or_else(|| stored.text.clone());
        let mut file = parsed(&text).map_err(|why| unreadable(&why))?;
        let models = Value::Object(routes::models(&mut file).clone());
        let models = if reveal { models } else { routes::masked(&models) };
        let mut told = Told::json(StatusCode::OK, &json!({"Models": models}));
        told.fields.push((header::ETAG, etag(&text)));
        Ok(told)
    }

    fn act(&self, request: &Request, rest: &str) -> Result<Told, Failure> {
        let method = &request.head.method;
        let raw = request.head.target.path().strip_prefix("/admin").unwrap_or_default();
        if let Some(model) = raw.strip_prefix("/config/").filter(|model| !model.is_empty()) {
            let model = name(model)?;
            return match *method {
                Method::POST => self.put(request, &model),
                Method::DELETE => self.delete(request, &model),
                _ => Err(not_allowed("POST and DELETE")),
            };
        }
        let part = |before: &str, after: &str| Some(raw.strip_prefix(before)?.strip_suffix(after)?.to_owned());
        let buttons = [
            (part("/requests/", "/cancel"), "cancel"),
            (part("/endpoints/", "/enable"), "enable"),
            (part("/endpoints/", "/disable"), "disable"),
            ((rest == "/reload").then(String::new), "reload"),
        ];
        let Some((name_of, button)) = buttons.into_iter().find_map(|(name, button)| Some((name?, button))) else {
            return Err(Failure::new(Kind::PathNotFound, "The page has nothing at this path."));
        };
        if *method != Method::POST {
            return Err(not_allowed("POST"));
        }
        let name = name(&name_of)?;
        let done = |text: String| Told::json(StatusCode::OK, &json!({"message": text}));
        match button {
            "cancel" if self.proxy.activity().stop(&name) => Ok(done(format!("The request {name} is being stopped."))),
            "cancel" => Err(Failure::new(Kind::PathNotFound, "No request of this id is in progress.")),
            "reload" => {
                let later =
                    self.helm().ok_or_else(gone)?.reload().map_err(|why| Failure::new(Kind::InvalidBody, why))?;
                Ok(Told::json(StatusCode::OK, &json!({"message": "The configuration was reloaded.", "restart": later})))
            }
            _ => {
                let known = self.shared.load().config.endpoints.iter().any(|endpoint| endpoint.name == name);
                if !known {
                    return Err(Failure::new(Kind::PathNotFound, "There is no endpoint of this name."));
                }
                lock(&self.switched).insert(name.clone(), button == "enable");
                self.helm().ok_or_else(gone)?.steer().map_err(|why| Failure::new(Kind::Internal, why))?;
                log::info!("admin: endpoint {name} was switched {}", if button == "enable" { "on" } else { "off" });
                Ok(done(format!("The endpoint {name} is {button}d until the next start.")))
            }
        }
    }

    fn put(&self, request: &Request, model: &str) -> Result<Told, Failure> {
        let given: Value = serde_json::from_slice(request.body.bytes())
            .map_err(|error| Failure::new(Kind::InvalidBody, format!("The body is not JSON: {error}.")))?;
        if model.is_empty() || given.is_null() {
            return Err(Failure::new(Kind::InvalidBody, "A model needs a name and an object."));
        }
        self.change(request, |file| {
            let mut made = || dice::request_id()[..8].to_owned();
            let written = routes::written(&given, file, &mut made).map_err(Wrong::Fields)?;
            routes::models(file).insert(model.to_owned(), written);
            Ok(format!("Configuration for model '{model}' updated."))
        })
    }

    fn delete(&self, request: &Request, model: &str) -> Result<Told, Failure> {
        self.change(request, |file| match routes::models(file).shift_remove(model) {
            Some(_) => Ok(format!("Configuration for model '{model}' deleted.")),
            None => Err(Wrong::Missing),
        })
    }

    /// Changes the file of routes: read, changed, checked, written whole, in force.
    fn change(
        &self,
        request: &Request,
        change: impl FnOnce(&mut Value) -> Result<String, Wrong>,
    ) -> Result<Told, Failure> {
        let helm = self.helm().ok_or_else(gone)?;
        let mut stored = lock(&self.file);
        let disk = self.on_disk().map_err(|error| unreadable(&error.to_string()))?;
        // What somebody wrote by hand meanwhile is not lost.
        let text = disk.unwrap_or_else(|| stored.text.clone());
        let wanted = request.head.fields.get(header::IF_MATCH);
        if wanted.is_some_and(|wanted| *wanted != etag(&text) && wanted != "*") {
            return Err(Failure::new(
                Kind::Changed,
                "The file was changed meanwhile; read it again and repeat the change.",
            ));
        }
        let mut file = parsed(&text).map_err(|why| unreadable(&why))?;
        let message = match change(&mut file) {
            Ok(done) => done,
            Err(Wrong::Missing) => {
                let name =
                    request.head.target.path().rsplit('/').next().and_then(|raw| name(raw).ok()).unwrap_or_default();
                return Ok(Told::json(
                    StatusCode::NOT_FOUND,
                    &json!({"message": format!("Model '{name}' not found.")}),
                ));
            }
            Err(Wrong::Fields(problems)) => return Ok(refusal(&problems)),
        };
        let text = pretty(&file);
        if let Err(problems) = self.with(&helm.base(), &text) {
            // The part below the model's name.
            let below =
                |key: &str| ["backends", "strategy"].iter().find_map(|start| Some(key[key.rfind(start)?..].to_owned()));
            let fields = problems.iter().map(|problem| (below(&problem.key).unwrap_or_default(), problem.text.clone()));
            return Ok(refusal(&fields.collect::<Vec<_>>()));
        }
        let written =
            if self.path.as_os_str().is_empty() { Ok(()) } else { routes_file::write(&self.path, text.as_bytes()) };
        written.map_err(|error| {
            log::error!("admin: {} cannot be written: {error}", self.path.display());
            match routes_file::is_full(&error) {
                true => Failure::new(Kind::StorageFull, "The disk is full; nothing was changed."),
                false => Failure::new(
                    Kind::Internal,
                    format!("The file of routes cannot be written, nothing was changed: {error}."),
                ),
            }
        })?;
        let tag = etag(&text);
        stored.text = text;
        drop(stored);
        helm.steer().map_err(|why| Failure::new(Kind::Internal, why))?;
        log::info!("admin: {message}");
        let mut told = Told::json(StatusCode::OK, &json!({"message": message}));
        told.fields.push((header::ETAG, tag));
        Ok(told)
    }
}

/// Why a change comes to nothing.
enum Wrong {
    Missing,
    Fields(Vec<(String, String)>),
}

/// 400 with every problem, each with the field it stands beside.
fn refusal(problems: &[(String, String)]) -> Told {
    let details: Vec<_> = problems.iter().map(|(path, text)| json!({"path": path, "message": text})).collect();
    let text = "The model cannot be used like this; nothing was changed.";
    let error = json!({"message": text, "type": "invalid_request_error", "code": "invalid_routes", "param": null, "details": details});
    Told::json(StatusCode::BAD_REQUEST, &json!({ "error": error }))
}

/// The one decoding of a name in a path.
fn name(raw: &str) -> Result<String, Failure> {
    let bytes = decoded(raw, false).and_then(|bytes| String::from_utf8(bytes).ok());
    bytes.ok_or_else(|| Failure::new(Kind::InvalidBody, "The name in the path is not UTF-8, percent-encoded."))
}

fn not_allowed(methods: &str) -> Failure {
    Failure::new(Kind::MethodNotAllowed, format!("This path takes {methods} only."))
}

fn gone() -> Failure {
    Failure::new(Kind::Draining, "The proxy is being stopped.")
}

fn unreadable(why: &str) -> Failure {
    let text = format!("The file of routes cannot be read, so it is not overwritten; mend it by hand first: {why}");
    Failure::new(Kind::Internal, text)
}

/// A file of routes, comments and all, as JSON.
fn parsed(text: &str) -> Result<Value, String> {
    load::json(text)
}

fn pretty(file: &Value) -> String {
    serde_json::to_string_pretty(file).unwrap_or_default() + "\n"
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What tells one content of the file from another.
fn etag(text: &str) -> HeaderValue {
    let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let digits: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("\"{digits}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}
