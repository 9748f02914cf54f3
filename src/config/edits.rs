//! What is changed in the JSON body of a request for a model: `set`, `default`, `remove`.

use super::reader::Field;
use super::shown::has_key;
use super::table::*;
use serde_json::{Map, Value as Json};

/// Members that one model or variant may edit, and bytes of the values that they get together.
const MOST: usize = 64;
const MOST_BYTES: usize = 64 << 10;
/// Parts of names whose texts may be secrets.
const SECRET: [&str; 6] = ["api_key", "apikey", "auth", "password", "secret", "token"];
const MASK: &str = "***";
const QUOTED_MASK: &str = "\"***\"";
/// What decides where a request goes and how its answer is read.
const NOT_EDITED: [&str; 6] = ["model", "stream", "messages", "prompt", "input", "webhookUrl"];

/// Members and their values; `a.b` is the member `b` of the object `a`.
type Members = Map<String, Json>;

table! {
    /// The edits of a model or a variant. No two concern the same member.
    #[derive(Eq)]
    pub struct Edits (check = check) {
        /// In place of what the client sends.
        pub set: Members, key("set", members());
        /// Where the client sends nothing.
        pub default: Members, key("default", members());
        pub remove: Vec<String>, key("remove", list(text(member)));
    }
}

table! {
    /// One entry of `models.NAME.variants`.
    #[derive(Eq)]
    pub struct Variant {
        pub suffix: String, internal();
        /// On top of those of the model.
        pub edits: Edits, with(|edits, keys| edits.keys(keys));
    }
}

words! {
    /// Whose changing system line is made the same in every request.
    pub enum Stabilize {
        ClaudeCode = "claude-code",
    }
}

impl Edits {
    fn names(&self) -> impl Iterator<Item = &str> {
        self.set.keys().chain(self.default.keys()).chain(&self.remove).map(String::as_str)
    }
}

impl Variant {
    /// What is appended to the name of the model: `nothink` as `-nothink`, `:nothink` as it is.
    pub fn ending(&self) -> String {
        let dash = if self.suffix.starts_with(char::is_alphanumeric) { "-" } else { "" };
        format!("{dash}{}", self.suffix)
    }
}

/// A member that may be edited.
fn member(name: &str) -> Result<String, String> {
    let outer = name.split('.').next().unwrap_or_default();
    if name.split('.').any(str::is_empty) || name.split('.').count() > 2 {
        return Err("is not the name of a member, `a`, or of one inside it, `a.b`".into());
    }
    if NOT_EDITED.iter().any(|kept| kept.eq_ignore_ascii_case(outer)) {
        return Err("cannot be edited: it decides where a request goes or how its answer is read".into());
    }
    Ok(name.to_owned())
}

fn members() -> Kind<Members> {
    let read = |field: &Field| {
        let one = |(name, item): (&str, Field)| {
            let name = member(name).map_err(|error| item.problem(format!("{name:?} {error}"))).ok()?;
            // `null` is a value here.
            let value = item.value()?.json().map_err(|error| item.problem(error)).ok()?;
            if value.to_string().contains(QUOTED_MASK) {
                item.problem("holds the mask that stands for a secret; put the secret in");
            }
            Some((name, value))
        };
        Some(field.named().filter_map(one).collect())
    };
    let shown = |(name, value): (&String, &Json)| (name.clone(), masked(value, names_secret(name)));
    Kind::new(read, move |members: &Members| Json::Object(members.iter().map(shown).collect()))
}

/// A value as it is printed: with a mask for each text that may be a key.
fn masked(value: &Json, is_secret: bool) -> Json {
    match value {
        Json::String(text) if is_secret || has_key(text) => MASK.into(),
        Json::Array(items) => items.iter().map(|item| masked(item, is_secret)).collect(),
        Json::Object(map) => {
            let shown = map.iter().map(|(name, value)| (name.clone(), masked(value, is_secret || names_secret(name))));
            Json::Object(shown.collect())
        }
        other => other.clone(),
    }
}

fn names_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|word| name.contains(word))
}

fn check(edits: &Edits, section: &Field) {
    let names: Vec<&str> = edits.names().collect();
    let is_within = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    for (n, one) in names.iter().enumerate() {
        let clash = names[..n].iter().find(|other| is_within(one, other) || is_within(other, one));
        match clash {
            Some(other) if other == one => section.problem(format!("{one:?} is edited twice; keep one")),
            Some(other) => section.problem(format!("{other:?} and {one:?} edit the same member; keep one")),
            None => {}
        }
    }
    let bytes: usize = edits.set.values().chain(edits.default.values()).map(|value| value.to_string().len()).sum();
    if names.len() > MOST || bytes > MOST_BYTES {
        section.problem(format!("edits more than {MOST} members, or gives them more than 64 KiB"));
    }
}
