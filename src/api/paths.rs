//! The table of paths: everything that depends on the path of a request. Pure.

use crate::api::errors::Dialect;
use crate::api::query::{decoded, parameter};
use crate::config::Mode;
use http::{HeaderName, Method};
use std::borrow::Cow;

use Service::Local;
use Trait::{Conversation, Ends, MakesResponse, MayBeJob, NeverV1, OnlyV1, Open, Pings, Polled, PolledByGet};

/// Identifies a generation that llama-server continues after its client has disconnected (LLAMA-SERVER facts).
pub(crate) const CONVERSATION: HeaderName = HeaderName::from_static("x-conversation-id");

const READ: &str = "GET, HEAD";
const READ_OR_DELETE: &str = "GET, HEAD, DELETE";
const POST: &str = "POST";
const ANY: &str = "*";

const BODY: Service = Service::Endpoint(ModelSource::Body);
const QUERY: Service = Service::Endpoint(ModelSource::Query);
const RESPONSE: Service = Service::Endpoint(ModelSource::Response);

/// Path, methods, service (for endpoints: where the model is named), traits. The default label in metrics is the path,
/// the default dialect OpenAI's. The first matching row applies.
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
    // Ends the generation of an `X-Conversation-Id`.
    row("/v1/stream", ANY, QUERY, &[Conversation]),
];
const CHAT_BELOW: &str = "/v1/chat/completions/{id}";
const RESPONSES_BELOW: &str = "/v1/responses/{id}";

/// `/admin` and all below it, see [`is_page`].
static PAGE: PathRow = row("/admin", ANY, Local(|_| Route::Admin), &[PolledByGet]).label("/admin/*");

/// Any other path. Below `/v1` it may belong to an API that is newer than this program.
pub(crate) static OTHER: PathRow = row("*", "", Local(|_| Route::Unknown), &[Open]).label("other");

/// Last segments of paths that need no slot: the endpoint only reads state, counts tokens or controls a stream. All
/// other requests with the model in the body take one.
const NO_SLOT: [&str; 7] =
    ["tokenize", "detokenize", "apply-template", "count_tokens", "input_tokens", "control", "cancel"];

#[derive(Debug)]
pub(crate) struct PathRow {
    /// Sent to endpoints with `/v1`, which is optional for clients.
    has_v1: bool,
    /// Without `/v1`, up to the first wildcard.
    start: &'static str,
    /// From the first wildcard: `{id}` matches one segment, `*` at the end one or more.
    rest: &'static str,
    methods: &'static str,
    service: Service,
    traits: &'static [Trait],
    pub(crate) dialect: Dialect,
    pub(crate) label: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Service {
    /// Called with the part that matches the wildcard.
    Local(fn(&str) -> Route),
    Endpoint(ModelSource),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trait {
    /// Other methods may match a row further down; without this, they get 405.
    Open,
    OnlyV1,
    NeverV1,
    /// The answer to `"stream": true` is an event stream in which pings (comments) are allowed.
    Pings,
    /// Event streams end with a final event, so that a missing one shows an incomplete answer.
    Ends,
    /// The answer has an id that later requests refer to.
    MakesResponse,
    Conversation,
    MayBeJob,
    /// Requested repeatedly by machines, so logged at debug level only.
    Polled,
    PolledByGet,
}

/// Where a request names its model.
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
    /// In the query; missing means the endpoint that made the response in the path.
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

/// Rows are statics, one of each.
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

/// The row of a canonical path, and whether it allows the method; `None` if no row applies.
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

/// The row of a path, canonical or not.
pub(crate) fn find(method: &Method, path: &str) -> &'static PathRow {
    if is_page(path) { &PAGE } else { look_up(method, &tidy(path)).0 }
}

fn is_page(path: &str) -> bool {
    path == "/admin" || path == "/admin.html" || path.starts_with("/admin/")
}

/// Removes repeated slashes, a slash at the end, and repeated `/v1` segments, which result from joining base URLs and
/// the paths of SDKs.
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
    Job(String),
    Jobs,
    Admin,
    Forward(Forward),
    /// With the methods for `Allow`.
    NotAllowed(&'static str),
    Unknown,
}

impl Route {
    /// Whether the rate limit of a listener applies.
    pub(crate) fn is_limited(&self) -> bool {
        !matches!(self, Self::Health | Self::Metrics | Self::Preflight)
    }
}

/// The route of a request with a canonical path; `has_model`: with `?model=`.
pub(crate) fn route(method: &Method, path: &str, has_model: bool) -> Route {
    if is_page(path) {
        return Route::Admin;
    }
    if method == Method::OPTIONS {
        return Route::Preflight;
    }
    let path = &*tidy(path);
    // Only the exact path leads to the page (FAULTS F5).
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

/// The slash of a name such as `org/name` is percent-encoded.
fn decoded_id(id: &str) -> String {
    decoded(id, false).and_then(|id| String::from_utf8(id).ok()).unwrap_or_default()
}

/// The route at a listener in another mode. `path` is as received, `api` the route that the API has for it.
pub(crate) fn special(mode: Mode, path: &str, api: Route) -> Route {
    match (mode, &api) {
        // RFC 9110 9.3.7: `*` concerns this server itself.
        (Mode::Raw, _) if path == "*" => api,
        (Mode::Models, _) | (Mode::Status, Route::Health | Route::Metrics | Route::NotAllowed(_)) => api,
        (Mode::Status, _) => Route::Unknown,
        (Mode::Raw, _) => Route::Forward(Forward::raw(path.to_owned())),
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Forward {
    /// Below the base URL: with `/v1` for the API, without for llama-server's own paths.
    pub path: String,
    pub(crate) source: ModelSource,
    row: &'static PathRow,
}

impl Forward {
    /// Forwards the path as received; an API may be below any prefix.
    fn raw(path: String) -> Self {
        let row = find(&Method::POST, &path[path.rfind("/v1/").unwrap_or(0)..]);
        Self { path, source: ModelSource::Raw, row }
    }

    /// For a path with the model in the body.
    pub(crate) fn post(path: &str) -> Self {
        Self { path: path.to_owned(), source: ModelSource::Body, row: find(&Method::POST, path) }
    }

    /// Whether the request needs a slot at the endpoint.
    pub(crate) fn takes_slot(&self, method: &Method) -> bool {
        let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(method);
        let last = self.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let in_body = matches!(self.source, ModelSource::Body | ModelSource::BodyOnly | ModelSource::Raw);
        !reads && in_body && !NO_SLOT.contains(&last)
    }

    pub(crate) fn has(&self, wanted: Trait) -> bool {
        // Of a raw path, only the format of the stream is known.
        self.row.has(wanted) && (self.source != ModelSource::Raw || matches!(wanted, Pings | Ends))
    }

    /// The conversation that the request ends or controls, which identifies the endpoint: `conv_id` of the query, else
    /// the header field.
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
