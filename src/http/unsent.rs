//! Answer bytes that a client has not taken yet, and their bound. Never waits.

use crate::util::budget::Held;
use std::io::{self, Write};
use std::net::TcpStream;

/// Counted in `server.bodyMemory`, which bounds them.
pub(super) struct Unsent {
    pub(crate) bytes: Vec<u8>,
    at: usize,
    /// `None` after `take`.
    held: Option<Held>,
}

impl Unsent {
    pub(super) fn new(held: Held) -> Self {
        Self { bytes: Vec::new(), at: 0, held: Some(held) }
    }

    pub(crate) fn take(&mut self) -> Self {
        let (bytes, at) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.at));
        Self { bytes, at, held: self.held.take() }
    }

    pub(crate) fn clear(&mut self) {
        (self.bytes, self.at) = (Vec::new(), 0);
        self.hold(0);
    }

    /// Counts `bytes`; false if that exceeds the budget.
    pub(crate) fn hold(&mut self, bytes: usize) -> bool {
        self.held.as_mut().is_some_and(|held| held.resize(bytes as u64))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(crate) fn push(&mut self, part: &[u8]) {
        // Written bytes are dropped once they are the larger part, so each byte is moved about once.
        if self.at > self.bytes.len() / 2 {
            self.bytes.drain(..std::mem::take(&mut self.at));
        }
        self.bytes.extend_from_slice(part);
    }

    /// Writes what the socket takes; true if it took anything.
    pub(crate) fn write(&mut self, stream: &TcpStream) -> io::Result<bool> {
        let taken = write_some(stream, &self.bytes[self.at..])?;
        self.at += taken;
        if self.is_empty() {
            self.clear();
        }
        Ok(taken > 0)
    }
}

/// Writes what the socket takes; returns the number of bytes.
pub(super) fn write_some(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut taken = 0;
    while taken < bytes.len() {
        match stream.write(&bytes[taken..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => taken += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(taken)
}
