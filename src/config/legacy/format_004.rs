//! Format 004: no file, the environment alone, with a `.env` beside it.

use super::{endpoint, give_keys, key, open};
use crate::config::address::base;
use crate::config::features::JOBS;
use crate::config::node::{Entry, Node, Value};
use crate::config::problem::Diagnostics;
use crate::config::reader::Field;
use crate::config::table::*;
use crate::config::{ClientKey, Config, Endpoint, KeyText, Problem, UnknownModel};
use crate::util::units::unquoted;
use std::collections::BTreeSet;
use std::io::ErrorKind;

const VARIABLES: [&str; 5] = ["OPENAI_API_BASE_URL", "OPENAI_API_KEY", "API_KEY", "PORT", "MAX_CONCURRENT"];

/// The configuration of an environment that names a server, or the problems of its variables.
pub(crate) fn read(variable: &dyn Fn(&str) -> Option<String>) -> Option<Result<Config, Vec<Problem>>> {
    // No text has such a node: the place of a problem is the environment.
    let at = u32::MAX;
    let entry = |name: &str| {
        let text = variable(name).map(|text| unquoted(text.trim()).to_owned()).filter(|text| !text.is_empty())?;
        Some(Entry { at, key: name.into(), value: Node { at, value: Value::Text { text, literal: false } } })
    };
    let tree = Node { at, value: Value::Map(VARIABLES.into_iter().filter_map(entry).collect()) };
    tree.get("OPENAI_API_BASE_URL")?;
    let diagnostics = Diagnostics::new(&|_| Err(ErrorKind::NotFound.into()), BTreeSet::new());
    let mut config = open(3000);
    Field::file(&tree, &diagnostics, |root| keys(&mut config, &mut Keys::Read(root)));
    Some(diagnostics.finish("environment", "").map(|_| config))
}

fn keys(config: &mut Config, keys: &mut Keys) {
    keys.read(|root| {
        if let Err(absent) = JOBS.require() {
            root.get("OPENAI_API_BASE_URL").problem(absent);
        }
    });
    let mut one = Endpoint { name: "openai".into(), ..endpoint() };
    keys.key(&mut one.base, "OPENAI_API_BASE_URL", text(base));
    let (mut theirs, mut ours) = (None, None);
    keys.key(&mut theirs, "OPENAI_API_KEY", optional(key()));
    keys.key(&mut ours, "API_KEY", optional(key()));
    give_keys(&mut one, theirs);
    config.endpoints = vec![one];
    config.keys = ours.into_iter().map(|key| ClientKey::plain("api", KeyText::Plain(key))).collect();
    keys.key(&mut config.server.port, "PORT", number("a port", 0..=65_535));
    (config.jobs.enabled, config.jobs.always) = (true, true);
    keys.key(&mut config.jobs.max_concurrent, "MAX_CONCURRENT", number("a number of jobs", 1..=256));
    // The one server decides which models exist.
    config.routing.unknown_model = UnknownModel::Passthrough;
}

#[cfg(test)]
mod tests;
