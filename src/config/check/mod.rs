//! Turns the tree of a file into a [`Config`], or into every problem of the file. Reads no file and no environment.

pub(super) mod address;
mod admin;
pub(super) mod endpoint;
mod gateway;
pub(super) mod header;
mod jobs;
mod keys;
pub(super) mod own;
pub(super) mod routing;
mod sections;
mod server;

pub(super) use address::listen_host;
pub(super) use admin::OPEN;

pub(super) use header::can_be_sent;

pub(super) use sections::{LOG_FORMATS, LOG_LEVELS};

use super::node::{self, Node, Value};
use super::problem::{Diagnostics, Problem};
use super::reader::Section;
use super::{Config, ListenerPolicy, MINIMAL, Metrics, Mode, Retry, env};
use crate::config::{format, legacy};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// What a file refers to: variables, and the files that `xxxFile` keys name.
#[derive(Clone, Copy)]
pub(super) struct Env<'a> {
    /// A variable's value, if it is set.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    pub file: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// A configuration and its warnings.
#[derive(Debug)]
pub(super) struct Checked {
    pub config: Config,
    pub warnings: Vec<String>,
    /// The file is one of routes, which the page may write (format 003).
    pub is_paged: bool,
    /// Keys whose secrets stand in the file itself.
    pub exposed: Vec<String>,
}

/// Checks the text of a file called `name`.
pub(super) fn check(name: &str, text: &str, env: Env) -> Result<Checked, Vec<Problem>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = &*node::without_comments(text);
    let mut tree = node::parse(text).map_err(|fault| {
        let place = fault.place.map_or(name.to_owned(), |(line, column)| format!("{name}:{line}:{column}"));
        vec![Problem { place, key: String::new(), text: fault.text }]
    })?;
    let diagnostics = Diagnostics::new(env.file);
    env::fill_in(&mut tree, env.variable);
    let config = read(&tree, &diagnostics);
    let problems = diagnostics.problems(name, text);
    if problems.is_empty() {
        let (warnings, exposed) = diagnostics.asides();
        Ok(Checked { config, warnings, is_paged: format::is_paged(&tree), exposed })
    } else {
        Err(problems)
    }
}

/// Parses JSON with `//` comments.
pub(super) fn json(text: &str) -> Result<serde_json::Value, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(&node::without_comments(text)).map_err(|error| error.to_string())
}

/// A configuration with the routes of the page's file. If both have a route of one name, the page's is used.
pub(super) fn with_routes(name: &str, text: &str, config: &Config) -> Result<Config, Vec<Problem>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = &*node::without_comments(text);
    let tree = node::parse(text).map_err(|fault| {
        let place = fault.place.map_or(name.to_owned(), |(line, column)| format!("{name}:{line}:{column}"));
        vec![Problem { place, key: String::new(), text: fault.text }]
    })?;
    let no_file = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    let diagnostics = Diagnostics::new(&no_file);
    let mut config = config.clone();
    legacy::add_routes(&tree, &diagnostics, &mut config);
    let problems = diagnostics.problems(name, text);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// Whether a file of routes holds a key of an endpoint.
pub(super) fn routes_hold_keys(text: &str) -> bool {
    fn holds(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::Array(items) => items.iter().any(holds),
            serde_json::Value::Object(members) => members.iter().any(|(name, value)| match value.as_array() {
                Some(keys) if name.eq_ignore_ascii_case("apiKeys") => !keys.is_empty(),
                _ => holds(value),
            }),
            _ => false,
        }
    }
    json(text).is_ok_and(|file| holds(&file))
}

/// Every key a file may have, `endpoints[].port`.
pub(super) fn keys() -> BTreeSet<String> {
    let tree = node::parse("{endpoints: [{headers: [{}]}], models: {a: {backends: [{}]}}, auth: {keys: [{}]}, groups: [{endpoints: [{}]}], listeners: [{}]}")
        .expect("this text is YAML; a test reads it");
    let no_file = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    let diagnostics = Diagnostics::new(&no_file);
    read(&tree, &diagnostics);
    diagnostics.keys()
}

fn read(tree: &Node, diagnostics: &Diagnostics) -> Config {
    if let Some(config) = foreign(tree, diagnostics) {
        return config;
    }
    Section::root(tree, diagnostics, |root| {
        let timeouts = root.field("timeouts").section(|s| sections::timeouts(s, &super::Timeouts::default()));
        let (server, endpoints) = (root.field("server"), endpoint::endpoints(root, &timeouts));
        let retry = root.field("retry").section(|s| routing::retry(s, &Retry::default()));
        let groups = gateway::groups(root, &endpoints, &retry);
        let keys = root.field("auth").guarded().section(|s| keys::keys(s, &endpoints));
        let (server, policy) = server.section(|s| (server::server(s), gateway::policy(s, &groups)));
        let config = Config {
            server,
            policy: ListenerPolicy { rate_limit: keys::rate_limit(root), ..policy },
            listeners: gateway::listeners(root, gateway::Known { groups: &groups, keys: &keys }),
            metrics: root.field("metrics").section(|s| Metrics { enabled: s.field("enabled").flag().unwrap_or(true) }),
            groups,
            keys,
            health_check: root.field("healthCheck").section(sections::health_check),
            cache: sections::cache(root),
            timeouts,
            routing: root.field("routing").section(routing::routing),
            models: routing::models(root, &endpoints),
            queue: root.field("queue").section(routing::queue),
            endpoints,
            retry,
            jobs: root.field("jobs").section(jobs::jobs),
            admin: root.field("admin").guarded().section(admin::admin),
            log: root.field("log").section(sections::log),
        };
        if config.admin.enabled && config.admin.port.is_none() && config.policy.mode != Mode::Models {
            root.problem(
                "`admin` needs a `port` of its own: with this `server.mode` the main address does not serve it",
            );
        }
        config
    })
}

/// A file that is not in the native format: one of an older proxy is converted; any other is one problem, not one per key.
fn foreign(tree: &Node, diagnostics: &Diagnostics) -> Option<Config> {
    match &tree.value {
        Value::Map(_) => match format::older(tree) {
            Ok(mark) => return mark.map(|(format, mark)| legacy::read(format, mark, tree, diagnostics)),
            Err(mark) => {
                let text = "marks the format of an older proxy, and the file has keys of another format too; keep to one of them";
                diagnostics.problem(mark.at, &mark.key, text);
            }
        },
        Value::Null => diagnostics.problem(tree.at, "", format!("is empty; a useful file is\n{MINIMAL}")),
        _ => diagnostics.problem(tree.at, "", format!("is not a map of sections; a useful file is\n{MINIMAL}")),
    }
    Some(Config::default())
}
