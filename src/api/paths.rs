//! The table of paths: whatever depends on the path of a request is decided here. Pure.

use crate::api::errors::Dialect;
use crate::api::query::{decoded, parameter};
use crate::config::Mode;
use http::{HeaderName, Method};
use std::borrow::Cow;

use Service::Local;
use Trait::{Conversation, Ends, MakesResponse, MayBeJob, NeverV1, OnlyV1, Open, Pings, Polled, PolledByGet};

/// Names a conversation that llama-server keeps beyond its client (LLAMA-SERVER facts).
pub(crate) const CONVERSATION: HeaderName = HeaderName::from_static("x-conversation-id");

const READ: &str = "GET, HEAD";
const READ_OR_DELETE: &str = "GET, HEAD, DELETE";
const POST: &str = "POST";
const ANY: &str = "*";

const BODY: Service = Service::Endpoint(ModelSource::Body);
const QUERY: Service = Service::Endpoint(ModelSource::Query);
const RESPONSE: Service = Service::Endpoint(ModelSource::Response);

/// Path, methods, what serves them (for an endpoint: where the model is named), traits. The label in metrics is the
/// path and the dialect is OpenAI's, unless the row ends with another. The first row that matches counts.
static PATHS: &[PathRow] = &[
    row("/", READ, Local(|_| Route::Unknown), &[Open]),
    row("/v1/models", READ, Local(|_| Route::Models), &[Polled]),
    row("/v1/models/*", READ, Local(|id| Route::Model(decoded_id(id))), &[]).label("/v1/models/{id}"),
    row("/health", READ, Local(|_| Route::Health), &[Polled]),
    row("/health/force-check", POST, Local(|_| Route::ForceCheck), &[]),
    row("/metrics", READ, Local(|_| Route::Metrics), &[NeverV1, Polled]),
    row("/v1/jobs", READ, Local(|_| Route::Jobs), &[Open, OnlyV1, PolledByGet]),
    row("/v1/chat/completions", POST, BODY, &[Pings, Ends, MayBeJob]),
    row("/v1/chat/completions/*", READ_OR_DELETE, Local(|id| Route::Job(id.to_owned())), &[Open, PolledByGet])
        .label(CHAT_BELOW),
    row("/v1/chat/completions/control", POST, BODY, &[Open, Conversation]).label(CHAT_BELOW),
    row("/v1/chat/completions/*", POST, BODY, &[Open]).label(CHAT_BELOW),
    row("/v1/completions", POST, BODY, &[Pings, Ends, MayBeJob]),
    row("/v1/embeddings", POST, BODY, &[MayBeJob]),
    row("/v1/rerank", POST, BODY, &[]),
    row("/v1/reranking", POST, BODY, &[]),
    row("/v1/moderations", POST, BODY, &[]),
    row("/v1/responses", POST, BODY, &[Pings, Ends, MakesResponse]).dialect(Dialect::Responses),
    row("/v1/responses/{id}", READ_OR_DELETE, RESPONSE, &[Open]).dialect(Dialect::Responses),
    row("/v1/responses/{id}/input_items", READ, RESPONSE, &[Open]).label(RESPONSES_BELOW).dialect(Dialect::Responses),
    row("/v1/responses/{id}/cancel", POST, RESPONSE, &[Open]).label(RESPONSES_BELOW).dialect(Dialect::Responses),
    row("/v1/responses/*", POST, BODY, &[Open]).label(RESPONSES_BELOW).dialect(Dialect::Responses),
    row("/v1/messages", POST, BODY, &[Pings, Ends]).dialect(Dialect::Anthropic),
    row("/v1/messages/count_tokens", POST, BODY, &[]).dialect(Dialect::Anthropic),
    row("/v1/messages/*", POST, BODY, &[Open]).label(OTHER.label).dialect(Dialect::Anthropic),
    row("/v1/audio/speech", POST, BODY, &[Ends]).label("/v1/audio/*"),
    row("/v1/audio/transcriptions", POST, BODY, &[Ends]).label("/v1/audio/*"),
    row("/v1/audio/translations", POST, BODY, &[Ends]).label("/v1/audio/*"),
    // `audio/voices` and the like
    row("/v1/audio/*", READ, QUERY, &[Open, Ends]),
    row("/v1/audio/*", POST, BODY, &[Ends]),
    row("/v1/images/generations", POST, BODY, &[Ends]).label("/v1/images/*"),
    row("/v1/images/edits", POST, BODY, &[Ends]).label("/v1/images/*"),
    row("/v1/images/variations", POST, BODY, &[Ends]).label("/v1/images/*"),
    row("/v1/images/*", READ, QUERY, &[Open, Ends]),
    row("/v1/images/*", POST, BODY, &[Ends]),
    // llama-server's own
    row("/completion", POST, BODY, &[Pings, Ends]),
    row("/infill", POST, BODY, &[Pings, Ends]),
    row("/embedding", POST, BODY, &[]),
    row("/tokenize", POST, BODY, &[]),
    row("/detokenize", POST, BODY, &[]),
    row("/apply-template", POST, BODY, &[]),
    row("/props", READ, QUERY, &[]),
    row("/slots", READ, QUERY, &[]),
    row("/lora-adapters", READ, QUERY, &[]),
    // Ends a generation that llama-server keeps for its `X-Conversation-Id`.
    row("/v1/stream", ANY, QUERY, &[Conversation]),
];
const CHAT_BELOW: &str = "/v1/chat/completions/{id}";
const RESPONSES_BELOW: &str = "/v1/responses/{id}";

/// `/admin` and all below it, see [`is_page`].
static PAGE: PathRow = row("/admin", ANY, Local(|_| Route::Admin), &[PolledByGet]).label("/admin/*");

/// What is not in the table: with `/v1` it may be an API that is newer than this program.
pub(crate) static OTHER: PathRow = row("*", "", Local(|_| Route::Unknown), &[Open]).label("other");

/// Last segments of paths at which an endpoint computes nothing: what reads state, counts tokens or steers a stream
/// takes no slot there and waits behind nothing. Any other request whose model is in the body takes one.
const NO_SLOT: [&str; 7] =
    ["tokenize", "detokenize", "apply-template", "count_tokens", "input_tokens", "control", "cancel"];

#[derive(Debug)]
pub(crate) struct PathRow {
    /// Sent to endpoints with `/v1`. Clients may leave it out, or add it.
    has_v1: bool,
    /// Without `/v1`, up to the first wildcard.
    start: &'static str,
    /// From there on: `{id}` stands for one segment, `*` at the end for one or more.
    rest: &'static str,
    methods: &'static str,
    service: Service,
    traits: &'static [Trait],
    pub(crate) dialect: Dialect,
    pub(crate) label: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Service {
    /// Takes what matches the wildcard.
    Local(fn(&str) -> Route),
    Endpoint(ModelSource),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trait {
    /// Other methods are not refused: rows further down may take them.
    Open,
    OnlyV1,
    NeverV1,
    /// `"stream": true` brings an event stream of an API that we know: it has an end, and comments keep it alive.
    Pings,
    /// A whole event stream has an end of its own among its events. Where it has not, nobody can tell.
    Ends,
    /// The answer has an id that later requests name.
    MakesResponse,
    Conversation,
    MayBeJob,
    /// Asked again and again by machines: of no interest in the log.
    Polled,
    PolledByGet,
}

/// Where a request has its model's name.
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

const fn row(path: &'static str, methods: &'static str, service: Service, traits: &'static [Trait]) -> PathRow {
    let bytes = path.as_bytes();
    let has_v1 = bytes.len() > 3 && bytes[1] == b'v' && bytes[2] == b'1';
    let mut wildcard = 0;
    while wildcard < bytes.len() && bytes[wildcard] != b'{' && bytes[wildcard] != b'*' {
        wildcard += 1;
    }
    let (start, rest) = path.split_at(wildcard);
    let (_, start) = start.split_at(if has_v1 { 3 } else { 0 });
    PathRow { has_v1, start, rest, methods, service, traits, dialect: Dialect::OpenAi, label: path }
}

/// There is one of each.
impl PartialEq for PathRow {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl PathRow {
    const fn label(self, label: &'static str) -> Self {
        Self { label, ..self }
    }

    const fn dialect(self, dialect: Dialect) -> Self {
        Self { dialect, ..self }
    }

    pub(crate) fn has(&self, wanted: Trait) -> bool {
        self.traits.contains(&wanted)
    }

    pub(crate) fn is_page(&self) -> bool {
        self == &PAGE
    }

    fn matches(&self, bare: &str) -> bool {
        let Some(found) = bare.strip_prefix(self.start) else { return false };
        match self.rest.strip_prefix("{id}") {
            Some(end) => {
                let (id, after) = found.split_at(found.find('/').unwrap_or(found.len()));
                !id.is_empty() && after == end
            }
            None => found.is_empty() == self.rest.is_empty(),
        }
    }
}

fn without_v1(path: &str) -> (bool, &str) {
    let bare = path.strip_prefix("/v1").filter(|bare| bare.starts_with('/'));
    (bare.is_some(), bare.unwrap_or(path))
}

/// The row of a canonical path, and what that row says of the method: yes, no, or nothing.
fn look_up(method: &Method, path: &str) -> (&'static PathRow, Option<bool>) {
    let (has_v1, bare) = without_v1(path);
    let mut first = None;
    for row in PATHS.iter().filter(|row| row.matches(bare)) {
        let fits = !row.has(if has_v1 { NeverV1 } else { OnlyV1 });
        let allows = is_among(method, row.methods);
        if fits && (allows || !row.has(Open)) {
            return (row, Some(allows));
        }
        first.get_or_insert(row);
    }
    (first.unwrap_or(&OTHER), None)
}

/// The row of a path, canonical or as it came.
pub(crate) fn find(method: &Method, path: &str) -> &'static PathRow {
    if is_page(path) { &PAGE } else { look_up(method, &tidy(path)).0 }
}

fn is_page(path: &str) -> bool {
    path == "/admin" || path == "/admin.html" || path.starts_with("/admin/")
}

/// A canonical path as its client meant it: one slash where several stand, none at the end, and one `/v1` where several
/// stand, since base URLs end in either and SDKs add both.
fn tidy(path: &str) -> Cow<'_, str> {
    if !path.contains("//") && !path.starts_with("/v1/v1") && (path.len() == 1 || !path.ends_with('/')) {
        return Cow::Borrowed(path);
    }
    let mut segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    while segments.starts_with(&["v1", "v1"]) {
        segments.remove(0);
    }
    Cow::Owned(format!("/{}", segments.join("/")))
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Route {
    Models,
    Model(String),
    Health,
    ForceCheck,
    Metrics,
    Preflight,
    /// Read or delete this one.
    Job(String),
    Jobs,
    Admin,
    Forward(Forward),
    /// With the methods for `Allow`.
    NotAllowed(&'static str),
    Unknown,
}

impl Route {
    /// Whether a listener's rate limit counts it.
    pub(crate) fn is_limited(&self) -> bool {
        !matches!(self, Self::Health | Self::Metrics | Self::Preflight)
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
    let (row, allows) = look_up(method, path);
    let (has_v1, bare) = without_v1(path);
    let forward = |path: String, source| Route::Forward(Forward { path, source, row });
    match (allows, row.service) {
        (Some(false), _) => Route::NotAllowed(row.methods),
        (Some(true), Local(route)) => route(&bare[row.start.len()..]),
        (Some(true), Service::Endpoint(source)) => {
            forward([if row.has_v1 { "/v1" } else { "" }, bare].concat(), source)
        }
        (None, _) if has_v1 && method == Method::POST => forward(path.to_owned(), ModelSource::BodyOnly),
        (None, _) if has_model && is_among(method, READ) && path.len() > 1 => {
            forward(path.to_owned(), ModelSource::QueryOnly)
        }
        (None, _) => Route::Unknown,
    }
}

fn is_among(method: &Method, methods: &str) -> bool {
    methods == ANY || methods.split(", ").any(|one| one == method.as_str())
}

/// Names like `org/name` come with their slash encoded.
fn decoded_id(id: &str) -> String {
    decoded(id, false).and_then(|id| String::from_utf8(id).ok()).unwrap_or_default()
}

/// The route at a listener that serves something else than the API. `path` is as it came, `api` what it is to the API.
pub(crate) fn special(mode: Mode, path: &str, api: Route) -> Route {
    match (mode, &api) {
        // RFC 9110 9.3.7: `*` asks the server that is spoken to, and names nothing behind it.
        (Mode::Raw, _) if path == "*" => api,
        (Mode::Models, _) | (Mode::Status, Route::Health | Route::Metrics | Route::NotAllowed(_)) => api,
        (Mode::Status, _) => Route::Unknown,
        (Mode::Raw, _) => Route::Forward(Forward::raw(path.to_owned())),
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Forward {
    /// Path below the base: with `/v1` for the API, without for llama-server's own.
    pub path: String,
    pub(crate) source: ModelSource,
    row: &'static PathRow,
}

impl Forward {
    /// As it came. An API may stand below any path.
    fn raw(path: String) -> Self {
        let row = find(&Method::POST, &path[path.rfind("/v1/").unwrap_or(0)..]);
        Self { path, source: ModelSource::Raw, row }
    }

    /// To a path that takes the model in the body.
    pub(crate) fn post(path: &str) -> Self {
        Self { path: path.to_owned(), source: ModelSource::Body, row: find(&Method::POST, path) }
    }

    /// Whether the endpoint computes for it.
    pub(crate) fn takes_slot(&self, method: &Method) -> bool {
        let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(method);
        let last = self.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let in_body = matches!(self.source, ModelSource::Body | ModelSource::BodyOnly | ModelSource::Raw);
        !reads && in_body && !NO_SLOT.contains(&last)
    }

    pub(crate) fn has(&self, wanted: Trait) -> bool {
        // As it came, nothing but the stream is known.
        self.row.has(wanted) && (self.source != ModelSource::Raw || matches!(wanted, Pings | Ends))
    }

    /// The conversation that this ends or steers, by which its endpoint is known: `conv_id` of the query, else the field.
    pub(crate) fn conversation(&self, query: Option<&str>, field: Option<&[u8]>) -> Option<Vec<u8>> {
        let id = || parameter(query?, "conv_id").and_then(|id| decoded(id, true));
        if self.has(Conversation) { id().or_else(|| field.map(<[u8]>::to_vec)) } else { None }
    }

    pub(crate) fn response(&self) -> Option<String> {
        let path = self.path.strip_prefix("/v1/responses/").filter(|_| self.source == ModelSource::Response)?;
        path.split('/').next().map(decoded_id).filter(|id| !id.is_empty())
    }
}

#[cfg(test)]
mod tests;
