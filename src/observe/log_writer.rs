//! The process log, behind the `log` crate. Threads hand lines over and never wait; one thread writes them to stderr.
//! A line that finds no room or cannot be written is dropped and counted.

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

/// Lines that may wait for a slow stderr.
const WAITING: usize = 1024;

/// Name of the thread that writes.
const THREAD: &str = "log";

/// These print what is on the wire, keys included, below this level.
const CAPPED: [&str; 5] = ["ureq", "ureq_proto", "rustls", "tiny_http", "mio"];
const CAP: Level = Level::Warn;

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Makes this the process log, and the voice of panics. Called again, it changes the level and `access` only.
pub(crate) fn install(settings: &config::Log) -> &'static Logger {
    let logger = LOGGER.get_or_init(|| Logger::start(settings.format, sink(settings.format)));
    if log::set_logger(logger).is_ok() {
        panic::set_hook(Box::new(report));
    }
    logger.access.store(settings.access, Ordering::Relaxed);
    log::set_max_level(settings.level);
    logger
}

/// The last lines; `None` unless the page is served.
static TAIL: Mutex<Option<History<String>>> = Mutex::new(None);
const TAIL_CHARACTERS: usize = 500;

/// From now on the last lines are kept.
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

/// The lines after this number, and the number of the last.
pub(crate) fn tail(after: u64) -> (Vec<String>, u64) {
    match &*lock(&TAIL) {
        Some(tail) => (tail.after(after).map(|(_, line)| line.clone()).collect(), tail.last),
        None => (Vec::new(), 0),
    }
}

/// Lines that were lost since the start.
pub(crate) fn dropped() -> u64 {
    LOGGER.get().map_or(0, Logger::dropped)
}

enum Item {
    Line(Entry),
    /// Rendered by the thread that writes, so that no request waits for it.
    Access(Arc<AccessRecord>, SystemTime),
    /// Dropped when its turn comes, which tells the other end.
    Flush(Sender<()>),
}

/// A finished line: no character in it, but for JSON's own ending, can end it early or command a terminal.
struct Entry {
    level: Level,
    /// Module or subject; empty for JSON, which holds it.
    target: String,
    /// What is said: for JSON the whole line.
    message: String,
}

impl Entry {
    /// Renders a record. Fails only when the `Display` of one of its values does.
    fn new(record: &Record<'_>, format: LogFormat, at: SystemTime) -> Result<Self, fmt::Error> {
        let (mut target, mut message) = (String::new(), String::with_capacity(128));
        match format {
            LogFormat::Text => {
                escape::plain(&mut target, record.target())?;
                escape::plain(&mut message, record.args())?;
            }
            LogFormat::Json => {
                json_head(&mut message, at, record.level(), record.target())?;
                message.push_str(r#","message":"#);
                escape::quoted(&mut message, record.args())?;
                message.push_str("}\n");
            }
        }
        Ok(Self { level: record.level(), target, message })
    }

    /// Renders the line of an ended request, whose fields stand in the message's place.
    fn access(record: &AccessRecord, format: LogFormat, at: SystemTime) -> Result<Self, fmt::Error> {
        let (level, mut target, mut message) = (record.level(), String::new(), String::with_capacity(512));
        match format {
            LogFormat::Text => {
                target.push_str(TARGET);
                write!(message, "{record}")?;
            }
            LogFormat::Json => {
                json_head(&mut message, at, level, TARGET)?;
                for (name, value) in record.fields() {
                    write!(message, ",\"{name}\":")?;
                    value.write(&mut message, |_| true)?;
                }
                message.push_str("}\n");
            }
        }
        Ok(Self { level, target, message })
    }
}

fn json_head(out: &mut String, at: SystemTime, level: Level, target: &str) -> fmt::Result {
    let level = level.as_str().to_ascii_lowercase();
    write!(out, r#"{{"time":"{}","level":"{level}","target":"#, time::iso(at))?;
    escape::quoted(out, target)
}

/// Where lines go, or `None` when there is none for now. Called on one thread only; may panic and block as it likes.
/// Returns how many lines are lost.
type Sink = Box<dyn FnMut(Option<&Entry>) -> u64 + Send>;

/// Access lines that are written together.
const BATCH: usize = 32 << 10;
/// How long the next lines are waited for before they are written together.
const BATCH_TIME: Duration = Duration::from_millis(10);

fn sink(format: LogFormat) -> Sink {
    let simple_logger = SimpleLogger::new();
    let (mut batch, mut lines) = (Vec::new(), 0);
    Box::new(move |entry| {
        let is_batched = |entry: &&Entry| format == LogFormat::Json || entry.target == TARGET;
        if let Some(Entry { level, target, message }) = entry.filter(is_batched) {
            let _ = match format {
                LogFormat::Json => batch.write_all(message.as_bytes()),
                // As simple_logger prints it, which takes the time of printing.
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
            // simple_logger's own timestamps would bring seven crates.
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
    /// Starts the writing thread. Where none can be had, every line counts as dropped.
    fn start(format: LogFormat, sink: Sink) -> Self {
        let (items, taken) = bounded(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&dropped);
        // On failure the closure is dropped, and with it the receiving end.
        let _ = thread::Builder::new().name(THREAD.into()).spawn(move || drain(taken, format, sink, &count));
        Self { format, access: AtomicBool::new(true), items, dropped }
    }

    fn take_access(&self, record: &Arc<AccessRecord>) {
        let item = || Item::Access(Arc::clone(record), time::wall());
        if self.access.load(Ordering::Relaxed) && self.items.try_send(item()).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all lines handed over so far are written; `false` = the deadline came first.
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
        // simple_logger prints with `eprintln!`, which panics when stderr is a full disk or a closed pipe.
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
        // Not listening meanwhile: a busy proxy does not wake this thread for each line.
        thread::park_timeout(BATCH_TIME);
        first = items.try_recv().ok();
        if first.is_none() {
            write(None);
            first = items.recv().ok();
        }
    }
}

/// One line per panic. Only the main thread waits for it to be written: its end is the end of the process.
fn report(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    // A line that could not be written: it is counted, and saying so would fail in the same way.
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
