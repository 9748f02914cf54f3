//! Changes made by the page: the file of routes, endpoints, requests in progress. A change of the file is checked, then
//! written atomically, then applied.

use super::{Admin, routes};
use crate::api::errors::{Failure, Kind};
use crate::api::query::{decoded, parameter};
use crate::config::load;
use crate::http::request::Request;
use crate::proxy::context::LocalResponse;
use crate::proxy::state::Opened;
use crate::reload::{MOST_ROUTES, PageChanges};
use crate::util::lock::lock;
use crate::util::secret::fingerprint;
use crate::util::{disk, random};
use http::{Method, StatusCode, header};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::path::Path;

impl Admin {
    /// `GET /admin/config`: keys are masked, unless the token was sent and `reveal=1` is set.
    pub(super) fn routes(&self, request: &Request, opened: Opened) -> Result<LocalResponse, Failure> {
        let reveal = request.head.target.query().is_some_and(|query| parameter(query, "reveal") == Some("1"));
        if reveal && opened != Opened::Token {
            return Err(Failure::new(Kind::Forbidden, "Keys are revealed only with the page's token."));
        }
        let page = self.page()?;
        let text = page.on_disk().unwrap_or_else(|_| page.text());
        let mut file = load::json(&text).map_err(|why| unreadable(&why))?;
        let models = routes::documented(routes::models(&mut file));
        let models = if reveal { models } else { routes::masked(&models) };
        Ok(tagged(&json!({"Models": models}), &text))
    }

    pub(super) fn act(&self, request: &Request, is_reload: bool) -> Result<LocalResponse, Failure> {
        let method = &request.head.method;
        let path = request.head.target.path().strip_prefix("/admin").unwrap_or_default();
        if let Some(model) = path.strip_prefix("/config/").filter(|model| !model.is_empty()) {
            let model = name(model)?;
            return match *method {
                Method::POST => self.put(request, &model),
                Method::DELETE => self.delete(request, &model),
                _ => Err(not_allowed("POST and DELETE")),
            };
        }
        let part = |before: &str, after: &str| path.strip_prefix(before)?.strip_suffix(after).map(name);
        let (cancel, enable) = (part("/requests/", "/cancel"), part("/endpoints/", "/enable"));
        let switch = enable.map(|name| (name, true)).or(part("/endpoints/", "/disable").map(|name| (name, false)));
        match (cancel, switch) {
            (None, None) if !is_reload => Err(Failure::new(Kind::PathNotFound, "There is nothing at this path.")),
            _ if *method != Method::POST => Err(not_allowed("POST")),
            (Some(id), _) => {
                let id = id?;
                if !self.proxy.activity().stop(&id) {
                    return Err(Failure::new(Kind::PathNotFound, "No request of this id is in progress."));
                }
                Ok(done(&json!({"message": format!("Request {id} is being stopped.")})))
            }
            (_, Some((name, on))) => self.switch(&name?, on),
            _ => {
                let later = self.manager.reload_file().map_err(|why| Failure::new(Kind::InvalidBody, why))?;
                Ok(done(&json!({"message": "The configuration was reloaded.", "restart": later})))
            }
        }
    }

    fn page(&self) -> Result<&PageChanges, Failure> {
        self.manager.page.as_ref().ok_or_else(|| Failure::new(Kind::Internal, "There is no file of routes."))
    }

    fn switch(&self, name: &str, on: bool) -> Result<LocalResponse, Failure> {
        if !self.shared.load().config.endpoints.iter().any(|endpoint| endpoint.name == name) {
            return Err(Failure::new(Kind::PathNotFound, "There is no endpoint of this name."));
        }
        lock(&self.page()?.switched).insert(name.to_owned(), on);
        self.manager.apply(None).map_err(|why| Failure::new(Kind::Internal, why))?;
        log::info!("admin: endpoint {name} was switched {}", if on { "on" } else { "off" });
        let word = if on { "enabled" } else { "disabled" };
        Ok(done(&json!({"message": format!("Endpoint {name} is {word} until the next restart.")})))
    }

    fn put(&self, request: &Request, model: &str) -> Result<LocalResponse, Failure> {
        let given: Value = serde_json::from_slice(request.body.bytes())
            .map_err(|error| Failure::new(Kind::InvalidBody, format!("The body is not JSON: {error}.")))?;
        if model.is_empty() || given.is_null() {
            return Err(Failure::new(Kind::InvalidBody, "A model needs a name and an object."));
        }
        self.change(request, |file| {
            let mut made = || random::request_id()[..8].to_owned();
            let (written, problems) = routes::written(&given, file, &mut made);
            routes::models(file).insert(model.to_owned(), written);
            Ok((format!("Configuration for model '{model}' updated."), problems))
        })
    }

    fn delete(&self, request: &Request, model: &str) -> Result<LocalResponse, Failure> {
        self.change(request, |file| {
            let removed = routes::models(file).shift_remove(model);
            removed.ok_or_else(|| format!("Model '{model}' not found."))?;
            Ok((format!("Configuration for model '{model}' deleted."), Vec::new()))
        })
    }

    /// Changes the file of routes. `change` returns a message and the problems of the change, or an error message if
    /// the model does not exist.
    fn change(
        &self,
        request: &Request,
        change: impl FnOnce(&mut Value) -> Result<(String, Vec<(String, String)>), String>,
    ) -> Result<LocalResponse, Failure> {
        let page = self.page()?;
        let base = self.manager.base();
        let _turn = lock(&page.changing);
        let text = page.on_disk().map_err(|error| unreadable(&error.to_string()))?;
        let wanted = request.head.fields.get(header::IF_MATCH);
        if wanted.is_some_and(|wanted| *wanted != etag(&text) && wanted != "*") {
            let text = "The file has changed since it was read; read it again and repeat the change.";
            return Err(Failure::new(Kind::Changed, text));
        }
        let mut file = load::json(&text).map_err(|why| unreadable(&why))?;
        // Comments are lost when the file is written, so a file with comments is backed up.
        let with_comments = serde_json::from_str::<IgnoredAny>(&text).is_err().then_some(text);
        let (message, mut problems) = match change(&mut file) {
            Ok(changed) => changed,
            Err(message) => return Ok(LocalResponse::json(StatusCode::NOT_FOUND, &json!({"message": message}))),
        };
        let text = serde_json::to_string_pretty(&file).unwrap_or_default() + "\n";
        if let Err(found) = page.merged(&base, &text) {
            // The part of the key below the model's name.
            let parts = ["backends", "strategy", "variants", "set", "default", "remove", "match", "stabilize"];
            let below = |key: &str| parts.iter().find_map(|start| Some(key[key.rfind(start)?..].to_owned()));
            problems.extend(found.into_iter().map(|one| (below(&one.key).unwrap_or_default(), one.text)));
        }
        if text.len() as u64 > MOST_ROUTES && problems.is_empty() {
            problems.push((String::new(), "the file of routes would be larger than 1 MiB".into()));
        }
        if !problems.is_empty() {
            return Ok(refusal(&problems));
        }
        write(&page.path, with_comments.as_deref(), &text)?;
        page.set_text(text.clone());
        self.manager.apply(None).map_err(|why| {
            Failure::new(Kind::Internal, format!("The file of routes was written, but cannot be applied: {why}"))
        })?;
        log::info!("admin: {message}");
        Ok(tagged(&json!({"message": message}), &text))
    }
}

/// Writes the file of routes, and `backup` to a file with `.bak` appended.
fn write(path: &Path, backup: Option<&str>, text: &str) -> Result<(), Failure> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let mut backup_path = path.as_os_str().to_owned();
    backup_path.push(".bak");
    let backed_up = backup.map_or(Ok(()), |text| disk::replace(Path::new(&backup_path), text.as_bytes()));
    backed_up.and_then(|()| disk::replace(path, text.as_bytes())).map_err(|error| {
        log::error!("admin: {} cannot be written: {error}", path.display());
        if disk::is_full(&error) {
            return Failure::new(Kind::StorageFull, "The disk is full; nothing was changed.");
        }
        let hint = match error.kind() {
            ErrorKind::ResourceBusy => "; a file that is mounted by itself cannot be replaced, mount its directory",
            _ => "",
        };
        let text = format!("The file of routes cannot be written, nothing was changed: {error}{hint}.");
        Failure::new(Kind::Internal, text)
    })
}

fn done(body: &Value) -> LocalResponse {
    LocalResponse::json(StatusCode::OK, body)
}

/// With the entity tag of the file's content.
fn tagged(body: &Value, text: &str) -> LocalResponse {
    done(body).with(header::ETAG, &etag(text))
}

/// 400 with the path and message of every problem.
fn refusal(problems: &[(String, String)]) -> LocalResponse {
    let details: Vec<_> = problems.iter().map(|(path, text)| json!({"path": path, "message": text})).collect();
    let text = "The model is invalid; nothing was changed.";
    let error = json!({
        "message": text, "type": "invalid_request_error", "code": "invalid_routes", "param": null, "details": details,
    });
    LocalResponse::json(StatusCode::BAD_REQUEST, &json!({ "error": error }))
}

fn name(raw: &str) -> Result<String, Failure> {
    let bytes = decoded(raw, false).and_then(|bytes| String::from_utf8(bytes).ok());
    bytes.ok_or_else(|| Failure::new(Kind::InvalidBody, "The name in the path is not percent-encoded UTF-8."))
}

fn not_allowed(methods: &str) -> Failure {
    Failure::new(Kind::MethodNotAllowed, format!("This path takes {methods} only."))
}

fn unreadable(why: &str) -> Failure {
    let text = format!("The file of routes cannot be read; correct it by hand first: {why}");
    Failure::new(Kind::Internal, text)
}

fn etag(text: &str) -> String {
    format!("\"{}\"", fingerprint(text, 8))
}
