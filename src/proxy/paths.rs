//! Path and method -> what is wanted. Pure; the whole public surface of the main listener stands here.

use crate::api::query::decoded;
use crate::config::Mode;
use crate::http::head::Head;
use http::{HeaderName, Method};
use std::borrow::Cow;

/// Names a conversation that llama-server keeps beyond its client (LLAMA-SERVER facts).
pub(crate) const CONVERSATION: HeaderName = HeaderName::from_static("x-conversation-id");

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `GET /v1/models`
    Models,
    /// `GET /v1/models/{id}`
    Model(String),
    /// `GET /health`
    Health,
    /// `POST /health/force-check`
    ForceCheck,
    /// `GET /metrics`
    Metrics,
    /// `OPTIONS` of anything
    Preflight,
    /// `GET` and `DELETE /v1/chat/completions/{id}`
    Job(String),
    /// `GET /v1/jobs`
    Jobs,
    /// `/admin` and all below it
    Admin,
    /// To an endpoint, at this path below its base.
    Forward(Forward),
    /// 405 with these methods
    NotAllowed(&'static str),
    /// 404
    Unknown,
}

/// A request that an endpoint answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forward {
    /// Path below the base: with `/v1` for the API, without for llama-server's own.
    pub path: String,
    pub(crate) names: ModelSource,
}

impl Route {
    /// Whether a listener's rate limit counts it.
    pub(crate) fn is_limited(&self) -> bool {
        !matches!(self, Self::Health | Self::Metrics | Self::Preflight)
    }
}

/// Paths as metrics tell them; what is not here is `other`.
const PATTERNS: [&str; 25] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/rerank",
    "/v1/reranking",
    "/v1/moderations",
    "/v1/models",
    "/v1/jobs",
    "/health/force-check",
    "/health",
    "/metrics",
    "/completion",
    "/infill",
    "/embedding",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/props",
    "/slots",
    "/lora-adapters",
    "/v1/stream",
    "/",
];

/// A canonical path as its client meant it: one slash where several stand, none at the end, and one `/v1` where several
/// stand, since base URLs end in either and SDKs add both.
pub(crate) fn tidy(path: &str) -> Cow<'_, str> {
    let mut tidy = Cow::Borrowed(path);
    if path.contains("//") {
        let mut last = ' ';
        tidy.to_mut().retain(|c| std::mem::replace(&mut last, c) != '/' || c != '/');
    }
    let doubled = |path: &str| path.strip_prefix("/v1").is_some_and(|rest| rest == "/v1" || rest.starts_with("/v1/"));
    let whole: &str = &tidy;
    let mut start = 0;
    while doubled(&whole[start..]) {
        start += "/v1".len();
    }
    let end = whole.len() - usize::from(whole.ends_with('/'));
    match tidy {
        Cow::Borrowed(path) => Cow::Borrowed(&path[start..end]),
        Cow::Owned(path) => Cow::Owned(path[start..end].to_owned()),
    }
}

pub(crate) fn pattern(path: &str) -> &'static str {
    let path = &*if path == "/" { path.into() } else { tidy(path) };
    let bare = path.strip_prefix("/v1").filter(|rest| rest.starts_with('/')).unwrap_or(path);
    let known = PATTERNS.iter().find(|known| known.strip_prefix("/v1").unwrap_or(known) == bare);
    match known {
        Some(known) => known,
        None if is_page(path) => "/admin/*",
        None if bare.starts_with("/models/") => "/v1/models/{id}",
        None if bare.starts_with("/chat/completions/") => "/v1/chat/completions/{id}",
        None if bare.starts_with("/responses/") => "/v1/responses/{id}",
        None if bare.starts_with("/audio/") => "/v1/audio/*",
        None if bare.starts_with("/images/") => "/v1/images/*",
        None => "other",
    }
}

impl Forward {
    /// Whether the endpoint computes for it: what only reads state, counts tokens or steers a stream takes no slot
    /// there and waits behind nothing.
    pub(crate) fn takes_place(&self, method: &Method) -> bool {
        let reads = *method == Method::GET || *method == Method::HEAD;
        let path = self.name();
        let aside = ASIDE.iter().any(|name| *name == path || path.strip_suffix(name).is_some_and(|p| p.ends_with('/')));
        !reads && !aside && matches!(self.names, ModelSource::Body | ModelSource::BodyOnly | ModelSource::Raw)
    }

    /// Whether `"stream": true` brings an event stream of an API that we know: what may be kept alive by comments.
    pub(crate) fn streams_events(&self) -> bool {
        STREAMS.contains(&self.name())
    }

    /// Whether the answer has an id that later requests name.
    pub(crate) fn makes_response(&self) -> bool {
        self.names != ModelSource::Raw && self.name() == "responses"
    }

    /// Whether a whole event stream has an end of its own among its events. Where it has not, nobody can tell.
    pub(crate) fn has_end(&self) -> bool {
        self.streams_events() || API_FOLDERS.iter().any(|folder| self.name().starts_with(folder))
    }

    /// The conversation that this ends or steers, by which its endpoint is known: `conv_id` of the query, else the field.
    pub(crate) fn conversation(&self, head: &Head) -> Option<Vec<u8>> {
        if !matches!(self.name(), "stream" | "chat/completions/control") || self.names == ModelSource::Raw {
            return None;
        }
        let pairs = head.target.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.into_iter().find(|(name, _)| *name == "conv_id").map(|(_, value)| value);
        let field = || head.fields.get(CONVERSATION).map(|value| value.as_bytes().to_vec());
        value.and_then(|value| decoded(value, true)).or_else(field)
    }

    /// What follows `/v1/`, or `/` for llama-server's own. At a raw listener an API may stand below any path.
    fn name(&self) -> &str {
        let at = match self.names {
            ModelSource::Raw => self.path.rfind("/v1/").map(|at| at + 4),
            _ => self.path.strip_prefix("/v1/").map(|_| 4),
        };
        self.path[at.unwrap_or(0)..].trim_matches('/')
    }
}

/// Where a path has its model's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelSource {
    /// In the body; missing means the default model.
    Body,
    /// In the body, and without one the path is unknown.
    BodyOnly,
    /// In the query; missing means the only endpoint.
    Query,
    /// In the query, and without one the path is unknown.
    QueryOnly,
    /// In the query; missing means where the response in the path was made.
    Response,
    Raw,
}

/// OpenAI's and Anthropic's paths, reached with and without `/v1`.
const API: [&str; 9] = [
    "chat/completions",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "messages/count_tokens",
    "rerank",
    "reranking",
    "moderations",
];
const API_FOLDERS: [&str; 2] = ["audio/", "images/"];
/// Of what is in them, what the API knows to be for POST.
const POSTED: [&str; 6] = [
    "audio/speech",
    "audio/transcriptions",
    "audio/translations",
    "images/generations",
    "images/edits",
    "images/variations",
];
/// What stands below a path of the API steers or counts, and is reached the same ways.
const BELOW: [&str; 3] = ["chat/completions/", "responses/", "messages/"];
/// Last names of paths at which nothing is computed.
const ASIDE: [&str; 7] =
    ["tokenize", "detokenize", "apply-template", "count_tokens", "input_tokens", "control", "cancel"];
const STREAMS: [&str; 6] = ["chat/completions", "completions", "responses", "messages", "completion", "infill"];
/// llama-server's own, always sent without `/v1`.
const NATIVE: [&str; 6] = ["completion", "infill", "embedding", "tokenize", "detokenize", "apply-template"];
const NATIVE_STATE: [&str; 3] = ["props", "slots", "lora-adapters"];

/// The route at a listener that serves something else than the API.
pub(crate) fn special(mode: Mode, path: &str, api: Route) -> Route {
    match (mode, &api) {
        // RFC 9110 9.3.7: `*` asks the server that is spoken to, and names nothing behind it.
        (Mode::Raw, _) if path == "*" => api,
        (Mode::Models, _) | (Mode::Status, Route::Health | Route::Metrics | Route::NotAllowed(_)) => api,
        (Mode::Status, _) => Route::Unknown,
        (Mode::Raw, _) => forward(path.to_owned(), ModelSource::Raw),
    }
}

/// The route of a request. `path` is canonical, `has_model` tells of `?model=`.
pub(crate) fn route(method: &Method, path: &str, has_model: bool) -> Route {
    if is_page(path) {
        return Route::Admin;
    }
    if method == Method::OPTIONS {
        return Route::Preflight;
    }
    let path = &*tidy(path);
    // The page is called by its own name only (FAULTS F5).
    if is_page(path) {
        return Route::Unknown;
    }
    let (versioned, name) = match path.strip_prefix("/v1/") {
        Some(name) => (true, name),
        None => (false, path.strip_prefix('/').unwrap_or(path)),
    };
    let get = method == Method::GET || method == Method::HEAD;
    let post = method == Method::POST;
    match name {
        "models" => return only(get, "GET, HEAD", Route::Models),
        "health" => return only(get, "GET, HEAD", Route::Health),
        "jobs" if get && versioned => return Route::Jobs,
        "metrics" if !versioned => return only(get, "GET, HEAD", Route::Metrics),
        "health/force-check" => return only(post, "POST", Route::ForceCheck),
        _ => {}
    }
    if let Some(id) = name.strip_prefix("models/").filter(|id| !id.is_empty()) {
        // Names like `org/name` come with their slash encoded.
        let id = decoded(id, false).and_then(|bytes| String::from_utf8(bytes).ok());
        return only(get, "GET, HEAD", Route::Model(id.unwrap_or_default()));
    }
    if response_of(path).is_some() {
        let (deletes, cancels) = (*method == Method::DELETE, name.ends_with("/cancel"));
        match name.matches('/').count() {
            1 if get || deletes => return forward(["/v1/", name].concat(), ModelSource::Response),
            2 if (get && !cancels) || (post && cancels) => {
                return forward(["/v1/", name].concat(), ModelSource::Response);
            }
            _ => {}
        }
    }
    let job = name.strip_prefix("chat/completions/").filter(|id| !id.is_empty());
    if let Some(id) = job.filter(|_| get || *method == Method::DELETE) {
        return Route::Job(id.to_owned());
    }
    let is_in = |folders: &[&str]| folders.iter().any(|folder| name.len() > folder.len() && name.starts_with(folder));
    // `audio/voices` and the like
    if get && is_in(&API_FOLDERS) && !POSTED.contains(&name) {
        return forward(["/v1/", name].concat(), ModelSource::Query);
    }
    if API.contains(&name) || is_in(&API_FOLDERS) || (post && is_in(&BELOW)) {
        return only(post, "POST", forward(["/v1/", name].concat(), ModelSource::Body));
    }
    if NATIVE.contains(&name) {
        return only(post, "POST", forward(["/", name].concat(), ModelSource::Body));
    }
    if NATIVE_STATE.contains(&name) {
        return only(get, "GET, HEAD", forward(["/", name].concat(), ModelSource::Query));
    }
    match () {
        // llama-server keeps a generation by `X-Conversation-Id` until this ends it.
        () if name == "stream" => forward("/v1/stream".to_owned(), ModelSource::Query),
        () if post && versioned && !name.is_empty() => forward(path.to_owned(), ModelSource::BodyOnly),
        () if get && has_model && !name.is_empty() => forward(path.to_owned(), ModelSource::QueryOnly),
        () => Route::Unknown,
    }
}

/// The id of the response that a path is about: `responses/{id}`, with `/cancel` or `/input_items` behind it.
pub(crate) fn response_of(path: &str) -> Option<String> {
    let name = path.strip_prefix("/v1").unwrap_or(path).strip_prefix("/responses/")?;
    let (id, rest) = name.split_once('/').unwrap_or((name, ""));
    let is_known = matches!(rest, "" | "cancel" | "input_items") && !id.is_empty() && !name.ends_with('/');
    decoded(id, false).filter(|_| is_known).and_then(|id| String::from_utf8(id).ok())
}

fn only(allowed: bool, methods: &'static str, route: Route) -> Route {
    if allowed { route } else { Route::NotAllowed(methods) }
}

fn forward(path: String, names: ModelSource) -> Route {
    Route::Forward(Forward { path, names })
}

/// Whether a path is the page's.
pub(crate) fn is_page(path: &str) -> bool {
    path == "/admin" || path == "/admin.html" || path.starts_with("/admin/")
}

#[cfg(test)]
mod tests;
