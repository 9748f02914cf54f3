//! One HTTP/1.1 connection, either end: head, framing, pieces of a body. Knows nothing of benchmarks.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Every wait of the benchmark ends after this: a proxy that hangs is an error, not a hanging benchmark.
pub const PATIENCE: Duration = Duration::from_secs(10);
const BUFFER: usize = 64 * 1024;

/// A connection and what was read ahead from it. On a non-blocking socket every call may be repeated after
/// `WouldBlock`: nothing read is lost.
pub struct Wire {
    pub stream: TcpStream,
    buf: Vec<u8>,
    at: usize,
    end: usize,
    left: Left,
    short: bool,
    begun: Option<(Head, u64)>,
}

/// What remains of the body being read.
#[derive(Clone, Copy)]
enum Left {
    Done,
    Sized(u64),
    Chunk(u64),
    ChunkSize,
    ToEnd,
}

/// The parts of a head that the benchmark looks at.
pub struct Head {
    /// Request line or status line.
    pub first: String,
    /// The value of `x-bench`, if any.
    pub order: String,
    /// The peer wants no further exchange on this connection.
    pub close: bool,
}

impl Head {
    /// The status of an answer; 0 when the line is none.
    pub fn status(&self) -> u16 {
        self.first.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0)
    }
}

impl Wire {
    pub fn new(stream: TcpStream) -> io::Result<Wire> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Wire { stream, buf: vec![0; BUFFER], at: 0, end: 0, left: Left::Done, short: false, begun: None })
    }

    pub fn connect(addr: SocketAddr) -> io::Result<Wire> {
        Wire::new(TcpStream::connect_timeout(&addr, PATIENCE)?)
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads a head and remembers the framing of its body; `None` when the peer closed between messages.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        let length = loop {
            if let Some(at) = find(&self.buf[self.at..self.end], b"\r\n\r\n") {
                break at + 4;
            }
            let empty = self.at == self.end;
            match self.fill() {
                Err(e) if empty && matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                    return Ok(None);
                }
                other => other?,
            }
        };
        let text =
            std::str::from_utf8(&self.buf[self.at..self.at + length]).map_err(|_| broken("head is not UTF-8"))?;
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let answer = first.starts_with("HTTP/");
        let mut head = Head { first, order: String::new(), close: false };
        let mut left = if answer { Left::ToEnd } else { Left::Done };
        for line in lines {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                left = Left::Sized(value.parse().map_err(|_| broken("content-length"))?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                left = Left::ChunkSize;
            } else if name.eq_ignore_ascii_case("connection") {
                head.close = value.eq_ignore_ascii_case("close");
            } else if name.eq_ignore_ascii_case("x-bench") {
                head.order = value.to_owned();
            }
        }
        head.close |= matches!(left, Left::ToEnd);
        self.left = left;
        self.at += length;
        Ok(Some(head))
    }

    /// The next piece of the body, decoded, as it arrived; `None` at its end.
    pub fn piece(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            match self.left {
                Left::Done => return Ok(None),
                Left::Sized(0) => self.left = Left::Done,
                Left::Chunk(0) => {
                    self.line()?;
                    self.left = Left::ChunkSize;
                }
                Left::ChunkSize => {
                    let line = self.line()?;
                    let digits = line.split(';').next().unwrap_or_default().trim();
                    let size = u64::from_str_radix(digits, 16).map_err(|_| broken("chunk size"))?;
                    self.left = Left::Chunk(size);
                    if size == 0 {
                        while !self.line()?.is_empty() {}
                        self.left = Left::Done;
                    }
                }
                Left::ToEnd if self.at == self.end => match self.fill() {
                    Err(e) if e.kind() == ErrorKind::UnexpectedEof => self.left = Left::Done,
                    other => other?,
                },
                Left::Sized(_) | Left::Chunk(_) if self.at == self.end => self.fill()?,
                Left::Sized(n) => return Ok(Some(self.take(n, Left::Sized))),
                Left::Chunk(n) => return Ok(Some(self.take(n, Left::Chunk))),
                Left::ToEnd => return Ok(Some(self.take(u64::MAX, |_| Left::ToEnd))),
            }
        }
    }

    /// Reads a whole message away: its head and the length of its body; `None` when the peer closed between messages.
    pub fn message(&mut self) -> io::Result<Option<(Head, u64)>> {
        if self.begun.is_none() {
            self.begun = self.head()?.map(|head| (head, 0));
        }
        while let Some(length) = self.piece()?.map(<[u8]>::len) {
            if let Some((_, total)) = &mut self.begun {
                *total += length as u64;
            }
        }
        Ok(self.begun.take())
    }

    /// The length of a 200's body, and whether the connection may be used again; any other answer is an error.
    pub fn answer(&mut self) -> io::Result<(u64, bool)> {
        match self.message()? {
            Some((head, length)) if head.status() == 200 => Ok((length, !head.close)),
            Some((head, _)) => Err(broken(&head.first)),
            None => Err(broken("closed without an answer")),
        }
    }

    /// Everything that had arrived is used: the next readiness event will tell of more.
    pub fn rests(&self) -> bool {
        self.short && self.at == self.end
    }

    fn take(&mut self, left: u64, rest: fn(u64) -> Left) -> &[u8] {
        let n = left.min((self.end - self.at) as u64);
        self.left = rest(left - n);
        let start = self.at;
        self.at += n as usize;
        &self.buf[start..self.at]
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(n) = find(&self.buf[self.at..self.end], b"\r\n") {
                let line = String::from_utf8_lossy(&self.buf[self.at..self.at + n]).into_owned();
                self.at += n + 2;
                return Ok(line);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.at == self.end {
            (self.at, self.end) = (0, 0);
        } else if self.end == self.buf.len() {
            self.buf.copy_within(self.at..self.end, 0);
            (self.at, self.end) = (0, self.end - self.at);
        }
        let read = loop {
            match self.stream.read(&mut self.buf[self.end..]) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if read == 0 {
            let full = self.end == self.buf.len();
            return Err(if full { broken("a line that fills the buffer") } else { ErrorKind::UnexpectedEof.into() });
        }
        self.end += read;
        self.short = self.end < self.buf.len();
        Ok(())
    }
}

/// A client that keeps its connection and opens a new one when the server closed it.
pub struct Client {
    addr: SocketAddr,
    wire: Option<Wire>,
}

impl Client {
    pub fn new(addr: SocketAddr) -> Client {
        Client { addr, wire: None }
    }

    /// One exchange; the length of the answer's body. Any status but 200 is an error.
    pub fn call(&mut self, request: &[u8]) -> io::Result<u64> {
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => Wire::connect(self.addr)?,
        };
        wire.send(request)?;
        let (length, keep) = wire.answer()?;
        if keep {
            self.wire = Some(wire);
        }
        Ok(length)
    }

    /// Gives the connection up; the next call opens a new one.
    pub fn hang_up(&mut self) {
        self.wire = None;
    }
}

pub fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

fn broken(why: &str) -> io::Error {
    io::Error::other(why.to_owned())
}
