//! Which model a JSON body names and whether it wants a stream, read in passing: nothing else of the body is kept. Routes nothing.

pub use super::multipart::multipart;
pub use super::query::{query_model, query_renamed};

use super::failure::{Failure, Kind};
use super::scan::find;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// What the proxy needs to know of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peek {
    /// The model asked for; none when the body has no such field.
    pub model: Option<Named>,
    /// Whether the body says `"stream": true`.
    pub stream: bool,
}

/// A model's name, and where the body or query says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name, decoded.
    pub name: String,
    /// The raw value's place, in JSON with its quotes.
    pub span: Range<usize>,
}

/// Deepest nesting, the object itself included: what serde_json and nlohmann's users take for sane.
const DEPTH: usize = 128;

/// Longest model name that is looked at, in bytes as written: a name is copied, so it must not be as long as a body.
pub(super) const MAX_NAME: usize = 64 * 1024;

/// Reads a JSON body. The whole of it is checked against RFC 8259, since an upstream may be laxer than its neighbour.
pub fn json(body: &[u8]) -> Result<Peek, Failure> {
    let (mut model, mut stream) = (ModelMember::default(), false);
    each_member(text(body)?, |name, value| {
        if !model.take(name, value) && spells(name, "stream") {
            stream = value.get() == "true";
        }
    })?;
    let model = model.only()?.map(|raw| named(raw, body)).transpose()?;
    Ok(Peek { model, stream })
}

/// Calls `member` for every member of the outermost object; everything below is skipped without being built. Names are
/// raw as well: one with an unpaired surrogate is none of our business.
pub fn each_member<'a>(text: &'a str, member: impl FnMut(&'a RawValue, &'a RawValue)) -> Result<(), Failure> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = reader.deserialize_map(Outermost(member)).and_then(|()| reader.end());
    read.map_err(|error| invalid(&format!("The body is not JSON: {error}.")))
}

/// The member `model`. Servers that match names without case take `Model` for it, and the last of several: no body may
/// say it in two ways.
#[derive(Default)]
pub(super) struct ModelMember<'a> {
    value: Option<&'a RawValue>,
    spellings: usize,
}

impl<'a> ModelMember<'a> {
    /// Whether this member is called `model`, in upper or lower case.
    pub fn take(&mut self, name: &RawValue, value: &'a RawValue) -> bool {
        let is_model = plain(name, "model").is_some_and(|name| name.eq_ignore_ascii_case("model"));
        if is_model {
            self.spellings += 1;
            self.value = self.value.or(spells(name, "model").then_some(value));
        }
        is_model
    }

    /// Its value, if there is one.
    ///
    /// # Errors
    /// There are several, or one that only some servers find.
    pub fn only(self) -> Result<Option<&'a RawValue>, Failure> {
        match (self.spellings, self.value) {
            (0, _) | (1, Some(_)) => Ok(self.value),
            (1, None) => {
                Err(invalid("The body writes `model` with capital letters: write it in lower case.").param("model"))
            }
            _ => Err(invalid("The body names `model` more than once.").param("model")),
        }
    }
}

/// The text of a body that may be a JSON object of sane depth.
pub(super) fn text(body: &[u8]) -> Result<&str, Failure> {
    if body.is_empty() {
        return Err(invalid("The request body is empty: send a JSON object."));
    }
    // RFC 8259 8.1: a sender adds none, and a parser that skips it sees another body than one that does not.
    if [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff"].iter().any(|mark| body.starts_with(mark)) {
        return Err(invalid("The body starts with a byte order mark: send UTF-8 without one."));
    }
    let text = str::from_utf8(body)
        .map_err(|error| invalid(&format!("The body is not valid UTF-8 at byte {}.", error.valid_up_to())))?;
    if text.trim_ascii_start().as_bytes().first() != Some(&b'{') {
        return Err(invalid("The body is not a JSON object: it does not start with `{`."));
    }
    if is_deep(body) {
        return Err(invalid("The body is nested deeper than 128 levels."));
    }
    Ok(text)
}

/// The body with the JSON text at `span` replaced by `name`: three pieces to send one after another.
pub fn renamed<'a>(body: &'a [u8], span: &Range<usize>, name: &str) -> [Cow<'a, [u8]>; 3] {
    let quoted = serde_json::Value::from(name).to_string();
    replaced(body, span, quoted.into_bytes())
}

/// The body with the bytes at `span` replaced, as for a form's field, which has no quotes.
pub fn replaced<'a>(body: &'a [u8], span: &Range<usize>, new: Vec<u8>) -> [Cow<'a, [u8]>; 3] {
    [Cow::Borrowed(&body[..span.start]), Cow::Owned(new), Cow::Borrowed(&body[span.end..])]
}

/// A body without `model` with `name` as its first member. It is an object: that was checked when it was peeked at.
pub fn named_first<'a>(body: &'a [u8], name: &str) -> [Cow<'a, [u8]>; 3] {
    let open = body.iter().position(|&byte| byte == b'{').map_or(0, |at| at + 1);
    let is_empty = body[open..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
    let member = format!("\"model\":{}{}", serde_json::Value::from(name), if is_empty { "" } else { "," });
    replaced(body, &(open..open), member.into_bytes())
}

fn invalid(message: &str) -> Failure {
    Failure::new(Kind::InvalidBody, message)
}

fn named(raw: &RawValue, body: &[u8]) -> Result<Named, Failure> {
    let raw = raw.get();
    let what = match raw.as_bytes()[0] {
        b'"' if raw.len() <= MAX_NAME => {
            let start = raw.as_ptr() as usize - body.as_ptr() as usize;
            // The grammar was checked, so only half of a surrogate pair is left to go wrong.
            let name = serde_json::from_str(raw)
                .map_err(|_| invalid("`model` holds an unpaired surrogate, which no name has.").param("model"))?;
            return Ok(Named { name, span: start..start + raw.len() });
        }
        b'"' => "shorter",
        b'[' => "text, not a list",
        b'{' => "text, not an object",
        b'n' => "text, not null; leave it out to get the default",
        b't' | b'f' => "text, not a boolean",
        _ => "text, not a number",
    };
    Err(invalid(&format!("`model` must be {what}.")).param("model"))
}

/// Whether brackets are open beyond the limit. serde_json skips values without recursion and without a bound, but
/// upstreams build trees; so this runs first, on text that may still turn out not to be JSON.
fn is_deep(body: &[u8]) -> bool {
    let mut depth = 0usize;
    let mut rest = body;
    // One bit apart: `[` and `{`, `]` and `}`.
    while let Some(at) = find(rest, |byte| (byte == b'"') | (byte | 0x20 == b'{') | (byte | 0x20 == b'}')) {
        let byte = rest[at];
        rest = &rest[at + 1..];
        match byte {
            b'"' => rest = after_string(rest),
            b'[' | b'{' if depth == DEPTH => return true,
            b'[' | b'{' => depth += 1,
            _ => depth = depth.saturating_sub(1),
        }
    }
    false
}

fn after_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = find(rest, |byte| (byte == b'"') | (byte == b'\\')) {
        let escape = rest[at] == b'\\';
        rest = rest.get(at + 1 + usize::from(escape)..).unwrap_or_default();
        if !escape {
            return rest;
        }
    }
    &[]
}

/// Visits the outermost object.
struct Outermost<F>(F);

impl<'a, F: FnMut(&'a RawValue, &'a RawValue)> Visitor<'a> for Outermost<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry()? {
            (self.0)(name, value);
        }
        Ok(())
    }
}

/// Whether a raw JSON string says `word`, with or without escapes.
pub fn spells(raw: &RawValue, word: &str) -> bool {
    plain(raw, word).is_some_and(|name| name == word)
}

/// A raw JSON string without its escapes, if it may be as long as `word`.
fn plain<'a>(raw: &'a RawValue, word: &str) -> Option<Cow<'a, str>> {
    let raw = raw.get();
    let text = &raw[1..raw.len() - 1];
    // With each letter as `\u0061` the word is six times as long; nothing longer is worth decoding.
    match text.len() {
        length if length > word.len() * 6 => None,
        _ if text.contains('\\') => serde_json::from_str(raw).ok().map(Cow::Owned),
        _ => Some(Cow::Borrowed(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(body: &str) -> Option<String> {
        json(body.as_bytes()).expect(body).model.map(|named| named.name)
    }

    fn refusal(body: impl AsRef<[u8]>) -> Failure {
        let failure = json(body.as_ref()).expect_err("refused");
        assert_eq!(failure.kind, Kind::InvalidBody);
        failure
    }

    #[test]
    fn model_and_stream_are_found_wherever_they_stand() {
        let body = r#" { "a" : {"model":"no"}, "messages":[{"model":"no","stream":true}], "model"	:\n"m/x-1", "stream" : true } "#;
        let body = body.replace("\\t", "\t").replace("\\n", "\n");
        let peek = json(body.as_bytes()).unwrap();
        let named = peek.model.expect("model");
        assert_eq!((named.name.as_str(), &body[named.span], peek.stream), ("m/x-1", "\"m/x-1\"", true));
        assert_eq!(model(r#"{"\u006do\u0064el":"\u00e9\/\ud83d\ude00\n"}"#), Some("é/😀\n".into()));
        assert_eq!(model(r#"{"model":""}"#), Some(String::new()));
        assert!(json(br#"{"str\u0065am":true}"#).unwrap().stream);
        for other in ["false", "null", "1", "\"true\"", "[true]"] {
            assert!(!json(format!("{{\"stream\":{other}}}").as_bytes()).unwrap().stream, "{other}");
        }
    }

    // B3: whether a missing model is served is for the router to say.
    #[test]
    fn a_missing_model_is_no_error_here() {
        for body in ["{}", r#"{"models":"x","Models":"x","mode":"x","model ":"x","model\"":"x","\u006d":1}"#] {
            assert_eq!(model(body), None);
        }
    }

    // B1
    #[test]
    fn what_is_not_one_json_object_is_refused() {
        for body in [
            "",
            " ",
            "hello",
            "{",
            "}",
            "{}x",
            "{} {}",
            "{}{}",
            "{},",
            "null",
            "3",
            "\"x\"",
            "{]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "{a:1}",
            "{'a':1}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":.5}",
            "{\"a\":+1}",
            "{\"a\":-}",
            "{\"a\":1e}",
            "{\"a\":NaN}",
            "{\"a\":tru}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u12g4\"}",
            "{\"a\":\"\n\"}",
            "{\"a\":\"\0\"}",
            "{\"a\":\"b}",
            "{\"a\":[1 2]}",
            "{\"a\":[1,]}",
            "{\"a\":1 \"b\":2}",
            "{1:2}",
            "{null:1}",
            "{}\0",
            "\0{}",
            "\u{c}{}",
            "{}\u{a0}",
            "// c\n{}",
            "{/**/}",
            "{\"a\":{\"b\":[{]}}",
            "a=b&model=c",
        ] {
            assert_eq!(refusal(body).param, None, "{body:?}");
        }
        assert!(refusal("").message.contains("empty"));
        assert!(refusal("{\"a\":1 2}").message.contains("line 1 column 8"));
    }

    // B2, U27
    #[test]
    fn two_models_are_refused_however_they_are_spelled() {
        let escaped = ["\\u006dodel", "mod\\u0065l", "\\u006D\\u006F\\u0064\\u0065\\u006C"];
        let cased = ["Model", "MODEL", "mODEl", "\\u004dodel", "\\u004D\\u004F\\u0044\\u0045\\u004C"];
        for second in ["model"].iter().chain(&escaped).chain(&cased) {
            for value in ["\"a\"", "null", "{}"] {
                for body in [
                    format!("{{\"model\":\"a\",\"{second}\":{value}}}"),
                    format!("{{\"{second}\":{value},\"x\":[],\"model\":\"a\"}}"),
                ] {
                    let failure = refusal(&body);
                    assert_eq!(failure.param, Some("model"), "{body}");
                    assert!(failure.message.contains("`model` more than once"));
                }
            }
        }
    }

    // U27: what has no `model` for us has one for servers that match without case, and it was not looked at.
    #[test]
    fn a_model_with_capital_letters_is_refused() {
        for name in ["Model", "MODEL", "mod\\u0045l"] {
            assert_eq!(refusal(format!("{{\"{name}\":\"a\"}}")).param, Some("model"), "{name}");
        }
    }

    // B3
    #[test]
    fn a_model_is_text() {
        let kinds = [
            ("1", "number"),
            ("-1.5e3", "number"),
            ("null", "null"),
            ("true", "boolean"),
            ("[\"m\"]", "list"),
            ("{}", "object"),
        ];
        for (value, kind) in kinds {
            let failure = refusal(format!("{{\"model\": {value} }}"));
            assert!(failure.message.contains(kind) && failure.param == Some("model"), "{value}");
        }
        assert_eq!(model(&format!("{{\"model\":\"{}\"}}", "a".repeat(10_000))).map(|name| name.len()), Some(10_000));
        assert_eq!(refusal(format!("{{\"model\":\"{}\"}}", "a".repeat(MAX_NAME))).param, Some("model"));
    }

    // B4
    #[test]
    fn a_list_is_no_request() {
        assert!(refusal("[\"m\",true]").message.contains("not a JSON object"));
    }

    // B5
    #[test]
    fn a_missing_model_becomes_the_first_member() {
        let with = |body: &str| String::from_utf8(named_first(body.as_bytes(), "m").concat()).expect("UTF-8");
        assert_eq!(with(r#" {"a": {"model": 1}}"#), r#" {"model":"m","a": {"model": 1}}"#);
        assert_eq!(with("{ \n}"), "{\"model\":\"m\" \n}");
    }

    #[test]
    fn depth_is_bounded_and_costs_no_stack() {
        let nested = |open: &str, close: &str, depth: usize| {
            format!("{{\"a\":{}1{}}}", open.repeat(depth - 1), close.repeat(depth - 1))
        };
        for (open, close) in [("[", "]"), ("{\"b\":", "}"), ("[\"[{\\\"[\",", "]")] {
            assert!(json(nested(open, close, 128).as_bytes()).is_ok());
            assert!(refusal(nested(open, close, 129)).message.contains("deeper"));
            assert!(refusal(nested(open, close, 1_000_000)).message.contains("deeper"));
        }
        assert!(json(format!("{{\"a\":[{}1]}}", "[],{},".repeat(10_000)).as_bytes()).is_ok());
        assert!(json(format!("{{\"a\":\"{}\"}}", "[{\\\"".repeat(1000)).as_bytes()).is_ok());
        refusal("]".repeat(200) + &"[".repeat(100));
    }

    // B7
    #[test]
    fn text_is_utf_8_and_half_a_character_is_no_model() {
        let failure = refusal(b"{\"model\":\"a\",\"x\":\"\xff\"}");
        assert!(failure.message.contains("UTF-8 at byte 18"));
        refusal(b"{\"model\":\"a\"}\xc3");
        refusal(b"{\"a\":\"\xed\xa0\x80\"}");
        for half in ["\\ud800", "\\udc00", "\\ud800x", "\\ud800\\ud800", "\\udc00\\ud800"] {
            assert_eq!(refusal(format!("{{\"model\":\"{half}\"}}")).param, Some("model"));
            let elsewhere = format!("{{\"{half}\":\"{half}\",\"model\":\"m\",\"model{half}\":[\"{half}\"]}}");
            assert_eq!(model(&elsewhere), Some("m".into()));
        }
    }

    // B8
    #[test]
    fn a_byte_order_mark_is_named() {
        for mark in [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff"] {
            assert!(refusal([mark, b"{\"model\":\"a\"}"].concat()).message.contains("byte order mark"));
        }
    }

    #[test]
    fn renaming_leaves_every_other_byte_alone() {
        let before = r#"{"n":12345678901234567890123, "m":{"model":"a"},"\ud800":1.0e+00 , "mod\u0065l" :  "#;
        let after = "\r\n,\"x\" : \"\\u0041\u{e9}\\ud800\",\"model \":\"a\" }\n";
        for name in ["b", "", "a\"b\\c\n\u{1}é😀"] {
            let body = format!("{before}\"\\u0061\"{after}");
            let peek = json(body.as_bytes()).unwrap();
            let pieces = renamed(body.as_bytes(), &peek.model.unwrap().span, name);
            assert_eq!((&*pieces[0], &*pieces[2]), (before.as_bytes(), after.as_bytes()));
            let whole = String::from_utf8(pieces.concat()).unwrap();
            assert_eq!(model(&whole), Some(name.into()));
        }
    }
}
