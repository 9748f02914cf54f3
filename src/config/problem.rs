//! Problems of a file and their positions, collected while `reader` walks it.

use super::node::{self, Entry, Names};
use super::{shown, text};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::path::Path;

/// The most problems reported.
const MOST: usize = 50;
/// The most problems collected.
const MOST_NOTED: usize = 4 * MOST;
/// The most bytes read again to look up positions; a file of usual size gets all of them.
const MOST_READ_AGAIN: usize = 1 << 20;

/// A problem of a file, with its position and remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `FILE:LINE:COL`, or the name of a variable or option.
    pub place: String,
    /// `endpoints[2].port`; empty for the whole file.
    pub key: String,
    /// What is wrong and what to do.
    pub text: String,
}

impl Problem {
    /// A problem without a key.
    pub(crate) fn at(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { place: place.into(), key: String::new(), text: text.into() }
    }

    /// One problem per line.
    pub fn lines(problems: &[Self]) -> String {
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.place, self.text)
        } else {
            write!(f, "{}: {}: {}", self.place, self.key, self.text)
        }
    }
}

/// What is collected while a file is read.
pub(super) struct Diagnostics<'a> {
    /// All known keys, for hints.
    known: BTreeSet<String>,
    /// Names that can be referred to, by kind.
    names: HashMap<&'static str, Names>,
    /// Unknown keys are warnings (older formats).
    pub lenient: bool,
    /// Keys are compared case-insensitively.
    pub any_case: bool,
    /// Reads what an `xxxFile` key names.
    pub file: &'a dyn Fn(&Path) -> io::Result<String>,
    notes: RefCell<Notes>,
}

#[derive(Default)]
struct Notes {
    /// Problems without positions, and the numbers of their nodes.
    found: Vec<(u32, Problem)>,
    /// Keys by the path of their section, `endpoints[]`.
    asked: HashMap<String, Vec<String>>,
    warnings: Vec<String>,
    exposed: Vec<String>,
}

impl<'a> Diagnostics<'a> {
    pub(super) fn new(file: &'a dyn Fn(&Path) -> io::Result<String>, known: BTreeSet<String>) -> Self {
        let names = HashMap::new();
        Self { known, names, lenient: false, any_case: false, file, notes: RefCell::default() }
    }

    /// Lists names for a message. Texts that cannot be names are left out, since they may be secrets.
    pub(super) fn with_names(mut self, names: impl IntoIterator<Item = (&'static str, Names)>) -> Self {
        for (what, mut names) in names {
            names.retain(|(name, _)| text::name(name).is_ok());
            self.names.insert(what, names);
        }
        self
    }

    /// The names of one kind.
    pub(super) fn names(&self, what: &str) -> &[(String, u32)] {
        self.names.get(what).map(Vec::as_slice).unwrap_or_default()
    }

    /// Adds a problem of the value at node `at`.
    pub(super) fn problem(&self, at: u32, key: &str, text: impl Into<String>) {
        if !self.is_full() {
            let problem = (at, Problem { place: String::new(), key: key.into(), text: text.into() });
            let found = &mut self.notes.borrow_mut().found;
            // A value that is not a map is reported once, not once per key.
            if found.last() != Some(&problem) {
                found.push(problem);
            }
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.notes.borrow().found.len() >= MOST_NOTED
    }

    /// Adds a problem of an unknown key of `section`, which has `siblings`. A key that may be a misplaced secret is
    /// left out of the message.
    ///
    pub(super) fn unknown_key(&self, entry: &Entry, section: &str, siblings: &[String], guarded: bool) {
        if self.is_full() {
            return;
        }
        let path = |is_known: bool| {
            let hidden = !is_known && guarded || shown::looks_secret(&entry.key);
            let key = if hidden { "***" } else { &entry.key };
            printable(&joined(section, key))
        };
        if self.lenient {
            return self.warn(format!("{} means nothing here and is ignored", path(!guarded)));
        }
        let is_it = |path: &&String| path.rsplit_once('.').is_some_and(|(_, last)| last == entry.key);
        let (is_known, text) = if let Some(near) = shown::nearest(&entry.key, siblings.iter().map(String::as_str)) {
            (true, format!("unknown key; did you mean `{near}`?"))
        } else if let Some(path) = self.known.iter().filter(is_it).min_by_key(|path| path.matches('[').count()) {
            (true, format!("unknown key here; `{path}` exists"))
        } else {
            (false, format!("unknown key; here are known: {}", siblings.join(", ")))
        };
        self.problem(entry.at, &path(is_known), text);
    }

    /// Declares a key of `section`.
    pub(super) fn ask(&self, section: &str, key: &str) {
        let keys = &mut self.notes.borrow_mut().asked;
        let keys = keys.entry(without_indices(section)).or_default();
        if !keys.iter().any(|other| other == key) {
            keys.push(key.to_owned());
        }
    }

    /// The declared keys of `section`.
    pub(super) fn asked(&self, section: &str) -> Vec<String> {
        self.notes.borrow().asked.get(&without_indices(section)).cloned().unwrap_or_default()
    }

    /// All declared keys, such as `endpoints[].port`.
    pub(super) fn all_asked(self) -> BTreeSet<String> {
        let asked = self.notes.into_inner().asked;
        asked.iter().flat_map(|(section, keys)| keys.iter().map(|key| joined(section, key))).collect()
    }

    pub(super) fn warn(&self, text: impl Into<String>) {
        let warnings = &mut self.notes.borrow_mut().warnings;
        if warnings.len() < MOST_NOTED {
            warnings.push(text.into());
        }
    }

    /// Adds a key with a secret in the file itself.
    pub(super) fn exposed(&self, key: &str) {
        self.notes.borrow_mut().exposed.push(key.into());
    }

    /// Returns the warnings, and the keys with a secret in the file itself.
    ///
    /// # Errors
    /// Every problem in the order of the file, with its place in `text`, which is called `name`.
    pub(super) fn finish(self, name: &str, text: &str) -> Result<(Vec<String>, Vec<String>), Vec<Problem>> {
        let is_full = self.is_full();
        let Notes { mut found, warnings, exposed, .. } = self.notes.into_inner();
        if found.is_empty() {
            return Ok((warnings, exposed));
        }
        found.sort_by_key(|(at, _)| *at);
        // A value may have been read twice.
        found.dedup();
        let more = found.len().saturating_sub(MOST);
        let mut left = MOST_READ_AGAIN.max(text.len());
        let mut place = |at| {
            let place = left.checked_sub(text.len()).and_then(|rest| {
                left = rest;
                node::locate(text, at)
            });
            place.map_or_else(|| name.to_owned(), |(line, column)| format!("{name}:{line}:{column}"))
        };
        let told = found.into_iter().take(MOST);
        let mut problems: Vec<_> = told.map(|(at, problem)| Problem { place: place(at), ..problem }).collect();
        if more > 0 {
            problems.push(Problem::at(name, if is_full { "and more".to_owned() } else { format!("and {more} more") }));
        }
        Err(problems)
    }
}

/// The path of a key.
pub(super) fn joined(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

fn without_indices(key: &str) -> String {
    let mut inside = false;
    key.chars()
        .filter(|c| {
            inside = (inside || *c == '[') && *c != ']';
            *c == '[' || !inside
        })
        .collect()
}

/// A key of the file, safe for a line of a terminal.
fn printable(key: &str) -> String {
    let mut text: String = key.chars().take(200).flat_map(|c| c.escape_debug()).collect();
    if key.chars().nth(200).is_some() {
        text.push('…');
    }
    text
}
