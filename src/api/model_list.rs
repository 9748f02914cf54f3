//! What an endpoint's `/v1/models` says, read in passing: nothing is built of it but what is kept, and that is bounded. Pure.

use crate::api::body::{each_element, each_member, unescaped};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Entries taken of one list: more is a mistake or an attack.
pub const MOST_MODELS: usize = 2_000;
const MOST_ALIASES: usize = 8;
const LONGEST_NAME: usize = 512;
/// Fields of an entry that are passed on, and their bytes together.
const MOST_FIELDS: usize = 64;
const LONGEST_ENTRY: usize = 4 << 10;
/// The largest number that every client reads as a whole one.
const LARGEST: f64 = (1u64 << 53) as f64;

/// One entry of an endpoint's list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub(crate) id: String,
    /// Other names that the endpoint takes.
    pub aliases: Vec<String>,
    /// When it was made, in seconds; 0 if that is not told.
    pub created: u64,
    pub(crate) owned_by: Option<String>,
    /// How many tokens a prompt and its answer may have together.
    pub context: Option<u64>,
    /// Its other fields that may be shown: name and JSON text.
    pub fields: Vec<(String, String)>,
}

impl Model {
    /// Every name it is known by.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.id.as_str()).chain(self.aliases.iter().map(String::as_str))
    }
}

/// The models in the body of a `/v1/models` answer, a BOM in front of it or not: the entries of `data`, else of `models`, or
/// of a plain list.
///
/// # Errors
/// It is no list of models: what it is instead, as the rest of a sentence.
pub fn list_of(body: &[u8]) -> Result<Vec<Model>, &'static str> {
    const NO_DATA: &str = "has no `data`";
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let is_html = body.trim_ascii_start().starts_with(b"<");
    let whole: &RawValue = serde_json::from_slice(body).map_err(|_| if is_html { "is HTML" } else { "is not JSON" })?;
    let (mut list, mut is_error) = (Some(whole.get()), false);
    if whole.get().starts_with('{') {
        let (mut data, mut models) = (None, None);
        let read = each_member(whole.get(), |key, value| match key.get() {
            r#""data""# => data = Some(value.get()),
            r#""models""# => models = Some(value.get()),
            key => is_error |= key == r#""error""#,
        });
        read.map_err(|_| NO_DATA)?;
        list = data.filter(|list| *list != "null").or(models).or(data);
    }
    let list = match list {
        // What Ollama says while it has no model.
        Some("null") if whole.get() != "null" => return Ok(Vec::new()),
        Some(list) => list,
        None => return Err(if is_error { "is an error" } else { NO_DATA }),
    };
    let (mut models, mut is_empty) = (Vec::new(), true);
    let read = each_element(list, |entry| {
        is_empty = false;
        if models.len() < MOST_MODELS {
            models.extend(Entry::read(entry.get()).and_then(Entry::model));
        }
    });
    read.map_err(|_| NO_DATA)?;
    if models.is_empty() && !is_empty { Err("has no entry with an `id`") } else { Ok(models) }
}

/// An entry as it was written.
struct Entry<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'a> Entry<'a> {
    fn read(raw: &'a str) -> Option<Self> {
        let mut fields: Vec<(Cow<'a, str>, &'a str)> = Vec::new();
        let read = each_member(raw, |key, value| {
            let key = unescaped(key, usize::MAX).filter(|_| fields.len() < MOST_FIELDS);
            if let Some(key) = key.filter(|key| fields.iter().all(|(known, _)| known != key)) {
                fields.push((key, value.get()));
            }
        });
        read.ok().map(|()| Self(fields))
    }

    fn field(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, raw)| *raw)
    }

    /// None without a name. S000-14: one with `name` and no `id` counts by `name`.
    fn model(self) -> Option<Model> {
        let id = ["id", "name", "model"].iter().find_map(|key| name(self.field(key)?))?;
        let aliases = self.field("aliases").map(first_names);
        let sizes = ["n_ctx", "max_model_len", "context_length", "context_window"];
        let meta = self
            .field("meta")
            .filter(|meta| meta.starts_with('{'))
            .and_then(|meta| serde_json::from_str::<Meta>(meta).ok()?.n_ctx);
        let in_meta = || whole(meta?.get());
        let context = sizes.iter().find_map(|key| whole(self.field(key)?).filter(|size| *size > 0));
        Some(Model {
            created: self.field("created").and_then(whole).unwrap_or(0),
            owned_by: self.field("owned_by").and_then(name),
            context: context.or_else(in_meta).filter(|size| *size > 0),
            fields: self.shown(aliases.as_deref()),
            aliases: aliases.unwrap_or_default().into_iter().filter(|alias| *alias != id).collect(),
            id,
        })
    }

    /// What is passed on: neither what we say ourselves nor what concerns only the upstream's own machine.
    fn shown(&self, aliases: Option<&[String]>) -> Vec<(String, String)> {
        // A router's entries have its command lines in an object `status`, and who knows where in later versions.
        let is_router = self.field("status").is_some_and(|status| status.starts_with('{'));
        let mut room = LONGEST_ENTRY;
        let mut fields = Vec::new();
        for (key, raw) in &self.0 {
            let text = match &**key {
                "id" | "object" | "created" | "owned_by" | "provider" | "endpoint" | "endpoints" => continue,
                "args" | "preset" | "path" | "model_path" => continue,
                "aliases" => Value::from(aliases.unwrap_or_default()).to_string(),
                "status" if is_router => match serde_json::from_str::<Status>(raw).ok().and_then(|status| status.value)
                {
                    Some(state) => format!(r#"{{"value":{}}}"#, state.get()),
                    None => continue,
                },
                "meta" | "tags" | "architecture" => (*raw).to_owned(),
                _ if is_router => continue,
                _ if raw.len() <= room => (*raw).to_owned(),
                _ => continue,
            };
            let size = key.len() + text.len();
            // Half a character would spoil the whole list for clients that read strictly.
            if size <= room && serde_json::from_str::<Value>(&text).is_ok() {
                room -= size;
                fields.push((key.to_string(), text));
            }
        }
        fields
    }
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow)]
    n_ctx: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Status<'a> {
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

/// A text that can be a name.
fn name(raw: &str) -> Option<String> {
    // Escaped, a character takes six bytes at most.
    let name = (raw.len() <= 6 * LONGEST_NAME).then(|| serde_json::from_str::<String>(raw).ok())??;
    (!name.is_empty() && name.len() <= LONGEST_NAME).then_some(name)
}

/// The first names of a list, each once.
fn first_names(raw: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let read = each_element(raw, |raw| {
        let next = if names.len() < MOST_ALIASES { name(raw.get()) } else { None };
        names.extend(next.filter(|name| !names.contains(name)));
    });
    if read.is_ok() { names } else { Vec::new() }
}

/// A number as a whole one, also where it is a float or a text.
fn whole(raw: &str) -> Option<u64> {
    let number: f64 = raw.trim_matches('"').parse().ok()?;
    (0.0..=LARGEST).contains(&number).then_some(number as u64)
}

#[cfg(test)]
mod tests;
