//! Sections of plain values. `config/full.yml` describes each key.

use super::access::SHORTEST;
use super::address::{host, listen_host, network, origin};
use super::features::{ADMIN, JOBS};
use super::reader::Field;
use super::table::*;
use super::text::{NOT_SENDABLE, can_be_sent, probe_path, webhook_host};
use super::{CorsOrigin, Network};
use crate::util::secret::Secret;
use log::LevelFilter;
use std::path::PathBuf;
use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

table! {
    /// `server`: the main listener and the limits on clients.
    pub struct Server (check = server) {
        pub host: String = "127.0.0.1".into(), key("host", text(listen_host));
        pub port: u16 = 8080, key("port", number("a port, or 0 for any free one", 0..=65_535));
        pub workers: usize = 64, key("workers", number("a number of threads", 1..=4096));
        pub backlog: usize = 64, key("backlog", number("a number of requests", 0..=65_536));
        pub max_connections: usize = 1024, key("maxConnections", number("a number of connections", 1..=1_000_000));
        pub per_client: usize = 64, key("perClient", number("a number of connections", 1..=1_000_000));
        pub max_body: u64 = 32 * MIB, key("maxBody", size(KIB..=4 * GIB));
        pub body_memory: u64 = 256 * MIB, key("bodyMemory", size(KIB..=1024 * GIB));
        pub head_timeout: Duration = secs(10), key("headTimeout", time(SOME_TIME));
        pub body_timeout: Duration = secs(10), key("bodyTimeout", time(SOME_TIME));
        pub keep_alive: Duration = secs(75), key("keepAlive", time(SOME_TIME));
        pub write_timeout: Duration = secs(30), key("writeTimeout", time(SOME_TIME));
        pub drain_timeout: Duration = secs(25), key("drainTimeout", time(ANY_TIME));
        pub cors: Vec<CorsOrigin> = vec![CorsOrigin::Local], key("cors", list(text(origin)));
        pub allowed_hosts: Vec<String>, key("allowedHosts", list(text(host)));
        pub trusted_proxies: Vec<Network>, key("trustedProxies", list(text(network)));
        /// Comment lines on silent streams; `None` if off.
        pub sse_ping: Option<SsePing> = Some(SsePing::default()),
            key("ssePing", or_word("off", None, optional(section())));
    }
}

fn server(server: &Server, section: &Field) {
    if server.body_memory < server.max_body {
        section.problem("`bodyMemory` is less than `maxBody`: no body of that size would ever be accepted");
    }
}

table! {
    /// `server.ssePing`
    #[derive(Copy, Eq)]
    pub struct SsePing {
        pub after: Duration = secs(15), key("after", time(PERIOD));
        pub every: Duration = secs(15), key("every", time(PERIOD));
    }
}

table! {
    /// `healthCheck`
    pub struct HealthCheck {
        pub interval: Duration = secs(30), key("interval", time(PERIOD));
        pub timeout: Duration = secs(5), key("timeout", time(SOME_TIME));
        pub path: String = "/v1/models".into(), key("path", text(probe_path));
        pub failure_threshold: u32 = 3, key("failureThreshold", number("a number of failures", 1..=1_000_000));
    }
}

table! {
    /// `cache`: see [`super::Config::models_ttl`].
    pub struct Cache {
        /// The maximum age of a model list; `Some(0)` refreshes it in every probe round.
        pub ttl: Option<Duration> = Some(secs(30)), key("ttlMs", optional(millis(ANY_TIME)));
        pub ttl_multiplier: Option<f64> = None, key("ttlMultiplier", optional(factor(0.0..=1000.0)));
    }
}

/// If the section is given, a missing key means unset instead of the default [S000-09], [S000-10].
pub(super) fn cache() -> Kind<Cache> {
    let unset = Cache { ttl: None, ttl_multiplier: None };
    Kind {
        read: Box::new(move |field, _| {
            Some(read_section(field, unset.clone(), Cache::keys)).filter(|_| field.is_given())
        }),
        ..section()
    }
}

table! {
    /// `timeouts`: one limit per stage; `None` for no limit (0 in the file).
    #[derive(Copy, Eq)]
    pub struct Timeouts {
        pub connect: Option<Duration> = Some(secs(3)), key("connect", limit());
        pub first_byte: Option<Duration> = Some(secs(600)), key("firstByte", limit());
        pub idle: Option<Duration> = Some(secs(120)), key("idle", limit());
        pub total: Option<Duration>, key("total", limit());
    }
}

table! {
    /// `groups[].timeouts` replace those of endpoints; `None` keeps the endpoint's, zero means no limit.
    #[derive(Copy, Eq)]
    pub struct Stages {
        pub connect: Option<Duration>, key("connect", optional(time(ANY_TIME)));
        pub first_byte: Option<Duration>, key("firstByte", optional(time(ANY_TIME)));
        pub idle: Option<Duration>, key("idle", optional(time(ANY_TIME)));
        pub total: Option<Duration>, key("total", optional(time(ANY_TIME)));
    }
}

impl Stages {
    /// `base`, overridden by these.
    pub fn over(&self, base: &Timeouts) -> Timeouts {
        let limit = |ours: Option<Duration>, theirs| match ours {
            None => theirs,
            Some(Duration::ZERO) => None,
            some => some,
        };
        Timeouts {
            connect: limit(self.connect, base.connect),
            first_byte: limit(self.first_byte, base.first_byte),
            idle: limit(self.idle, base.idle),
            total: limit(self.total, base.total),
        }
    }
}

table! {
    /// `queue`
    #[derive(Eq)]
    pub struct Queue {
        pub length: usize = 64, key("length", number("a number of requests", 0..=65_536));
        pub timeout: Duration = secs(120), key("timeout", time(SOME_TIME));
    }
}

table! {
    /// `metrics`
    #[derive(Copy, Eq)]
    pub struct Metrics {
        pub enabled: bool = true, key("enabled", flag());
    }
}

table! {
    /// `jobs` (SPEC section 7).
    #[derive(Eq)]
    pub struct Jobs {
        pub enabled: bool = false, key("enabled", switch(&JOBS));
        pub max_concurrent: usize = 2, key("maxConcurrent", number("a number of jobs", 1..=256));
        pub attempts: u32 = 3, key("attempts", number("a number of tries", 1..=100));
        pub retention: Duration = secs(3600), key("retention", time(SOME_TIME));
        pub timeout: Duration = secs(600), key("timeout", time(SOME_TIME));
        pub max_queued: usize = 1000, key("maxQueued", number("a number of jobs", 1..=100_000));
        pub dir: PathBuf = "data/jobs".into(), key("dir", path("folder"));
        pub always: bool = false, key("always", flag());
        pub webhooks: Webhooks, key("webhooks", section());
    }
}

table! {
    /// `jobs.webhooks`
    #[derive(Eq)]
    pub struct Webhooks {
        pub allow: Vec<String>, key("allow", list(text(webhook_host)));
        pub secret: Option<Secret>, secret("secret");
        pub attempts: u32 = 5, key("attempts", number("a number of tries", 1..=100));
    }
}

table! {
    /// `admin` (SPEC section 10).
    #[derive(Eq)]
    pub struct Admin (check = admin) {
        pub enabled: bool = false, key("enabled", switch(&ADMIN));
        pub host: String = "127.0.0.1".into(), key("host", text(listen_host));
        /// `None` for the main listener.
        pub port: Option<u16> = None, key("port", optional(number("a port, or 0 for any free one", 0..=65_535)));
        /// If `None`, a token is generated at each start.
        pub token: Option<Secret>, secret("token");
        pub open: bool = false, key("open", flag());
        /// The file with the page's routes, in format 003; if empty (the demo), nothing is written.
        pub routes_file: PathBuf = "config/dynamic_routing.json".into(), key("routesFile", path("file"));
        pub allowed_hosts: Vec<String>, key("allowedHosts", list(text(host)));
        /// Whether endpoints that only the page's routes name are probed; not if the file itself is one of routes
        /// (format 003).
        pub probe: bool = true, internal();
    }
}

/// `admin.open`
pub(super) const OPEN: &str = "admin.open: every program and every user of this machine can use the admin page without a token, and so \
     can the clients of a local reverse proxy that leaves no trace in the headers";
fn admin(admin: &Admin, section: &Field) {
    let token = admin.token.as_ref().map(Secret::reveal);
    if token.is_some_and(|token| !can_be_sent(token)) {
        section.problem(format!("`token` {NOT_SENDABLE}"));
    }
    if token.is_some_and(|token| token.len() < SHORTEST) {
        section.warn(format!("admin.token has fewer than {SHORTEST} characters and can be guessed"));
    }
    if admin.open {
        section.warn(OPEN);
    }
}

impl Words for LevelFilter {
    const WORDS: &'static [(&'static str, Self)] =
        &[("error", Self::Error), ("warn", Self::Warn), ("info", Self::Info), ("debug", Self::Debug)];
}

words! {
    /// `log.format`
    pub enum LogFormat {
        Text = "text",
        Json = "json",
    }
}

table! {
    /// `log`
    #[derive(Eq)]
    pub struct Log {
        pub level: LevelFilter = LevelFilter::Info, key("level", word());
        pub format: LogFormat = LogFormat::Text, key("format", word());
        pub access: bool = true, key("access", flag());
    }
}
