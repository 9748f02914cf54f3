//! Times and sizes as people write them, both ways. Knows no key and no default.

use std::time::Duration;

const TIME_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const SIZE_UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
    ("", 1),
];

/// Reads `500ms`, `30s`, `1h30m`: units from large to small, each once; bare digits are milliseconds.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Some((millis, "")) = leading(text) {
        return Some(Duration::from_millis(millis));
    }
    let (mut rest, mut millis, mut allowed) = (text, 0_u64, &TIME_UNITS[..]);
    while !rest.is_empty() {
        let (count, tail) = leading(rest)?;
        let unit = &tail[..tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len())];
        let at = allowed.iter().position(|(name, _)| *name == unit)?;
        millis = millis.checked_add(count.checked_mul(allowed[at].1)?)?;
        allowed = &allowed[at + 1..];
        rest = tail[unit.len()..].trim_start();
    }
    (!text.is_empty()).then(|| Duration::from_millis(millis))
}

/// Prints a time in whole milliseconds so that [`parse_duration`] gives it back: `1h30m`, `500ms`, `0`.
pub(crate) fn print_duration(time: Duration) -> String {
    let mut rest = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0".into();
    }
    let mut text = String::new();
    for (name, millis) in TIME_UNITS {
        if rest >= millis {
            text += &format!("{}{name}", rest / millis);
            rest %= millis;
        }
    }
    text
}

/// Reads `64MiB`, `10MB`, `32 KiB`; bare digits are bytes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (count, tail) = leading(text.trim())?;
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(tail.trim_start()))?;
    count.checked_mul(*factor)
}

/// Prints a size in the largest unit that divides it.
pub(crate) fn print_size(bytes: u64) -> String {
    let fits = |factor: u64| bytes >= factor && bytes.is_multiple_of(factor);
    match SIZE_UNITS.iter().find(|(_, factor)| *factor > 1 && fits(*factor)) {
        Some((name, factor)) => format!("{}{name}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

/// A text without the quotes around it; Docker passes those of an `--env-file` on.
pub(crate) fn unquoted(text: &str) -> &str {
    let inside = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inside('"').or_else(|| inside('\'')).unwrap_or(text)
}

/// The whole number a text begins with, and what follows it.
fn leading(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests;
