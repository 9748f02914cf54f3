//! The format of a file, by its top-level keys.

use super::node::{Entry, Node, Value};

/// The format of an older proxy (SPEC section 9).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    F001,
    F002,
    F003,
}

/// The first key of a file that only an older format has, if there is one.
///
/// # Errors
/// The file has keys of another format too.
pub(super) fn older(entries: &[Entry]) -> Result<Option<(Format, &Entry)>, &Entry> {
    let mark = |key: &str| match key {
        "backends" => Some(Format::F001),
        "http_server" | "upstream_groups" => Some(Format::F002),
        _ if key.eq_ignore_ascii_case("models") => Some(Format::F003),
        _ => None,
    };
    let native = entries.iter().any(|entry| entry.key == "endpoints");
    let mut marks = entries.iter().filter_map(|entry| Some((mark(&entry.key)?, entry)));
    // `models` is a section of the native format too.
    let first = marks.clone().find(|(format, entry)| *format != Format::F003 || entry.key == "Models" || !native);
    match first {
        Some((format, entry)) if native || marks.any(|(other, _)| other != format) => Err(entry),
        first => Ok(first),
    }
}

/// Whether a file is one of routes (format 003), which the page may write.
pub(super) fn is_paged(tree: &Node) -> bool {
    let Value::Map(entries) = &tree.value else { return false };
    let has = |key: &str| entries.iter().any(|entry| entry.key.eq_ignore_ascii_case(key));
    has("models") && !has("endpoints")
}
