//! Expands `${NAME}`, `${NAME:-text}` and `$$`, and reads `.env` files. Never shows a value.

use super::node::{Node, Value};
use std::collections::HashMap;

/// Expands variables in all texts of a tree; a text that cannot be expanded becomes [`Value::Broken`].
pub(super) fn fill_in(node: &mut Node, variable: &dyn Fn(&str) -> Option<String>) {
    match &mut node.value {
        Value::Text { text, literal } if text.contains('$') => match expand(text, variable) {
            Ok((filled, used)) => {
                *literal = !used;
                *text = filled;
            }
            Err(problem) => node.value = Value::Broken(problem),
        },
        Value::List(list) => list.iter_mut().for_each(|item| fill_in(item, variable)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| fill_in(&mut entry.value, variable)),
        _ => {}
    }
}

/// The expanded text, and whether it contained variables.
fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<(String, bool), String> {
    let (mut filled, mut used, mut rest) = (String::with_capacity(text.len()), false, text);
    while let Some(dollar) = rest.find('$') {
        filled += &rest[..dollar];
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            filled.push('$');
            rest = after;
        } else if let Some(inside) = rest.strip_prefix('{') {
            let end = inside.find('}').ok_or("`${` without `}`; write `$${` for the characters themselves")?;
            filled += &value(&inside[..end], variable)?;
            used = true;
            rest = &inside[end + 1..];
        } else {
            filled.push('$');
        }
    }
    filled += rest;
    Ok((filled, used))
}

fn value(inside: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let mut letters = name.chars();
    let starts_well = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !letters.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        // Not echoed, since it may be part of a password.
        return Err("what stands between `${` and `}` is no variable's name; write `$${` for the characters".into());
    }
    match (variable(name).filter(|value| !value.is_empty()), default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!("the environment variable {name} is not set, or empty")),
    }
}

/// The variables of a `.env` file: `NAME=value` lines with dotenv's quotes and comments.
pub fn dotenv(text: &str) -> HashMap<String, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let pair = |line: &str| {
        let line = line.trim();
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        if name.is_empty() || name.starts_with('#') {
            return None;
        }
        let quoted = ['"', '\'', '`'].into_iter().find(|quote| value.starts_with(*quote));
        let value = match quoted.and_then(|quote| value[1..].split_once(quote)) {
            Some((inside, _)) => inside,
            None => value.split(" #").next().and_then(|value| value.split("\t#").next()).unwrap_or_default().trim_end(),
        };
        Some((name.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<String, String> {
        let variable = |name: &str| match name {
            "KEY" => Some("sk-1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        expand(text, &variable).map(|(filled, _)| filled)
    }

    #[test]
    fn variables_defaults_and_dollars_are_filled_in() {
        assert_eq!(of("${KEY}"), Ok("sk-1".into()));
        assert_eq!(of("Bearer ${KEY}!"), Ok("Bearer sk-1!".into()));
        assert_eq!(of("${NONE:-other}${EMPTY:-}${KEY:-x}"), Ok("othersk-1".into()));
        assert_eq!(of("$${KEY} $$ $5 $"), Ok("${KEY} $ $5 $".into()));
    }

    #[test]
    fn an_unset_or_empty_variable_is_named() {
        // D6
        assert!(of("${NONE}").unwrap_err().contains("NONE"));
        assert!(of("${EMPTY}").unwrap_err().contains("EMPTY"));
        assert!(of("${KEY").unwrap_err().contains("without `}`"));
        for text in ["${}", "${a b}", "${1A}", "${a-b}"] {
            assert!(of(text).unwrap_err().contains("no variable's name"), "{text}");
        }
    }

    #[test]
    fn a_dotenv_file_is_read_as_dotenv_reads_it() {
        let read = dotenv("# c\nexport A=1\nB = \"x # y\" # z\nC='q' \nD=a b # c\nE=\n F=g=h\nnothing\n");
        let mut all: Vec<_> = read.iter().map(|(name, value)| format!("{name}={value}")).collect();
        all.sort();
        assert_eq!(all, ["A=1", "B=x # y", "C=q", "D=a b", "E=", "F=g=h"]);
    }
}
