//! What a client asks for: the model's name, where it stands, and the body with another name in its place.

use super::route::{Forward, Names};
use crate::http::request::Request;
use crate::model::failure::{Failure, Kind};
use crate::model::multipart::multipart;
use crate::model::peek::{self, Named};
use crate::model::plan::Wish;
use http::header;

/// A request understood as far as routing needs it.
pub struct Ask {
    named: Option<Named>,
    place: Place,
    /// The client wants a stream (`"stream": true`).
    pub stream: bool,
    optional: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Json,
    Form,
    Query,
}

/// What goes out: the target's query and the body's parts.
pub struct Rendered<'a> {
    /// Query without `?`.
    pub query: Option<String>,
    before: &'a [u8],
    middle: String,
    after: &'a [u8],
}

impl Rendered<'_> {
    /// The body, to be sent one part after another.
    pub fn parts(&self) -> [&[u8]; 3] {
        [self.before, self.middle.as_bytes(), self.after]
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
        Names::Query | Names::QueryOnly => {
            Ok(Ask { named: from_query()?, place: Place::Query, stream: false, optional: true })
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

fn in_body(request: &Request, body: &[u8]) -> Result<Ask, Failure> {
    let field = |name: &header::HeaderName| {
        request.head.fields.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).unwrap_or_default()
    };
    let coding = field(&header::CONTENT_ENCODING);
    if !coding.is_empty() && !coding.eq_ignore_ascii_case("identity") {
        let text = "A compressed request body cannot be read here; send it without Content-Encoding.";
        return Err(Failure::new(Kind::InvalidBody, text));
    }
    let kind = field(&header::CONTENT_TYPE);
    if kind.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("multipart/")) {
        return Ok(Ask { named: multipart(&kind, body)?, place: Place::Form, stream: false, optional: false });
    }
    let peek = peek::json(body)?;
    Ok(Ask { named: peek.model, place: Place::Json, stream: peek.stream, optional: false })
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
            None if self.optional => Wish::Endpoint,
            None => Wish::Any,
        }
    }

    /// The request with `rename` in the place of the model's name; everything else stays as it was.
    pub fn render<'a>(&self, request: &'a Request, rename: Option<&str>) -> Rendered<'a> {
        let body = request.body.bytes();
        let query = request.head.target.query();
        let kept = Rendered { query: query.map(str::to_owned), before: body, middle: String::new(), after: &[] };
        let Some(new) = rename else {
            return kept;
        };
        match (self.place, &self.named) {
            (Place::Query, Some(named)) => {
                Rendered { query: query.map(|q| peek::query_renamed(q, &named.span, new)), ..kept }
            }
            (Place::Json, Some(named)) => {
                let middle = serde_json::Value::from(new).to_string();
                Rendered { before: &body[..named.span.start], middle, after: &body[named.span.end..], ..kept }
            }
            (Place::Form, Some(named)) => Rendered {
                before: &body[..named.span.start],
                middle: new.to_owned(),
                after: &body[named.span.end..],
                ..kept
            },
            (Place::Json, None) => {
                // The body is an object, checked when it was looked into: the name becomes its first member.
                let open = body.iter().position(|&b| b == b'{').map_or(0, |at| at + 1);
                let empty = body[open..].iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'}');
                let name = serde_json::Value::from(new);
                let middle = format!("\"model\":{name}{}", if empty { "" } else { "," });
                Rendered { before: &body[..open], middle, after: &body[open..], ..kept }
            }
            (Place::Form | Place::Query, None) => kept,
        }
    }
}
