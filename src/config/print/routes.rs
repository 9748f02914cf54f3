//! The sections that say what goes where: routes, keys, groups, listeners.

use super::{MASK, list, or_null, origin, proxy, quoted, word};
use crate::config::{
    Admin, ClientKey, Config, Group, Jobs, KeysFor, Listener, Mode, RateLimit, Retry, Route, Strategy,
};
use crate::util::units::print_duration;
use std::fmt::Write;
use std::time::Duration;

/// `models`
pub(super) fn models(out: &mut String, routes: &[Route]) {
    out.push_str(if routes.is_empty() { "models: {}\n" } else { "models:\n" });
    for route in routes {
        let strategy = or_null(route.strategy.map(Strategy::as_str));
        let _ = writeln!(out, "  {}:\n    strategy: {strategy}\n    backends:", quoted(&route.name));
        for backend in &route.backends {
            let weight = backend.weight.map_or("null".into(), |weight| weight.to_string());
            let (endpoint, model) = (word(&backend.endpoint), or_null(backend.model.as_deref()));
            let enabled = backend.enabled;
            let _ =
                writeln!(out, "      - {{endpoint: {endpoint}, model: {model}, weight: {weight}, enabled: {enabled}}}");
        }
    }
}

/// `auth`
pub(super) fn keys(out: &mut String, keys: &[ClientKey]) {
    out.push_str(if keys.is_empty() { "auth: {keys: []}\n" } else { "auth:\n  keys:\n" });
    for key in keys {
        let _ = writeln!(
            out,
            "    - {{name: {}, key: {MASK}, models: {}, endpoints: {}, maxParallel: {}, rateLimit: {}, background: {}, admin: {}}}",
            word(&key.name),
            list(key.models.iter().map(|model| word(model))),
            list(key.endpoints.iter().map(|name| word(name))),
            key.max_parallel.map_or("null".into(), |most| most.to_string()),
            rate_limit(key.rate_limit),
            key.background,
            key.admin,
        );
    }
}

/// `retry`
pub(super) fn retry(retry: &Retry) -> String {
    let on = [
        (retry.on_connect, "connect"),
        (retry.on_reset, "reset"),
        (retry.on_timeout, "timeout"),
        (retry.on_status, "status"),
    ];
    format!(
        "{{attempts: {}, initialDelay: {}, maxDelay: {}, on: {}}}",
        retry.attempts.map_or("auto".into(), |attempts| attempts.to_string()),
        print_duration(retry.initial_delay),
        print_duration(retry.max_delay),
        list(on.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).to_owned()))
    )
}

/// `groups`, `listeners`, `rateLimit`, `metrics`
pub(super) fn gateway(out: &mut String, config: &Config) {
    out.push_str(if config.groups.is_empty() { "groups: []\n" } else { "groups:\n" });
    config.groups.iter().for_each(|one| group(out, one));
    out.push_str(if config.listeners.is_empty() { "listeners: []\n" } else { "listeners:\n" });
    config.listeners.iter().for_each(|one| listener(out, one));
    let _ = writeln!(out, "rateLimit: {}", rate_limit(config.policy.rate_limit));
    let _ = writeln!(out, "metrics: {{enabled: {}}}", config.metrics.enabled);
}

fn group(out: &mut String, group: &Group) {
    let members = group.endpoints.iter().map(|member| {
        let weight = member.weight.map_or("null".into(), |weight| weight.to_string());
        format!("{{name: {}, weight: {weight}}}", word(&member.endpoint))
    });
    let stages = &group.timeouts;
    let stages =
        [("connect", stages.connect), ("firstByte", stages.first_byte), ("idle", stages.idle), ("total", stages.total)];
    let shown = |time: Option<Duration>| time.map_or("null".into(), print_duration);
    let stages: Vec<String> = stages.iter().map(|(key, time)| format!("{key}: {}", shown(*time))).collect();
    let _ = write!(
        out,
        "  - name: {}\n    endpoints: {}\n    strategy: {}\n    retry: {}\n    timeouts: {{{}}}\n",
        word(&group.name),
        list(members),
        or_null(group.strategy.map(Strategy::as_str)),
        group.retry.as_ref().map_or("null".into(), retry),
        stages.join(", "),
    );
    let _ = write!(
        out,
        "    userAgent: {}\n    proxy: {}\n    stream: {}\n    keepAlive: {}\n",
        or_null(group.user_agent.as_deref()),
        group.proxy.as_ref().map_or("null".into(), proxy),
        group.stream,
        print_duration(group.keep_alive),
    );
}

fn listener(out: &mut String, listener: &Listener) {
    let policy = &listener.policy;
    let keys = match &policy.keys {
        KeysFor::Inherit => "inherit".into(),
        KeysFor::Nobody => "none".into(),
        KeysFor::Only(names) => list(names.iter().map(|name| word(name))),
    };
    let cors = policy.cors.as_ref().map_or("null".into(), |rules| list(rules.iter().map(origin)));
    let _ = writeln!(
        out,
        "  - {{name: {}, host: {}, port: {}, group: {}, keys: {keys}, rateLimit: {}, mode: {}, cors: {cors}}}",
        word(&listener.name),
        word(&listener.host),
        listener.port,
        or_null(policy.group.as_deref()),
        rate_limit(policy.rate_limit),
        mode(policy.mode),
    );
}

/// `mode`
pub(super) fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Models => "models",
        Mode::Raw => "raw",
        Mode::Status => "status",
    }
}

fn rate_limit(limit: Option<RateLimit>) -> String {
    limit.map_or("null".into(), |limit| format!("{{perSecond: {}, burst: {}}}", limit.per_second, limit.burst))
}

pub(super) fn jobs(out: &mut String, jobs: &Jobs) {
    let allow: Vec<_> = jobs.webhooks.allow.iter().map(|host| word(host)).collect();
    let secret = if jobs.webhooks.secret.is_some() { MASK } else { "null" };
    let _ = writeln!(
        out,
        "jobs:\n  enabled: {}\n  maxConcurrent: {}\n  attempts: {}\n  retention: {}\n  timeout: {}\n  maxQueued: {}\n  dir: {}\n  always: {}\n  \
         webhooks: {{allow: [{}], secret: {secret}, attempts: {}}}",
        jobs.enabled,
        jobs.max_concurrent,
        jobs.attempts,
        print_duration(jobs.retention),
        print_duration(jobs.timeout),
        jobs.max_queued,
        word(&jobs.dir.display().to_string()),
        jobs.always,
        allow.join(", "),
        jobs.webhooks.attempts
    );
}

pub(super) fn admin(out: &mut String, admin: &Admin) {
    let port = admin.port.map_or("null".into(), |port| port.to_string());
    let token = if admin.token.is_some() { MASK } else { "null" };
    let _ = writeln!(
        out,
        "admin: {{enabled: {}, host: {}, port: {port}, token: {token}, open: {}, routesFile: {}, allowedHosts: {}}}",
        admin.enabled,
        quoted(&admin.host),
        admin.open,
        quoted(&admin.routes_file.display().to_string()),
        list(admin.allowed_hosts.iter().map(|host| word(host)))
    );
}
