//! A cursor over the tree of a file: returns typed values, notes every problem and every key that is read.

use super::features::Feature;
use super::node::{Entry, Node, Value, snake};
use super::problem::Diagnostics;
use super::shown;
pub(super) use super::spelling::not_one_of;
use crate::util::secret::Secret;
use crate::util::units;
use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

/// Bytes of a file that holds one secret.
const MOST_SECRET_BYTES: usize = 64 << 10;

/// One map of a file, or the absence of one.
pub(super) struct Section<'a> {
    path: String,
    at: u32,
    entries: &'a [Entry],
    asked: Vec<String>,
    guarded: bool,
    diagnostics: &'a Diagnostics<'a>,
}

/// One value of a file, or the absence of one.
#[derive(Clone)]
pub(super) struct Field<'a> {
    node: Option<&'a Node>,
    path: String,
    at: u32,
    /// A secret may stand here by mistake: a wrong value is not repeated.
    guarded: bool,
    diagnostics: &'a Diagnostics<'a>,
}

impl<'a> Section<'a> {
    /// Reads a whole file; a key that `read` does not read is unknown.
    pub(super) fn root<T>(tree: &'a Node, diagnostics: &'a Diagnostics<'a>, read: impl FnOnce(&mut Self) -> T) -> T {
        Field { node: Some(tree), path: String::new(), at: tree.at, guarded: false, diagnostics }.section(read)
    }

    /// The value of a key, given in camelCase; a file may also say it in snake_case.
    pub(super) fn field(&mut self, key: &str) -> Field<'a> {
        let (path, snake) = (self.path_of(key), snake(key));
        self.diagnostics.known(&path);
        self.asked.push(key.to_owned());
        let mut entries = self.entries.iter().filter(|entry| entry.key == key || entry.key == snake);
        let first = entries.next();
        for again in entries {
            self.diagnostics.problem(again.at, &path, "is given twice; keep one");
        }
        let node = first.map(|entry| &entry.value);
        let at = node.map_or(self.at, |node| node.at);
        Field { node, path, at, guarded: self.guarded, diagnostics: self.diagnostics }
    }

    /// The value of a key that must be given.
    pub(super) fn required(&mut self, key: &str) -> Field<'a> {
        let field = self.field(key);
        if !field.is_given() {
            field.problem("is missing");
        }
        field
    }

    /// A secret given as `key`, or as `keyFile`: the path of a file that holds it.
    pub(super) fn secret(&mut self, key: &str) -> Option<Secret> {
        self.secret_when(key, |_| true)
    }

    /// A text that may be a secret; `is_one` says whether it must be kept from other readers of the file.
    pub(super) fn secret_when(&mut self, key: &str, is_one: impl Fn(&str) -> bool) -> Option<Secret> {
        let (here, file) = (self.field(key), self.field(&format!("{key}File")));
        if here.is_given() && file.is_given() {
            file.problem(format!("give `{key}` or `{key}File`, not both"));
            return None;
        }
        if file.is_given() { file.secret_file() } else { here.secret(is_one) }
    }

    /// Whether the file gives a key a value other than `null` and `[]`.
    pub(super) fn gives(&self, key: &str) -> bool {
        let mut entries = self.entries.iter().filter(|entry| entry.key == key || entry.key == snake(key));
        entries.any(|entry| is_something(&entry.value.value))
    }

    /// Notes a problem of the section as a whole.
    pub(super) fn problem(&self, text: impl Into<String>) {
        self.diagnostics.problem(self.at, &self.path, text);
    }

    pub(super) fn warn(&self, text: impl Into<String>) {
        self.diagnostics.warn(text);
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn finish(&self) {
        // At the top `x-...` is for anchors.
        let is_ours = |entry: &&Entry| !self.path.is_empty() || !entry.key.starts_with("x-");
        for entry in self.entries.iter().filter(is_ours) {
            if !self.asked.iter().any(|key| entry.key == *key || entry.key == snake(key)) {
                self.diagnostics.unknown_key(entry.at, &self.path, &entry.key, &self.asked, self.guarded);
            }
        }
    }
}

impl<'a> Field<'a> {
    /// Whether the file gives a value other than `null` and `[]`.
    pub(super) fn is_given(&self) -> bool {
        self.node.is_some_and(|node| is_something(&node.value))
    }

    /// Whether part of the value came from a variable.
    pub(super) fn is_filled_in(&self) -> bool {
        self.node.is_some_and(|node| matches!(node.value, Value::Text { literal: false, .. }))
    }

    /// Whether the file gives a map.
    pub(super) fn is_map(&self) -> bool {
        self.node.is_some_and(|node| matches!(node.value, Value::Map(_)))
    }

    /// Notes that this value is wrong.
    pub(super) fn problem(&self, text: impl Into<String>) {
        self.diagnostics.problem(self.at, &self.path, text);
    }

    /// The same place, where a secret may stand by mistake: no error repeats what stands there or below.
    pub(super) fn guarded(self) -> Self {
        Self { guarded: true, ..self }
    }

    /// The same place, as if nothing was given.
    pub(super) fn emptied(&self) -> Self {
        Self { node: None, ..self.clone() }
    }

    pub(super) fn section<T>(&self, read: impl FnOnce(&mut Section<'a>) -> T) -> T {
        let entries = self.read(|value| match value {
            Value::Map(entries) => Ok(entries.as_slice()),
            other => Err(format!("{} is not a map of `key: value`", shown::guarded(other))),
        });
        let (path, entries) = (self.path.clone(), entries.unwrap_or_default());
        let (asked, guarded) = (Vec::new(), self.guarded);
        let mut section = Section { path, at: self.at, entries, asked, guarded, diagnostics: self.diagnostics };
        let result = read(&mut section);
        section.finish();
        result
    }

    /// A map that is one item of a list; anything else is a problem.
    pub(super) fn item<T>(&self, read: impl FnOnce(&mut Section<'a>) -> Option<T>) -> Option<T> {
        if self.is_given() && !self.is_map() {
            self.section(|_| ());
            return None;
        }
        self.section(read)
    }

    /// A list; items that `item` refuses are left out (it has noted why).
    pub(super) fn list<T>(&self, item: impl FnMut(Field<'a>) -> Option<T>) -> Option<Vec<T>> {
        let nodes = self.read(|value| match value {
            Value::List(list) => Ok(list),
            other => {
                Err(format!("{} is not a list; begin each item with `- `, or write [a, b]", shown::guarded(other)))
            }
        })?;
        let field = |(index, node): (usize, &'a Node)| Field {
            node: Some(node),
            path: format!("{}[{index}]", self.path),
            at: node.at,
            guarded: self.guarded,
            diagnostics: self.diagnostics,
        };
        Some(nodes.iter().enumerate().map(field).filter_map(item).collect())
    }

    /// A map whose keys are names that the user gives; items that `item` refuses are left out.
    pub(super) fn map<T>(&self, mut item: impl FnMut(&str, Field<'a>) -> Option<T>) -> Vec<T> {
        let entries = self.read(|value| match value {
            Value::Map(entries) => Ok(entries.as_slice()),
            other => Err(format!("{} is not a map of `name: ...`", shown::guarded(other))),
        });
        let (mut items, mut names, entries) = (Vec::new(), HashSet::new(), entries.unwrap_or_default());
        for entry in entries {
            let path = format!("{}[{}]", self.path, shown::name(&entry.key));
            if !names.insert(entry.key.as_str()) {
                self.diagnostics.problem(entry.at, &path, "is given twice; keep one");
            }
            let (node, guarded) = (Some(&entry.value), self.guarded);
            let field = Field { node, path, at: entry.at, guarded, diagnostics: self.diagnostics };
            items.extend(item(&entry.key, field));
        }
        items
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        self.read(|value| match value {
            Value::Text { text, .. } => Ok(text.as_str()),
            other @ (Value::Number(_) | Value::Bool(_)) => {
                Err(format!("{} is not a text; put it in quotes", self.shown_as(other)))
            }
            other => Err(format!("{} is not a text", self.shown_as(other))),
        })
    }

    /// A text that `parse` understands; its error says what the text is not, `is not an address`.
    pub(super) fn parse<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text()?;
        parse(text).map_err(|error| self.problem(format!("{} {error}", self.shown()))).ok()
    }

    /// `true` or `false`.
    pub(super) fn flag(&self) -> Option<bool> {
        self.read(|value| match value {
            Value::Bool(flag) => Ok(*flag),
            Value::Text { text, .. } if text == "true" => Ok(true),
            Value::Text { text, .. } if text == "false" => Ok(false),
            other => Err(format!("{} is not true or false", self.shown_as(other))),
        })
    }

    /// `true` or `false`, where `true` needs a part of the program that a build may leave out.
    pub(super) fn switch(&self, feature: &Feature) -> Option<bool> {
        let flag = self.flag();
        if let (Some(true), Err(absent)) = (flag, feature.require()) {
            self.problem(absent);
        }
        flag
    }

    /// A whole number; `what` is the noun for the message, `a port`.
    pub(super) fn number<T: TryFrom<u64>>(&self, what: &str, range: RangeInclusive<u64>) -> Option<T> {
        let wrong =
            |value: &Value| format!("{} is not {what} ({} to {})", self.shown_as(value), range.start(), range.end());
        self.read(|value| {
            let number = value.numeric().filter(|n| n.fract() == 0.0 && *n >= 0.0).map(|n| n as u64);
            let number = number.filter(|n| range.contains(n)).and_then(|n| T::try_from(n).ok());
            number.ok_or_else(|| wrong(value))
        })
    }

    pub(super) fn factor(&self, range: RangeInclusive<f64>) -> Option<f64> {
        self.read(|value| {
            value.numeric().filter(|number| range.contains(number)).ok_or_else(|| {
                format!("{} is not a number ({} to {})", self.shown_as(value), range.start(), range.end())
            })
        })
    }

    /// A time: a number of milliseconds or a text like `1h30m`.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let (least, most) = (units::print_duration(*range.start()), units::print_duration(*range.end()));
        self.read(|value| {
            let time = value.measure(units::parse_duration, Duration::from_millis);
            if let Some(millis) = value.bare().filter(|millis| (1..100).contains(millis) && !self.path.ends_with("Ms"))
            {
                let path = &self.path;
                self.diagnostics
                    .warn(format!("{path}: {millis} means {millis} milliseconds; write {millis}s for seconds"));
            }
            time.filter(|time| range.contains(time)).ok_or_else(|| {
                format!("{} is not a time from {least} to {most}; write 500ms, 30s, 5m or 1h30m", self.shown_as(value))
            })
        })
    }

    /// A size: a number of bytes or a text like `64MiB`.
    pub(super) fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let (least, most) = (units::print_size(*range.start()), units::print_size(*range.end()));
        self.read(|value| {
            let size = value.measure(units::parse_size, |bytes| bytes);
            size.filter(|size| range.contains(size)).ok_or_else(|| {
                format!("{} is not a size from {least} to {most}; write 32KiB, 64MiB or 10MB", self.shown_as(value))
            })
        })
    }

    pub(super) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        self.parse(|text| {
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, choice)| *choice).ok_or_else(|| not_one_of(text, words.iter().map(|(word, _)| *word)))
        })
    }

    /// Whether the value is exactly this word, or `false` for `off`.
    pub(super) fn is_word(&self, word: &str) -> bool {
        match self.node.map(|node| &node.value) {
            Some(Value::Text { text, .. }) => text == word,
            Some(Value::Bool(false)) => word == "off",
            _ => false,
        }
    }

    /// A text that is never shown; noted as exposed when it stands in the file itself and `is_one`.
    pub(super) fn secret(&self, is_one: impl Fn(&str) -> bool) -> Option<Secret> {
        let secret = self.read(|value| match value {
            Value::Text { text, literal: true } => secret(text),
            Value::Text { text, .. } => secret(units::unquoted(text)),
            _ => Err("is not a text; put it in quotes".into()),
        })?;
        if matches!(self.node?.value, Value::Text { literal: true, .. }) && is_one(secret.reveal()) {
            self.diagnostics.exposed(&self.path);
        }
        Some(secret)
    }

    /// A text that is never shown; an empty one is none.
    pub(super) fn secret_or_empty(&self) -> Option<Secret> {
        match self.node.map(|node| &node.value) {
            Some(Value::Text { text, .. }) if text.is_empty() => None,
            _ => self.secret(|_| true),
        }
    }

    /// Whether the file gives a number.
    pub(super) fn is_number(&self) -> bool {
        self.node.is_some_and(|node| matches!(node.value, Value::Number(_)))
    }

    /// A whole number of either sign.
    pub(super) fn integer(&self) -> Option<i64> {
        self.read(|value| {
            let number = value.numeric().filter(|number| number.fract() == 0.0);
            number.map(|number| number as i64).ok_or_else(|| format!("{} is not a whole number", self.shown_as(value)))
        })
    }

    /// The path of a file beside the configuration, and the text in it.
    pub(super) fn file(&self) -> Option<(String, String)> {
        let path = self.text()?;
        match self.diagnostics.file(Path::new(path)) {
            Ok(text) => Some((path.to_owned(), text)),
            Err(error) => {
                let path = shown::path(&self.node?.value);
                self.problem(format!("the file {path} cannot be read: {error}"));
                None
            }
        }
    }

    fn secret_file(&self) -> Option<Secret> {
        let read = match self.diagnostics.file(Path::new(self.text()?)) {
            Ok(text) if text.len() > MOST_SECRET_BYTES => Err("cannot be read: larger than 64 KiB".into()),
            Ok(text) => secret(one_line(&text)),
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        let path = shown::path(&self.node?.value);
        read.map_err(|text| self.problem(format!("the file {path} {text}"))).ok()
    }

    fn shown(&self) -> String {
        self.node.map_or_else(|| "nothing".into(), |node| self.shown_as(&node.value))
    }

    fn shown_as(&self, value: &Value) -> String {
        if self.guarded { shown::guarded(value) } else { shown::value(value) }
    }

    fn read<T>(&self, read: impl FnOnce(&'a Value) -> Result<T, String>) -> Option<T> {
        match &self.node?.value {
            _ if self.diagnostics.are_full() => None,
            Value::Null => None,
            Value::Broken(why) => {
                self.problem(why);
                None
            }
            value => read(value).map_err(|text| self.problem(text)).ok(),
        }
    }
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::List(list) => !list.is_empty(),
        _ => true,
    }
}

fn secret(text: &str) -> Result<Secret, String> {
    if text.is_empty() {
        return Err("is empty".into());
    }
    if text == "***" {
        return Err("is the mask that stands for a secret; put the secret in".into());
    }
    if text.chars().any(char::is_control) {
        return Err("has a line break or another control character in it".into());
    }
    Ok(Secret::new(text))
}

/// The secret that a file holds: its first line, without a mark, white space and the quotes that Docker leaves.
fn one_line(text: &str) -> &str {
    let line = text.trim_start_matches('\u{feff}').trim().split(['\n', '\r']).next().unwrap_or_default();
    units::unquoted(line.trim_end())
}
