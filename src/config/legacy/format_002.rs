//! Format 002: forwards, upstreams and groups.

use super::{endpoint, open};
use crate::config::check::address::{base, listen_host, proxy};
use crate::config::check::endpoint::unique;
use crate::config::check::header::{can_be_sent, change};
use crate::config::reader::{Field, Section, not_one_of};
use crate::config::{
    Auth, Config, CorsOrigin, Endpoint, Group, KeysFor, Listener, ListenerPolicy, Member, Mode, RateLimit, Retry,
    Stages, Strategy,
};
use crate::util::secret::Secret;
use std::time::Duration;

/// S002-19: the longest pause between tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

pub(super) fn read(root: &mut Section) -> Config {
    let mut config = open(0);
    config.server.cors = vec![CorsOrigin::Local];
    let mut names = Vec::new();
    let upstreams = root.required("upstreams");
    config.endpoints = upstreams.list(|item| item.item(|s| upstream(s, &mut names))).unwrap_or_default();
    let mut names = Vec::new();
    let field = root.required("upstream_groups");
    config.groups = field.list(|item| item.item(|s| group(s, &config.endpoints, &mut names))).unwrap_or_default();
    let groups = &config.groups;
    let server = root.required("http_server");
    let (mut forwards, admin) = server.section(|s| {
        let (mut names, mut connect) = (vec!["main".to_owned()], None);
        let field = s.required("forwards");
        let forwards = field.list(|item| item.item(|s| forward(s, groups, &mut names, &mut connect)));
        if let Some(connect) = connect {
            config.server.head_timeout = connect;
        }
        let admin = s.field("admin");
        let admin = admin.is_given().then(|| admin.section(|s| place(s, 9000)));
        (forwards.unwrap_or_default(), admin)
    });
    let main = match admin {
        // S002-05, S002-06
        Some((host, port)) => Some((host, port, ListenerPolicy { mode: Mode::Status, ..ListenerPolicy::default() })),
        None if forwards.is_empty() => None,
        None => {
            let first = forwards.remove(0);
            Some((first.host, first.port, first.policy))
        }
    };
    if let Some((host, port, policy)) = main {
        (config.server.host, config.server.port, config.policy) = (host, port, policy);
    }
    config.listeners = forwards;
    config
}

fn place(s: &mut Section, port: u16) -> (String, u16) {
    seconds(&s.field("timeout"), "connect", 1..=120);
    let host = s.field("address").parse(listen_host).unwrap_or_else(|| "0.0.0.0".into());
    (host, s.field("port").number("a port", 1..=65_535).unwrap_or(port))
}

/// A whole number of seconds inside a section.
fn seconds(field: &Field, key: &str, range: std::ops::RangeInclusive<u64>) -> Option<Duration> {
    field.section(|s| s.field(key).number("a number of seconds", range)).map(Duration::from_secs)
}

fn upstream(s: &mut Section, names: &mut Vec<String>) -> Option<Endpoint> {
    let name = unique(&s.required("name"), "upstream", names);
    let base = s.required("url").parse(base);
    let (auth, key) = s.field("auth").guarded().section(auth);
    let headers = s.field("headers").guarded().list(|item| item.item(change)).unwrap_or_default();
    let mut one = endpoint(name?, base?, key.into_iter().collect());
    // S002-09: without auth the client's credentials are passed on.
    one.headers = headers;
    if let Some(auth) = auth {
        one.auth = auth;
    }
    Some(one)
}

/// S002-09: empty token, user or password is an error.
fn auth(s: &mut Section) -> (Option<Auth>, Option<Secret>) {
    let kind = s.field("type").choice(&[("bearer", 'b'), ("basic", 'u'), ("none", 'n')]).unwrap_or('n');
    let (token, username, password) = (s.field("token"), s.field("username"), s.field("password"));
    let needed = |field: &Field, key: &str| {
        let secret = field.secret_or_empty();
        if secret.is_none() {
            s.problem(format!("`{key}` is missing"));
        }
        if secret.as_ref().is_some_and(|secret| !can_be_sent(secret.reveal())) {
            s.problem(format!("`{key}` has a character that cannot be sent in a header (ASCII only)"));
        }
        secret
    };
    match kind {
        'b' => (None, needed(&token, "token")),
        'u' => {
            let (user, password) = (needed(&username, "username"), needed(&password, "password"));
            let basic =
                user.zip(password).map(|(user, password)| Auth::Basic { username: user.reveal().to_owned(), password });
            (basic, None)
        }
        _ => (None, None),
    }
}

fn group(s: &mut Section, endpoints: &[Endpoint], names: &mut Vec<String>) -> Option<Group> {
    let name = unique(&s.required("name"), "group", names);
    let field = s.required("upstreams");
    let members = field.list(|item| item.item(|s| member(s, endpoints)));
    let words = [
        ("roundrobin", Strategy::RoundRobin),
        ("weighted_roundrobin", Strategy::WeightedRoundRobin),
        ("random", Strategy::Random),
    ];
    let strategy = s.field("balance").section(|s| s.field("strategy").choice(&words));
    let strategy = strategy.unwrap_or(Strategy::RoundRobin);
    let mut members = members.unwrap_or_default();
    if strategy == Strategy::Random {
        // S002-14: random ignores weights there.
        members.iter_mut().for_each(|member| member.weight = Some(1));
    }
    s.field("http_client").section(|s| client(s, name?, members, strategy))
}

fn member(s: &mut Section, endpoints: &[Endpoint]) -> Option<Member> {
    let endpoint = s.required("name").parse(|text| {
        let known = endpoints.iter().any(|one| one.name == text);
        let error = || not_one_of(text, endpoints.iter().map(|one| one.name.as_str()));
        if known { Ok(text.to_owned()) } else { Err(error().replacen("is not one of", "is no upstream; there are", 1)) }
    });
    let weight = s.field("weight").number("a weight", 1..=65_535);
    Some(Member { endpoint: endpoint?, weight })
}

fn client(s: &mut Section, name: String, endpoints: Vec<Member>, strategy: Strategy) -> Option<Group> {
    let agent = s.field("agent").text().map_or_else(|| "LLMProxy/1.0".to_owned(), str::to_owned);
    let keep_alive = s.field("keepalive").number("a number of seconds", 0..=600).unwrap_or(60);
    // S002-17: `stream` is the older name.
    let (mode, older) = (s.field("stream_mode"), s.field("stream"));
    let stream = mode.flag().or(older.flag()).unwrap_or(true);
    let timeouts = s.field("timeout").section(|s| {
        let mut time = |key, most, default| {
            let seconds = s.field(key).number("a number of seconds", 1..=most).unwrap_or(default);
            Some(Duration::from_secs(seconds))
        };
        let (connect, request) = (time("connect", 120, 10), time("request", 1200, 300));
        // `keepalive` is for idle connections; silence in an answer has a limit of its own here.
        time("idle", 1800, 60);
        Stages { connect, first_byte: request, idle: None, total: request }
    });
    let retry = s.field("retry").section(retry);
    let proxy = s.field("proxy").guarded().section(|s| {
        let (enabled, url) = (s.field("enabled").flag().unwrap_or(false), s.field("url"));
        let url = url.secret_or_empty();
        if !enabled {
            return None;
        }
        match &url {
            None => s.problem("`url` is missing"),
            Some(url) => {
                if let Err(error) = proxy(url.reveal()) {
                    s.problem(format!("`url` {error}"));
                }
            }
        }
        url
    });
    Some(Group {
        name,
        endpoints,
        strategy: Some(strategy),
        retry: Some(retry),
        timeouts,
        user_agent: Some(agent).filter(|agent| !agent.is_empty() && can_be_sent(agent)),
        proxy,
        stream,
        keep_alive: Duration::from_secs(keep_alive),
    })
}

/// S002-19: `attempts` are extra tries on top of the first.
fn retry(s: &mut Section) -> Retry {
    let enabled = s.field("enabled").flag().unwrap_or(false);
    let extra = s.field("attempts").number("a number of attempts", 1..=100).unwrap_or(3u32);
    let initial = s.field("initial").number("a number of milliseconds", 100..=10_000).unwrap_or(500);
    Retry {
        attempts: Some(if enabled { 1 + extra } else { 1 }),
        initial_delay: Duration::from_millis(initial),
        max_delay: LONGEST_PAUSE,
        ..Retry::default()
    }
}

fn forward(
    s: &mut Section,
    groups: &[Group],
    names: &mut Vec<String>,
    connect: &mut Option<Duration>,
) -> Option<Listener> {
    let name = unique(&s.required("name"), "forward", names);
    let time = seconds(&s.field("timeout"), "connect", 1..=120);
    *connect = (*connect).max(time);
    let (host, port) = place(s, 3000);
    let group = s.required("upstream_group").parse(|text| {
        let known = groups.iter().any(|group| group.name == text);
        let error = || not_one_of(text, groups.iter().map(|group| group.name.as_str()));
        if known { Ok(text.to_owned()) } else { Err(error().replacen("is not one of", "is no group; there are", 1)) }
    });
    let rate_limit = s.field("ratelimit").section(|s| {
        let enabled = s.field("enabled").flag().unwrap_or(false);
        let per_second = s.field("per_second").number("a number of requests", 1..=10_000).unwrap_or(100u32);
        let burst = s.field("burst").number("a number of requests", 1..=20_000).unwrap_or(200u32);
        if enabled && burst < per_second {
            s.problem("`burst` is less than `per_second`");
        }
        enabled.then_some(RateLimit { per_second: f64::from(per_second), burst })
    });
    let policy =
        ListenerPolicy { group: Some(group?), keys: KeysFor::Inherit, rate_limit, mode: Mode::Raw, cors: None };
    Some(Listener { name: name?, host, port, policy })
}
