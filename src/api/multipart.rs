//! Finds the `model` field of a multipart form (RFC 7578) in place. Pure.

use crate::api::body::{MAX_NAME, Named};
use crate::api::errors::{Failure, Kind};
use memchr::memmem;

const MAX_HEAD: usize = 16 << 10;

/// The form's model and its range in the body. Text before the first boundary and after the last one is ignored (RFC
/// 2046 5.1.1). Forms that parsers may read differently are rejected, so that the upstream sees the same model.
pub fn multipart(content_type: &str, body: &[u8]) -> Result<Option<Named>, Failure> {
    let boundary = boundary(content_type)?;
    let (boundary, dashes) = (boundary.as_bytes(), &boundary.as_bytes()[2..]);
    let start = memmem::find(body, dashes).ok_or_else(|| malformed("its boundary is missing"))?;
    if start > 0 && !body[..start].ends_with(b"\r\n") {
        return Err(malformed("its first boundary does not begin a line"));
    }
    // Some servers parse JSON whatever the Content-Type.
    if body[..start].trim_ascii_start().starts_with(b"{") {
        return Err(malformed("an object stands before its first boundary"));
    }
    let (mut found, mut at) = (None, start + dashes.len());
    loop {
        // After a boundary, two dashes end the form, and a line end starts a part.
        let length = memmem::find(&body[at..], boundary);
        let part = &body[at..at + length.unwrap_or(body.len() - at)];
        if let Some(after) = part.strip_prefix(b"--").map(padding) {
            return match after.is_empty() || after.starts_with(b"\r\n") {
                true if length.is_none() && memmem::find(after, dashes).is_none() => Ok(found),
                true => Err(malformed("a boundary follows its end")),
                false => Err(malformed("its last boundary is not followed by a line end")),
            };
        }
        let length = length.ok_or_else(|| malformed("its last boundary is missing"))?;
        let part = padding(part);
        if !part.starts_with(b"\r\n") {
            return Err(malformed("a boundary is not followed by a line end"));
        }
        let head = memmem::find(&part[..part.len().min(MAX_HEAD)], b"\r\n\r\n");
        let head = head.ok_or_else(|| malformed("a part has no end of its head"))?;
        let (head, value) = (&part[..head], &part[head + 4..]);
        let end = at + length;
        if is_model(head)? {
            if found.is_some() {
                return Err(malformed("it has more than one `model`").param("model"));
            }
            if value.len() > MAX_NAME {
                return Err(malformed("`model` is too long").param("model"));
            }
            let name = str::from_utf8(value).map_err(|_| malformed("`model` is not UTF-8").param("model"))?;
            found = Some(Named { name: name.to_owned(), span: end - value.len()..end });
        }
        at = end + boundary.len();
    }
}

/// Skips the white space that may follow a boundary.
fn padding(text: &[u8]) -> &[u8] {
    let length = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    &text[length..]
}

fn malformed(what: &str) -> Failure {
    Failure::new(Kind::InvalidBody, format!("The multipart form is not well-formed: {what}."))
}

/// The separator of parts: CR LF, two dashes and the boundary of the Content-Type (RFC 2046 5.1.1).
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

/// Whether a part is the field `model`. Each line of its head starts with CR LF.
fn is_model(head: &[u8]) -> Result<bool, Failure> {
    // File names may be in any encoding.
    let head = String::from_utf8_lossy(head);
    if head.replace("\r\n", "").contains(|letter: char| letter.is_ascii_control() && letter != '\t') {
        return Err(malformed("the head of a part holds a control character"));
    }
    let (mut disposition, mut is_encoded) = (None, false);
    for line in head.split("\r\n").skip(1) {
        let field = line.split_once(':').filter(|(name, _)| !name.is_empty() && !name.contains([' ', '\t']));
        let (name, value) = field.ok_or_else(|| malformed("the head of a part is not `name: value`"))?;
        match name.to_ascii_lowercase().as_str() {
            "content-transfer-encoding" => is_encoded |= !is_any(value, &["7bit", "8bit", "binary"]),
            "content-type" => {
                // In other charsets, other bytes may spell the model. For files, an invalid charset does not matter.
                let parameters = value.split_once(';').map_or(Ok(Vec::new()), |(_, rest)| parameters_of(rest));
                let mut charsets = parameters.iter().flatten().filter(|(key, _)| key == "charset");
                is_encoded |= parameters.is_err() || charsets.any(|(_, value)| !is_any(value, &["utf-8", "us-ascii"]));
            }
            "content-disposition" if disposition.replace(value).is_some() => {
                return Err(malformed("a part has more than one Content-Disposition"));
            }
            _ => {}
        }
    }
    let disposition = disposition.ok_or_else(|| malformed("a part has no Content-Disposition"))?;
    let (kind, parameters) = disposition.split_once(';').unwrap_or((disposition, ""));
    let parameters = parameters_of(parameters)?;
    let has = |wanted: &str| parameters.iter().any(|(key, _)| key == wanted);
    let mut names = parameters.iter().filter(|(key, _)| key == "name");
    // RFC 7578 4.2 forbids `name*`, but some servers prefer it to `name`.
    let (Some((_, name)), None, false, true) = (names.next(), names.next(), has("name*"), is_any(kind, &["form-data"]))
    else {
        return Err(malformed("a part is not form-data with one name"));
    };
    match name.as_str() {
        "model" if has("filename") || has("filename*") || is_encoded => {
            Err(malformed("`model` is not a plain text field").param("model"))
        }
        "model" => Ok(true),
        // Some servers take every backslash for an escape, or ignore case.
        name if is_any(&name.replace(['\\', '"'], ""), &["model"]) => {
            Err(malformed("the name of a part imitates `model`").param("model"))
        }
        _ => Ok(false),
    }
}

fn is_any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.trim().eq_ignore_ascii_case(word))
}

/// Parses `; name=value; name="value"`: names become lower case, quotes and escapes are removed.
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
        // Parsers disagree about white space around `=`.
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

/// The text up to the closing quote, and the rest after it. A backslash escapes only quotes and backslashes, since old
/// browsers send Windows paths without escaping.
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
mod tests;
