//! Escapes untrusted text for one line of a log.

use std::fmt::{self, Write};

/// Longest text in bytes, which bounds the memory of the queue of lines.
const ROOM: usize = 4096;

/// Writes text so that it can neither end its line nor control a terminal.
pub(crate) fn plain(out: &mut dyn Write, text: impl fmt::Display) -> fmt::Result {
    Escape { out, quotes: false, room: ROOM }.all(text)
}

/// Writes it as a JSON string, with quotes.
pub(crate) fn quoted(out: &mut dyn Write, text: impl fmt::Display) -> fmt::Result {
    out.write_char('"')?;
    Escape { out, quotes: true, room: ROOM }.all(text)?;
    out.write_char('"')
}

/// At most this many characters from the start of a text.
pub(crate) fn cut(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}

/// Whether a character must be escaped: C0, DEL, C1, line separators, and marks that change the direction of text.
pub(crate) fn harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

struct Escape<'a> {
    out: &'a mut dyn Write,
    quotes: bool,
    room: usize,
}

impl Escape<'_> {
    fn all(mut self, text: impl fmt::Display) -> fmt::Result {
        let written = write!(self, "{text}");
        if self.room > 0 {
            return written;
        }
        // `write_str` returned the error to stop a text that is too long.
        self.out.write_char('…')
    }

    fn character(&mut self, c: char) -> fmt::Result {
        match c {
            '\n' => self.out.write_str("\\n"),
            '\r' => self.out.write_str("\\r"),
            '\t' => self.out.write_str("\\t"),
            '"' | '\\' if self.quotes => write!(self.out, "\\{c}"),
            // Four digits are enough: all harmful characters are below U+10000.
            c if harmful(c) => write!(self.out, "\\u{:04x}", u32::from(c)),
            c => self.out.write_char(c),
        }
    }
}

impl Write for Escape<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let harmless = |b: u8| matches!(b, b' '..=b'~') && !(self.quotes && matches!(b, b'"' | b'\\'));
        if text.len() < self.room && text.bytes().all(harmless) {
            self.room -= text.len();
            return self.out.write_str(text);
        }
        for c in text.chars() {
            self.room = self.room.saturating_sub(c.len_utf8());
            if self.room == 0 {
                return Err(fmt::Error);
            }
            self.character(c)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
