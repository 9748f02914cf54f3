//! The formats of older proxies, converted to a native configuration. A key that the format's document does not have is a
//! warning, not an error.

mod format_001;
mod format_002;
mod format_003;
mod format_004;

pub(super) use format_004::read as from_environment;

use super::features::ADMIN;
use super::format::{self, Format};
use super::node::{Entry, Node};
use super::problem::Diagnostics;
use super::reader::{Field, Section};
use super::{Config, CorsOrigin, Endpoint, HeaderOp, Op, Probe};
use crate::config::check::endpoint::no_key;
use crate::util::secret::Secret;
use std::collections::HashMap;

/// Adds the routes of the page's file, and the endpoints that they bring.
pub(super) fn add_routes(tree: &Node, diagnostics: &Diagnostics, config: &mut Config) {
    diagnostics.be_lenient();
    if !format::is_paged(tree) {
        return diagnostics.problem(tree.at, "", "is not a map with `Models`");
    }
    Section::root(&format_003::spelled(tree), diagnostics, |root| format_003::add(root, config));
}

/// The configuration of a file in an older format, which `mark` tells.
pub(super) fn read(format: Format, mark: &Entry, tree: &Node, diagnostics: &Diagnostics) -> Config {
    diagnostics.be_lenient();
    match format {
        Format::F001 => Section::root(tree, diagnostics, format_001::read),
        Format::F002 => Section::root(tree, diagnostics, format_002::read),
        Format::F003 => {
            if let Err(absent) = ADMIN.require() {
                diagnostics.problem(mark.at, &mark.key, absent);
            }
            Section::root(&format_003::spelled(tree), diagnostics, format_003::read)
        }
    }
}

/// What all formats have in common: open to every address and every web page.
fn open(port: u16) -> Config {
    let mut config = Config::default();
    config.server.host = "0.0.0.0".into();
    config.server.port = port;
    config.server.cors = vec![CorsOrigin::Any];
    config
}

/// An endpoint that is never probed. Without a key of its own it does not get the client's either.
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

/// A name: any text that is not empty.
fn named(field: &Field) -> Option<String> {
    field.parse(no_key).filter(|name| !name.is_empty())
}

/// Names in use, and the last number that was appended to each.
#[derive(Default)]
struct UniqueNames(HashMap<String, u32>);

impl UniqueNames {
    fn of(endpoints: &[Endpoint]) -> Self {
        Self(endpoints.iter().map(|endpoint| (endpoint.name.clone(), 1)).collect())
    }

    /// The name, with a number appended if it is in use.
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
