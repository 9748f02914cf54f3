//! The sections that are a handful of plain values. Each takes its defaults from its type.

use crate::config::reader::{Field, Section};
use crate::config::{Cache, HealthCheck, Log, LogFormat, SsePing, Timeouts};
use log::LevelFilter;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Words of `log.level`.
pub(crate) const LOG_LEVELS: [(&str, LevelFilter); 4] = [
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
];

/// Words of `log.format`.
pub(crate) const LOG_FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

const DAY: Duration = Duration::from_secs(86_400);

pub(super) const SOME_TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;
pub(super) const ANY_TIME: RangeInclusive<Duration> = Duration::ZERO..=DAY;

pub(super) fn health_check(s: &mut Section) -> HealthCheck {
    let default = HealthCheck::default();
    HealthCheck {
        interval: s.field("interval").duration(Duration::from_millis(100)..=DAY).unwrap_or(default.interval),
        timeout: s.field("timeout").duration(SOME_TIME).unwrap_or(default.timeout),
        path: probe_path(&s.field("path")).unwrap_or(default.path),
        failure_threshold: s
            .field("failureThreshold")
            .number("a number of failures", 1..=1_000_000)
            .unwrap_or(default.failure_threshold),
    }
}

/// The path of a probe; it goes into a request line as it is.
pub(super) fn probe_path(field: &Field) -> Option<String> {
    field.parse(|text| {
        if !text.starts_with('/') {
            return Err("does not start with /".into());
        }
        if text.contains('#') || text.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err("has a character that cannot stand in a path; percent-encode it".into());
        }
        Ok(text.to_owned())
    })
}

/// In a section that is given, a missing key means not set, not the default [S000-09], [S000-10].
pub(super) fn cache(root: &mut Section) -> Cache {
    let field = root.field("cache");
    let said = field.section(|s| Cache {
        ttl: s.field("ttlMs").duration(ANY_TIME),
        ttl_multiplier: s.field("ttlMultiplier").factor(0.0..=1000.0),
    });
    if field.is_given() { said } else { Cache::default() }
}

/// Time-outs on top of `base`: the defaults, or the section's for an endpoint.
pub(super) fn timeouts(s: &mut Section, base: &Timeouts) -> Timeouts {
    let mut limit = |key, base| match s.field(key).duration(ANY_TIME) {
        None => base,
        Some(Duration::ZERO) => None,
        limit => limit,
    };
    Timeouts {
        connect: limit("connect", base.connect),
        first_byte: limit("firstByte", base.first_byte),
        idle: limit("idle", base.idle),
        total: limit("total", base.total),
    }
}

/// `off`, or a map; its keys are known even where the word is written instead.
pub(super) fn sse_ping(field: &Field) -> Option<SsePing> {
    let default = SsePing::default();
    let time = Duration::from_millis(100)..=DAY;
    let off = field.is_word("off");
    let map = if off { field.emptied() } else { field.clone() };
    let ping = map.section(|s| SsePing {
        after: s.field("after").duration(time.clone()).unwrap_or(default.after),
        every: s.field("every").duration(time.clone()).unwrap_or(default.every),
    });
    (!off).then_some(ping)
}

pub(super) fn log(s: &mut Section) -> Log {
    let default = Log::default();
    Log {
        level: s.field("level").choice(&LOG_LEVELS).unwrap_or(default.level),
        format: s.field("format").choice(&LOG_FORMATS).unwrap_or(default.format),
        access: s.field("access").flag().unwrap_or(default.access),
    }
}

pub(super) fn weight(field: &Field) -> Option<u16> {
    field.number("a weight", 1..=65_535)
}
