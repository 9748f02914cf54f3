//! Variables in texts: `${NAME}`, `${NAME:-text}`, `$$`. Asks for values, never shows one, knows no key.

use super::node::{Node, Value};

/// Puts variables into every text of a tree; a text that cannot be completed becomes [`Value::Broken`].
pub(super) fn fill_in(node: &mut Node, variable: &dyn Fn(&str) -> Option<String>) {
    match &mut node.value {
        Value::Text { text, literal } if text.contains('$') => match expand(text, variable) {
            Ok(filled) => {
                *literal = !filled.used;
                *text = filled.text;
            }
            Err(problem) => node.value = Value::Broken(problem),
        },
        Value::List(list) => list.iter_mut().for_each(|item| fill_in(item, variable)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| fill_in(&mut entry.value, variable)),
        _ => {}
    }
}

struct Filled {
    text: String,
    used: bool,
}

fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Filled, String> {
    let mut filled = Filled { text: String::with_capacity(text.len()), used: false };
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        filled.text += &rest[..dollar];
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            filled.text.push('$');
            rest = after;
        } else if let Some(inside) = rest.strip_prefix('{') {
            let end = inside.find('}').ok_or("`${` without `}`; write `$${` for the characters themselves")?;
            filled.text += &value(&inside[..end], variable)?;
            filled.used = true;
            rest = &inside[end + 1..];
        } else {
            filled.text.push('$');
        }
    }
    filled.text += rest;
    Ok(filled)
}

fn value(inside: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let mut letters = name.chars();
    let starts_well = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !letters.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        // Not echoed: it may be a password with odd characters in it.
        return Err("what stands between `${` and `}` is no variable's name; write `$${` for the characters".into());
    }
    match (variable(name).filter(|value| !value.is_empty()), default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!("the environment variable {name} is not set, or empty")),
    }
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
        expand(text, &variable).map(|filled| filled.text)
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
}
