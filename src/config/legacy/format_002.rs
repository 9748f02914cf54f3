//! Format 002: forwards, upstreams and groups.

use super::{endpoint, key, open, url};
use crate::config::address::{listen_host, proxy};
use crate::config::endpoint::proxy_secret;
use crate::config::node::{Names, Node, names_in};
use crate::config::reader::{Field, Section};
use crate::config::table::{flag, items, number, optional, read_section, reference, section, text, unique, words};
use crate::config::text::can_be_sent;
use crate::config::{
    Auth, Base, Config, CorsOrigin, Endpoint, Group, HeaderOp, Listener, ListenerPolicy, Member, Mode, RateLimit,
    Retry, Stages, Strategy,
};
use crate::util::secret::Secret;
use std::time::Duration;

table! {
    struct File {
        http_server: HttpServer = HttpServer::default(), required("http_server", section());
        upstreams: Vec<Upstream> = Vec::new(), required("upstreams", items(Upstream::default()));
        groups: Vec<UpstreamGroup> = Vec::new(), required("upstream_groups", items(UpstreamGroup::default()));
    }
}

table! {
    struct HttpServer {
        forwards: Vec<Forward> = Vec::new(), required("forwards", items(Forward::default()));
        admin: Option<AdminPlace> = None, key("admin", optional(section()));
    }
}

table! {
    struct AdminPlace {
        address: String = "0.0.0.0".into(), key("address", text(listen_host));
        port: u16 = 9000, key("port", number("a port", 1..=65_535));
        timeout: ClientTimeout = ClientTimeout::default(), key("timeout", section());
    }
}

table! {
    struct Forward {
        name: String = String::new(), required("name", unique("forward"));
        address: String = "0.0.0.0".into(), key("address", text(listen_host));
        port: u16 = 3000, key("port", number("a port", 1..=65_535));
        group: String = String::new(), required("upstream_group", reference("group"));
        rate_limit: Limit = Limit::default(), key("ratelimit", section());
        timeout: ClientTimeout = ClientTimeout::default(), key("timeout", section());
    }
}

table! {
    struct ClientTimeout {
        connect: Option<u64> = None, key("connect", optional(number("a number of seconds", 1..=120)));
    }
}

table! {
    struct Limit (check = limit) {
        enabled: bool = false, key("enabled", flag());
        per_second: u32 = 100, key("per_second", number("a number of requests", 1..=10_000));
        burst: u32 = 200, key("burst", number("a number of requests", 1..=20_000));
    }
}

fn limit(limit: &Limit, section: &Section) {
    if limit.enabled && limit.burst < limit.per_second {
        section.problem("`burst` is less than `per_second`");
    }
}

table! {
    struct Upstream {
        name: String = String::new(), required("name", unique("upstream"));
        url: Base = Base::plain("", 1), required("url", url());
        auth: UpstreamAuth = UpstreamAuth::default(), key("auth", section());
        headers: Vec<HeaderOp> = Vec::new(), key("headers", items(HeaderOp::default()));
    }
}

table! {
    struct UpstreamAuth (check = auth) {
        kind: &'static str = "none", key("type", words(&[("bearer", "bearer"), ("basic", "basic"), ("none", "none")]));
        token: Option<Secret> = None, key("token", optional(key()));
        username: Option<Secret> = None, key("username", optional(key()));
        password: Option<Secret> = None, key("password", optional(key()));
    }
}

/// S002-09: empty token, user or password is an error.
fn auth(auth: &UpstreamAuth, section: &Section) {
    let fields = [
        ("bearer", "token", &auth.token),
        ("basic", "username", &auth.username),
        ("basic", "password", &auth.password),
    ];
    for (_, key, _) in fields.iter().filter(|(kind, _, value)| *kind == auth.kind && value.is_none()) {
        section.problem(format!("`{key}` is missing"));
    }
}

table! {
    struct UpstreamGroup {
        name: String = String::new(), required("name", unique("group"));
        upstreams: Vec<UpstreamMember> = Vec::new(), required("upstreams", items(UpstreamMember::default()));
        balance: Balance = Balance::default(), key("balance", section());
        http_client: HttpClient = HttpClient::default(), key("http_client", section());
    }
}

table! {
    struct UpstreamMember {
        name: String = String::new(), required("name", reference("upstream"));
        weight: Option<u16> = None, key("weight", optional(number("a weight", 1..=65_535)));
    }
}

const STRATEGIES: &[(&str, Strategy)] = &[
    ("roundrobin", Strategy::RoundRobin),
    ("weighted_roundrobin", Strategy::WeightedRoundRobin),
    ("random", Strategy::Random),
];

table! {
    struct Balance {
        strategy: Strategy = Strategy::RoundRobin, key("strategy", words(STRATEGIES));
    }
}

table! {
    struct HttpClient {
        agent: String = "LLMProxy/1.0".into(), key("agent", text(|text| Ok(text.to_owned())));
        keepalive: u64 = 60, key("keepalive", number("a number of seconds", 0..=600));
        stream_mode: Option<bool> = None, key("stream_mode", optional(flag()));
        /// S002-17: the older name.
        stream: Option<bool> = None, key("stream", optional(flag()));
        timeout: Timeout = Timeout::default(), key("timeout", section());
        retry: ClientRetry = ClientRetry::default(), key("retry", section());
        proxy: Proxy = Proxy::default(), key("proxy", section());
    }
}

table! {
    struct Timeout {
        connect: u64 = 10, key("connect", number("a number of seconds", 1..=120));
        request: u64 = 300, key("request", number("a number of seconds", 1..=1200));
        /// For idle connections, as `keepalive`; silence in an answer has a limit of its own here.
        idle: u64 = 60, key("idle", number("a number of seconds", 1..=1800));
    }
}

table! {
    struct ClientRetry {
        enabled: bool = false, key("enabled", flag());
        attempts: u32 = 3, key("attempts", number("a number of attempts", 1..=100));
        initial: u64 = 500, key("initial", number("a number of milliseconds", 100..=10_000));
    }
}

table! {
    struct Proxy (check = client_proxy) {
        enabled: bool = false, key("enabled", flag());
        url: Option<Secret> = None, key("url", optional(key()));
    }
}

fn client_proxy(client: &Proxy, section: &Section) {
    match &client.url {
        _ if !client.enabled => {}
        None => section.problem("`url` is missing"),
        Some(url) => proxy(url.reveal()).unwrap_or_else(|error| section.problem(format!("`url` {error}"))),
    }
}

/// The names that forwards and groups refer to.
pub(super) fn names(tree: &Node) -> [(&'static str, Names); 3] {
    let forwards = tree.get("http_server").and_then(|server| server.get("forwards"));
    [
        ("upstream", names_in(tree.get("upstreams"))),
        ("group", names_in(tree.get("upstream_groups"))),
        ("forward", [("main".to_owned(), u32::MAX)].into_iter().chain(names_in(forwards)).collect()),
    ]
}

pub(super) fn read(root: &Field) -> Config {
    let file = read_section(root, File::default());
    let mut config = open(0);
    config.server.cors = vec![CorsOrigin::Local];
    let times = file.http_server.forwards.iter().filter_map(|forward| forward.timeout.connect);
    if let Some(seconds) = times.max() {
        config.server.head_timeout = Duration::from_secs(seconds);
    }
    config.endpoints = file.upstreams.into_iter().map(upstream).collect();
    config.groups = file.groups.into_iter().map(group).collect();
    config.listeners = file.http_server.forwards.into_iter().map(forward).collect();
    if let Some(AdminPlace { address, port, .. }) = file.http_server.admin {
        // S002-05, S002-06
        (config.server.host, config.server.port, config.policy.mode) = (address, port, Mode::Status);
    } else if !config.listeners.is_empty() {
        let first = config.listeners.remove(0);
        (config.server.host, config.server.port, config.policy) = (first.host, first.port, first.policy);
    }
    config
}

fn upstream(upstream: Upstream) -> Endpoint {
    let UpstreamAuth { kind, token, username, password } = upstream.auth;
    let token = token.filter(|_| kind == "bearer");
    let mut one = endpoint(upstream.name, upstream.url, token.into_iter().collect());
    // S002-09: without auth the client's credentials are passed on.
    one.headers = upstream.headers;
    if let ("basic", Some(username), Some(password)) = (kind, username, password) {
        one.auth = Auth::Basic { username: username.reveal().to_owned(), password };
    }
    one
}

fn group(group: UpstreamGroup) -> Group {
    let (client, strategy) = (group.http_client, group.balance.strategy);
    // S002-14: random ignores weights there.
    let weight = |own: Option<u16>| if strategy == Strategy::Random { Some(1) } else { own };
    let members = group.upstreams.into_iter();
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let request = seconds(client.timeout.request);
    Group {
        name: group.name,
        endpoints: members.map(|one| Member { endpoint: one.name, weight: weight(one.weight) }).collect(),
        strategy: Some(strategy),
        retry: Some(Retry {
            // S002-19: `attempts` are extra tries on top of the first; the longest pause.
            attempts: Some(if client.retry.enabled { 1 + client.retry.attempts } else { 1 }),
            initial_delay: Duration::from_millis(client.retry.initial),
            max_delay: Duration::from_secs(120),
            ..Retry::default()
        }),
        timeouts: Stages { connect: seconds(client.timeout.connect), first_byte: request, idle: None, total: request },
        user_agent: Some(client.agent).filter(|agent| !agent.is_empty() && can_be_sent(agent)),
        proxy: client.proxy.url.filter(|_| client.proxy.enabled).map(proxy_secret),
        stream: client.stream_mode.or(client.stream).unwrap_or(true),
        keep_alive: Duration::from_secs(client.keepalive),
    }
}

fn forward(forward: Forward) -> Listener {
    let Limit { enabled, per_second, burst } = forward.rate_limit;
    let rate_limit = enabled.then_some(RateLimit { per_second: f64::from(per_second), burst });
    let policy =
        ListenerPolicy { group: Some(forward.group), rate_limit, mode: Mode::Raw, ..ListenerPolicy::default() };
    Listener { name: forward.name, host: forward.address, port: forward.port, policy }
}
