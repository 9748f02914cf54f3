//! A request as a fake upstream received it, byte for byte. Trusts the sender's framing no further than a test must.

use super::fact::Fact;
use std::io::{self, BufRead, Read};

#[derive(Clone)]
pub struct Received {
    /// Which connection of this upstream brought it, from 0.
    pub connection: usize,
    /// The head's lines as sent, request line first, without line ends.
    pub lines: Vec<String>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// The peer closed the connection (not we).
    pub closed: Fact,
}

impl Received {
    pub fn method(&self) -> &str {
        self.lines[0].split(' ').next().unwrap_or("")
    }

    pub fn target(&self) -> &str {
        self.lines[0].split(' ').nth(1).unwrap_or("")
    }

    pub fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or("")
    }

    /// All values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let field = |line: &'_ String| line.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        self.lines[1..].iter().filter(|line| field(line)).map(|line| line[name.len() + 1..].trim()).collect()
    }

    /// The only value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} came {} times: {all:?}", all.len());
        all.first().copied()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }
}

/// The lines of a head; `None` when the peer closed before one began.
pub fn read_head(from: &mut impl BufRead) -> io::Result<Option<Vec<String>>> {
    let mut lines = Vec::new();
    loop {
        let line = read_line(from)?;
        match line.as_slice() {
            [] if lines.is_empty() => return Ok(None),
            [] => return Err(io::ErrorKind::UnexpectedEof.into()),
            b"\r\n" => return Ok(Some(lines)),
            line => {
                let text = line.strip_suffix(b"\r\n").ok_or(io::ErrorKind::InvalidData)?;
                // Bytes as code points 0..=255, so that a test sees each of them.
                lines.push(text.iter().map(|&byte| byte as char).collect());
            }
        }
    }
}

/// The body that the head announces.
pub fn read_body(lines: &[String], from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let value = |name: &str| {
        let field = |line: &String| {
            line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned())
        };
        lines[1..].iter().find_map(field)
    };
    if value("transfer-encoding").is_some() {
        return read_chunks(from);
    }
    let length = value("content-length").map_or(Ok(0), |text| text.parse());
    let mut body = vec![0; length.map_err(|_| io::ErrorKind::InvalidData)?];
    from.read_exact(&mut body)?;
    Ok(body)
}

fn read_chunks(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = String::from_utf8_lossy(&read_line(from)?).trim().to_owned();
        let size = usize::from_str_radix(&line, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut chunk = vec![0; size + 2];
        from.read_exact(&mut chunk)?;
        body.extend_from_slice(&chunk[..size]);
        if size == 0 {
            return Ok(body);
        }
    }
}

fn read_line(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.take(64 << 10).read_until(b'\n', &mut line)?;
    Ok(line)
}
