//! One log line, rendered before it is handed to where it goes.

use super::access::{AccessRecord, TARGET};
use super::escape;
use crate::config::LogFormat;
use crate::util::time;
use log::{Level, Record};
use std::fmt::{self, Write};
use std::time::SystemTime;

/// A finished line: no character in it, but for JSON's own ending, can end it early or command a terminal.
pub(crate) struct Entry {
    pub(super) level: Level,
    /// Module or subject; empty for JSON, which holds it.
    pub(super) target: String,
    /// What is said: for JSON the whole line.
    pub(super) message: String,
}

impl Entry {
    /// Renders a record. Fails only when the `Display` of one of its values does.
    pub(super) fn new(record: &Record<'_>, format: LogFormat, at: SystemTime) -> Result<Self, fmt::Error> {
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
    pub(super) fn access(record: &AccessRecord, format: LogFormat, at: SystemTime) -> Result<Self, fmt::Error> {
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

#[cfg(test)]
mod tests;
