//! What a request asks for: the model, where its name is, and the request with another name in its place.

use crate::api::body::{JsonBody, Named};
use crate::api::edit;
use crate::api::errors::{Failure, Kind};
use crate::api::multipart::multipart;
use crate::api::paths::{Forward, ModelSource};
use crate::api::prompt::PromptInfo;
use crate::api::query;
use crate::http::request::Request;
use crate::routing::candidate::Candidate;
use crate::routing::plan::ModelQuery;
use crate::routing::scope::Scope;
use http::header;
use std::borrow::Cow;
use std::cell::OnceCell;

/// What routing needs to know of a body.
#[derive(Default)]
pub(crate) struct RequestBody<'a> {
    pub(crate) json: Option<JsonBody<'a>>,
    named: Option<Named>,
    location: Location,
    /// `"stream": true`
    pub(crate) stream: bool,
    optional: bool,
    /// `previous_response_id`, or the response in the path.
    previous: Option<String>,
    /// Compressed: forwarded unread where that is possible.
    pub(crate) sealed: bool,
    size: usize,
    has_image: OnceCell<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Location {
    #[default]
    Json,
    Form,
    Query,
    Whole,
}

pub(crate) struct Rendered<'a> {
    /// Query without `?`.
    pub(crate) query: Option<String>,
    body: Vec<Cow<'a, [u8]>>,
}

impl Rendered<'_> {
    pub(crate) fn parts(&self) -> Vec<&[u8]> {
        self.body.iter().map(|part| &**part).collect()
    }
}

/// Reads a request as far as its API path requires.
///
/// # Errors
/// 400 for a body that the API does not allow, 404 for an unknown path whose body names no model.
pub(crate) fn read<'a>(request: &'a Request, forward: &Forward) -> Result<RequestBody<'a>, Failure> {
    let size = request.body.bytes().len();
    read_by_path(request, forward).map(|body| RequestBody { size, ..body })
}

fn read_by_path<'a>(request: &'a Request, forward: &Forward) -> Result<RequestBody<'a>, Failure> {
    let body = request.body.bytes();
    let query = request.head.target.query();
    let from_query = || query.map_or(Ok(None), query::query_model);
    match forward.source {
        ModelSource::Raw => {
            // Only `stream` matters, if the body can be read at all.
            let json = JsonBody::read(body).ok();
            let stream = json.as_ref().is_some_and(JsonBody::stream);
            Ok(RequestBody { json, stream, optional: true, ..RequestBody::new(Location::Whole, None) })
        }
        ModelSource::Query | ModelSource::QueryOnly | ModelSource::Response => {
            let previous = forward.response();
            Ok(RequestBody { previous, optional: true, ..RequestBody::new(Location::Query, from_query()?) })
        }
        ModelSource::Body | ModelSource::BodyOnly if is_compressed(request) => {
            Ok(RequestBody { sealed: true, optional: true, ..RequestBody::new(Location::Query, from_query()?) })
        }
        ModelSource::Body | ModelSource::BodyOnly => {
            let must_name = forward.source == ModelSource::BodyOnly;
            let parsed = match in_body(request, body) {
                Ok(parsed) => parsed,
                Err(_) if must_name && from_query()?.is_none() => return Err(unknown_path()),
                Err(failure) => return Err(failure),
            };
            let parsed = match (parsed.name(), from_query()?) {
                (None, Some(named)) => RequestBody { named: Some(named), location: Location::Query, ..parsed },
                (Some(name), Some(named)) if name != named.name => {
                    let text = "The body and the query name two different models.";
                    return Err(Failure::new(Kind::InvalidBody, text).param("model"));
                }
                _ => parsed,
            };
            if must_name && parsed.named.is_none() { Err(unknown_path()) } else { Ok(parsed) }
        }
    }
}

fn field(request: &Request, name: header::HeaderName) -> &str {
    request.head.fields.get(name).and_then(|value| str::from_utf8(value.as_bytes()).ok()).unwrap_or_default()
}

fn is_compressed(request: &Request) -> bool {
    let coding = request.head.fields.get(header::CONTENT_ENCODING).map(|value| value.as_bytes()).unwrap_or_default();
    !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")
}

/// 415 for a compressed body that would have to be read.
pub(crate) fn unreadable() -> Failure {
    let text = "A compressed request body cannot be read here, and its model decides where it goes, or is one whose \
                requests are edited; send it without Content-Encoding, or name the model in the query (?model=).";
    Failure::new(Kind::NotJson, text)
}

fn in_body<'a>(request: &Request, body: &'a [u8]) -> Result<RequestBody<'a>, Failure> {
    let kind = field(request, header::CONTENT_TYPE);
    if kind.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("multipart/")) {
        return Ok(RequestBody::new(Location::Form, multipart(kind, body)?));
    }
    let json = JsonBody::read(body)?;
    let read = RequestBody::new(Location::Json, json.model()?);
    Ok(RequestBody { stream: json.stream(), previous: json.previous(), json: Some(json), ..read })
}

/// At a raw listener, a key with `models` is limited to requests whose every possible model can be read and is allowed.
///
/// # Errors
/// 403 if no model can be read, or one is not allowed.
pub(crate) fn check_models(request: &Request, forward: &Forward, scope: &Scope) -> Result<(), Failure> {
    if forward.source != ModelSource::Raw || scope.models.is_empty() {
        return Ok(());
    }
    let refused =
        |why: &str| Err(Failure::new(Kind::Forbidden, format!("This key is limited to some models, and {why}.")));
    let head = &request.head;
    let in_query = head.target.query().map_or(Ok(None), query::query_model);
    let has_body = !request.body.bytes().is_empty();
    let in_body = if has_body { in_body(request, request.body.bytes()).map(|parsed| parsed.named) } else { Ok(None) };
    let (Ok(in_query), Ok(in_body), false) = (in_query, in_body, is_compressed(request)) else {
        return refused("the model of this request cannot be read");
    };
    // Some APIs name the model in the path: /openai/deployments/NAME/..., /v1beta/models/NAME:generateContent.
    let path = head.target.canonical();
    let segments: Vec<&str> = path.split('/').collect();
    let in_path = segments.windows(2).filter(|pair| ["models", "deployments", "engines"].contains(&pair[0]));
    let in_path = in_path.map(|pair| pair[1].split(':').next().unwrap_or_default().to_owned());
    let mut names = in_query.into_iter().chain(in_body).map(|named| named.name).chain(in_path).peekable();
    if names.peek().is_none() {
        return refused("this request names none");
    }
    match names.all(|name| scope.has_model(&name)) {
        true => Ok(()),
        false => refused("this one is not among them"),
    }
}

fn unknown_path() -> Failure {
    Failure::new(Kind::PathNotFound, "Nothing is served at this path unless the body names a model.")
}

impl<'a> RequestBody<'a> {
    fn new(location: Location, named: Option<Named>) -> Self {
        Self { named, location, ..Self::default() }
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.named.as_ref().map(|named| named.name.as_str())
    }

    pub(crate) fn query(&self) -> ModelQuery<'_> {
        let model = self.name();
        if let Some(id) = &self.previous {
            return if self.optional && model.is_none() {
                ModelQuery::Stored(id)
            } else {
                ModelQuery::Follow(id, model)
            };
        }
        match model {
            Some(name) => ModelQuery::Named(name),
            None if self.location == Location::Whole => ModelQuery::Raw,
            None if self.optional => ModelQuery::Endpoint,
            None => ModelQuery::Any,
        }
    }

    /// The request as a candidate gets it: with the name by which its endpoint knows the model, and with the edits of the
    /// route if the body is JSON; otherwise unchanged.
    ///
    /// # Errors
    /// The body repeats what is to be edited too often.
    pub(crate) fn for_candidate(&self, request: &'a Request, candidate: &Candidate) -> Result<Rendered<'a>, Failure> {
        let Candidate { edits, stabilize, .. } = candidate;
        let (body, query, rename) = (request.body.bytes(), request.head.target.query(), candidate.rename.as_deref());
        let in_query = rename.zip(self.named.as_ref()).filter(|_| self.location == Location::Query);
        let renamed = query.zip(in_query).map(|(query, (new, named))| query::query_renamed(query, &named.span, new));
        let body = match (&self.json, self.location) {
            (_, Location::Whole) => vec![Cow::Borrowed(body)],
            (Some(json), location) => json.edited(rename.filter(|_| location == Location::Json), edits, *stabilize)?,
            (None, Location::Form) => {
                let change = rename.zip(self.named.as_ref()).map(|(new, named)| (named.span.clone(), new.into()));
                edit::parts(body, change.into_iter().collect())
            }
            (None, _) => vec![Cow::Borrowed(body)],
        };
        Ok(Rendered { query: renamed.or_else(|| query.map(str::to_owned)), body })
    }
}

impl PromptInfo for RequestBody<'_> {
    fn tokens(&self) -> u64 {
        self.size as u64 / 4
    }

    fn has_image(&self) -> bool {
        let json = self.json.as_ref().filter(|_| self.location != Location::Whole);
        json.is_some_and(|json| *self.has_image.get_or_init(|| json.has_image()))
    }
}
