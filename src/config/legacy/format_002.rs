//! Format 002: forwards, upstreams and groups.

use super::{endpoint, give_keys, key, seconds};
use crate::config::address::{self, base, listen_host};
use crate::config::endpoint::{AuthType, proxy_secret};
use crate::config::node::{Names, Node, names_in};
use crate::config::table::*;
use crate::config::text::can_be_sent;
use crate::config::{
    Auth, Config, CorsOrigin, Endpoint, Group, HeaderOp, Listener, ListenerPolicy, Member, Mode, RateLimit, Retry,
    Strategy,
};
use std::time::Duration;

/// The names that forwards and groups refer to.
pub(super) fn names(tree: &Node) -> [(&'static str, Names); 3] {
    let forwards = tree.get("http_server").and_then(|server| server.get("forwards"));
    [
        ("upstream", names_in(tree.get("upstreams"))),
        ("group", names_in(tree.get("upstream_groups"))),
        ("forward", [("main".to_owned(), u32::MAX)].into_iter().chain(names_in(forwards)).collect()),
    ]
}

pub(super) fn keys(config: &mut Config, keys: &mut Keys) {
    config.server.cors = vec![CorsOrigin::Local];
    keys.required(&mut config.endpoints, "upstreams", items_as(endpoint(), upstream));
    let one = Group {
        strategy: Some(Strategy::RoundRobin),
        // S002-19: the longest pause between tries.
        retry: Some(Retry { max_delay: Duration::from_secs(120), ..Retry::default() }),
        user_agent: Some("LLMProxy/1.0".into()),
        ..Group::default()
    };
    keys.required(&mut config.groups, "upstream_groups", items_as(one, group));
    let policy = ListenerPolicy { mode: Mode::Raw, ..ListenerPolicy::default() };
    let plain = Listener { host: "0.0.0.0".into(), port: 3000, policy, ..Listener::default() };
    let one = Forward { listener: plain, connect: Duration::ZERO };
    let mut forwards = Vec::new();
    keys.required(&mut forwards, "http_server.forwards", items_as(one, forward));
    if let Some(longest) = forwards.iter().map(|forward| forward.connect).max().filter(|time| !time.is_zero()) {
        config.server.head_timeout = longest;
    }
    config.listeners = forwards.into_iter().map(|forward| forward.listener).collect();
    let mut is_admin = false;
    keys.read(|root| is_admin = root.gives("http_server.admin"));
    config.server.port = 9000;
    keys.key(&mut config.server.host, "http_server.admin.address", text(listen_host));
    keys.key(&mut config.server.port, "http_server.admin.port", number("a port", 1..=65_535));
    keys.key(&mut Duration::default(), "http_server.admin.timeout.connect", seconds(1..=120));
    if is_admin {
        // S002-05, S002-06
        config.policy.mode = Mode::Status;
    } else if !config.listeners.is_empty() {
        let first = config.listeners.remove(0);
        (config.server.host, config.server.port, config.policy) = (first.host, first.port, first.policy);
    }
}

#[derive(Clone)]
struct Forward {
    listener: Listener,
    connect: Duration,
}

fn forward(Forward { listener, connect }: &mut Forward, keys: &mut Keys) {
    keys.required(&mut listener.name, "name", unique("forward"));
    keys.key(&mut listener.host, "address", text(listen_host));
    keys.key(&mut listener.port, "port", number("a port", 1..=65_535));
    keys.key(connect, "timeout.connect", seconds(1..=120));
    keys.required(&mut listener.policy.group, "upstream_group", optional(reference("group")));
    let (mut enabled, mut per_second, mut burst) = (false, 100, 200);
    keys.key(&mut enabled, "ratelimit.enabled", flag());
    keys.key(&mut per_second, "ratelimit.per_second", number::<u32>("a number of requests", 1..=10_000));
    keys.key(&mut burst, "ratelimit.burst", number("a number of requests", 1..=20_000));
    if enabled {
        listener.policy.rate_limit = Some(RateLimit { per_second: f64::from(per_second), burst });
    }
    keys.read(|section| {
        if enabled && burst < per_second {
            section.get("ratelimit").problem("`burst` is less than `per_second`");
        }
    });
}

fn upstream(one: &mut Endpoint, keys: &mut Keys) {
    keys.required(&mut one.name, "name", unique("upstream"));
    keys.required(&mut one.base, "url", text(base));
    const TYPES: &[(&str, AuthType)] =
        &[("bearer", AuthType::Bearer), ("basic", AuthType::Basic), ("none", AuthType::None)];
    let (mut kind, mut token, mut username, mut password) = (AuthType::None, None, None, None);
    keys.key(&mut kind, "auth.type", choice(TYPES));
    keys.key(&mut token, "auth.token", optional(key()));
    keys.key(&mut username, "auth.username", optional(key()));
    keys.key(&mut password, "auth.password", optional(key()));
    // S002-09: empty token, user or password is an error.
    let needed = [
        (AuthType::Bearer, "token", &token),
        (AuthType::Basic, "username", &username),
        (AuthType::Basic, "password", &password),
    ];
    keys.read(|section| {
        for (_, key, _) in needed.iter().filter(|(of, _, value)| *of == kind && value.is_none()) {
            section.get("auth").problem(format!("`{key}` is missing"));
        }
    });
    give_keys(one, token.filter(|_| kind == AuthType::Bearer));
    if let (AuthType::Basic, Some(username), Some(password)) = (kind, username, password) {
        one.auth = Auth::Basic { username: username.reveal().to_owned(), password };
    }
    // S002-09: without auth the client's credentials are passed on.
    one.headers.clear();
    keys.key(&mut one.headers, "headers", items(HeaderOp::default()));
}

const STRATEGIES: &[(&str, Strategy)] = &[
    ("roundrobin", Strategy::RoundRobin),
    ("weighted_roundrobin", Strategy::WeightedRoundRobin),
    ("random", Strategy::Random),
];

fn group(group: &mut Group, keys: &mut Keys) {
    keys.required(&mut group.name, "name", unique("group"));
    keys.required(&mut group.endpoints, "upstreams", items_as(Member::default(), member));
    keys.key(&mut group.strategy, "balance.strategy", optional(choice(STRATEGIES)));
    if group.strategy == Some(Strategy::Random) {
        // S002-14: random ignores weights there.
        group.endpoints.iter_mut().for_each(|member| member.weight = Some(1));
    }
    keys.key(&mut group.user_agent, "http_client.agent", optional(text(|text| Ok(text.to_owned()))));
    group.user_agent = group.user_agent.take().filter(|agent| !agent.is_empty() && can_be_sent(agent));
    keys.key(&mut group.keep_alive, "http_client.keepalive", seconds(0..=600));
    // S002-17: `stream` is the older name.
    keys.key(&mut group.stream, "http_client.stream", flag());
    keys.key(&mut group.stream, "http_client.stream_mode", flag());
    let (mut connect, mut request) = (Duration::from_secs(10), Duration::from_secs(300));
    keys.key(&mut connect, "http_client.timeout.connect", seconds(1..=120));
    keys.key(&mut request, "http_client.timeout.request", seconds(1..=1200));
    // `keepalive` is for idle connections; silence in an answer has a limit of its own here.
    keys.key(&mut Duration::default(), "http_client.timeout.idle", seconds(1..=1800));
    let timeouts = &mut group.timeouts;
    (timeouts.connect, timeouts.first_byte, timeouts.total) = (Some(connect), Some(request), Some(request));
    retry(group.retry.get_or_insert_default(), keys);
    let (mut enabled, mut url) = (false, None);
    keys.key(&mut enabled, "http_client.proxy.enabled", flag());
    keys.key(&mut url, "http_client.proxy.url", optional(key()));
    keys.read(|section| match url.as_ref().map(|url| address::proxy(url.reveal())) {
        None if enabled => section.get("http_client.proxy").problem("`url` is missing"),
        Some(Err(error)) if enabled => section.get("http_client.proxy").problem(format!("`url` {error}")),
        _ => {}
    });
    group.proxy = url.filter(|_| enabled).map(proxy_secret);
}

fn member(member: &mut Member, keys: &mut Keys) {
    keys.required(&mut member.endpoint, "name", reference("upstream"));
    keys.key(&mut member.weight, "weight", optional(number("a weight", 1..=65_535)));
}

/// S002-19: `attempts` are extra tries on top of the first.
fn retry(retry: &mut Retry, keys: &mut Keys) {
    let (mut enabled, mut extra, mut initial) = (false, 3, 500);
    keys.key(&mut enabled, "http_client.retry.enabled", flag());
    keys.key(&mut extra, "http_client.retry.attempts", number("a number of attempts", 1..=100));
    keys.key(&mut initial, "http_client.retry.initial", number("a number of milliseconds", 100..=10_000));
    retry.attempts = Some(if enabled { 1 + extra } else { 1 });
    retry.initial_delay = Duration::from_millis(initial);
}
