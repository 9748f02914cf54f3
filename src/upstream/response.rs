//! Checks the bytes of an answer before ureq parses them, since ureq tolerates too much: drops interim heads, refuses
//! ambiguous framing, checks chunks and frames them again. Pure.

use crate::api::chunked::Decoder;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use httparse::{Error, Header, ParserConfig, Status};
use std::mem::MaybeUninit;

const HEAD: usize = 64 << 10;
/// ureq's limit of fields.
const FIELDS: usize = 128;

/// How the end of a body is found.
#[derive(Debug)]
enum State {
    Head,
    Sized(u64),
    Chunked(Box<Decoder>),
    UntilClose,
    Done,
}

#[derive(Debug)]
pub struct Response {
    state: State,
    /// A partial head.
    head: Vec<u8>,
    is_head_request: bool,
    status: Option<u16>,
    broken: Option<&'static str>,
    /// The connection must not be reused.
    unclean: bool,
}

#[derive(Debug)]
struct Head {
    bytes: usize,
    status: u16,
    framing: State,
    doubtful: bool,
}

impl Response {
    /// The answer to HEAD has no body.
    pub fn new(is_head_request: bool) -> Self {
        Self { state: State::Head, head: Vec::new(), is_head_request, status: None, broken: None, unclean: false }
    }

    /// Appends the checked part of `raw` to `out`; after an error, see `broken`.
    pub fn feed(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        if self.broken.is_some() {
            return;
        }
        if let Err(what) = self.take(raw, out) {
            self.broken = Some(what);
        }
    }

    /// What is wrong with the bytes that follow.
    pub fn broken(&self) -> Option<&'static str> {
        self.broken
    }

    /// The status, once the final head is here.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The body ends with the connection.
    pub(crate) fn is_until_close(&self) -> bool {
        matches!(self.state, State::UntilClose)
    }

    /// The connection may be reused.
    pub fn is_clean(&self) -> bool {
        self.is_done() && !self.unclean
    }

    /// Not HTTP from the first byte on: on a reused connection, leftovers of an earlier answer.
    pub(crate) fn is_unexpected(&self) -> bool {
        self.broken.is_some() && self.status.is_none()
    }

    /// The endpoint closed the connection. A body whose last chunk has come is complete, even without the final CRLF.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if matches!(&self.state, State::Chunked(decoder) if decoder.has_last_chunk()) {
            out.extend_from_slice(LAST_CHUNK);
            self.state = State::Done;
        }
        self.unclean = true;
    }

    fn take(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
        let mut rest = raw;
        let mut held = Vec::new();
        if matches!(self.state, State::Head) {
            held = std::mem::take(&mut self.head);
            if !held.is_empty() {
                held.extend_from_slice(raw);
                rest = &held;
            }
            while matches!(self.state, State::Head) {
                let Some(head) = parse(rest, self.is_head_request)? else {
                    if rest.len() > HEAD {
                        return Err("its head is too long");
                    }
                    self.head = rest.to_vec();
                    return Ok(());
                };
                let (bytes, tail) = rest.split_at(head.bytes);
                rest = tail;
                // RFC 9110 15.2: any number of interim answers. An unasked 101 is final.
                if head.status < 200 && head.status != 101 {
                    continue;
                }
                out.extend_from_slice(bytes);
                self.status = Some(head.status);
                self.unclean = head.doubtful;
                self.state = head.framing;
            }
        }
        let result = self.body(rest, out);
        drop(held);
        result
    }

    fn body(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
        let rest = match &mut self.state {
            State::Head => return Ok(()),
            State::UntilClose => {
                out.extend_from_slice(raw);
                return Ok(());
            }
            State::Done => raw,
            State::Sized(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(raw.len());
                out.extend_from_slice(&raw[..n]);
                *left -= n as u64;
                if *left == 0 {
                    self.state = State::Done;
                }
                &raw[n..]
            }
            State::Chunked(decoder) => {
                let start = out.len();
                out.extend_from_slice(SIZE);
                let fed = decoder.feed(raw, out);
                frame(out, start);
                let progress = fed.map_err(|_| "its chunks are malformed")?;
                if progress.complete {
                    out.extend_from_slice(LAST_CHUNK);
                    self.state = State::Done;
                }
                &raw[progress.consumed..]
            }
        };
        self.unclean |= !rest.is_empty();
        Ok(())
    }
}

/// Room for the size of a chunk.
const SIZE: &[u8] = b"00000000\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Frames the data after the room left at `start` as one chunk.
fn frame(out: &mut Vec<u8>, start: usize) {
    let size = out.len() - start - SIZE.len();
    if size == 0 {
        return out.truncate(start);
    }
    // One read is far below the 4 GiB of eight digits.
    out[start..start + 8].copy_from_slice(format!("{size:08x}").as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The head at the start of `bytes`, if it is complete.
fn parse(bytes: &[u8], is_head_request: bool) -> Result<Option<Head>, &'static str> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, &mut fields);
    let length = match parsed {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(Error::TooManyHeaders) => return Err("it has too many fields"),
        Err(_) => return Err("its head is malformed"),
    };
    let status = response.code.unwrap_or_default();
    let (framing, doubtful) = match status {
        100..200 | 204 | 304 => (State::Done, true),
        _ if is_head_request => (State::Done, true),
        _ => framing(response.version == Some(0), response.headers)?,
    };
    Ok(Some(Head { bytes: length, status, framing, doubtful }))
}

/// RFC 9112 6.3, strictly. Connections are not reused after an empty or forbidden body: some servers send one
/// nevertheless, later, when the connection would already serve another client.
fn framing(is_http_10: bool, fields: &[Header<'_>]) -> Result<(State, bool), &'static str> {
    let all =
        |name: http::HeaderName| fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name.as_str()));
    let length = length(all(CONTENT_LENGTH).map(|field| field.value))?;
    let mut codings = all(TRANSFER_ENCODING).map(|field| field.value);
    match (codings.next(), codings.next()) {
        (None, _) => Ok(match length {
            None => (State::UntilClose, true),
            Some(0) => (State::Done, true),
            Some(length) => (State::Sized(length), false),
        }),
        // RFC 9112 6.1: an HTTP/1.0 sender does not know chunks.
        (Some(_), _) if is_http_10 => Err("an HTTP/1.0 answer has no Transfer-Encoding"),
        (Some(coding), None) if coding.trim_ascii().eq_ignore_ascii_case(b"chunked") => {
            // RFC 9112 6.3: both given may be an attack; the connection is not reused.
            Ok((State::Chunked(Box::new(Decoder::of_answer())), length.is_some()))
        }
        _ => Err("unknown transfer coding"),
    }
}

/// The length, if any; several values must agree.
fn length<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<Option<u64>, &'static str> {
    let mut found = None;
    for part in values.flat_map(|value| value.split(|byte| *byte == b',')) {
        let text = str::from_utf8(part.trim_ascii()).unwrap_or_default();
        let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let length = digits.and_then(|digits| digits.parse::<u64>().ok()).ok_or("its Content-Length is no number")?;
        if found.is_some_and(|found| found != length) {
            return Err("it has two different lengths");
        }
        found = Some(length);
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
