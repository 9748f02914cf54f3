//! A request head, from bytes as they arrive to a checked value, or a refusal as early as the bytes allow. Does no I/O.
//! httparse does the lexing; whatever it is lenient about (bare line feeds, empty lines, targets) is refused here.

pub use super::fields::Fields;
pub use super::framing::{Framing, Version};
pub use super::target::Target;

use super::framing::{self, refuse};
use super::request_line::{self, RequestLine};
use crate::api::errors::{Failure, Kind};
use http::{HeaderName, HeaderValue, Method};

/// How much a client may send.
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

/// A head whose framing is beyond doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Any method but CONNECT and TRACE.
    pub method: Method,
    /// Where to, in origin form.
    pub target: Target,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// All fields as they came.
    pub fields: Fields,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the client allows another request on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue`.
    pub expect_continue: bool,
}

impl Head {
    /// Whether a body follows, of at least a byte or of unknown length.
    pub fn has_body(&self) -> bool {
        !matches!(self.framing, Framing::None | Framing::Sized(0))
    }
}

/// Reads one head out of a buffer that grows, looking at each byte once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parser {
    /// Bytes looked at.
    seen: usize,
    /// Where the current line starts.
    line: usize,
    /// Complete lines, the request line included.
    lines: usize,
    /// Where the request line stands, while it is not checked apart from the rest.
    unchecked: Option<(usize, usize)>,
}

impl Parser {
    /// The head and its length once it is complete. `buf` starts with the same bytes at every call, however far it has grown.
    ///
    /// # Errors
    /// The refusal, as soon as the bytes allow it; the first thing that is wrong decides which.
    pub fn parse(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<(Head, usize)>, Failure> {
        let result = self.advance(buf, limits);
        // A whole head was checked whole; otherwise its first line is looked at as soon as it is there.
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
                _ if framing::is_value(*byte) => {}
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

    /// Takes the line feed at `seen`; true when the head ends with it.
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

    /// What can be told of a request line that has not ended yet.
    fn check_start(&self, line: &[u8], limits: &Limits) -> Result<(), Failure> {
        if self.lines > 0 { Ok(()) } else { request_line::check_start(line, limits.target) }
    }

    /// The refusal of the byte at `seen`, unless what stands before it was already wrong: the answer must not depend on
    /// how the bytes were cut into packets.
    fn doubt(&self, buf: &[u8], limits: &Limits, what: &str) -> Failure {
        self.check_start(&buf[self.line..self.seen], limits).err().unwrap_or_else(|| refuse(what))
    }
}

fn assemble(text: &[u8], count: usize, limits: &Limits) -> Result<Head, Failure> {
    let mut raw = vec![httparse::EMPTY_HEADER; count];
    let mut request = httparse::Request::new(&mut raw);
    // A9 and A11: folded lines, space around names and names that are not tokens are errors to httparse.
    match request.parse(text) {
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
        let value =
            HeaderValue::from_bytes(field.value).map_err(|_| refuse("a header value holds a control character"))?;
        fields.push(name, value);
    }
    framing::check_host(&fields, version, authority)?;
    let framing = Framing::of(&fields, version, limits.body)?;
    let keep_alive = framing::keeps_alive(&fields, version);
    let expect_continue = framing::expects_continue(&fields, version, framing);
    Ok(Head { method, target, version, fields, framing, keep_alive, expect_continue })
}

/// Whether a field is written as every client writes it: no tab, no second space, nothing after the value. Odd spacing is
/// legal (RFC 9110 5.5) and on this one field the mark of somebody who hopes that the next server reads it otherwise.
fn is_plain(text: &[u8], field: &httparse::Header) -> bool {
    let offset = |part: &[u8]| part.as_ptr() as usize - text.as_ptr() as usize;
    let (start, end) = (offset(field.value), offset(field.value) + field.value.len());
    let gap = &text[offset(field.name.as_bytes()) + field.name.len()..start];
    matches!(gap, b":" | b": ") && text[end..].starts_with(b"\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { target: 64, head: 600, fields: 8, body: 1000 };

    /// At once and byte by byte, which must not differ.
    fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, u16> {
        let at_once = Parser::default().parse(bytes, &LIMITS);
        let mut parser = Parser::default();
        let grown =
            (0..=bytes.len()).map(|end| parser.parse(&bytes[..end], &LIMITS)).find(|result| *result != Ok(None));
        assert_eq!(at_once, grown.unwrap_or(Ok(None)), "{}", bytes.escape_ascii());
        at_once.map_err(|failure| failure.kind.status())
    }

    fn head(text: &str) -> Head {
        let (head, length) = parse(text.as_bytes()).expect("sound").expect("complete");
        assert_eq!(length, text.len());
        head
    }

    fn status(bytes: impl AsRef<[u8]>) -> u16 {
        parse(bytes.as_ref()).map_or_else(|status| status, |head| if head.is_some() { 200 } else { 0 })
    }

    #[test]
    fn a_head_is_taken_apart() {
        let head = head(
            "POST /v1/x?y=1 HTTP/1.1\r\nHost: h:1\r\nX-A:  b c\t\r\nContent-Length: 5\r\nExpect: 100-continue\r\nE:\r\n\r\n",
        );
        assert_eq!((head.method, head.version), (Method::POST, Version::Http11));
        assert_eq!(head.target.as_str(), "/v1/x?y=1");
        assert_eq!(head.fields.get("x-a").unwrap(), "b c");
        assert_eq!(head.fields.get("e").unwrap(), "");
        assert_eq!((head.framing, head.keep_alive, head.expect_continue), (Framing::Sized(5), true, true));
    }

    #[test]
    fn what_follows_the_head_is_left_alone() {
        let bytes = b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n\0GET";
        let (head, length) = parse(bytes).unwrap().unwrap();
        assert_eq!((length, head.framing), (bytes.len() - 4, Framing::None));
    }

    #[test]
    fn a_part_of_a_head_is_waited_for() {
        let whole = b"\r\nGET /x HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(status(&whole[..end]), 0, "{end}");
        }
        assert_eq!(status(whole), 200);
    }

    #[test]
    fn http_1_0_is_served() {
        let head = head("GET / HTTP/1.0\r\n\r\n");
        assert_eq!((head.version, head.keep_alive), (Version::Http10, false));
    }

    // A3
    #[test]
    fn an_upgrade_is_ignored_and_chunks_in_1_0_are_not() {
        let fields = "Host: h\r\nConnection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\n";
        let head = head(&format!("POST / HTTP/1.1\r\n{fields}"));
        assert_eq!((head.framing, head.keep_alive), (Framing::Sized(3), true));
        assert_eq!(status("POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    }

    // A6
    #[test]
    fn a_large_length_is_refused_from_the_head_alone() {
        assert_eq!(status("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999\r\n\r\n"), 413);
    }

    // A9, A11
    #[test]
    fn a_field_is_a_token_a_colon_and_a_value_on_one_line() {
        for lines in [
            "A: b\r\n c",
            "A: b\r\n\tc",
            " A: b",
            "\tA: b",
            "A : b",
            "A\t: b",
            ": b",
            "A",
            "A b: c",
            "A(b): c",
            "\u{e9}: b",
            "A[]: b",
            "A\"b: c",
            "A: b\r\n ",
        ] {
            assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n")), 400, "{lines:?}");
            assert_eq!(status(format!("GET / HTTP/1.1\r\n{lines}\r\nHost: h\r\n\r\n")), 400, "{lines:?}");
        }
    }

    // A10
    #[test]
    fn control_characters_end_it_at_once() {
        let sound = "GET /x HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n";
        for at in 0..sound.len() - 1 {
            for byte in (0..b' ').chain([0x7f]).filter(|byte| *byte != b'\t') {
                let mut bytes = sound.as_bytes().to_vec();
                bytes.insert(at, byte);
                // A carriage return that meets a line feed, or an empty line in front, is what a sound head holds.
                if byte == b'\r' && matches!(sound.as_bytes().get(at), Some(b'\n')) {
                    assert_eq!(status(&bytes), 400);
                }
                assert_eq!(status(&bytes), 400, "{}", bytes.escape_ascii());
                bytes.truncate(at + 2);
                assert_eq!(status(&bytes), 400, "told at once: {}", bytes.escape_ascii());
            }
        }
        assert_eq!(status("GET / HTTP/1.1\nHost: h\n\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: h\r\n\n"), 400);
        assert_eq!(status("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
        assert_eq!(status("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
    }

    // A12
    #[test]
    fn bytes_beyond_ascii_pass_in_a_value() {
        let (head, _) = parse(b"GET / HTTP/1.1\r\nHost: h\r\nA: gr\xc3\xbc\xff\r\n\r\n").unwrap().unwrap();
        assert_eq!(head.fields.get("a").unwrap().as_bytes(), b"gr\xc3\xbc\xff");
    }

    // A14
    #[test]
    fn the_host_is_known_and_the_method_is_not_a_tunnel() {
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n"), 400);
        assert_eq!(status("GET http://other/ HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
        assert_eq!(head("GET http://H:80/x?y HTTP/1.1\r\nHost: h\r\n\r\n").target.as_str(), "/x?y");
        assert_eq!(status("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n"), 405);
        assert_eq!(status("TRACE / HTTP/1.1\r\n"), 405);
    }

    // A15
    #[test]
    fn other_protocols_are_told_from_noise() {
        // S002-32
        assert_eq!(status("GET /\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.9\r\n"), 505);
        assert_eq!(status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
        let hello = Parser::default().parse(b"\x16", &LIMITS).unwrap_err();
        assert_eq!(hello.kind, Kind::BadFraming);
        assert!(hello.message.contains("TLS"));
        assert_eq!(status("\x16\x03\x01\x02\0\x01"), 400);
    }

    // A16
    #[test]
    fn each_limit_is_kept_to_the_byte() {
        let target = |length: usize| format!("GET /{}", "a".repeat(length - 1));
        assert_eq!(status(format!("{} HTTP/1.1\r\nHost: h\r\n\r\n", target(64))), 200);
        assert_eq!(status(target(64)), 0);
        assert_eq!(status(target(65)), 414);
        assert_eq!(status(target(2000)), 414);
        let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}", "A: b\r\n".repeat(count - 1));
        assert_eq!(status(fields(8) + "\r\n"), 200);
        assert_eq!(status(fields(9)), 431);
        let long = |length: usize| format!("GET / HTTP/1.1\r\nHost: h\r\nA: {}\r\n\r\n", "b".repeat(length - 32));
        assert_eq!((long(600).len(), status(long(600)), status(long(601))), (600, 200, 431));
        assert_eq!(status(&long(5000)[..601]), 431);
    }
}
