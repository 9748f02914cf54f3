//! Unit tests of `units`.

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
