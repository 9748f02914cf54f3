//! Times and sizes as people write them, both ways. Knows no key and no default.

use std::time::Duration;

const TIME_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Reads `500ms`, `30s`, `1h30m`: units from large to small, each once; bare digits are milliseconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Some(millis) = digits(text) {
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
pub fn print_duration(time: Duration) -> String {
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
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Some(bytes) = digits(text) {
        return Some(bytes);
    }
    let (count, tail) = leading(text)?;
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(tail.trim_start()))?;
    count.checked_mul(*factor)
}

/// Prints a size in the largest unit that divides it.
pub fn print_size(bytes: u64) -> String {
    let fits = |factor: u64| bytes >= factor && bytes.is_multiple_of(factor);
    match SIZE_UNITS.iter().find(|(_, factor)| *factor > 1 && fits(*factor)) {
        Some((name, factor)) => format!("{}{name}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

/// A text without the quotes around it; Docker passes those of an `--env-file` on.
pub fn unquoted(text: &str) -> &str {
    let inside = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inside('"').or_else(|| inside('\'')).unwrap_or(text)
}

fn digits(text: &str) -> Option<u64> {
    leading(text).filter(|(_, tail)| tail.is_empty()).map(|(count, _)| count)
}

/// The whole number a text begins with, and what follows it.
fn leading(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_units_from_large_to_small_or_bare_milliseconds() {
        let good = [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1d", 86_400_000),
            ("1m500ms", 60_500),
            ("0", 0),
            ("30000", 30_000),
        ];
        for (text, millis) in good {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", " ", "s", "-1s", "1.5s", "5 min", "1m1h", "1s1s", "10x", "1h30", "99999999999999999999s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(parse_duration("18446744073709551615d"), None, "no overflow");
    }

    #[test]
    fn a_size_is_binary_or_decimal_or_bare_bytes() {
        let good = [
            ("64MiB", 64 << 20),
            ("32 KiB", 32 << 10),
            ("10MB", 10_000_000),
            ("1GB", 1_000_000_000),
            ("1kb", 1_000),
            ("7B", 7),
            ("1024", 1024),
        ];
        for (text, bytes) in good {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5MiB", "64M", "64MiBs", "99999999TiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for millis in [0, 1, 999, 1_000, 60_000, 75_000, 5_400_000, 86_400_000, 90_061_001] {
            let time = Duration::from_millis(millis);
            assert_eq!(parse_duration(&print_duration(time)), Some(time));
        }
        assert_eq!(print_duration(Duration::from_millis(5_400_000)), "1h30m");
        for bytes in [0, 1, 1_000, 1_024, 1_500, 32 << 20, 10_000_000, 4 << 30, 12_345] {
            assert_eq!(parse_size(&print_size(bytes)), Some(bytes));
        }
        assert_eq!((print_size(32 << 20), print_size(10_000_000)), ("32MiB".into(), "10MB".into()));
    }
}
