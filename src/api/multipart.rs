//! The `model` field of a multipart form (RFC 7578), found in place. Decodes no file and routes nothing.

use crate::api::body::{MAX_NAME, Named};
use crate::api::errors::{Failure, Kind};
use crate::api::scan::find_text;

/// Longest head of a part.
const MAX_HEAD: usize = 16 << 10;

/// The form's model and its place in the body; none when the form has no such field. What stands before the first
/// boundary and after the last one says nothing (RFC 2046 5.1.1).
/// Whatever two parsers could read differently is refused: the upstream must see the model that we see.
pub fn multipart(content_type: &str, body: &[u8]) -> Result<Option<Named>, Failure> {
    let boundary = boundary(content_type)?;
    let (boundary, dashes) = (boundary.as_bytes(), &boundary.as_bytes()[2..]);
    let start = find_text(body, dashes).ok_or_else(|| malformed("its boundary is missing"))?;
    if start > 0 && !body[..start].ends_with(b"\r\n") {
        return Err(malformed("its first boundary does not begin a line"));
    }
    let mut found = None;
    let mut at = start + dashes.len();
    loop {
        // Entry a boundary has just ended: two dashes end the form, a line end begins a part.
        if let Some(after) = body[at..].strip_prefix(b"--") {
            let after = padding(after);
            return match after.is_empty() || after.starts_with(b"\r\n") {
                true if find_text(after, dashes).is_none() => Ok(found),
                true => Err(malformed("a boundary follows its end")),
                false => Err(malformed("its last boundary is not followed by a line end")),
            };
        }
        at = body.len() - padding(&body[at..]).len();
        if !body[at..].starts_with(b"\r\n") {
            return Err(malformed("a boundary is not followed by a line end"));
        }
        let head = &body[at..body.len().min(at + MAX_HEAD)];
        let head = find_text(head, b"\r\n\r\n").ok_or_else(|| malformed("a part has no end of its head"))?;
        let (head, start) = (&body[at..at + head], at + head + 4);
        // The empty line may be the one that starts the next boundary, when a part has no content at all.
        let end = find_text(&body[start - 2..], boundary).ok_or_else(|| malformed("its last boundary is missing"))?
            + start
            - 2;
        if end < start {
            return Err(malformed("a part has no content"));
        }
        if find_text(head, boundary).is_some() {
            return Err(malformed("a boundary stands in the head of a part"));
        }
        if Part::parse(head)?.is_model()? {
            if found.is_some() {
                return Err(malformed("it has more than one `model`").param("model"));
            }
            found = Some(named(&body[start..end], start)?);
        }
        at = end + boundary.len();
    }
}

/// What follows the white space that may pad a boundary's line.
fn padding(text: &[u8]) -> &[u8] {
    let length = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    &text[length..]
}

fn malformed(what: &str) -> Failure {
    Failure::new(Kind::InvalidBody, format!("The multipart form is not well-formed: {what}."))
}

fn named(value: &[u8], start: usize) -> Result<Named, Failure> {
    if value.len() > MAX_NAME {
        return Err(malformed("`model` is too long").param("model"));
    }
    let name = str::from_utf8(value).map_err(|_| malformed("`model` is not UTF-8").param("model"))?;
    Ok(Named { name: name.to_owned(), span: start..start + value.len() })
}

/// What separates the parts: CR LF, two dashes and the boundary of the Content-Type (RFC 2046 5.1.1).
fn boundary(content_type: &str) -> Result<String, Failure> {
    let parameters = content_type.split_once(';').map_or("", |(_, rest)| rest);
    let mut values = parameters_of(parameters)?.into_iter().filter(|(name, _)| name == "boundary");
    let (Some((_, text)), None) = (values.next(), values.next()) else {
        return Err(malformed("its Content-Type does not give one boundary"));
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    if !(1..=70).contains(&text.len()) || !text.bytes().all(allowed) || text.ends_with(' ') {
        return Err(malformed("its boundary is not 1 to 70 of the letters allowed"));
    }
    Ok(format!("\r\n--{text}"))
}

/// What the head of a part says that matters here.
struct Part {
    name: String,
    is_file: bool,
    is_encoded: bool,
}

impl Part {
    /// Reads header lines, each with its CR LF in front.
    fn parse(head: &[u8]) -> Result<Self, Failure> {
        // File names come in whatever bytes a system has.
        let head = String::from_utf8_lossy(head);
        if head.replace("\r\n", "").contains(|letter: char| letter.is_ascii_control() && letter != '\t') {
            return Err(malformed("the head of a part holds a control character"));
        }
        let mut disposition = None;
        let mut is_encoded = false;
        for line in head.split("\r\n").skip(1) {
            let (name, value) =
                line.split_once(':').ok_or_else(|| malformed("the head of a part is not `name: value`"))?;
            if name.is_empty() || name.contains([' ', '\t']) {
                return Err(malformed("the head of a part is not `name: value`"));
            }
            if name.eq_ignore_ascii_case("content-transfer-encoding") {
                is_encoded |= !is_any(value, &["7bit", "8bit", "binary"]);
            }
            if name.eq_ignore_ascii_case("content-type") {
                // A charset in which other bytes make a name; one that cannot be read is no matter for a file.
                let parameters = value.split_once(';').map_or(Ok(Vec::new()), |(_, rest)| parameters_of(rest));
                let mut charsets = parameters.iter().flatten().filter(|(key, _)| key == "charset");
                is_encoded |= parameters.is_err() || charsets.any(|(_, value)| !is_any(value, &["utf-8", "us-ascii"]));
            }
            if name.eq_ignore_ascii_case("content-disposition") && disposition.replace(value).is_some() {
                return Err(malformed("a part has more than one Content-Disposition"));
            }
        }
        let disposition = disposition.ok_or_else(|| malformed("a part has no Content-Disposition"))?;
        let (kind, parameters) = disposition.split_once(';').unwrap_or((disposition, ""));
        let parameters = parameters_of(parameters)?;
        let mut names = parameters.iter().filter(|(key, _)| key == "name");
        // RFC 7578 4.2 forbids `name*`, and who reads it sees another name.
        let is_starred = parameters.iter().any(|(key, _)| key == "name*");
        match (names.next(), names.next()) {
            // A reader that takes every backslash for an escape would find the word, one that knows no case too.
            (Some((_, name)), None) if name != "model" && is_any(&name.replace(['\\', '"'], ""), &["model"]) => {
                Err(malformed("the name of a part imitates `model`").param("model"))
            }
            (Some((_, name)), None) if !is_starred && is_any(kind, &["form-data"]) => Ok(Self {
                name: name.clone(),
                is_file: parameters.iter().any(|(key, _)| key == "filename" || key == "filename*"),
                is_encoded,
            }),
            _ => Err(malformed("a part is not form-data with one name")),
        }
    }

    fn is_model(&self) -> Result<bool, Failure> {
        match self.name == "model" {
            true if self.is_file || self.is_encoded => {
                Err(malformed("`model` is not a plain text field").param("model"))
            }
            is_model => Ok(is_model),
        }
    }
}

fn is_any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.trim().eq_ignore_ascii_case(word))
}

/// `; name=value; name="value"`: names in lower case, values without quotes and escapes.
fn parameters_of(text: &str) -> Result<Vec<(String, String)>, Failure> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=').ok_or_else(|| malformed("a parameter has no value"))?;
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let (value, after) = value.split_at(value.find(';').unwrap_or(value.len()));
                (value.trim_end().to_owned(), after)
            }
        };
        // White space around `=` and quotes within a word are what parsers disagree about.
        if name.is_empty() || name.contains(char::is_whitespace) || value.starts_with(char::is_whitespace) {
            return Err(malformed("a parameter is not `name=value`"));
        }
        found.push((name.to_ascii_lowercase(), value));
        rest = match after.trim_start().strip_prefix(';') {
            Some(more) => more.trim(),
            None if after.trim().is_empty() => "",
            None => return Err(malformed("something follows a quoted parameter")),
        };
    }
    Ok(found)
}

/// The text up to the closing quote, and what follows it. A backslash is an escape before a quote or a backslash alone:
/// old browsers send the backslashes of Windows paths as they are.
fn unquoted(quoted: &str) -> Result<(String, &str), Failure> {
    let mut text = String::new();
    let mut letters = quoted.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        match (letter, letters.peek()) {
            ('"', _) => return Ok((text, &quoted[at + 1..])),
            ('\\', Some((_, next @ ('"' | '\\')))) => {
                text.push(*next);
                letters.next();
            }
            _ => text.push(letter),
        }
    }
    Err(malformed("a quoted parameter has no end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "multipart/form-data; boundary=b";

    fn form(parts: &[(&str, &str)]) -> String {
        let parts: String = parts.iter().map(|(head, value)| format!("--b\r\n{head}\r\n\r\n{value}\r\n")).collect();
        parts + "--b--\r\n"
    }

    fn field(name: &str) -> String {
        format!("Content-Disposition: form-data; name={name}")
    }

    fn model(body: &str) -> Result<Option<String>, u16> {
        let found = multipart(FORM, body.as_bytes()).map_err(|failure| failure.kind.status())?;
        Ok(found.map(|named| {
            assert_eq!(named.name, body[named.span]);
            named.name
        }))
    }

    #[test]
    fn the_model_field_is_found_among_others() {
        let file = "Content-Type: audio/wav\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a;name=\\\"model\\\".wav\"";
        let noise = "\r\n--\r\n--B\r\n --b\r\n--\0\r\r\n-";
        let look_alike = format!("{}\r\n\r\nno\r\n", field("\"model\""));
        for name in ["model", "\"model\"", "model ; x=y", "\"model\" ; x=\"\";"] {
            let parts = [
                (file, noise),
                (&field("\"language\""), &look_alike),
                (&field(name), "whisper-1"),
                (&field("models"), "x"),
            ];
            assert_eq!(model(&form(&parts)), Ok(Some("whisper-1".into())), "{name}");
            assert_eq!(model(&form(&parts[..2])), Ok(None));
        }
        assert_eq!(
            model(&form(&[("content-disposition:FORM-DATA;NAME=\"model\"\r\nContent-Type: text/plain", "")])),
            Ok(Some(String::new()))
        );
        assert_eq!(model(&format!("\r\n{}", form(&[(&field("model"), "\r\n")]))), Ok(Some("\r\n".into())));
        assert_eq!(model("--b--"), Ok(None));
    }

    #[test]
    fn a_boundary_may_be_quoted() {
        let body = form(&[(&field("model"), "m")]).replace("--b", "--a b");
        for content_type in
            ["multipart/form-data; boundary=\"a b\"", "Multipart/Form-Data;charset=\"utf-8\";BOUNDARY=\"a b\""]
        {
            assert_eq!(multipart(content_type, body.as_bytes()).unwrap().map(|named| named.name), Some("m".into()));
        }
        for content_type in [
            "",
            "; boundary=",
            "; boundary=\"b",
            "; boundary=b; boundary=b",
            "; boundary",
            "; boundary =b",
            "; boundary=b\u{e9}",
            "; boundary=\"b \"",
        ] {
            let content_type = format!("multipart/form-data{content_type}");
            assert!(multipart(&content_type, body.as_bytes()).is_err(), "{content_type}");
        }
        assert!(multipart(&format!("multipart/form-data; boundary={}", "b".repeat(71)), body.as_bytes()).is_err());
    }

    // R22
    #[test]
    fn what_stands_around_a_form_and_pads_its_boundaries_says_nothing() {
        let head = field("model");
        let ok = form(&[(&head, "m"), ("Content-Disposition: form-data; name=f; filename*=utf-8''%e2%82%ac.wav", "x")]);
        for body in [
            format!("This is a multi-part message.\r\n\r\n{ok}"),
            format!("\r\n\r\n{ok}"),
            format!("{ok}\r\n"),
            format!("{ok}\r\nan epilogue\r\n--\r\n"),
            format!("{ok}{}", "\r\n".repeat(100_000)),
            ok.trim_end().to_owned(),
            ok.replace("--b\r\n", "--b \t \r\n"),
            ok.replace("--b--\r\n", "--b--\t "),
            ok.replace("--b--\r\n", "--b-- \r\n\r\n"),
            ok.replace(&head, &format!("{head}\r\nContent-Type: text/plain; charset=UTF-8")),
            ok.replace(&head, &format!("{head}\r\nContent-Type: text/plain;charset=\"us-ascii\"")),
            ok.replace(";", " ;  "),
        ] {
            assert_eq!(model(&body), Ok(Some("m".into())), "{body:?}");
        }
    }

    // R22: each byte of a large file is looked at once.
    #[test]
    fn a_large_file_that_is_full_of_beginnings_is_no_work() {
        let noise = "\r\n--\r\n--a\r\n\r\n".repeat(100_000);
        let file = "Content-Disposition: form-data; name=f; filename=x";
        assert_eq!(model(&form(&[(file, &noise), (&field("model"), "m")])), Ok(Some("m".into())));
    }

    #[test]
    fn a_form_that_reads_in_two_ways_is_refused() {
        let (ok, head) = (form(&[(&field("model"), "m")]), field("model"));
        assert_eq!(model(&ok), Ok(Some("m".into())));
        for body in [
            form(&[(&head, "a"), (&head, "a")]),
            form(&[("Content-Type: text/plain", "m")]),
            form(&[(&format!("{head}\r\n{head}"), "m")]),
            form(&[(&format!("{head}; name=x"), "m")]),
            form(&[(&format!("{head}; filename=x"), "m")]),
            form(&[(&format!("{head}; name*=utf-8''x"), "m")]),
            form(&[(&format!("{head}\r\nContent-Transfer-Encoding: base64"), "m")]),
            form(&[(&format!("{head}\r\n folded"), "m")]),
            form(&[(&format!("{head}\r\nA : b"), "m")]),
            form(&[(&format!("{head}\nA: b"), "m")]),
            form(&[(&field("\"mod\\el\""), "m")]),
            form(&[(&field("mod\"el\""), "m")]),
            form(&[(&field(" model"), "m")]),
            form(&[(&field("\"model"), "m")]),
            form(&[(&field("\"model\"x"), "m")]),
            form(&[("Content-Disposition: attachment; name=model", "m")]),
            form(&[("Content-Disposition: form-data", "m")]),
            form(&[(&head, "a\r\n--bc")]),
            form(&[(&head, "a\r\n--b c")]),
            form(&[(&head, "a\r\n--b--")]),
            form(&[("A: b\r\n--b\r\nC: d", "m")]),
            form(&[("", "m")]),
            format!("--b\r\n{head}\r\n\r\n--b--\r\n"),
            form(&[("Content-Disposition: form-data; name=model\r\nContent-Type: text/plain; charset=utf-16", "m")]),
            // U27
            form(&[(&head, "a"), (&field("Model"), "b")]),
            form(&[(&field("\"MODEL\""), "b"), (&head, "a")]),
            form(&[(&field("Model"), "b")]),
            // R22: a preamble or an epilogue in which others may find a boundary
            format!("preamble{ok}"),
            format!("preamble\n{ok}"),
            format!("x--b\r\n\r\n{ok}"),
            format!("{ok}{ok}"),
            format!("{ok}\n--b\r\n"),
            format!("{ok}x--b--"),
            ok.replace("--b--\r\n", "--b--epilogue"),
            ok.replace("--b--\r\n", "--b-- \n"),
            ok.replace("--b\r\n", "--b \n"),
            ok.replace("--b\r\n", "--b\u{b}\r\n"),
            ok.replace("--b\r\n", &format!("--b\r\nX: {}\r\n", "x".repeat(MAX_HEAD))),
            ok.replace("\r\n", "\n"),
            ok.replace("--b--", "--b"),
            ok.replace("--b--", "--b-"),
            String::new(),
            "--b".into(),
        ] {
            assert_eq!(model(&body), Err(400), "{body:?}");
        }
        let mut bytes = ok.into_bytes();
        let value = bytes.windows(5).position(|part| part == b"\r\nm\r\n").unwrap() + 2;
        bytes[value] = 0xff;
        assert!(multipart(FORM, &bytes).is_err());
    }

    #[test]
    fn every_cut_of_a_form_is_refused() {
        let whole = form(&[(&field("file"), "x"), (&field("model"), "m")]);
        for end in 0..whole.len() - 2 {
            assert_eq!(model(&whole[..end]), Err(400), "{end}");
        }
    }
}
