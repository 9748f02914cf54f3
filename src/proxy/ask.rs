//! What a client asks for: the model's name, where it stands, and the body with another name in its place.

use super::route::{Forward, Names};
use crate::http::request::Request;
use crate::model::failure::{Failure, Kind};
use crate::model::multipart::multipart;
use crate::model::peek::{self, Named};
use crate::model::plan::Wish;
use http::header;
use std::borrow::Cow;

/// A request understood as far as routing needs it.
pub struct Ask {
    named: Option<Named>,
    place: Place,
    /// The client wants a stream (`"stream": true`).
    pub stream: bool,
    optional: bool,
    /// The body is compressed: it goes on as it is where nothing needs to be read.
    pub sealed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Json,
    Form,
    Query,
    /// Nothing is looked for.
    Whole,
}

/// What goes out: the target's query and the body's parts.
pub struct Rendered<'a> {
    /// Query without `?`.
    pub query: Option<String>,
    body: [Cow<'a, [u8]>; 3],
}

impl Rendered<'_> {
    /// The body, to be sent one part after another.
    pub fn parts(&self) -> [&[u8]; 3] {
        [&self.body[0], &self.body[1], &self.body[2]]
    }
}

/// Looks into a request.
///
/// # Errors
/// 400 for a body that is not what the API takes, 404 for a path that needs a model to be known.
pub fn ask(request: &Request, forward: &Forward) -> Result<Ask, Failure> {
    let body = request.body.bytes();
    let query = request.head.target.query();
    let from_query = || query.map_or(Ok(None), peek::query_model);
    match forward.names {
        Names::Raw => {
            // Only whether it is a stream is of interest, and only of what can be understood.
            let stream = peek::json(body).is_ok_and(|peek| peek.stream);
            Ok(Ask { named: None, place: Place::Whole, stream, optional: true, sealed: false })
        }
        Names::Query | Names::QueryOnly => {
            Ok(Ask { named: from_query()?, place: Place::Query, stream: false, optional: true, sealed: false })
        }
        Names::Body | Names::BodyOnly if is_compressed(request) => {
            Ok(Ask { named: from_query()?, place: Place::Query, stream: false, optional: true, sealed: true })
        }
        Names::Body | Names::BodyOnly => {
            let must_name = forward.names == Names::BodyOnly;
            let ask = match in_body(request, body) {
                Ok(ask) => ask,
                Err(_) if must_name && from_query()?.is_none() => return Err(unknown_path()),
                Err(failure) => return Err(failure),
            };
            let ask = match (ask.named.is_some(), from_query()?) {
                (false, Some(named)) => Ask { named: Some(named), place: Place::Query, ..ask },
                _ => ask,
            };
            if must_name && ask.named.is_none() { Err(unknown_path()) } else { Ok(ask) }
        }
    }
}

fn field(request: &Request, name: header::HeaderName) -> String {
    request.head.fields.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).unwrap_or_default()
}

fn is_compressed(request: &Request) -> bool {
    let coding = field(request, header::CONTENT_ENCODING);
    !coding.is_empty() && !coding.eq_ignore_ascii_case("identity")
}

/// 415 for a compressed body that would have to be read.
pub fn unreadable() -> Failure {
    let text = "A compressed request body cannot be read here, and its model decides where it goes; send it without \
                Content-Encoding, or name the model in the query (?model=).";
    Failure::new(Kind::NotJson, text)
}

fn in_body(request: &Request, body: &[u8]) -> Result<Ask, Failure> {
    let kind = field(request, header::CONTENT_TYPE);
    if kind.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("multipart/")) {
        return Ok(Ask {
            named: multipart(&kind, body)?,
            place: Place::Form,
            stream: false,
            optional: false,
            sealed: false,
        });
    }
    let peek = peek::json(body)?;
    Ok(Ask { named: peek.model, place: Place::Json, stream: peek.stream, optional: false, sealed: false })
}

fn unknown_path() -> Failure {
    Failure::new(Kind::PathNotFound, "Nothing is served at this path unless the body names a model.")
}

impl Ask {
    /// The name the client gave.
    pub fn name(&self) -> Option<&str> {
        self.named.as_ref().map(|named| named.name.as_str())
    }

    /// What to plan for.
    pub fn wish(&self) -> Wish<'_> {
        match self.name() {
            Some(name) => Wish::Named(name),
            None if self.place == Place::Whole => Wish::Raw,
            None if self.optional => Wish::Endpoint,
            None => Wish::Any,
        }
    }

    /// The request with `rename` in the place of the model's name; everything else stays as it was.
    pub fn render<'a>(&self, request: &'a Request, rename: Option<&str>) -> Rendered<'a> {
        let body = request.body.bytes();
        let query = request.head.target.query();
        let whole = || [Cow::Borrowed(body), Cow::Borrowed(&[][..]), Cow::Borrowed(&[][..])];
        let same = || query.map(str::to_owned);
        let (query, body) = match (rename, &self.named, self.place) {
            (Some(new), Some(named), Place::Query) => {
                (query.map(|q| peek::query_renamed(q, &named.span, new)), whole())
            }
            (Some(new), Some(named), Place::Json) => (same(), peek::renamed(body, &named.span, new)),
            (Some(new), Some(named), Place::Form) => (same(), peek::replaced(body, &named.span, new.into())),
            (Some(new), None, Place::Json) => (same(), peek::named_first(body, new)),
            (None, _, _) | (Some(_), None, Place::Form | Place::Query) | (_, _, Place::Whole) => (same(), whole()),
        };
        Rendered { query, body }
    }
}
