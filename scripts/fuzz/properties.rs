//! What must hold for any bytes a client can send, or somebody can write into the file of routes. Shared by the fuzz targets and `tests/framing_fuzz.rs`.

use llmproxy::api::answer::IdReader;
use llmproxy::api::body::{JsonBody, WEBHOOK};
use llmproxy::api::chunked::{Decoder, Progress};
use llmproxy::api::errors::Failure;
use llmproxy::api::model_list::{MAX_MODELS, list_of};
use llmproxy::api::{edit, multipart, query};
use llmproxy::config::{Config, Edits, Webhooks, dotenv, load};
use llmproxy::http::head::{Framing, Head, Limits, Parser};
use llmproxy::jobs::validate;
use llmproxy::routing::affinity::{Affinity, PrefixHashes};
use llmproxy::upstream::response::Response;
use serde_json::{Value, json};

/// Small, so that the bounds are met.
pub const LIMITS: Limits = Limits { target: 256, head: 4096, fields: 16, body: 2000 };

/// A head means the same however it is cut into packets, and a served one has exactly one reading.
pub fn head(data: &[u8]) {
    let at_once = Parser::default().parse(data, &LIMITS);
    let mut parser = Parser::default();
    let grown = (0..=data.len()).map(|end| parser.parse(&data[..end], &LIMITS)).find(|result| *result != Ok(None));
    assert_eq!(at_once, grown.unwrap_or(Ok(None)));
    match at_once {
        Ok(Some((head, length))) => served(&head, &data[..length]),
        Ok(None) => assert!(data.len() <= LIMITS.head && !data.windows(4).any(|end| end == b"\r\n\r\n")),
        Err(failure) => assert!((400..=505).contains(&failure.kind.status())),
    }
}

fn served(head: &Head, text: &[u8]) {
    assert!(text.ends_with(b"\r\n\r\n") && text.len() <= LIMITS.head);
    assert!(text.iter().all(|byte| !byte.is_ascii_control() || b"\t\r\n".contains(byte)));
    assert!(text.split(|byte| *byte == b'\n').rev().skip(1).all(|line| line.ends_with(b"\r")));
    let length: Vec<_> = head.fields.all("content-length").map(|value| value.to_str().expect("digits")).collect();
    let coding: Vec<_> = head.fields.all("transfer-encoding").collect();
    match head.framing {
        Framing::None => assert!(length.is_empty() && coding.is_empty()),
        Framing::Sized(size) => {
            assert!(length == [length[0]] && length[0].parse() == Ok(size) && size <= LIMITS.body && coding.is_empty())
        }
        Framing::Chunked => assert!(length.is_empty() && coding == ["chunked"]),
    }
    let path = head.target.canonical();
    assert!(path == "*" || path.starts_with('/') && path.split('/').all(|part| part != "." && part != ".."));
    assert!(head.target.as_str().len() <= LIMITS.target + 1 && head.fields.iter().count() <= LIMITS.fields);
}

/// A body means the same however it is cut, never takes much more room than it has bytes, and chunks join to what was cut.
pub fn body(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let framing = match first {
        0..200 => Framing::Chunked,
        200..250 => Framing::Sized(u64::from(*first) * 9),
        _ => Framing::None,
    };
    let (result, out) = decoded(framing, &[rest]);
    let bytes: Vec<_> = rest.chunks(1).collect();
    let pieces: Vec<_> = rest.chunks(usize::from(*first) + 1).collect();
    assert_eq!((&result, &out), (&decoded(framing, &bytes).0, &decoded(framing, &bytes).1));
    assert_eq!((result, out), decoded(framing, &pieces));

    let payload = &rest[..rest.len().min(2000)];
    let mut chunks = Vec::new();
    for (count, piece) in payload.chunks(usize::from(*first) + 1).enumerate() {
        let extension = if count % 3 == 1 { ";x=\"0\"" } else { "" };
        chunks.extend_from_slice(format!("{:0width$X}{extension}\r\n", piece.len(), width = count % 17).as_bytes());
        chunks.extend_from_slice(piece);
        chunks.extend_from_slice(b"\r\n");
    }
    chunks.extend_from_slice(b"0\r\nA: b\r\n\r\n");
    let length = chunks.len();
    chunks.extend_from_slice(payload);
    let (result, out) = decoded(Framing::Chunked, &[&chunks]);
    assert_eq!((result, &out[..]), (Ok(Progress { consumed: length, complete: true }), payload));
}

fn decoded(framing: Framing, pieces: &[&[u8]]) -> (Result<Progress, Failure>, Vec<u8>) {
    let mut decoder = Decoder::new(framing, 2000);
    let mut out = Vec::new();
    let mut total = Progress { consumed: 0, complete: false };
    for piece in [&b""[..]].iter().chain(pieces) {
        match decoder.feed(piece, &mut out) {
            Ok(progress) => total = Progress { consumed: total.consumed + progress.consumed, ..progress },
            Err(failure) => return (Err(failure), out),
        }
        assert!(out.len() <= 2000 && out.capacity() <= out.len() + out.len() / 2);
        if total.complete {
            break;
        }
    }
    (Ok(total), out)
}

/// Nothing in a body or query can do more than be refused, and what is found is what serde_json finds.
pub fn peek(data: &[u8]) {
    let peek = JsonBody::read(data).and_then(|json| Ok((json.model()?, json.stream())));
    let value = serde_json::from_slice(data);
    match (&peek, value) {
        (Ok((model, stream)), Ok(Value::Object(fields))) => {
            assert_eq!(model.as_ref().map(|model| model.name.as_str()), fields.get("model").and_then(Value::as_str));
            assert_eq!(*stream, fields.get("stream") == Some(&Value::Bool(true)));
        }
        (Ok(peek), Ok(other)) => panic!("{peek:?} from {other:?}"),
        // Only what `model` may be is stricter here than JSON.
        (Err(failure), Ok(Value::Object(_))) => assert_eq!(failure.param, Some("model")),
        _ => {}
    }
    if let Ok((Some(model), _)) = peek {
        assert_eq!(serde_json::from_slice(&data[model.span]).ok(), Some(model.name));
    }
    let text = String::from_utf8_lossy(data);
    if let Ok(Some(model)) = query::query_model(&text) {
        let renamed = query::query_renamed(&text, &model.span, &model.name);
        assert_eq!(query::query_model(&renamed).expect("as sound as before").expect("there").name, model.name);
    }
}

/// A form names one model, whatever stands around the form, and its name can be replaced in place.
pub fn multipart(data: &[u8]) {
    let read = |form: &[u8]| multipart::multipart("multipart/form-data; boundary=b", form);
    let Ok(found) = read(data) else { return };
    let around = [b"preamble\r\n", data, b"\r\nepilogue"].concat();
    let name = found.as_ref().map(|model| &model.name);
    assert_eq!(read(&around).expect("as sound as before").as_ref().map(|model| &model.name), name);
    let Some(model) = found else { return };
    assert_eq!(&data[model.span.clone()], model.name.as_bytes());
    let renamed = edit::parts(data, vec![(model.span.clone(), b"other".to_vec())]).concat();
    assert_eq!(read(&renamed).expect("as sound as before").expect("still there").name, "other");
}

/// What a job's body says is what serde_json finds, its webhook goes and nothing else, and what passes can run.
pub fn members(data: &[u8]) {
    let Ok(members) = JsonBody::read(data) else { return };
    if members.check_once().is_err() {
        return;
    }
    let details = validate::check("/v1/chat/completions", &members, &Webhooks::default());
    assert!(details.len() < 100 && validate::refusal(&details).is_object());
    let rest = members.without_webhook().concat();
    let again = JsonBody::read(&rest).expect("as sound as before");
    assert!(again.get(WEBHOOK).is_none() && rest.len() <= data.len());
    // Numbers beyond any range and halves of characters are no matter for us, but for serde_json.
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(data) else { return };
    for name in ["model", "messages", "temperature", WEBHOOK] {
        let found = members.get(name).and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
        assert_eq!(found.as_ref(), fields.get(name), "{name}");
    }
    if details.is_empty() {
        assert!(fields.get("model").is_none_or(Value::is_string));
        let messages = fields["messages"].as_array().expect("a list");
        assert!(!messages.is_empty() && messages.iter().all(|message| message["role"].is_string()));
    }
    fields.remove(WEBHOOK);
    assert_eq!(serde_json::from_slice::<Value>(&rest).expect("as sound as before"), Value::Object(fields));
}

/// Every variable of a `.env` file stands in one line of it, with a name and a value.
pub fn environment(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let variables = dotenv(&text);
    assert!(variables.len() <= text.lines().count());
    for (name, value) in variables {
        assert!(!name.is_empty() && !name.starts_with('#') && !name.contains(['=', '\n']));
        assert!(text.lines().any(|line| line.contains(&name) && line.contains(&value)), "{name}");
    }
}

/// Renaming changes the name and not one other byte. The new name stands before the first NUL, the body after it.
pub fn rename(data: &[u8]) {
    let (name, body) = data.split_at(data.iter().position(|byte| *byte == 0).unwrap_or(0));
    let body = body.strip_prefix(&[0]).unwrap_or(body);
    let name = String::from_utf8_lossy(name);
    let Ok(before) = JsonBody::read(body) else { return };
    let Ok(Some(model)) = before.model() else { return };
    let pieces = before.edited(Some(&name), &[], false).expect("one change");
    assert_eq!((&*pieces[0], &*pieces[2]), (&body[..model.span.start], &body[model.span.end..]));
    let renamed = pieces.concat();
    let after = JsonBody::read(&renamed).expect("as sound as before");
    let model = after.model().expect("as sound as before").expect("still there");
    assert_eq!((model.name.as_str(), model.span.len(), after.stream()), (&*name, pieces[1].len(), before.stream()));
}

/// Edits in place make of a body what they would make of its value, and what they do not concern is there byte for byte.
pub fn edits(data: &[u8]) {
    let members = |value: &Value| value.as_object().expect("an object").clone();
    let given = Edits {
        set: members(&json!({"a": [1, "\u{e9}"], "k.e": false})),
        default: members(&json!({"b": null, "k.f": {}})),
        remove: vec!["c".into(), "k.g".into()],
    };
    let all = edit::merged(&given, None);
    let Ok(Ok(parts)) = JsonBody::read(data).map(|body| body.edited(None, &all, true)) else { return };
    let edited = parts.concat();
    let again =
        JsonBody::read(&edited).expect("as sound as before").edited(None, &all, true).expect("as few as before");
    assert_eq!(again.concat(), edited, "edits that were made change no more");
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(data) else { return };
    fields.insert("a".into(), json!([1, "\u{e9}"]));
    fields.entry("b").or_insert(Value::Null);
    fields.remove("c");
    let inner = fields.entry("k").or_insert(json!({}));
    if !inner.is_object() {
        *inner = json!({});
    }
    let inner = inner.as_object_mut().expect("made one above");
    inner.insert("e".into(), json!(false));
    inner.entry("f").or_insert(json!({}));
    inner.remove("g");
    let text = |body: &[u8]| String::from_utf8_lossy(body).contains("x-anthropic-billing-header:");
    if !text(data) {
        assert_eq!(serde_json::from_slice::<Value>(&edited).expect("as sound as before"), Value::Object(fields));
    }
}

/// What a conversation is recognised by does not depend on how it is written down, outlives the next turn, and takes no
/// notice of the line that differs in every request of Claude Code.
pub fn chain(data: &[u8]) {
    let affinity = Affinity::default();
    let hashes = |body: &[u8]| affinity.hashes(JsonBody::read(body).ok().as_ref(), "m", std::iter::empty());
    let found = hashes(data);
    assert!(found.links.len() <= 256 && found.session_keys.len() <= 3);
    // A repeated member counts in the bytes, but not in the value.
    let Ok(mut value @ Value::Object(_)) = serde_json::from_slice::<Value>(data) else { return };
    let of = |value: &Value| hashes(value.to_string().as_bytes());
    let before = of(&value);
    assert_eq!(before, hashes(serde_json::to_string_pretty(&value).expect("a value").as_bytes()));
    let system = value.get("system").and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    if let Some(system) = system {
        value["system"] = json!(format!("x-anthropic-billing-header: cch={};\n{system}", data.len()));
        assert_eq!(of(&value), before);
    }
    if let Some(messages) = value.get_mut("messages").and_then(Value::as_array_mut)
        && messages.len() < 200
    {
        messages.push(json!({"role": "user", "content": "the next turn"}));
        let PrefixHashes { links, session_keys } = of(&value);
        assert_eq!((&links[..before.links.len()], session_keys), (&before.links[..], before.session_keys));
        assert_eq!(links.len(), before.links.len() + 1);
    }
}

/// What is kept of a list is bounded and can be shown, and an id is found however the answer is cut.
pub fn list(data: &[u8]) {
    let models = list_of(data).unwrap_or_default();
    assert!(models.len() <= MAX_MODELS);
    for model in &models {
        assert!(model.aliases.len() <= 8 && model.names().all(|name| !name.is_empty() && name.len() <= 512));
        assert!(model.created <= 1 << 53 && model.context != Some(0) && model.fields.len() <= 64);
        assert!(model.fields.iter().all(|(_, text)| serde_json::from_str::<Value>(text).is_ok()));
        assert!(model.fields.iter().map(|(key, text)| key.len() + text.len()).sum::<usize>() <= 4096);
    }
    let ids = |size| {
        let (mut reader, mut ids) = (IdReader::default(), Vec::new());
        data.chunks(size).for_each(|piece| reader.push(piece, |id| ids.push(id.to_owned())));
        ids
    };
    assert_eq!(ids(1), ids(data.len().max(1)));
}

/// A file of routes is read or refused with its name and without its keys; what the page would write of it, without its
/// comments, means the same.
pub fn routes(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = |text: &str| load::with_routes("r.json", text, &Config::default()).map(|loaded| loaded.config);
    match read(text) {
        Err(problems) => {
            assert!(!problems.is_empty() && problems.iter().all(|problem| problem.place.starts_with("r.json")));
            assert!(problems.iter().all(|problem| !problem.to_string().contains("canary")), "{problems:?}");
        }
        Ok(config) => {
            let Ok(value) = load::json(text) else { return };
            let written = serde_json::to_string_pretty(&value).expect("it was JSON");
            assert_eq!(read(&written), Ok(config));
        }
    }
}

/// An answer of an endpoint means the same however it is cut; what is passed on is bounded by what came; a whole one stays
/// whole when more follows, and what follows is passed on to nobody.
pub fn answer(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let is_head_request = *first == 0;
    let answered = |size: usize| {
        let (mut response, mut out) = (Response::new(is_head_request), Vec::new());
        let mut passed = Vec::new();
        for piece in rest.chunks(size) {
            response.feed(piece, &mut out);
            passed.push(out.len());
        }
        let said = (response.status(), response.broken(), response.is_done(), response.is_clean());
        response.close(&mut out);
        (said, body_of(&out), out.len())
    };
    let (said, body, length) = answered(rest.len().max(1));
    for size in [1, 2, 5, usize::from(*first) + 1] {
        let (again, again_body, _) = answered(size);
        assert_eq!((&again, &again_body), (&said, &body), "by {size}");
    }
    // A head as it came, data once, and the frame of one chunk for each read.
    assert!(length <= rest.len() + 2 * 20);
    if said.2 {
        let (mut response, mut out) = (Response::new(is_head_request), Vec::new());
        response.feed(rest, &mut out);
        let before = out.len();
        response.feed(b"HTTP/1.1 200 OK\r\n\r\nPOISON", &mut out);
        assert!(out.len() == before && !response.is_clean());
    }
}

/// The head, and the body without the frames of its chunks.
fn body_of(out: &[u8]) -> (Vec<u8>, Vec<u8>) {
    // Empty lines before a head are no end of it.
    let start = out.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(0);
    let end = out[start..].windows(4).position(|four| four == b"\r\n\r\n").map_or(out.len(), |at| start + at + 4);
    let (head, mut rest) = out.split_at(end);
    let lower = head.to_ascii_lowercase();
    let framed =
        |rest: &[u8]| rest.len() > 10 && rest[..8].iter().all(u8::is_ascii_hexdigit) && &rest[8..10] == b"\r\n";
    if !lower.windows(7).any(|word| word == b"chunked") || !(framed(rest) || rest == b"0\r\n\r\n") {
        return (head.to_vec(), rest.to_vec());
    }
    let mut body = Vec::new();
    while framed(rest) {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..8]).expect("digits"), 16).expect("a size");
        body.extend_from_slice(&rest[10..10 + size]);
        rest = &rest[12 + size..];
    }
    body.extend_from_slice(rest);
    (head.to_vec(), body)
}
