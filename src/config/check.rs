//! Turns the text of a file into a [`Config`] or a list of all its problems. Reads neither files nor the environment.

use super::node::{self, Node, Value, names_in};
use super::problem::{Diagnostics, Problem};
use super::reader::Field;
use super::table::{Keys, Table};
use super::{Config, MINIMAL, env, format};
use crate::config::legacy;
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;

/// A valid configuration and its warnings.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// Sentences for the log.
    pub warnings: Vec<String>,
    /// The file is one of routes (format 003), which the page may write.
    pub is_paged: bool,
    /// Keys with a secret in the file itself.
    pub exposed: Vec<String>,
}

/// Checks the text of a file called `name`. `variable` looks up environment variables, `file` reads the files that
/// `xxxFile` keys name.
pub fn parse(
    name: &str,
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
    file: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<Loaded, Vec<Problem>> {
    let text = &*node::plain(text);
    let mut tree = tree(name, text)?;
    env::fill_in(&mut tree, variable);
    let (config, diagnostics) = read(&tree, Diagnostics::new(file, keys()));
    let (warnings, exposed) = diagnostics.finish(name, text)?;
    Ok(Loaded { config, warnings, is_paged: format::is_paged(&tree), exposed })
}

/// Adds the routes of the page's file. If both have a route of the same name, the page's is used.
pub fn with_routes(name: &str, text: &str, config: &Config) -> Result<Loaded, Vec<Problem>> {
    let text = &*node::plain(text);
    let tree = tree(name, text)?;
    let mut config = config.clone();
    let endpoints = config.endpoints.iter().map(|endpoint| (endpoint.name.clone(), 0)).collect();
    let mut diagnostics = Diagnostics::new(&no_file, BTreeSet::new()).with_names([("endpoint", endpoints)]);
    (diagnostics.lenient, diagnostics.any_case) = (true, true);
    if format::is_paged(&tree) {
        Field::file(&tree, &diagnostics, |root| legacy::add_routes(&mut config, &mut Keys::Read(root)));
    } else {
        diagnostics.problem(tree.at, "", "is not a map with `Models`");
    }
    let (warnings, exposed) = diagnostics.finish(name, text)?;
    Ok(Loaded { config, warnings, is_paged: true, exposed })
}

fn tree(name: &str, text: &str) -> Result<Node, Vec<Problem>> {
    node::parse(text).map_err(|fault| {
        let place = fault.place.map_or(name.to_owned(), |(line, column)| format!("{name}:{line}:{column}"));
        vec![Problem::at(place, fault.text)]
    })
}

fn no_file(_: &Path) -> io::Result<String> {
    Err(ErrorKind::NotFound.into())
}

/// Parses JSON with `//` comments.
pub fn json(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(&node::plain(text)).map_err(|error| error.to_string())
}

/// Every key a file may have, `endpoints[].port`.
pub fn keys() -> BTreeSet<String> {
    let tree = "{endpoints: [{headers: [{}]}], models: {a: {backends: [{}], variants: {b: {}}}}, auth: {keys: [{}]}, \
        groups: [{endpoints: [{}]}], listeners: [{}]}";
    let tree = node::parse(tree).expect("this text is YAML; a test reads it");
    native(&tree, Diagnostics::new(&no_file, BTreeSet::new())).1.all_asked()
}

fn native<'d>(tree: &Node, diagnostics: Diagnostics<'d>) -> (Config, Diagnostics<'d>) {
    let diagnostics = diagnostics.with_names([
        ("endpoint", names_in(tree.get("endpoints"))),
        ("group", names_in(tree.get("groups"))),
        ("key", names_in(tree.get("auth").and_then(|auth| auth.get("keys")))),
        ("listener", [("main".to_owned(), u32::MAX)].into_iter().chain(names_in(tree.get("listeners"))).collect()),
    ]);
    let mut config = Config::default();
    Field::file(tree, &diagnostics, |root| config.keys(&mut Keys::Read(root)));
    (config, diagnostics)
}

/// A file that is not a map of sections is reported once, not once per key.
fn read<'d>(tree: &Node, diagnostics: Diagnostics<'d>) -> (Config, Diagnostics<'d>) {
    let problem = match &tree.value {
        Value::Map(entries) => match format::older(entries) {
            Ok(None) => return native(tree, diagnostics),
            Ok(Some((format, mark))) => return legacy::read(format, mark, tree, diagnostics),
            Err(mark) => {
                let text = "marks the format of an older proxy, and the file has keys of another format too; keep to one of them";
                diagnostics.problem(mark.at, &mark.key, text);
                return (Config::default(), diagnostics);
            }
        },
        Value::Null => "is empty",
        _ => "is not a map of sections",
    };
    diagnostics.problem(tree.at, "", format!("{problem}; a useful file is\n{MINIMAL}"));
    (Config::default(), diagnostics)
}
