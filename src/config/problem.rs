//! What is wrong with a file, and where. Collects while `reader` walks; knows no section.

use super::node;
use super::spelling;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;

/// Problems told at once: enough for any file written by hand, and a bound on looking up places.
const MOST: usize = 50;

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

/// A key that no section asked for.
struct Stray {
    at: u32,
    section: String,
    key: String,
    siblings: Vec<String>,
}

/// All that is noted while one file is read.
pub struct Notes<'a> {
    found: RefCell<Vec<Found>>,
    strays: RefCell<Vec<Stray>>,
    keys: RefCell<BTreeSet<String>>,
    warnings: RefCell<Vec<String>>,
    exposed: RefCell<Vec<String>>,
    lenient: Cell<bool>,
    file: &'a dyn Fn(&Path) -> io::Result<String>,
}

impl<'a> Notes<'a> {
    /// Nothing noted yet; `file` reads what an `xxxFile` key names.
    pub fn new(file: &'a dyn Fn(&Path) -> io::Result<String>) -> Self {
        Self {
            found: RefCell::default(),
            strays: RefCell::default(),
            keys: RefCell::default(),
            warnings: RefCell::default(),
            exposed: RefCell::default(),
            lenient: Cell::new(false),
            file,
        }
    }

    /// Notes that the value at node `at` is wrong.
    pub fn problem(&self, at: u32, key: &str, text: impl Into<String>) {
        self.found.borrow_mut().push(Found { at, key: key.into(), text: text.into() });
    }

    /// From now on a key nobody asked for is only worth a warning.
    pub fn be_lenient(&self) {
        self.lenient.set(true);
    }

    /// Notes a key nobody asked for; the right spelling is looked for when all keys are known.
    pub fn stray(&self, at: u32, section: &str, key: &str, siblings: &[String]) {
        if self.lenient.get() {
            let place = if section.is_empty() { String::new() } else { format!("{section}.") };
            return self.warn(printable(&format!("{place}{key} means nothing here and is ignored")));
        }
        let siblings = siblings.to_vec();
        self.strays.borrow_mut().push(Stray { at, section: section.into(), key: key.into(), siblings });
    }

    /// Notes that the reader knows a key, `endpoints[2].port` as `endpoints[].port`.
    pub fn known(&self, key: &str) {
        self.keys.borrow_mut().insert(without_indices(key));
    }

    /// Notes something worth saying that stops nothing.
    pub fn warn(&self, text: impl Into<String>) {
        self.warnings.borrow_mut().push(text.into());
    }

    /// Notes a secret that stands in the file itself.
    pub fn exposed(&self, key: &str) {
        self.exposed.borrow_mut().push(key.into());
    }

    /// Reads the file that an `xxxFile` key names.
    pub fn file(&self, path: &Path) -> io::Result<String> {
        (self.file)(path)
    }

    /// Every key asked for so far.
    pub fn keys(&self) -> BTreeSet<String> {
        self.keys.borrow().clone()
    }

    /// Warnings, and the keys whose secrets stand in the file itself.
    pub fn asides(&self) -> (Vec<String>, Vec<String>) {
        (self.warnings.borrow().clone(), self.exposed.borrow().clone())
    }

    /// Every problem in the order of the file, with its place in `text`, which is called `name`.
    pub fn problems(&self, name: &str, text: &str) -> Vec<Problem> {
        let keys = self.keys.borrow();
        let strays = self.strays.borrow();
        let mut found = self.found.borrow_mut();
        found.extend(strays.iter().map(|stray| stray.explained(&keys)));
        found.sort_by_key(|one| one.at);
        let place = |at| match node::locate(text, at) {
            Some((line, column)) => format!("{name}:{line}:{column}"),
            None => name.to_owned(),
        };
        let told = found.iter().take(MOST);
        let mut problems: Vec<_> =
            told.map(|f| Problem { place: place(f.at), key: f.key.clone(), text: f.text.clone() }).collect();
        if let Some(more) = found.len().checked_sub(MOST).filter(|more| *more > 0) {
            problems.push(Problem { place: name.into(), key: String::new(), text: format!("and {more} more") });
        }
        problems
    }
}

impl Stray {
    fn explained(&self, keys: &BTreeSet<String>) -> Found {
        let key = if self.section.is_empty() { self.key.clone() } else { format!("{}.{}", self.section, self.key) };
        let near = spelling::nearest(&self.key, self.siblings.iter().map(String::as_str));
        let elsewhere = || keys.iter().find(|path| path.rsplit_once('.').is_some_and(|(_, last)| last == self.key));
        let text = if let Some(near) = near {
            format!("unknown key; did you mean `{near}`?")
        } else if let Some(path) = elsewhere() {
            format!("unknown key here; `{path}` exists")
        } else {
            format!("unknown key; here are known: {}", self.siblings.join(", "))
        };
        Found { at: self.at, key: printable(&key), text }
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
