//! A body of HTTP/1.1 in either direction, from bytes as they arrive to the bytes meant. Strict about chunks, and never
//! trusts a declared size. Does no I/O.

use crate::api::errors::{Failure, Kind};

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    /// So many bytes follow the head.
    Sized(u64),
    /// Chunks follow until the one of size zero.
    Chunked,
}

/// The refusal of a message that could be read in more than one way: 400, and the connection ends.
pub(crate) fn refuse(what: &str) -> Failure {
    Failure::new(Kind::BadFraming, format!("The request is not sound HTTP/1.1: {what}."))
}

/// The refusal of a body longer than `limit`.
pub(crate) fn too_large(limit: u64) -> Failure {
    Failure::new(
        Kind::BodyTooLarge,
        format!("The request body is longer than the {limit} bytes allowed here (server.maxBody)."),
    )
}

/// RFC 9110 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What may stand in a field value: RFC 9110 5.5, with bytes beyond ASCII passed on as they are.
pub(crate) fn is_value(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

/// Bytes of chunk extensions in one request body, all together, and in one chunk of an answer. Nobody here reads them.
const EXTENSIONS: usize = 8 * 1024;
/// Bytes of trailer fields, as many as a head may have. They are dropped.
const TRAILERS: usize = 32 * 1024;
/// RFC 9112 7.1 sets no bound; 16 hex digits are what 64 bits hold.
const DIGITS: u8 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that belong to the body. The rest is the next request.
    pub consumed: usize,
    pub complete: bool,
}

/// Takes the framing off one body.
#[derive(Debug, Clone)]
pub struct Decoder {
    state: State,
    limit: u64,
    /// Bytes of the body announced so far: all of them, or the chunks up to this one.
    announced: u64,
    extensions: usize,
    trailers: usize,
    is_sized: bool,
    is_answer: bool,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// In a chunk's size: its value so far, and how many digits it has.
    Size(u64, u8),
    /// After the `;` that follows the size.
    Extension(u64),
    /// A line feed must come, then so many bytes of data or, after size 0, trailers.
    SizeEnd(u64),
    /// So many bytes of a chunk, or of a sized body, are missing.
    Data(u64),
    /// The two bytes after the data.
    DataCr,
    DataEnd,
    /// Where a trailer's name or the last, empty line starts.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerEnd,
    /// The last line feed must come.
    End,
    Done,
}

impl Decoder {
    /// A decoder at the start of a body that may have `limit` bytes.
    pub fn new(framing: Framing, limit: u64) -> Self {
        let (state, announced) = match framing {
            Framing::None | Framing::Sized(0) => (State::Done, 0),
            Framing::Sized(length) => (State::Data(length), length),
            Framing::Chunked => (State::Size(0, 0), 0),
        };
        let is_sized = matches!(framing, Framing::Sized(_));
        Self { state, limit, announced, extensions: 0, trailers: 0, is_sized, is_answer: false }
    }

    /// A decoder of an answer's chunks, which may go on for ever and may all have extensions.
    pub(crate) fn of_answer() -> Self {
        Self { is_answer: true, ..Self::new(Framing::Chunked, u64::MAX) }
    }

    /// The chunk of size zero has come: every byte of the body is here, though maybe not every byte of its framing.
    pub(crate) fn has_last_chunk(&self) -> bool {
        matches!(self.state, State::Trailer | State::End | State::Done)
    }

    /// Bytes that are still to come, if their number was declared.
    pub(crate) fn missing(&self) -> Option<u64> {
        if let State::Data(missing) = self.state { Some(missing).filter(|_| self.is_sized) } else { None }
    }

    /// Appends what `input` holds of the body to `out`, which grows with the bytes that came and not with what was
    /// announced.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, Failure> {
        self.check_limit()?;
        let mut rest = input;
        while !matches!(self.state, State::Done) {
            let Some((byte, tail)) = rest.split_first() else { break };
            let State::Data(missing) = self.state else {
                self.state = self.step(*byte)?;
                rest = tail;
                continue;
            };
            let (chunk, tail) = rest.split_at(rest.len().min(usize::try_from(missing).unwrap_or(usize::MAX)));
            append(out, chunk, if self.is_sized { self.announced } else { self.limit });
            rest = tail;
            self.state = match missing - chunk.len() as u64 {
                0 if self.is_sized => State::Done,
                0 => State::DataCr,
                missing => State::Data(missing),
            };
        }
        Ok(Progress { consumed: input.len() - rest.len(), complete: matches!(self.state, State::Done) })
    }

    /// One byte of the grammar around the data (RFC 9112 7.1), without its optional white space.
    fn step(&mut self, byte: u8) -> Result<State, Failure> {
        Ok(match (self.state, byte) {
            (State::Size(size, digits), _) if byte.is_ascii_hexdigit() => {
                if digits == DIGITS {
                    return Err(refuse("a chunk's size has more than 16 digits"));
                }
                let digit = char::from(byte).to_digit(16).expect("is_ascii_hexdigit was asked");
                State::Size(size << 4 | u64::from(digit), digits + 1)
            }
            (State::Size(size, 1..), b'\r' | b';') => {
                self.announced = self.announced.saturating_add(size);
                self.check_limit()?;
                if byte == b';' { State::Extension(size) } else { State::SizeEnd(size) }
            }
            (State::Size(..), _) => return Err(refuse("a chunk's size is not hexadecimal")),
            (State::Extension(size), b'\r') => State::SizeEnd(size),
            (State::Extension(_), _) if is_value(byte) => {
                self.extensions += 1;
                if self.extensions > EXTENSIONS {
                    return Err(refuse("the chunk extensions are too long"));
                }
                self.state
            }
            (State::SizeEnd(0), b'\n') => State::Trailer,
            (State::SizeEnd(size), b'\n') => State::Data(size),
            (State::DataCr, b'\r') => State::DataEnd,
            (State::DataEnd, b'\n') => {
                if self.is_answer {
                    self.extensions = 0;
                }
                State::Size(0, 0)
            }
            (State::DataCr | State::DataEnd, _) => return Err(refuse("a chunk is longer than its size")),
            (State::Trailer, b'\r') => State::End,
            (State::Trailer | State::TrailerName, _) if is_token(byte) => self.trailer(State::TrailerName)?,
            (State::TrailerName, b':') => self.trailer(State::TrailerValue)?,
            (State::TrailerValue, b'\r') => self.trailer(State::TrailerEnd)?,
            (State::TrailerValue, _) if is_value(byte) => self.trailer(State::TrailerValue)?,
            (State::TrailerEnd, b'\n') => self.trailer(State::Trailer)?,
            (State::Trailer | State::TrailerName | State::TrailerValue, _) => {
                return Err(refuse("a trailer field is not `name: value`"));
            }
            (State::End, b'\n') => State::Done,
            // In the data `feed` does not ask, so these are all line ends.
            _ => return Err(refuse("a line of the chunked body does not end with CR LF")),
        })
    }

    /// Refuses a body as soon as more is announced than is allowed.
    fn check_limit(&self) -> Result<(), Failure> {
        if self.announced > self.limit { Err(too_large(self.limit)) } else { Ok(()) }
    }

    fn trailer(&mut self, next: State) -> Result<State, Failure> {
        self.trailers += 1;
        if self.trailers > TRAILERS {
            return Err(Failure::new(Kind::HeadTooLarge, format!("The trailers are longer than {TRAILERS} bytes.")));
        }
        Ok(next)
    }
}

/// Appends with at most half as much room again as is needed, and never room for more than `most` bytes.
fn append(out: &mut Vec<u8>, chunk: &[u8], most: u64) {
    let needed = out.len() + chunk.len();
    if needed > out.capacity() {
        let room = (needed + needed / 2).min(usize::try_from(most).unwrap_or(usize::MAX)).max(needed);
        out.reserve_exact(room - out.len());
    }
    out.extend_from_slice(chunk);
}

#[cfg(test)]
mod tests;
