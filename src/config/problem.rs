//! What is wrong with a file, and where. Collects while `reader` walks; knows no section.

use super::{node, shown, spelling};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;

/// Problems reported at once: enough for any file written by hand, and a bound on looking up places.
const MOST: usize = 50;
/// Problems collected at all.
const MOST_NOTED: usize = 4 * MOST;
/// Bytes read again to look up places. A file of usual size has all positions reported.
const MOST_READ_AGAIN: usize = 1 << 20;

/// One thing wrong with a file: where, what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `FILE:LINE:COL`, or a variable's or option's name.
    pub place: String,
    /// `endpoints[2].port`, empty for the whole file.
    pub key: String,
    /// What is wrong and what to do.
    pub text: String,
}

impl Problem {
    /// Each on a line of its own.
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

/// A problem whose place is still the number of its node.
struct Found {
    at: u32,
    key: String,
    text: String,
}

/// A key that no section reads.
struct UnknownKey {
    at: u32,
    section: String,
    key: String,
    siblings: Vec<String>,
    guarded: bool,
}

/// Everything collected while one file is read.
pub(super) struct Diagnostics<'a> {
    found: RefCell<Vec<Found>>,
    unknown_keys: RefCell<Vec<UnknownKey>>,
    keys: RefCell<BTreeSet<String>>,
    warnings: RefCell<Vec<String>>,
    exposed: RefCell<Vec<String>>,
    lenient: Cell<bool>,
    file: &'a dyn Fn(&Path) -> io::Result<String>,
}

impl<'a> Diagnostics<'a> {
    /// `file` reads what an `xxxFile` key names.
    pub(super) fn new(file: &'a dyn Fn(&Path) -> io::Result<String>) -> Self {
        Self {
            found: RefCell::default(),
            unknown_keys: RefCell::default(),
            keys: RefCell::default(),
            warnings: RefCell::default(),
            exposed: RefCell::default(),
            lenient: Cell::new(false),
            file,
        }
    }

    /// Notes that the value at node `at` is wrong.
    pub(super) fn problem(&self, at: u32, key: &str, text: impl Into<String>) {
        let mut found = self.found.borrow_mut();
        if found.len() < MOST_NOTED {
            found.push(Found { at, key: key.into(), text: text.into() });
        }
    }

    pub(super) fn are_full(&self) -> bool {
        self.found.borrow().len() >= MOST_NOTED
    }

    /// From now on an unknown key is a warning.
    pub(super) fn be_lenient(&self) {
        self.lenient.set(true);
    }

    /// Notes an unknown key; the right spelling is looked up when all keys are known.
    pub(super) fn unknown_key(&self, at: u32, section: &str, key: &str, siblings: &[String], guarded: bool) {
        let mut unknown_keys = self.unknown_keys.borrow_mut();
        if unknown_keys.len() >= MOST_NOTED {
            return;
        }
        let unknown = UnknownKey { at, section: section.into(), key: key.into(), siblings: siblings.to_vec(), guarded };
        if self.lenient.get() {
            self.warn(format!("{} means nothing here and is ignored", unknown.path(!guarded)));
        }
        unknown_keys.push(unknown);
    }

    /// Notes that the reader knows a key, `endpoints[2].port` as `endpoints[].port`.
    pub(super) fn known(&self, key: &str) {
        self.keys.borrow_mut().insert(without_indices(key));
    }

    /// Notes a warning.
    pub(super) fn warn(&self, text: impl Into<String>) {
        self.warnings.borrow_mut().push(text.into());
    }

    /// Notes a secret that stands in the file itself.
    pub(super) fn exposed(&self, key: &str) {
        self.exposed.borrow_mut().push(key.into());
    }

    /// Reads the file that an `xxxFile` key names.
    pub(super) fn file(&self, path: &Path) -> io::Result<String> {
        (self.file)(path)
    }

    /// Every key read so far.
    pub(super) fn keys(&self) -> BTreeSet<String> {
        self.keys.borrow().clone()
    }

    /// Warnings, and the keys whose secrets stand in the file itself.
    pub(super) fn asides(&self) -> (Vec<String>, Vec<String>) {
        (self.warnings.borrow().clone(), self.exposed.borrow().clone())
    }

    /// Every problem in the order of the file, with its place in `text`, which is called `name`.
    pub(super) fn problems(&self, name: &str, text: &str) -> Vec<Problem> {
        let keys = self.keys.borrow();
        let unknown_keys = self.unknown_keys.borrow();
        let found = self.found.borrow();
        let unknown_keys = unknown_keys.iter().filter(|_| !self.lenient.get());
        let mut all: Vec<_> = found.iter().map(One::Found).chain(unknown_keys.map(One::UnknownKey)).collect();
        all.sort_by_key(One::at);
        all.dedup_by(|one, before| one.says_the_same(before));
        let mut left = MOST_READ_AGAIN.max(text.len());
        let mut place = |at| {
            let place = left.checked_sub(text.len()).and_then(|rest| {
                left = rest;
                node::locate(text, at)
            });
            place.map_or_else(|| name.to_owned(), |(line, column)| format!("{name}:{line}:{column}"))
        };
        let told = all.iter().take(MOST).map(|one| match one {
            One::Found(found) => (found.at, found.key.clone(), found.text.clone()),
            One::UnknownKey(unknown) => unknown.explained(&keys),
        });
        let mut problems: Vec<_> = told.map(|(at, key, text)| Problem { place: place(at), key, text }).collect();
        if let Some(more) = all.len().checked_sub(MOST).filter(|more| *more > 0) {
            let more = if self.are_full() { "and more".to_owned() } else { format!("and {more} more") };
            problems.push(Problem { place: name.into(), key: String::new(), text: more });
        }
        problems
    }
}

enum One<'n> {
    Found(&'n Found),
    UnknownKey(&'n UnknownKey),
}

impl One<'_> {
    fn at(&self) -> u32 {
        match self {
            Self::Found(found) => found.at,
            Self::UnknownKey(unknown) => unknown.at,
        }
    }

    /// The problem of a value that is read twice is reported once.
    fn says_the_same(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Found(a), Self::Found(b)) if a.at == b.at && a.key == b.key && a.text == b.text)
    }
}

impl UnknownKey {
    /// The key with its section. What may be a secret in the wrong place is left out; its line number is enough.
    fn path(&self, is_known: bool) -> String {
        let hidden = !is_known && self.guarded || shown::looks_secret(&self.key);
        let key = if hidden { "***" } else { self.key.as_str() };
        let dot = if self.section.is_empty() { "" } else { "." };
        printable(&format!("{}{dot}{key}", self.section))
    }

    fn explained(&self, keys: &BTreeSet<String>) -> (u32, String, String) {
        let near = spelling::nearest(&self.key, self.siblings.iter().map(String::as_str));
        let elsewhere = || keys.iter().find(|path| path.rsplit_once('.').is_some_and(|(_, last)| last == self.key));
        let (is_known, text) = if let Some(near) = near {
            (true, format!("unknown key; did you mean `{near}`?"))
        } else if let Some(path) = elsewhere() {
            (true, format!("unknown key here; `{path}` exists"))
        } else {
            (false, format!("unknown key; here are known: {}", self.siblings.join(", ")))
        };
        (self.at, self.path(is_known), text)
    }
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

/// A key as the file has it, fit for one line of a terminal.
fn printable(key: &str) -> String {
    let mut text: String = key.chars().take(200).flat_map(|c| c.escape_debug()).collect();
    if key.chars().nth(200).is_some() {
        text.push('…');
    }
    text
}
