//! What must hold for any bytes a client can send. Shared by the fuzz targets and `tests/framing_fuzz.rs`.

use llmproxy::http::body::{Decoder, Progress};
use llmproxy::http::head::{Framing, Head, Limits, Parser};
use llmproxy::model::failure::Failure;
use llmproxy::model::peek;
use llmproxy::upstream::response::Response;
use serde_json::Value;

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
    let peek = peek::json(data);
    let value = serde_json::from_slice(data);
    match (&peek, value) {
        (Ok(peek), Ok(Value::Object(fields))) => {
            assert_eq!(
                peek.model.as_ref().map(|model| model.name.as_str()),
                fields.get("model").and_then(Value::as_str)
            );
            assert_eq!(peek.stream, fields.get("stream") == Some(&Value::Bool(true)));
        }
        (Ok(peek), Ok(other)) => panic!("{peek:?} from {other:?}"),
        // Only what `model` may be is stricter here than JSON.
        (Err(failure), Ok(Value::Object(_))) => assert_eq!(failure.param, Some("model")),
        _ => {}
    }
    if let Ok(Some(model)) = peek.map(|peek| peek.model) {
        assert_eq!(serde_json::from_slice(&data[model.span]).ok(), Some(model.name));
    }
    if let Ok(Some(model)) = peek::multipart("multipart/form-data; boundary=b", data) {
        assert_eq!(&data[model.span], model.name.as_bytes());
    }
    let text = String::from_utf8_lossy(data);
    if let Ok(Some(model)) = peek::query_model(&text) {
        let renamed = peek::query_renamed(&text, &model.span, &model.name);
        assert_eq!(peek::query_model(&renamed).expect("as sound as before").expect("there").name, model.name);
    }
}

/// Renaming changes the name and not one other byte. The new name stands before the first NUL, the body after it.
pub fn rename(data: &[u8]) {
    let (name, body) = data.split_at(data.iter().position(|byte| *byte == 0).unwrap_or(0));
    let body = body.strip_prefix(&[0]).unwrap_or(body);
    let name = String::from_utf8_lossy(name);
    let Ok(before) = peek::json(body) else { return };
    let Some(model) = before.model else { return };
    let pieces = peek::renamed(body, &model.span, &name);
    assert_eq!((&*pieces[0], &*pieces[2]), (&body[..model.span.start], &body[model.span.end..]));
    let after = peek::json(&pieces.concat()).expect("as sound as before");
    let model = after.model.expect("still there");
    assert_eq!((model.name.as_str(), model.span.len(), after.stream), (&*name, pieces[1].len(), before.stream));
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
