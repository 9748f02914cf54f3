//! The formats of older proxies, converted to a native configuration. A key that the format's document does not have is a
//! warning, not an error.

mod format_001;
mod format_002;
mod format_003;
mod format_004;

pub(super) use format_003::add as add_routes;
pub(super) use format_004::read as from_environment;

use super::features::ADMIN;
use super::format::Format;
use super::node::{Entry, Node};
use super::problem::Diagnostics;
use super::reader::Field;
use super::table::*;
use super::text::{NOT_SENDABLE, can_be_sent, no_key};
use super::{Auth, Config, CorsOrigin, Endpoint, HeaderOp, Op, Probe};
use crate::util::secret::Secret;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The configuration of a file in an older format, which `mark` tells.
pub(super) fn read<'d>(
    format: Format,
    mark: &Entry,
    tree: &Node,
    mut diagnostics: Diagnostics<'d>,
) -> (Config, Diagnostics<'d>) {
    (diagnostics.lenient, diagnostics.any_case) = (true, format == Format::F003);
    if format == Format::F002 {
        diagnostics = diagnostics.with_names(format_002::names(tree));
    }
    if let (Format::F003, Err(absent)) = (format, ADMIN.require()) {
        diagnostics.problem(mark.at, &mark.key, absent);
    }
    let (mut config, keys): (_, fn(&mut Config, &mut Keys)) = match format {
        Format::F001 => (open(8080), format_001::keys),
        Format::F002 => (open(0), format_002::keys),
        Format::F003 => (open(1852), format_003::keys),
    };
    Field::file(tree, &diagnostics, |root| keys(&mut config, &mut Keys::Read(root)));
    (config, diagnostics)
}

/// What all formats have in common: open to every address and every web page.
fn open(port: u16) -> Config {
    let mut config = Config::default();
    config.server.host = "0.0.0.0".into();
    config.server.port = port;
    config.server.cors = vec![CorsOrigin::Any];
    config
}

/// An endpoint that is never probed.
fn endpoint() -> Endpoint {
    Endpoint { probe: Probe::Never, ..Endpoint::default() }
}

/// Without a key of its own an endpoint does not get the client's either.
fn give_keys(endpoint: &mut Endpoint, keys: impl IntoIterator<Item = Secret>) {
    endpoint.api_keys.extend(keys);
    if endpoint.api_keys.is_empty() {
        endpoint.headers = vec![HeaderOp { op: Op::Remove, key: "authorization".into(), value: Secret::default() }];
    } else {
        endpoint.auth = Auth::Bearer;
    }
}

/// A name; an empty one is none.
fn any_name() -> Kind<String> {
    unless_empty(text(no_key))
}

/// A key; an empty one is none.
fn key() -> Kind<Secret> {
    let read = |field: &Field| {
        let secret = field.secret(|_| true)?;
        if !can_be_sent(secret.reveal()) {
            field.problem(NOT_SENDABLE);
        }
        Some(secret)
    };
    unless_empty(Kind::read_only(read))
}

/// An empty text is as none.
fn unless_empty<T: 'static>(kind: Kind<T>) -> Kind<T> {
    Kind::read_only(move |field| if field.is_word("") { None } else { (kind.read)(field, None) })
}

/// A whole number of seconds.
fn seconds(range: RangeInclusive<u64>) -> Kind<Duration> {
    let seconds = number("a number of seconds", range);
    Kind::read_only(move |field| (seconds.read)(field, None).map(Duration::from_secs))
}

/// A whole number; what is not above zero counts as 1 [S001-06].
fn weight() -> Kind<u16> {
    Kind::read_only(|field| {
        let number = field.read(|value| value.whole().ok_or_else(|| "is not a whole number".into()))?;
        Some(number.clamp(1, 65_535) as u16)
    })
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
