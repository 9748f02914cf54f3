//! The page's changes: the file of routes, endpoints, requests in progress. A change is checked and written whole before it
//! comes into force.

use super::{Admin, routes, routes_file};
use crate::api::errors::{Failure, Kind};
use crate::api::query::{decoded, parameter};
use crate::config::load;
use crate::http::request::Request;
use crate::proxy::context::LocalResponse;
use crate::proxy::state::Opened;
use crate::util::disk::is_full;
use crate::util::lock::lock;
use crate::util::random;
use crate::util::secret::fingerprint;
use http::{HeaderValue, Method, StatusCode, header};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::io::ErrorKind;

impl Admin {
    /// `GET /admin/config`: keys as masks, in clear text only with the token.
    pub(super) fn shown(&self, request: &Request, opened: Opened) -> Result<LocalResponse, Failure> {
        let reveal = request.head.target.query().is_some_and(|query| parameter(query, "reveal") == Some("1"));
        if reveal && opened != Opened::Token {
            return Err(Failure::new(Kind::Forbidden, "Keys are shown in clear only with the page's token."));
        }
        let text = self.on_disk().ok().flatten().unwrap_or_else(|| lock(&self.file).clone());
        let mut file = load::json(&text).map_err(|why| unreadable(&why))?;
        let models = Value::Object(routes::models(&mut file).clone());
        let models = if reveal { models } else { routes::masked(&models) };
        let mut answer = LocalResponse::json(StatusCode::OK, &json!({"Models": models}));
        answer.fields.push((header::ETAG, etag(&text)));
        Ok(answer)
    }

    pub(super) fn act(&self, request: &Request, rest: &str) -> Result<LocalResponse, Failure> {
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
        let done = |text: String| LocalResponse::json(StatusCode::OK, &json!({"message": text}));
        match button {
            "cancel" if self.proxy.activity().stop(&name) => Ok(done(format!("The request {name} is being stopped."))),
            "cancel" => Err(Failure::new(Kind::PathNotFound, "No request of this id is in progress.")),
            "reload" => {
                let later = self
                    .config_manager()
                    .ok_or_else(cancel)?
                    .reload_file()
                    .map_err(|why| Failure::new(Kind::InvalidBody, why))?;
                Ok(LocalResponse::json(
                    StatusCode::OK,
                    &json!({"message": "The configuration was reloaded.", "restart": later}),
                ))
            }
            _ => {
                let known = self.shared.load().config.endpoints.iter().any(|endpoint| endpoint.name == name);
                if !known {
                    return Err(Failure::new(Kind::PathNotFound, "There is no endpoint of this name."));
                }
                lock(&self.switched).insert(name.clone(), button == "enable");
                self.config_manager()
                    .ok_or_else(cancel)?
                    .apply_routes()
                    .map_err(|why| Failure::new(Kind::Internal, why))?;
                log::info!("admin: endpoint {name} was switched {}", if button == "enable" { "on" } else { "off" });
                Ok(done(format!("The endpoint {name} is {button}d until the next start.")))
            }
        }
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
            Some((format!("Configuration for model '{model}' updated."), problems))
        })
    }

    fn delete(&self, request: &Request, model: &str) -> Result<LocalResponse, Failure> {
        self.change(request, |file| {
            routes::models(file).shift_remove(model)?;
            Some((format!("Configuration for model '{model}' deleted."), Vec::new()))
        })
    }

    /// Changes the file of routes: read, changed, checked, written whole, in force. `change` tells what was done and what is
    /// wrong with it, or nothing where the model is missing.
    fn change(
        &self,
        request: &Request,
        change: impl FnOnce(&mut Value) -> Option<(String, Vec<(String, String)>)>,
    ) -> Result<LocalResponse, Failure> {
        let config_manager = self.config_manager().ok_or_else(cancel)?;
        let base = config_manager.base();
        let _turn = lock(&self.changing);
        let disk = self.on_disk().map_err(|error| unreadable(&error.to_string()))?;
        // Manual edits made meanwhile are kept.
        let text = disk.unwrap_or_else(|| lock(&self.file).clone());
        let wanted = request.head.fields.get(header::IF_MATCH);
        if wanted.is_some_and(|wanted| *wanted != etag(&text) && wanted != "*") {
            return Err(Failure::new(
                Kind::Changed,
                "The file was changed meanwhile; read it again and repeat the change.",
            ));
        }
        let mut file = load::json(&text).map_err(|why| unreadable(&why))?;
        // The file is written without comments; a text that has some is kept beside it.
        let by_hand = serde_json::from_str::<IgnoredAny>(&text).is_err().then_some(text);
        let Some((message, mut problems)) = change(&mut file) else {
            let name = request.head.target.path().rsplit('/').next().and_then(|raw| name(raw).ok()).unwrap_or_default();
            let text = format!("Model '{name}' not found.");
            return Ok(LocalResponse::json(StatusCode::NOT_FOUND, &json!({"message": text})));
        };
        let text = pretty(&file);
        if let Err(found) = self.with(&base, &text) {
            // The part below the model's name.
            let below =
                |key: &str| ["backends", "strategy"].iter().find_map(|start| Some(key[key.rfind(start)?..].to_owned()));
            problems.extend(found.into_iter().map(|one| (below(&one.key).unwrap_or_default(), one.text)));
        }
        if !problems.is_empty() {
            return Ok(refusal(&problems));
        }
        if text.len() as u64 > routes_file::MOST {
            let text = "the file of routes would be larger than 1 MiB, and could not be read again";
            return Ok(refusal(&[(String::new(), text.into())]));
        }
        self.write(by_hand.as_deref(), &text)?;
        let tag = etag(&text);
        *lock(&self.file) = text;
        config_manager.apply_routes().map_err(|why| {
            Failure::new(Kind::Internal, format!("The file of routes was written, but is not in force: {why}"))
        })?;
        log::info!("admin: {message}");
        let mut answer = LocalResponse::json(StatusCode::OK, &json!({"message": message}));
        answer.fields.push((header::ETAG, tag));
        Ok(answer)
    }
}

impl Admin {
    /// Writes the file of routes; a text that was edited by hand is kept in a file beside it.
    fn write(&self, by_hand: Option<&str>, text: &str) -> Result<(), Failure> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        let kept = by_hand.map_or(Ok(()), |text| routes_file::write(&routes_file::beside(&self.path), text.as_bytes()));
        kept.and_then(|()| routes_file::write(&self.path, text.as_bytes())).map_err(|error| {
            log::error!("admin: {} cannot be written: {error}", self.path.display());
            let hint = match error.kind() {
                _ if is_full(&error) => {
                    return Failure::new(Kind::StorageFull, "The disk is full; nothing was changed.");
                }
                ErrorKind::ResourceBusy => "; a file that is mounted by itself cannot be replaced, mount its folder",
                _ => "",
            };
            let text = format!("The file of routes cannot be written, nothing was changed: {error}{hint}.");
            Failure::new(Kind::Internal, text)
        })
    }
}

/// 400 with every problem and its field.
fn refusal(problems: &[(String, String)]) -> LocalResponse {
    let details: Vec<_> = problems.iter().map(|(path, text)| json!({"path": path, "message": text})).collect();
    let text = "The model cannot be used like this; nothing was changed.";
    let error = json!({"message": text, "type": "invalid_request_error", "code": "invalid_routes", "param": null, "details": details});
    LocalResponse::json(StatusCode::BAD_REQUEST, &json!({ "error": error }))
}

/// A percent-decoded name of a path.
fn name(raw: &str) -> Result<String, Failure> {
    let bytes = decoded(raw, false).and_then(|bytes| String::from_utf8(bytes).ok());
    bytes.ok_or_else(|| Failure::new(Kind::InvalidBody, "The name in the path is not UTF-8, percent-encoded."))
}

fn not_allowed(methods: &str) -> Failure {
    Failure::new(Kind::MethodNotAllowed, format!("This path takes {methods} only."))
}

pub(super) fn cancel() -> Failure {
    Failure::new(Kind::Draining, "The proxy is being stopped.")
}

fn unreadable(why: &str) -> Failure {
    let text = format!("The file of routes cannot be read, so it is not overwritten; mend it by hand first: {why}");
    Failure::new(Kind::Internal, text)
}

pub(super) fn pretty(file: &Value) -> String {
    serde_json::to_string_pretty(file).unwrap_or_default() + "\n"
}

/// The entity tag of a content of the file.
fn etag(text: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{}\"", fingerprint(text, 8))).unwrap_or(HeaderValue::from_static("\"\""))
}
