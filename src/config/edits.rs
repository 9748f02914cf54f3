//! `set`, `default` and `remove` of models and variants: edits of the JSON body of a request.

use super::reader::Field;
use super::shown::has_key;
use super::table::*;
use serde_json::{Map, Value as Json};

/// Limits per model or variant: edited members, and bytes of their values together.
const MAX_MEMBERS: usize = 64;
const MAX_BYTES: usize = 64 << 10;
/// Parts of the names of members that may be secrets.
const SECRET: [&str; 6] = ["api_key", "apikey", "auth", "password", "secret", "token"];
const MASK: &str = "***";
/// Members that this proxy itself depends on.
const NOT_EDITED: [&str; 6] = ["model", "stream", "messages", "prompt", "input", "webhookUrl"];

/// Values by the path of a member: `a`, or `a.b` for the member `b` of the object `a`.
type Members = Map<String, Json>;

table! {
    /// The edits of a model or a variant, at most one per member.
    #[derive(Eq)]
    pub struct Edits (check = check) {
        /// Replace the client's values.
        pub set: Members, key("set", members());
        /// Apply where the client sends no value.
        pub default: Members, key("default", members());
        pub remove: Vec<String>, key("remove", list(text(member)));
    }
}

table! {
    /// One entry of `models.NAME.variants`.
    #[derive(Eq)]
    pub struct Variant {
        pub suffix: String, internal();
        /// Override those of the model.
        pub edits: Edits, with(|edits, keys| edits.keys(keys));
    }
}

words! {
    /// The client whose system prompt has a line that changes with every request.
    pub enum Stabilize {
        ClaudeCode = "claude-code",
    }
}

impl Variant {
    /// The suffix as appended to the model's name: `nothink` becomes `-nothink`, `:nothink` stays.
    pub fn ending(&self) -> String {
        let dash = if self.suffix.starts_with(char::is_alphanumeric) { "-" } else { "" };
        format!("{dash}{}", self.suffix)
    }
}

/// Checks the path of a member to edit.
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
            // Unlike `read`, `value` accepts `null`, which is a value here.
            let value = item.value()?.json().map_err(|error| item.problem(error)).ok()?;
            if value.to_string().contains(&format!("\"{MASK}\"")) {
                item.problem("holds the mask that stands for a secret; put the secret in");
            }
            Some((name, value))
        };
        Some(field.named().filter_map(one).collect())
    };
    let shown = |(name, value): (&String, &Json)| (name.clone(), masked(value, names_secret(name)));
    Kind::new(read, move |members: &Members| Json::Object(members.iter().map(shown).collect()))
}

/// A value to print, with strings that may be secrets masked.
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
    let Edits { set, default, remove } = edits;
    let names: Vec<&String> = set.keys().chain(default.keys()).chain(remove).collect();
    let is_within = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    for (n, one) in names.iter().enumerate() {
        match names[..n].iter().find(|other| is_within(one, other) || is_within(other, one)) {
            Some(other) if other == one => section.problem(format!("{one:?} is edited twice; keep one")),
            Some(other) => section.problem(format!("{other:?} and {one:?} edit the same member; keep one")),
            None => {}
        }
    }
    let bytes: usize = set.values().chain(default.values()).map(|value| value.to_string().len()).sum();
    if names.len() > MAX_MEMBERS || bytes > MAX_BYTES {
        section.problem(format!("edits more than {MAX_MEMBERS} members, or gives them more than 64 KiB"));
    }
}
