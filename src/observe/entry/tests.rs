//! Unit tests of `entry`.

use super::*;
use crate::observe::access::{AccessRecord, tests::chat};
use serde_json::{Value as Json, json};

fn plain(message: &str, format: LogFormat) -> Entry {
    let mut record = Record::builder();
    record.level(Level::Warn).target("llmproxy::health");
    Entry::new(&record.args(format_args!("{message}")).build(), format, SystemTime::UNIX_EPOCH).unwrap()
}

fn parsed(entry: &Entry) -> Json {
    let body = entry.message.strip_suffix('\n').unwrap();
    assert!(!body.chars().any(escape::harmful), "{body:?}");
    serde_json::from_str(body).unwrap()
}

#[test]
fn one_record_is_one_line_whatever_it_holds() {
    // F12, F11
    let hostile = "a\r\n2024-01-31 INFO forged\u{1b}[2J \u{9b}31m \u{7f}\0 \u{2028} \u{202e} \"quoted\"";
    let entry = plain(hostile, LogFormat::Text);
    assert!(!entry.message.chars().any(escape::harmful), "{}", entry.message);
    assert_eq!(entry.target, "llmproxy::health");
    assert!(entry.message.starts_with("a\\r\\n2024-01-31 INFO forged\\u001b[2J \\u009b31m "));
}

#[test]
fn json_lines_are_json_whatever_they_hold() {
    // F12
    let hostile = "\"}\r\n{\"level\":\"\u{1b}\u{7f}\u{9b}\0\\ 漢";
    assert_eq!(
        parsed(&plain(hostile, LogFormat::Json)),
        json!({
            "time": "1970-01-01T00:00:00.000Z", "level": "warn", "target": "llmproxy::health",
            "message": hostile,
        })
    );
    assert!(parsed(&plain(&"\0".repeat(1 << 20), LogFormat::Json)).is_object());
}

#[test]
fn an_access_line_in_json_is_flat_and_typed() {
    // F12: a model may be called anything, a key `42`
    let hostile = "\"}\r\n{\"level\":\"\u{1b}";
    let (model, path, key) = (Some(hostile.into()), hostile.into(), Some("42".into()));
    let line = AccessRecord { model, path, key, endpoint: None, ..chat() };
    let entry = Entry::access(&line, LogFormat::Json, SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(
        parsed(&entry),
        json!({
            "time": "1970-01-01T00:00:00.000Z", "level": "info", "target": "access", "method": "POST",
            "path": hostile, "status": 200, "request_id": "req-1", "client": "127.0.0.1", "key": "42",
            "model": hostile, "reason": "only", "attempts": 1, "queue_ms": 0, "first_byte_ms": 41,
            "total_ms": 2300, "bytes": 8123, "tokens_in": 120, "tokens_cached": 100, "tokens_out": 96,
            "tokens_per_second": 42.4, "end": "done",
        })
    );
}
