//! A configuration as text: whole in native YAML, or one screen of what matters. Shows no secret.

mod routes;

use super::{
    Auth, Base, Config, CorsOrigin, Endpoint, LogFormat, MaxConcurrent, OnClientGone, Op, Probe, Timeouts, UnknownModel,
};
use crate::util::secret::Secret;
use crate::util::units::{print_duration, print_size};
use std::fmt::Write;
use std::time::Duration;

/// The effective configuration with every key; reading it back, secrets put in, gives the same.
pub fn yaml(config: &Config) -> String {
    let mut out = String::from("# The effective configuration. Put the secrets in where \"***\" stands.\n");
    server(&mut out, config);
    if config.endpoints.is_empty() {
        out += "endpoints: []\n";
    } else {
        out += "endpoints:\n";
        config.endpoints.iter().for_each(|one| endpoint(&mut out, one));
    }
    rest(&mut out, config);
    out
}

fn server(out: &mut String, config: &Config) {
    let server = &config.server;
    out.push_str("server:\n");
    let mut line = |key: &str, value: String| out.push_str(&format!("  {key}: {value}\n"));
    line("host", word(&server.host));
    line("port", server.port.to_string());
    line("workers", server.workers.to_string());
    line("backlog", server.backlog.to_string());
    line("maxConnections", server.max_connections.to_string());
    line("perClient", server.per_client.to_string());
    line("maxBody", print_size(server.max_body));
    line("bodyMemory", print_size(server.body_memory));
    line("headTimeout", print_duration(server.head_timeout));
    line("bodyTimeout", print_duration(server.body_timeout));
    line("keepAlive", print_duration(server.keep_alive));
    line("writeTimeout", print_duration(server.write_timeout));
    line("drainTimeout", print_duration(server.drain_timeout));
    line("cors", list(server.cors.iter().map(origin)));
    line("allowedHosts", list(server.allowed_hosts.iter().map(|host| word(host))));
    let networks = server.trusted_proxies.iter().map(|net| word(&format!("{}/{}", net.address, net.prefix)));
    line("trustedProxies", list(networks));
    let ping = server
        .sse_ping
        .map(|ping| format!("{{after: {}, every: {}}}", print_duration(ping.after), print_duration(ping.every)));
    line("ssePing", ping.unwrap_or("off".into()));
    line("group", or_null(config.policy.group.as_deref()));
    line("mode", routes::mode(config.policy.mode).into());
}

fn endpoint(out: &mut String, endpoint: &Endpoint) {
    let _ = writeln!(out, "  - name: {}", word(&endpoint.name));
    let mut line = |key: &str, value: String| out.push_str(&format!("    {key}: {value}\n"));
    match &endpoint.base {
        base if is_plain(base) => {
            line("address", word(&base.host));
            line("port", base.port.to_string());
        }
        base => line("url", word(&url(base))),
    }
    line("enabled", endpoint.enabled.to_string());
    match &endpoint.probe {
        Probe::Never => line("healthCheck", "false".into()),
        Probe::Default => line("healthCheckPath", "null".into()),
        Probe::Path(path) => line("healthCheckPath", word(path)),
    }
    line("apiKeys", list(endpoint.api_keys.iter().map(|_| MASK.to_owned())));
    line("auth", auth(&endpoint.auth));
    let headers = endpoint.headers.iter().map(|change| {
        let (op, has_value) = match change.op {
            Op::Insert => ("insert", true),
            Op::Replace => ("replace", true),
            Op::Remove => ("remove", false),
        };
        let value = change.value.printed().map_or(MASK.to_owned(), word);
        let value = if has_value { format!(", value: {value}") } else { String::new() };
        format!("{{op: {op}, key: {}{value}}}", word(&change.key))
    });
    line("headers", list(headers));
    line("models", list(endpoint.models.iter().map(|model| word(model))));
    line("defaultModel", or_null(endpoint.default_model.as_deref()));
    line("weight", endpoint.weight.to_string());
    let most = match endpoint.max_concurrent {
        MaxConcurrent::Auto => "auto".into(),
        MaxConcurrent::Unlimited => "unlimited".into(),
        MaxConcurrent::Most(most) => most.to_string(),
    };
    line("maxConcurrent", most);
    let cancel = match endpoint.on_client_gone {
        OnClientGone::Cancel => "cancel",
        OnClientGone::Finish => "finish",
    };
    line("onClientGone", cancel.into());
    line("timeouts", timeouts(&endpoint.timeouts));
    line("proxy", endpoint.proxy.as_ref().map_or("null".into(), proxy));
    line("userAgent", or_null(endpoint.user_agent.as_deref()));
    line("caFile", or_null(endpoint.ca_file.as_ref().map(|file| file.path.as_str())));
}

fn rest(out: &mut String, config: &Config) {
    let health = &config.health_check;
    let _ = writeln!(
        out,
        "healthCheck: {{interval: {}, timeout: {}, path: {}, failureThreshold: {}}}",
        print_duration(health.interval),
        print_duration(health.timeout),
        word(&health.path),
        health.failure_threshold
    );
    let ttl = config.cache.ttl.map_or("null".into(), |ttl| ttl.as_millis().to_string());
    let multiplier = config.cache.ttl_multiplier.map_or("null".into(), |times| times.to_string());
    let _ = writeln!(out, "cache: {{ttlMs: {ttl}, ttlMultiplier: {multiplier}}}");
    let _ = writeln!(out, "timeouts: {}", timeouts(&config.timeouts));

    let unknown = match config.routing.unknown_model {
        UnknownModel::Error => "error",
        UnknownModel::Default => "default",
        UnknownModel::Passthrough => "passthrough",
    };
    let _ = writeln!(out, "routing: {{strategy: {}, unknownModel: {unknown}}}", config.routing.strategy.as_str());
    routes::models(out, &config.models);
    let queue = &config.queue;
    let _ = writeln!(out, "queue: {{length: {}, timeout: {}}}", queue.length, print_duration(queue.timeout));
    routes::keys(out, &config.keys);
    routes::gateway(out, config);
    let _ = writeln!(out, "retry: {}", routes::retry(&config.retry));
    routes::jobs(out, &config.jobs);
    routes::admin(out, &config.admin);
    let format = match config.log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let level = config.log.level.as_str().to_ascii_lowercase();
    let _ = writeln!(out, "log: {{level: {level}, format: {format}, access: {}}}", config.log.access);
}

/// More listeners than this are only counted.
const FEW: usize = 3;

/// One screen for `--check`.
pub fn summary(config: &Config) -> String {
    let server = &config.server;
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12}{value}");
    };
    let place = |host: &str, port: u16| match host.contains(':') {
        true => format!("http://[{host}]:{port}"),
        false => format!("http://{host}:{port}"),
    };
    line("listens on", place(&server.host, server.port));
    for listener in config.listeners.iter().take(FEW) {
        let group = listener.policy.group.as_deref().map_or(String::new(), |group| format!(", group {group}"));
        line("", format!("{} ({}{group})", place(&listener.host, listener.port), listener.name));
    }
    if let Some(more) = config.listeners.len().checked_sub(FEW).filter(|more| *more > 0) {
        line("", format!("and {more} more"));
    }
    line(
        "holds",
        format!(
            "{} requests at once, {} waiting, {} connections",
            server.workers, server.backlog, server.max_connections
        ),
    );
    line("bodies", format!("{} each, {} together", print_size(server.max_body), print_size(server.body_memory)));
    let health = &config.health_check;
    line(
        "health",
        format!(
            "asked every {}, unhealthy after {} failures in a row",
            print_duration(health.interval),
            health.failure_threshold
        ),
    );
    line("time-outs", limits(&config.timeouts));
    for group in config.groups.iter().take(FEW) {
        let stages = group.timeouts.over(&config.timeouts);
        if stages != config.timeouts {
            line("", format!("{} in group {}", limits(&stages), group.name));
        }
    }
    line("models", format!("lists are fresh for {}", print_duration(config.models_ttl())));
    let enabled = config.endpoints.iter().filter(|endpoint| endpoint.enabled).count();
    line("endpoints", format!("{enabled} of {} switched on", config.endpoints.len()));
    for one in endpoints(config) {
        line("", one);
    }
    let differ = |endpoint: &&Endpoint| endpoint.enabled && endpoint.timeouts != config.timeouts;
    for endpoint in config.endpoints.iter().filter(differ).take(FEW) {
        line("", format!("{} at {}", limits(&endpoint.timeouts), endpoint.name));
    }
    out
}

fn limits(timeouts: &Timeouts) -> String {
    let limit = |time: Option<Duration>| time.map_or("none".into(), print_duration);
    format!(
        "connect {}, first byte {}, idle {}, total {}",
        limit(timeouts.connect),
        limit(timeouts.first_byte),
        limit(timeouts.idle),
        limit(timeouts.total)
    )
}

/// A line for each endpoint: name, address, models.
pub fn endpoints(config: &Config) -> Vec<String> {
    const MOST: usize = 8;
    let few = config.endpoints.iter().take(MOST);
    let width = few.clone().map(|endpoint| endpoint.name.chars().count()).max().unwrap_or(0);
    let mut lines: Vec<_> = few
        .map(|endpoint| {
            let models = match endpoint.models.as_slice() {
                [] if !config.knows_models() => "any path, as it is".into(),
                [] => "asked for its models".into(),
                models if models.len() > 4 => format!("{} and {} more", models[..3].join(", "), models.len() - 3),
                models => models.join(", "),
            };
            let off = if endpoint.enabled { "" } else { " (off)" };
            format!("{:<width$}  {}{off}  {models}", endpoint.name, url(&endpoint.base))
        })
        .collect();
    if let Some(more) = config.endpoints.len().checked_sub(MOST).filter(|more| *more > 0) {
        lines.push(format!("and {more} more"));
    }
    lines
}

const MASK: &str = "\"***\"";

fn is_plain(base: &Base) -> bool {
    !base.tls && base.given.is_empty()
}

/// Only what was given; the rest follows from it.
fn url(base: &Base) -> String {
    let scheme = if base.tls { "https" } else { "http" };
    let host = if base.host.contains(':') { format!("[{}]", base.host) } else { base.host.clone() };
    let port = if base.port == if base.tls { 443 } else { 80 } { String::new() } else { format!(":{}", base.port) };
    format!("{scheme}://{host}{port}{}", base.given)
}

fn auth(auth: &Auth) -> String {
    match auth {
        Auth::None => "{type: none}".into(),
        Auth::Bearer => "{type: bearer}".into(),
        Auth::Basic { username, .. } => format!("{{type: basic, username: {}, password: {MASK}}}", word(username)),
        Auth::Header { name } => format!("{{type: header, name: {}}}", word(name)),
    }
}

fn timeouts(timeouts: &Timeouts) -> String {
    let limit = |time: Option<Duration>| print_duration(time.unwrap_or_default());
    format!(
        "{{connect: {}, firstByte: {}, idle: {}, total: {}}}",
        limit(timeouts.connect),
        limit(timeouts.first_byte),
        limit(timeouts.idle),
        limit(timeouts.total)
    )
}

/// A proxy without a password is no secret.
fn proxy(proxy: &Secret) -> String {
    if proxy.reveal().contains('@') { MASK.into() } else { word(proxy.reveal()) }
}

fn origin(origin: &CorsOrigin) -> String {
    match origin {
        CorsOrigin::Local => "local".into(),
        CorsOrigin::Any => "\"*\"".into(),
        CorsOrigin::Scheme(scheme) => word(&format!("{scheme}://*")),
        CorsOrigin::Origin(text) => word(text),
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn or_null(text: Option<&str>) -> String {
    text.map_or("null".into(), word)
}

/// A text as YAML reads it back: bare when nothing else can be meant, else in quotes; `$` is doubled for `load`.
fn word(text: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let is_bare = starts_well && text.chars().all(bare) && !reserved.iter().any(|word| word.eq_ignore_ascii_case(text));
    // `load` fills in variables in values, and takes `$$` for `$` there.
    if is_bare { text.into() } else { quoted(&text.replace('$', "$$")) }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // The YAML reader refuses these as they are.
            _ if c.is_control() || matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}' | '\u{2028}' | '\u{2029}') => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
