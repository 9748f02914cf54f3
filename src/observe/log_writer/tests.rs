//! Unit tests of `log_writer`.

use super::*;
use crate::observe::access::AccessRecord;
use crate::observe::access::tests::chat;
use crate::util::tests as child;
use crossbeam_channel::unbounded;
use serde_json::{Value as Json, json};
use std::fs::OpenOptions;

/// A logger whose lines come out of the receiver; the writing thread ends with the logger.
fn logger() -> (Logger, Receiver<String>) {
    let (lines, seen) = unbounded();
    let sink: Sink =
        Box::new(move |entry| entry.is_some_and(|entry| lines.send(entry.message.clone()).is_err()).into());
    (Logger::start(LogFormat::Text, sink), seen)
}

fn say(logger: &Logger, level: Level, target: &str, message: &str) {
    logger.log(&Record::builder().level(level).target(target).args(format_args!("{message}")).build());
}

fn soon() -> Instant {
    time::now() + Duration::from_secs(30)
}

#[test]
fn lines_beyond_a_stuck_sink_are_dropped_and_counted_without_waiting() {
    // E4
    let (entered, inside) = bounded(0);
    let (open, gate) = bounded::<()>(0);
    let sink: Sink = Box::new(move |_| {
        let _ = entered.send(());
        let _ = gate.recv();
        0
    });
    let logger = Logger::start(LogFormat::Text, sink);
    say(&logger, Level::Info, "t", "held by the sink");
    inside.recv().unwrap();
    for _ in 0..WAITING {
        say(&logger, Level::Info, "t", "waiting");
    }
    assert_eq!(logger.dropped(), 0);
    for _ in 0..5 {
        say(&logger, Level::Info, "t", "too many");
    }
    assert_eq!(logger.dropped(), 5);
    assert!(!logger.flush(time::now()), "a flush must not outlast its deadline");
    drop((open, inside));
    assert!(logger.flush(soon()));
    assert_eq!(logger.dropped(), 5);
}

#[test]
fn a_sink_that_fails_or_panics_loses_its_line_only() {
    // E4
    let (lines, seen) = unbounded();
    let sink: Sink = Box::new(move |entry| match entry.map(|entry| entry.message.as_str()) {
        None => 0,
        Some("fail") => 1,
        Some("panic") => panic!("as simple_logger does"),
        Some(text) => lines.send(text.to_owned()).is_err().into(),
    });
    let logger = Logger::start(LogFormat::Text, sink);
    for message in ["one", "fail", "panic", "two"] {
        say(&logger, Level::Info, "t", message);
    }
    assert!(logger.flush(soon()));
    assert_eq!((logger.dropped(), seen.try_iter().collect::<Vec<_>>()), (2, vec!["one".into(), "two".into()]));
}

#[test]
fn libraries_that_dump_the_wire_never_say_more_than_warnings() {
    let (logger, seen) = logger();
    for target in ["ureq::unversioned::transport", "ureq_proto::util", "rustls::conn", "tiny_http", "mio::poll"] {
        say(&logger, Level::Trace, target, "Authorization: Bearer canary");
        say(&logger, Level::Info, target, "Authorization: Bearer canary");
        say(&logger, Level::Warn, target, "fine");
    }
    say(&logger, Level::Debug, "llmproxy::mio", "ours");
    assert!(logger.flush(soon()));
    let lines: Vec<String> = seen.try_iter().collect();
    assert!(lines.len() == 6 && !lines.iter().any(|line| line.contains("canary")), "{lines:?}");
}

#[test]
fn access_lines_can_be_switched_off_alone() {
    let (logger, seen) = logger();
    logger.take_access(&Arc::new(chat()));
    logger.access.store(false, Ordering::Relaxed);
    logger.take_access(&Arc::new(chat()));
    say(&logger, Level::Info, "t", "still here");
    assert!(logger.flush(soon()));
    let lines: Vec<String> = seen.try_iter().collect();
    assert_eq!(lines, [chat().to_string(), "still here".to_owned()]);
}

#[test]
fn a_panic_is_one_line_and_the_process_goes_on() {
    let test = "observe::log_writer::tests::a_panic_is_one_line_and_the_process_goes_on";
    if !child::is_child() {
        let output = child::again(test).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let (time, line) = stderr.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && output.status.success(), "{stderr}");
        let start = "ERROR [llmproxy::observe::log_writer] thread worker panicked at src/observe/log_writer/tests.rs:";
        assert!(line.starts_with(start) && line.ends_with(": two\\nlines\n"), "{stderr}");
        assert_eq!(stderr.lines().count(), 1);
        return;
    }
    let settings = config::Log { level: log::LevelFilter::Error, ..config::Log::default() };
    let handle = install(&settings);
    let worker = thread::Builder::new().name("worker".into()).spawn(|| panic!("two\nlines")).unwrap();
    assert!(worker.join().is_err());
    install(&settings);
    log::info!("below the level");
    assert!(handle.flush(soon()));
    assert_eq!(dropped(), 0);
}

#[test]
fn a_full_disk_under_stderr_costs_lines_and_nothing_else() {
    // E4, with simple_logger's own `eprintln!`
    if !child::is_child() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let test = "observe::log_writer::tests::a_full_disk_under_stderr_costs_lines_and_nothing_else";
        assert!(child::again(test).stderr(full).status().unwrap().success());
        return;
    }
    let handle = install(&config::Log::default());
    for _ in 0..3 {
        log::info!("into the void");
    }
    assert!(handle.flush(soon()));
    assert_eq!(dropped(), 3);
}

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
            "total_ms": 2300, "bytes": 8123, "tokens_in": 120, "tokens_cached": 100, "cached": "83%",
            "tokens_out": 96,
            "tokens_per_second": 42.4, "end": "done",
        })
    );
}
