//! The process log, behind the `log` crate. One thread writes to stderr; others queue lines and never wait. Lines that
//! do not fit into the queue or cannot be written are dropped and counted.

use super::access::{AccessRecord, TARGET};
use super::{History, escape};
use crate::config::{self, LogFormat};
use crate::util::lock::lock;
use crate::util::time;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::{Level, Log, Metadata, Record};
use simple_logger::SimpleLogger;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Lines in the queue.
const WAITING: usize = 1024;

/// Name of the writing thread.
const THREAD: &str = "log";

/// Crates that log raw traffic, keys included, at lower levels than this.
const CAPPED: [&str; 5] = ["ureq", "ureq_proto", "rustls", "tiny_http", "mio"];
const CAP: Level = Level::Warn;

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Installs the logger and a panic hook. Further calls change only the level and `access`.
pub(crate) fn install(settings: &config::Log) -> &'static Logger {
    let logger = LOGGER.get_or_init(|| Logger::start(settings.format, sink(settings.format)));
    if log::set_logger(logger).is_ok() {
        panic::set_hook(Box::new(report));
    }
    logger.access.store(settings.access, Ordering::Relaxed);
    log::set_max_level(settings.level);
    logger
}

/// The last lines, each cut to this many characters; `None` until `watch` is called.
static TAIL: Mutex<Option<History<String>>> = Mutex::new(None);
const TAIL_CHARACTERS: usize = 500;

/// Keeps the last lines for the page from now on.
pub(crate) fn watch() {
    lock(&TAIL).get_or_insert(History::new());
}

fn remember(entry: &Entry) {
    if let Some(tail) = &mut *lock(&TAIL) {
        let text = escape::cut(&entry.message, TAIL_CHARACTERS);
        tail.push(match text.starts_with('{') {
            true => text.to_owned(),
            false => format!("{} {:<5} {text}", time::iso(time::wall()), entry.level),
        });
    }
}

/// The lines after number `after`, and the number of the last one.
pub(crate) fn tail(after: u64) -> (Vec<String>, u64) {
    match &*lock(&TAIL) {
        Some(tail) => (tail.after(after).map(|(_, line)| line.clone()).collect(), tail.last),
        None => (Vec::new(), 0),
    }
}

/// Lines dropped since the start.
pub(crate) fn dropped() -> u64 {
    LOGGER.get().map_or(0, Logger::dropped)
}

enum Item {
    Line(Entry),
    /// Formatted by the writing thread, so that no request waits for it.
    Access(Arc<AccessRecord>, SystemTime),
    /// Dropped once all items before it are written.
    Flush(Sender<()>),
}

/// A formatted line, escaped so that its content can neither end it nor control a terminal.
struct Entry {
    level: Level,
    /// Empty in JSON.
    target: String,
    /// In JSON, the whole line.
    message: String,
}

impl Entry {
    fn new(record: &Record<'_>, format: LogFormat, at: SystemTime) -> Result<Self, fmt::Error> {
        Self::formatted(record.level(), record.target(), format, at, |out| match format {
            LogFormat::Text => escape::plain(out, record.args()),
            LogFormat::Json => {
                out.push_str(r#","message":"#);
                escape::quoted(out, record.args())
            }
        })
    }

    fn access(record: &AccessRecord, format: LogFormat, at: SystemTime) -> Result<Self, fmt::Error> {
        Self::formatted(record.level(), TARGET, format, at, |out| match format {
            LogFormat::Text => write!(out, "{record}"),
            LogFormat::Json => record.fields().try_for_each(|(name, value)| {
                write!(out, ",\"{name}\":")?;
                value.write(out, |_| true)
            }),
        })
    }

    /// Fails only if `write` does, which a `Display` of a caller may cause.
    fn formatted(
        level: Level,
        target: &str,
        format: LogFormat,
        at: SystemTime,
        write: impl FnOnce(&mut String) -> fmt::Result,
    ) -> Result<Self, fmt::Error> {
        let mut entry = Self { level, target: String::new(), message: String::with_capacity(512) };
        let out = &mut entry.message;
        match format {
            LogFormat::Text => {
                escape::plain(&mut entry.target, target)?;
                write(out)?;
            }
            LogFormat::Json => {
                let level = level.as_str().to_ascii_lowercase();
                write!(out, r#"{{"time":"{}","level":"{level}","target":"#, time::iso(at))?;
                escape::quoted(out, target)?;
                write(out)?;
                out.push_str("}\n");
            }
        }
        Ok(entry)
    }
}

/// Writes a line, or, with `None`, the lines that it holds back. Returns how many lines were lost; may block or panic.
type Sink = Box<dyn FnMut(Option<&Entry>) -> u64 + Send>;

/// Access lines are written together, up to this many bytes.
const BATCH: usize = 32 << 10;
/// How long a batch may wait for further lines.
const BATCH_TIME: Duration = Duration::from_millis(10);

fn sink(format: LogFormat) -> Sink {
    let simple_logger = SimpleLogger::new();
    let (mut batch, mut lines) = (Vec::new(), 0);
    Box::new(move |entry| {
        let is_batched = |entry: &&Entry| format == LogFormat::Json || entry.target == TARGET;
        if let Some(Entry { level, target, message }) = entry.filter(is_batched) {
            let _ = match format {
                LogFormat::Json => batch.write_all(message.as_bytes()),
                // In the format of simple_logger.
                LogFormat::Text => writeln!(batch, "{} {level:<5} [{target}] {message}", time::iso(time::wall())),
            };
            lines += 1;
            if batch.len() < BATCH {
                return 0;
            }
        }
        let is_written = batch.is_empty() || io::stderr().lock().write_all(&batch).is_ok();
        let lost = if is_written { 0 } else { lines };
        batch.clear();
        lines = 0;
        if let Some(Entry { level, target, message }) = entry.filter(|entry| !is_batched(entry)) {
            // The timestamps feature of simple_logger needs seven more crates.
            let _ = write!(io::stderr().lock(), "{} ", time::iso(time::wall()));
            let mut record = Record::builder();
            simple_logger.log(&record.level(*level).target(target).args(format_args!("{message}")).build());
        }
        lost
    })
}

/// Writes the access line of an ended request.
pub(crate) fn access(record: &Arc<AccessRecord>) {
    if let Some(logger) = LOGGER.get().filter(|_| record.level() <= log::max_level()) {
        logger.take_access(record);
    }
}

pub(crate) struct Logger {
    format: LogFormat,
    access: AtomicBool,
    items: Sender<Item>,
    dropped: Arc<AtomicU64>,
}

impl Logger {
    /// Starts the writing thread. If that fails, every line is dropped and counted.
    fn start(format: LogFormat, sink: Sink) -> Self {
        let (items, taken) = bounded(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&dropped);
        // On failure the closure is dropped, and the receiver with it.
        let _ = thread::Builder::new().name(THREAD.into()).spawn(move || drain(taken, format, sink, &count));
        Self { format, access: AtomicBool::new(true), items, dropped }
    }

    fn take_access(&self, record: &Arc<AccessRecord>) {
        let item = || Item::Access(Arc::clone(record), time::wall());
        if self.access.load(Ordering::Relaxed) && self.items.try_send(item()).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all lines queued so far are written; `false` if the deadline passed.
    pub(crate) fn flush(&self, deadline: Instant) -> bool {
        let (turn, done) = bounded(0);
        self.items.send_deadline(Item::Flush(turn), deadline).is_ok()
            && done.recv_deadline(deadline) == Err(RecvTimeoutError::Disconnected)
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let origin = metadata.target().split("::").next().unwrap_or_default();
        metadata.level() <= CAP || !CAPPED.contains(&origin)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let entry = Entry::new(record, self.format, time::wall());
        let handed_over = entry.is_ok_and(|entry| self.items.try_send(Item::Line(entry)).is_ok());
        if !handed_over {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

fn drain(items: Receiver<Item>, format: LogFormat, mut sink: Sink, dropped: &AtomicU64) {
    let mut write = |entry: Option<&Entry>| {
        // simple_logger uses `eprintln!`, which panics if stderr is closed or its disk is full.
        let lost = panic::catch_unwind(AssertUnwindSafe(|| sink(entry))).unwrap_or(1);
        dropped.fetch_add(lost, Ordering::Relaxed);
    };
    let mut first = items.recv().ok();
    while let Some(item) = first.take() {
        for item in std::iter::once(item).chain(items.try_iter()) {
            let entry = match item {
                Item::Line(entry) => Some(entry),
                Item::Access(record, at) => Entry::access(&record, format, at).ok(),
                Item::Flush(turn) => {
                    write(None);
                    drop(turn);
                    continue;
                }
            };
            if let Some(entry) = entry {
                remember(&entry);
                write(Some(&entry));
            }
        }
        // Sleep instead of waiting for the queue, so that a busy proxy does not wake this thread for every line.
        thread::park_timeout(BATCH_TIME);
        first = items.try_recv().ok();
        if first.is_none() {
            write(None);
            first = items.recv().ok();
        }
    }
}

/// Logs a panic. The main thread waits until the line is written, since the process ends with it.
fn report(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    // A failed write, which is counted; logging it would fail, too.
    if name == THREAD {
        return;
    }
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    let text = escape::cut(text.unwrap_or_default(), 200);
    match panic.location() {
        Some(place) => log::error!("thread {name} panicked at {place}: {text}"),
        None => log::error!("thread {name} panicked: {text}"),
    }
    if name == "main"
        && let Some(logger) = LOGGER.get()
    {
        logger.flush(time::now() + Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests;
