//! A client that sends exactly the bytes it is told and says how an answer ended. Knows HTTP's framing, nothing
//! of the API.

use super::fact::DEADLINE;
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// As its framing promised.
    Complete,
    /// Closed before its framing was satisfied.
    Cut,
}

#[derive(Debug, Clone)]
pub struct Head {
    pub status: u16,
    /// All lines, status line first.
    pub lines: Vec<String>,
}

impl Head {
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |line: &&String| line.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        self.lines[1..].iter().filter(same).map(|line| line[name.len() + 1..].trim()).collect()
    }

    /// The only value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} came {} times: {all:?}", all.len());
        all.first().copied()
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
    pub ended: Ended,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|problem| panic!("{problem} in {:?}", self.text()))
    }

    /// `error.code` of our own errors.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// How many bytes of the body are to come.
enum Rest {
    Sized(usize),
    Chunked,
    UntilClose,
    Over(Ended),
}

pub struct Client {
    from: BufReader<TcpStream>,
    rest: Rest,
    /// Bytes of an event that is not yet whole.
    partial: Vec<u8>,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&addr, DEADLINE).expect("the proxy listens"))
    }

    /// With a receive window of a few KB, set before connecting so that it counts.
    pub fn with_small_window(addr: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).expect("a TCP socket");
        socket.set_recv_buffer_size(4096).expect("a size above the minimum");
        socket.connect(&addr.into()).expect("the proxy listens");
        Self::over(socket.into())
    }

    /// From another address of this machine.
    pub fn from_address(source: [u8; 4], addr: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a TCP socket");
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("an address of this machine");
        socket.connect(&addr.into()).expect("the proxy listens");
        Self::over(socket.into())
    }

    fn over(socket: TcpStream) -> Self {
        socket.set_nodelay(true).expect("an option every TCP socket has");
        socket.set_read_timeout(Some(DEADLINE)).expect("not zero");
        socket.set_write_timeout(Some(DEADLINE)).expect("not zero");
        Self { from: BufReader::new(socket), rest: Rest::Over(Ended::Complete), partial: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the proxy takes these bytes");
    }

    /// For bytes that the proxy may refuse while they are still coming.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.from.get_mut().write_all(bytes.as_ref())
    }

    /// FIN on the writing side only.
    pub fn half_close(&mut self) {
        self.from.get_mut().shutdown(Shutdown::Write).expect("an open socket");
    }

    /// Leaves with a reset.
    pub fn reset(self) {
        SockRef::from(self.from.get_ref()).set_linger(Some(Duration::ZERO)).expect("an option every TCP socket has");
    }

    /// A head and nothing of its body; interim answers (1xx) are heads too.
    pub fn head(&mut self) -> Head {
        self.try_head().expect("a head").expect("a head, not a close")
    }

    fn try_head(&mut self) -> io::Result<Option<Head>> {
        let Some(lines) = super::received::read_head(&mut self.from)? else { return Ok(None) };
        let status = lines[0].split(' ').nth(1).and_then(|s| s.parse().ok());
        let head = Head { status: status.unwrap_or_else(|| panic!("no status line: {:?}", lines[0])), lines };
        self.rest = rest_after(&head);
        self.partial.clear();
        Ok(Some(head))
    }

    /// Takes a request with this method as the one answered: HEAD has no body.
    pub fn answer_to(&mut self, method: &str) -> Answer {
        let mut head = self.head();
        while head.status < 200 {
            head = self.head();
        }
        if method == "HEAD" {
            self.rest = Rest::Over(Ended::Complete);
        }
        let (body, ended) = self.body();
        Answer { head, body, ended }
    }

    /// The next final answer, whole.
    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    /// What is left of the body.
    pub fn body(&mut self) -> (Vec<u8>, Ended) {
        let mut body = std::mem::take(&mut self.partial);
        loop {
            match self.read_some() {
                Ok(bytes) => body.extend(bytes),
                Err(ended) => return (body, ended),
            }
        }
    }

    /// The bytes that come next, one chunk at most.
    pub fn read_some(&mut self) -> Result<Vec<u8>, Ended> {
        let next = match self.rest {
            Rest::Over(ended) => return Err(ended),
            Rest::Sized(left) => self.some(left),
            Rest::UntilClose => self.some(usize::MAX),
            Rest::Chunked => self.chunk(),
        };
        let bytes = next.unwrap_or_else(|problem| {
            assert_ne!(problem.kind(), io::ErrorKind::WouldBlock, "no byte for {DEADLINE:?}");
            self.rest = Rest::Over(Ended::Cut);
            Vec::new()
        });
        match &mut self.rest {
            Rest::Sized(_) if bytes.is_empty() => self.rest = Rest::Over(Ended::Cut),
            Rest::Sized(left) if *left == bytes.len() => self.rest = Rest::Over(Ended::Complete),
            Rest::Sized(left) => *left -= bytes.len(),
            Rest::UntilClose | Rest::Chunked if bytes.is_empty() => self.rest = Rest::Over(Ended::Complete),
            _ => {}
        }
        if bytes.is_empty() { Err(self.ended()) } else { Ok(bytes) }
    }

    /// One event of a stream, with its empty line; `None` at the end of the body.
    pub fn event(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.partial.windows(2).position(|two| two == b"\n\n") {
                let rest = self.partial.split_off(at + 2);
                let event = std::mem::replace(&mut self.partial, rest);
                return Some(String::from_utf8(event).expect("events are UTF-8"));
            }
            match self.read_some() {
                Ok(bytes) => self.partial.extend(bytes),
                Err(_) => {
                    assert!(self.partial.is_empty(), "half an event: {:?}", String::from_utf8_lossy(&self.partial));
                    return None;
                }
            }
        }
    }

    /// How the body ended; only after its last byte.
    pub fn ended(&self) -> Ended {
        match self.rest {
            Rest::Over(ended) => ended,
            _ => panic!("the body goes on"),
        }
    }

    /// Nothing more comes, and the proxy closes within this time (FIN or RST).
    pub fn expect_close(&mut self, within: Duration) {
        self.from.get_mut().set_read_timeout(Some(within)).expect("not zero");
        let mut rest = Vec::new();
        match self.from.read_to_end(&mut rest) {
            Err(problem) if problem.kind() == io::ErrorKind::WouldBlock => panic!("still open after {within:?}"),
            _ => assert!(rest.is_empty(), "more came: {:?}", String::from_utf8_lossy(&rest)),
        }
    }

    /// Whether the proxy closed without an answer, or answered 429 or 503.
    pub fn turned_away(&mut self) -> bool {
        match self.try_head() {
            Ok(Some(head)) => matches!(head.status, 429 | 503),
            _ => true,
        }
    }

    /// The writing side, for a thread of its own.
    pub fn writer(&self) -> TcpStream {
        self.from.get_ref().try_clone().expect("a descriptor is free")
    }

    /// Whether bytes are there to read within this time.
    pub fn hears_within(&mut self, time: Duration) -> bool {
        self.from.get_mut().set_read_timeout(Some(time)).expect("not zero");
        let heard = self.from.fill_buf().is_ok();
        self.from.get_mut().set_read_timeout(Some(DEADLINE)).expect("not zero");
        heard
    }

    fn some(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let here = self.from.fill_buf()?;
        let bytes = here[..here.len().min(most)].to_vec();
        self.from.consume(bytes.len());
        Ok(bytes)
    }

    /// One chunk; empty is the last one, its trailers read.
    fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        let size = line.strip_suffix("\r\n").and_then(|hex| usize::from_str_radix(hex, 16).ok());
        let Some(size) = size else { return Err(io::ErrorKind::InvalidData.into()) };
        let mut bytes = vec![0; size + 2];
        self.from.read_exact(&mut bytes)?;
        assert_eq!(&bytes[size..], b"\r\n", "a chunk ends with CR LF");
        bytes.truncate(size);
        Ok(bytes)
    }
}

fn rest_after(head: &Head) -> Rest {
    if head.status < 200 || matches!(head.status, 204 | 304) {
        return Rest::Over(Ended::Complete);
    }
    match (head.field("transfer-encoding"), head.field("content-length")) {
        (Some(_), Some(_)) => panic!("both framings: {:?}", head.lines),
        (Some(coding), None) => {
            assert_eq!(coding, "chunked");
            Rest::Chunked
        }
        (None, Some("0")) => Rest::Over(Ended::Complete),
        (None, Some(length)) => Rest::Sized(length.parse().expect("a length")),
        (None, None) => Rest::UntilClose,
    }
}
