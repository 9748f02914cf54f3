//! One log line, rendered on the thread that logs it. Knows nothing of where it goes.

use super::{access, escape};
use crate::config::LogFormat;
use crate::util::time;
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, Record};
use std::fmt::{self, Write};
use std::time::SystemTime;

/// A finished line: no character in it, but for JSON's own ending, can end it early or command a terminal.
pub(crate) struct Entry {
    pub(crate) level: Level,
    pub(super) is_access: bool,
    /// Target and message side by side for text, the whole line with its end for JSON.
    joined: String,
    target: usize,
}

impl Entry {
    /// Renders a record. Fails only when the `Display` of one of its values does.
    pub(super) fn new(record: &Record<'_>, format: LogFormat, at: SystemTime) -> Result<Self, fmt::Error> {
        let mut joined = String::with_capacity(512);
        let target = match format {
            LogFormat::Text => text(&mut joined, record)?,
            LogFormat::Json => json(&mut joined, record, at)?,
        };
        Ok(Self { level: record.level(), is_access: record.target() == access::TARGET, joined, target })
    }

    /// Module or subject; empty for JSON, which holds it.
    pub(crate) fn target(&self) -> &str {
        &self.joined[..self.target]
    }

    /// What is said: for JSON the whole line.
    pub(crate) fn message(&self) -> &str {
        &self.joined[self.target..]
    }
}

fn text(out: &mut String, record: &Record<'_>) -> Result<usize, fmt::Error> {
    escape::plain(out, record.target())?;
    let target = out.len();
    escape::plain(out, record.args())?;
    Ok(target)
}

/// `{"time","level","target","message"}`, or the pairs of an access line in the message's place.
fn json(out: &mut String, record: &Record<'_>, at: SystemTime) -> Result<usize, fmt::Error> {
    let level = match record.level() {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    write!(out, r#"{{"time":"{}","level":"{level}","target":"#, time::iso(at))?;
    escape::quoted(out, record.target())?;
    if record.target() != access::TARGET {
        out.push_str(r#","message":"#);
        escape::quoted(out, record.args())?;
    }
    record.key_values().visit(&mut Pairs(out)).map_err(|_| fmt::Error)?;
    out.push_str("}\n");
    Ok(0)
}

struct Pairs<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        self.0.push(',');
        escape::quoted(self.0, key.as_str())?;
        self.0.push(':');
        if value.to_u64().is_some() || value.to_f64().is_some_and(f64::is_finite) {
            write!(self.0, "{value}")?;
        } else {
            escape::quoted(self.0, value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
