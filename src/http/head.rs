//! Parses a request head as its bytes arrive and refuses it as early as possible. Pure. httparse does the lexing; what it
//! tolerates (bare line feeds, empty lines, odd targets) is refused here.

pub use super::fields::Fields;
pub use super::framing::{Framing, Version};
pub(crate) use super::request_line::Target;

use super::framing::{self, refuse};
use super::request_line::{self, RequestLine};
use crate::api::errors::{Failure, Kind};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use httparse::ParserConfig;
use std::mem::MaybeUninit;

/// The most fields of a head; [`Limits`] may allow fewer.
pub(super) const FIELDS: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the request target, beyond which it is 414.
    pub target: usize,
    /// Bytes of the whole head, beyond which it is 431.
    pub head: usize,
    /// Number of fields, beyond which it is 431.
    pub fields: usize,
    /// Bytes of the decoded body, beyond which it is 413.
    pub body: u64,
}

/// A head with unambiguous framing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Any method but CONNECT and TRACE.
    pub method: Method,
    pub target: Target,
    pub(crate) version: Version,
    pub fields: Fields,
    pub framing: Framing,
    /// Whether the client allows another request on this connection.
    pub(crate) keep_alive: bool,
    /// Whether the client waits for `100 Continue`.
    pub(crate) expect_continue: bool,
}

impl Head {
    /// Whether a body follows, of at least a byte or of unknown length.
    pub(crate) fn has_body(&self) -> bool {
        !matches!(self.framing, Framing::None | Framing::Sized(0))
    }
}

/// Parses one head from a growing buffer; each byte is looked at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parser {
    seen: usize,
    line: usize,
    /// Complete lines, the request line included.
    lines: usize,
    /// The range of a complete request line that was not checked by itself yet.
    unchecked: Option<(usize, usize)>,
}

impl Parser {
    /// The head and its length once it is complete. `buf` starts with the same bytes at every call, however far it has grown.
    ///
    /// # Errors
    /// The refusal, as soon as the bytes allow it; the first thing that is wrong decides which.
    pub fn parse(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<(Head, usize)>, Failure> {
        let result = self.advance(buf, limits);
        // A request line is checked as soon as it is complete, unless the whole head is.
        if !matches!(result, Ok(Some(_)))
            && let Some((start, end)) = self.unchecked.take()
        {
            request_line::check_start(&buf[start..end - 1], limits.target)?;
            request_line::check(&buf[start..end])?;
        }
        result
    }

    fn advance(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<(Head, usize)>, Failure> {
        while let Some(byte) = buf.get(self.seen) {
            if self.seen >= limits.head {
                self.check_start(&buf[self.line..self.seen], limits)?;
                return Err(Failure::new(
                    Kind::HeadTooLarge,
                    format!("The head is longer than {} bytes.", limits.head),
                ));
            }
            let after_cr = self.seen > 0 && buf[self.seen - 1] == b'\r';
            let plain = if after_cr { &[][..] } else { &buf[self.seen..buf.len().min(limits.head)] };
            let run = plain.iter().position(|byte| !framing::is_value(*byte)).unwrap_or(plain.len());
            if run > 0 {
                self.seen += run;
                continue;
            }
            match byte {
                b'\n' if after_cr => {
                    if self.end_line(buf, limits)? {
                        return assemble(&buf[..self.seen], self.lines - 1, limits).map(|head| Some((head, self.seen)));
                    }
                    continue;
                }
                b'\n' => return Err(self.doubt(buf, limits, "a line ends without a carriage return")),
                _ if after_cr => return Err(self.doubt(buf, limits, "a carriage return stands alone")),
                b'\r' => {}
                // RFC 8446 5.1: the record type of a handshake, the first byte of every TLS connection.
                0x16 if self.seen == 0 => {
                    return Err(refuse(
                        "this port speaks http, not https, and a TLS handshake came; use http:// in the address",
                    ));
                }
                _ => return Err(self.doubt(buf, limits, "the head holds a control character")),
            }
            self.seen += 1;
        }
        self.check_start(&buf[self.line..], limits).map(|()| None)
    }

    /// Handles the line feed at `seen`; true at the end of the head.
    fn end_line(&mut self, buf: &[u8], limits: &Limits) -> Result<bool, Failure> {
        let line = &buf[self.line..self.seen - 1];
        self.seen += 1;
        match (line, self.lines) {
            // RFC 9112 2.2: one empty line before the request line is forgiven.
            ([], 0) if self.line == 0 => {
                self.line = self.seen;
                return Ok(false);
            }
            ([], 0) => return Err(refuse("empty lines stand where a request should")),
            ([], _) => return Ok(true),
            (line, 0) => {
                if line.len() > limits.target {
                    self.check_start(&buf[self.line..self.seen - 1], limits)?;
                }
                self.unchecked = Some((self.line, self.seen));
            }
            (_, fields) if fields > limits.fields => {
                return Err(Failure::new(
                    Kind::HeadTooLarge,
                    format!("There are more than {} header fields.", limits.fields),
                ));
            }
            _ => {}
        }
        self.lines += 1;
        self.line = self.seen;
        Ok(false)
    }

    /// Refuses a partial request line that cannot become a valid one.
    fn check_start(&self, line: &[u8], limits: &Limits) -> Result<(), Failure> {
        if self.lines > 0 { Ok(()) } else { request_line::check_start(line, limits.target) }
    }

    /// The refusal of the byte at `seen`, unless the bytes before it are already wrong: the answer must not depend on how
    /// the input was split into packets.
    fn doubt(&self, buf: &[u8], limits: &Limits, what: &str) -> Failure {
        self.check_start(&buf[self.line..self.seen], limits).err().unwrap_or_else(|| refuse(what))
    }
}

fn assemble(text: &[u8], count: usize, limits: &Limits) -> Result<Head, Failure> {
    // One allocation for all values.
    let text = &Bytes::copy_from_slice(text);
    let mut raw = [const { MaybeUninit::uninit() }; FIELDS];
    let mut request = httparse::Request::new(&mut []);
    // A9 and A11: folded lines, space around names and names that are not tokens are errors to httparse.
    match ParserConfig::default().parse_request_with_uninit_headers(&mut request, text, &mut raw) {
        Ok(httparse::Status::Complete(length)) if length == text.len() => {}
        _ => return Err(refuse("a header field is not `name: value`")),
    }
    let RequestLine { method, target, version, authority } = RequestLine::of(&request)?;
    let mut fields = Fields::with_capacity(count);
    for field in request.headers.iter() {
        if field.name.eq_ignore_ascii_case("transfer-encoding") && !is_plain(text, field) {
            return Err(refuse("Transfer-Encoding is not exactly `chunked`"));
        }
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| refuse("a header name is not a token"))?;
        let value = HeaderValue::from_maybe_shared(text.slice_ref(field.value))
            .map_err(|_| refuse("a header value holds a control character"))?;
        fields.push(name, value);
    }
    framing::check_host(&fields, version, authority)?;
    let framing = Framing::of(&fields, version, limits.body)?;
    let keep_alive = framing::keeps_alive(&fields, version);
    let expect_continue = framing::expects_continue(&fields, version, framing);
    Ok(Head { method, target, version, fields, framing, keep_alive, expect_continue })
}

/// Whether a field has the usual spacing: one space or none before the value, none after it. Odd spacing is legal
/// (RFC 9110 5.5), but on Transfer-Encoding it is used for request smuggling.
fn is_plain(text: &[u8], field: &httparse::Header) -> bool {
    let offset = |part: &[u8]| part.as_ptr() as usize - text.as_ptr() as usize;
    let (start, end) = (offset(field.value), offset(field.value) + field.value.len());
    let gap = &text[offset(field.name.as_bytes()) + field.name.len()..start];
    matches!(gap, b":" | b": ") && text[end..].starts_with(b"\r\n")
}

#[cfg(test)]
mod tests;
