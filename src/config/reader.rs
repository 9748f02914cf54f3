//! A cursor over the tree of a file. Returns values, and records all problems and all keys asked for.

use super::node::{Entry, Node, Value, snake};
use super::problem::{Diagnostics, joined};
use super::shown;
use crate::util::secret::Secret;
use crate::util::units;
use std::collections::HashSet;
use std::path::Path;

/// The largest secret file, in bytes.
const MOST_SECRET_BYTES: usize = 64 << 10;

/// Values below these keys may be misplaced secrets, so no error repeats them.
const GUARDED: [&str; 6] = ["admin", "auth", "headers", "keys", "proxy", "webhooks"];

/// A value of a file, or its absence.
#[derive(Clone)]
pub(super) struct Field<'a> {
    node: Option<&'a Node>,
    /// `endpoints[2].port`
    pub path: String,
    at: u32,
    guarded: bool,
    pub diagnostics: &'a Diagnostics<'a>,
}

impl<'a> Field<'a> {
    /// Reads a whole file; all keys that `read` does not ask for are unknown.
    pub(super) fn file(tree: &'a Node, diagnostics: &'a Diagnostics<'a>, read: impl FnOnce(&Self)) {
        let root = Self { node: Some(tree), path: String::new(), at: tree.at, guarded: false, diagnostics };
        read(&root);
        root.check_keys();
    }

    /// The value of a key in camelCase, which a file may also spell in snake_case. `a.b` is the key `b` of the map
    /// `a`.
    pub(super) fn get(&self, key: &str) -> Self {
        key.split('.').fold(self.clone(), |field, key| field.child(key))
    }

    fn child(&self, key: &str) -> Self {
        self.diagnostics.ask(&self.path, key);
        let entries = self.entries("is not a map of `key: value`").unwrap_or_default();
        let node = entries.iter().find(|entry| self.is_key(entry, key)).map(|entry| &entry.value);
        let path = joined(&self.path, key);
        let (at, guarded) = (node.map_or(self.at, |node| node.at), self.guarded || GUARDED.contains(&key));
        Self { node, path, at, guarded, ..self.clone() }
    }

    fn is_key(&self, entry: &Entry, key: &str) -> bool {
        entry.key == key || entry.key == snake(key) || self.diagnostics.any_case && entry.key.eq_ignore_ascii_case(key)
    }

    /// Adds a problem for each unknown or repeated key, here and below.
    fn check_keys(&self) {
        let asked = self.diagnostics.asked(&self.path);
        match self.value() {
            Some(Value::List(_)) => self.items().into_iter().flatten().for_each(|item| item.check_keys()),
            Some(Value::Map(entries)) if asked.is_empty() => {
                entries.iter().for_each(|entry| self.named_item(entry).check_keys());
            }
            Some(Value::Map(entries)) => {
                let mut met = HashSet::new();
                for entry in entries {
                    match asked.iter().find(|key| self.is_key(entry, key)) {
                        // Top-level keys `x-...` are for anchors.
                        None if self.path.is_empty() && entry.key.starts_with("x-") => {}
                        None => self.diagnostics.unknown_key(entry, &self.path, &asked, self.guarded),
                        Some(key) if met.insert(key) => self.child(key).check_keys(),
                        Some(key) => {
                            let path = self.child(key).path;
                            self.diagnostics.problem(entry.at, &path, "is given twice; keep one");
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// A secret given as `key`, or in the file that `keyFile` names. `is_one` tells whether a text is a real secret, which
    /// other readers of the file should not see.
    pub(super) fn secret_at(&self, key: &str, is_one: impl Fn(&str) -> bool) -> Option<Secret> {
        let (here, file) = (self.get(key), self.get(&format!("{key}File")));
        if here.is_given() && file.is_given() {
            file.problem(format!("give `{key}` or `{key}File`, not both"));
            return None;
        }
        if file.is_given() { file.secret_file() } else { here.secret(is_one) }
    }

    /// Whether the file gives a key a value other than `null` and `[]`.
    pub(super) fn gives(&self, key: &str) -> bool {
        self.get(key).is_given()
    }

    pub(super) fn value(&self) -> Option<&'a Value> {
        self.node.map(|node| &node.value)
    }

    /// Whether the file gives a value other than `null` and `[]`.
    pub(super) fn is_given(&self) -> bool {
        self.value().is_some_and(|value| *value != Value::Null && *value != Value::List(Vec::new()))
    }

    /// Whether the value is exactly this word, or `false` for `off`.
    pub(super) fn is_word(&self, word: &str) -> bool {
        match self.value() {
            Some(Value::Text { text, .. }) => text == word,
            Some(Value::Bool(false)) => word == "off",
            _ => false,
        }
    }

    /// Whether part of the value came from a variable.
    pub(super) fn is_filled_in(&self) -> bool {
        matches!(self.value(), Some(Value::Text { literal: false, .. }))
    }

    /// Adds a problem of this value.
    pub(super) fn problem(&self, text: impl Into<String>) {
        self.diagnostics.problem(self.at, &self.path, text);
    }

    /// Adds a problem from a predicate: `is not a port`.
    pub(super) fn wrong(&self, predicate: &str) {
        let shown = match self.value() {
            None => "nothing".into(),
            Some(value) if self.guarded => shown::guarded(value),
            Some(value) => shown::value(value),
        };
        self.problem(format!("{shown} {predicate}"));
    }

    /// Adds a problem if a name is already taken by another `what`.
    pub(super) fn refuse_second(&self, name: &str, what: &'static str) {
        let names = self.diagnostics.names(what);
        let first = names.iter().position(|(other, _)| other == name);
        if let Some(first) = first.filter(|first| names[*first].1 != self.at) {
            let number = first + 1;
            self.problem(format!("{name:?} is the name of another {what} above (number {number}); each needs its own"));
        }
    }

    pub(super) fn warn(&self, text: impl Into<String>) {
        self.diagnostics.warn(text);
    }

    /// Parses the value; `null` counts as absent. Errors are predicates.
    pub(super) fn read<T>(&self, read: impl FnOnce(&'a Value) -> Result<T, String>) -> Option<T> {
        self.readable().and_then(|value| read(value).map_err(|error| self.wrong(&error)).ok())
    }

    fn readable(&self) -> Option<&'a Value> {
        match self.value()? {
            _ if self.diagnostics.is_full() => None,
            Value::Null => None,
            Value::Broken(why) => {
                self.problem(why);
                None
            }
            value => Some(value),
        }
    }

    /// Whether it is a map, or absent, which counts as an empty map.
    pub(super) fn is_section(&self) -> bool {
        self.entries("is not a map of `key: value`").is_some() || !self.is_given()
    }

    /// The values of a list.
    pub(super) fn items(&self) -> Option<impl Iterator<Item = Self>> {
        let nodes = Self { guarded: true, ..self.clone() }.read(|value| match value {
            Value::List(list) => Ok(list),
            _ => Err("is not a list; begin each item with `- `, or write [a, b]".into()),
        })?;
        let field = self.clone();
        Some(nodes.iter().enumerate().map(move |(index, node)| Self {
            node: Some(node),
            path: format!("{}[{index}]", field.path),
            at: node.at,
            ..field
        }))
    }

    /// The values of a map whose keys are chosen by the user.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'a str, Self)> {
        let (field, mut names) = (self.clone(), HashSet::new());
        self.entries("is not a map of `name: ...`").unwrap_or_default().iter().map(move |entry| {
            let item = field.named_item(entry);
            if !names.insert(&entry.key) {
                item.problem("is given twice; keep one");
            }
            (entry.key.as_str(), item)
        })
    }

    /// The value of a name in such a map, or the map itself if it is absent.
    pub(super) fn item(&self, name: &str) -> Self {
        let entries = self.entries("is not a map of `name: ...`").unwrap_or_default();
        let found = entries.iter().find(|entry| entry.key == name);
        found.map_or_else(|| self.clone(), |entry| self.named_item(entry))
    }

    fn named_item(&self, entry: &'a Entry) -> Self {
        let path = format!("{}[{}]", self.path, shown::name(&entry.key));
        Self { node: Some(&entry.value), path, at: entry.at, ..self.clone() }
    }

    fn entries(&self, otherwise: &str) -> Option<&'a [Entry]> {
        Self { guarded: true, ..self.clone() }.read(|value| match value {
            Value::Map(entries) => Ok(entries.as_slice()),
            _ => Err(otherwise.into()),
        })
    }

    /// A text that `parse` accepts; its errors are predicates.
    pub(super) fn parse<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        self.read(|value| match value {
            Value::Text { text, .. } => parse(text),
            Value::Number(_) | Value::Bool(_) => Err("is not a text; put it in quotes".into()),
            _ => Err("is not a text".into()),
        })
    }

    /// A text that is never shown, and recorded as exposed if it is in the file itself and `is_one`.
    pub(super) fn secret(&self, is_one: impl Fn(&str) -> bool) -> Option<Secret> {
        let (text, literal) = match self.readable()? {
            Value::Text { text, literal: true } => (text.as_str(), true),
            Value::Text { text, .. } => (units::unquoted(text), false),
            _ => {
                self.problem("is not a text; put it in quotes");
                return None;
            }
        };
        let secret = secret(text).map_err(|error| self.problem(error)).ok()?;
        if literal && is_one(text) {
            self.diagnostics.exposed(&self.path);
        }
        Some(secret)
    }

    /// The path of a file, relative to the configuration, and its content.
    pub(super) fn text_file<T>(&self, read: impl FnOnce(&str) -> Result<T, String>) -> Option<(String, T)> {
        let path = self.parse(|text| Ok(text.to_owned()))?;
        let text = (self.diagnostics.file)(Path::new(&path)).map_err(|error| format!("cannot be read: {error}"));
        match text.and_then(|text| read(&text)) {
            Ok(value) => Some((path, value)),
            Err(error) => {
                self.problem(format!("the file {} {error}", shown::path(self.value()?)));
                None
            }
        }
    }

    fn secret_file(&self) -> Option<Secret> {
        let read = self.text_file(|text| match text.len() {
            ..=MOST_SECRET_BYTES => secret(one_line(text)),
            _ => Err("cannot be read: larger than 64 KiB".into()),
        });
        read.map(|(_, secret)| secret)
    }
}

fn secret(text: &str) -> Result<Secret, String> {
    match text {
        "" => Err("is empty".into()),
        "***" => Err("is the mask that stands for a secret; put the secret in".into()),
        _ if text.chars().any(char::is_control) => Err("has a line break or another control character in it".into()),
        _ => Ok(Secret::new(text)),
    }
}

/// The secret in a file: its first line, without a byte order mark, white space, and the quotes that Docker leaves.
fn one_line(text: &str) -> &str {
    let line = text.trim_start_matches('\u{feff}').trim().split(['\n', '\r']).next().unwrap_or_default();
    units::unquoted(line.trim_end())
}
