//! The files of earlier proxies, read as what they mean here. Each becomes a native configuration; what its document does
//! not know is a warning, not an error.

mod format_001;
mod format_002;
mod format_003;
pub(super) mod format_004;

use super::node::{Node, Value};
use super::problem::Diagnostics;
use super::reader::{Field, Section};
use super::{Config, CorsOrigin, Endpoint, HeaderOp, Op, Probe};
use crate::config::check::endpoint::no_key;
use crate::util::secret::Secret;
use std::collections::HashMap;

/// The formats, by the key that tells them.
#[derive(Clone, Copy, PartialEq)]
enum Dialect {
    /// 001
    Go,
    /// 002
    Rust,
    /// 003
    Manager,
}

/// Whether a file is one of routes, which the page may write.
pub(super) fn is_paged(tree: &Node) -> bool {
    let Value::Map(entries) = &tree.value else { return false };
    let has = |key: &str| entries.iter().any(|entry| entry.key.eq_ignore_ascii_case(key));
    has("models") && !has("endpoints")
}

/// Adds the routes of the page's file, and the endpoints that they bring.
pub(super) fn add_routes(tree: &Node, notes: &Diagnostics, config: &mut Config) {
    notes.be_lenient();
    if !is_paged(tree) {
        return notes.problem(tree.at, "", "is not a map with `Models`");
    }
    Section::root(&format_003::spelled(tree), notes, |root| format_003::add(root, config));
}

/// The configuration of a file in an older format; `None` if it is native. A file that mixes formats is a problem.
pub(super) fn read(tree: &Node, notes: &Diagnostics) -> Option<Config> {
    let Value::Map(entries) = &tree.value else {
        return None;
    };
    let mark = |key: &str| match key {
        "backends" => Some(Dialect::Go),
        "http_server" | "upstream_groups" => Some(Dialect::Rust),
        _ if key.eq_ignore_ascii_case("models") => Some(Dialect::Manager),
        _ => None,
    };
    let native = entries.iter().any(|entry| entry.key == "endpoints");
    let mut marks = entries.iter().filter_map(|entry| Some((mark(&entry.key)?, entry)));
    // `models` is a section of the native format too.
    let (dialect, first) =
        marks.clone().find(|(dialect, entry)| *dialect != Dialect::Manager || entry.key == "Models" || !native)?;
    if native || marks.any(|(other, _)| other != dialect) {
        let text =
            "marks the format of an older proxy, and the file has keys of another format too; keep to one of them";
        notes.problem(first.at, &first.key, text);
        return Some(Config::default());
    }
    notes.be_lenient();
    Some(match dialect {
        Dialect::Go => Section::root(tree, notes, format_001::read),
        Dialect::Rust => Section::root(tree, notes, format_002::read),
        Dialect::Manager => Section::root(&format_003::spelled(tree), notes, format_003::read),
    })
}

/// What all of them have in common: every address, every web page, no probing.
fn open(port: u16) -> Config {
    let mut config = Config::default();
    config.server.host = "0.0.0.0".into();
    config.server.port = port;
    config.server.cors = vec![CorsOrigin::Any];
    config
}

/// An endpoint that is never probed. Without a key the client's is not passed on either.
fn endpoint(name: String, base: super::Base, keys: Vec<Secret>) -> Endpoint {
    let mut endpoint = Endpoint { base, probe: Probe::Never, ..Endpoint::plain(name, "", 1) };
    if keys.is_empty() {
        let remove = |key: &str| HeaderOp { op: Op::Remove, key: key.into(), value: Secret::default() };
        endpoint.headers = vec![remove("authorization")];
    } else {
        endpoint.auth = super::Auth::Bearer;
        endpoint.api_keys = keys;
    }
    endpoint
}

/// A name, which may be any text; an empty one is none.
fn named(field: &Field) -> Option<String> {
    field.parse(no_key).filter(|name| !name.is_empty())
}

/// Names that are taken, and the last number that was put behind each.
#[derive(Default)]
struct Names(HashMap<String, u32>);

impl Names {
    fn of(endpoints: &[Endpoint]) -> Self {
        Self(endpoints.iter().map(|endpoint| (endpoint.name.clone(), 1)).collect())
    }

    /// The name, with a number behind it if it is taken.
    fn unique(&mut self, name: String) -> String {
        let Some(mut number) = self.0.get(&name).copied() else {
            self.0.insert(name.clone(), 1);
            return name;
        };
        loop {
            number += 1;
            let numbered = format!("{name} ({number})");
            if !self.0.contains_key(&numbered) {
                self.0.insert(name, number);
                self.0.insert(numbered.clone(), 1);
                return numbered;
            }
        }
    }
}
