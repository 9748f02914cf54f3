//! Reads an endpoint's `/v1/models`; keeps a bounded part of it. Pure.

use crate::api::json::{ESCAPED, each_element, each_member, member, unescaped};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Limits per list, per entry and per name; more is a mistake or an attack.
pub const MAX_MODELS: usize = 2_000;
const MAX_ALIASES: usize = 8;
const MAX_FIELDS: usize = 64;
/// Bytes of a name, and of the fields of an entry that are passed on.
const LONGEST_NAME: usize = 512;
const LONGEST_ENTRY: usize = 4 << 10;
/// The `status.value` of a model in memory at llama-server's router; others are `unloaded`, `sleeping`, `downloading`.
const IN_MEMORY: [&str; 2] = ["\"loaded\"", "\"loading\""];
/// The largest integer that JavaScript represents exactly.
const LARGEST: f64 = (1u64 << 53) as f64;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub(crate) id: String,
    pub aliases: Vec<String>,
    /// Unix time in seconds; 0 if unknown.
    pub created: u64,
    pub(crate) owned_by: Option<String>,
    /// Context size in tokens.
    pub context: Option<u64>,
    /// Whether it accepts images.
    pub vision: Option<bool>,
    /// Whether it is in memory or being loaded; only llama-server's router tells.
    pub loaded: Option<bool>,
    /// Other fields to pass on: name and JSON text.
    pub fields: Vec<(String, String)>,
}

impl Model {
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.id.as_str()).chain(self.aliases.iter().map(String::as_str))
    }
}

/// The models in the body of a `/v1/models` answer: the entries of `data`, of `models`, or of a plain list.
///
/// # Errors
/// It is not a list of models: what it is instead, as the rest of a sentence.
pub fn list_of(body: &[u8]) -> Result<Vec<Model>, &'static str> {
    const NO_DATA: &str = "has no `data`";
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let is_html = body.trim_ascii_start().starts_with(b"<");
    let whole: &RawValue = serde_json::from_slice(body).map_err(|_| if is_html { "is HTML" } else { "is not JSON" })?;
    let list = match whole.get() {
        object if object.starts_with('{') => {
            let data = member(object, "data");
            let list = data.filter(|list| *list != "null").or_else(|| member(object, "models")).or(data);
            list.ok_or_else(|| if member(object, "error").is_some() { "is an error" } else { NO_DATA })?
        }
        "null" => return Err(NO_DATA),
        list => list,
    };
    if list == "null" {
        // Ollama without a model.
        return Ok(Vec::new());
    }
    let (mut models, mut is_empty) = (Vec::new(), true);
    let read = each_element(list, |entry| {
        is_empty = false;
        if models.len() < MAX_MODELS {
            models.extend(model(entry.get()));
        }
    });
    read.map_err(|_| NO_DATA)?;
    if models.is_empty() && !is_empty { Err("has no entry with an `id`") } else { Ok(models) }
}

/// One entry; `None` without a name. S000-14: `name` stands in for a missing `id`.
fn model(raw: &str) -> Option<Model> {
    let mut fields: Vec<(Cow<'_, str>, &str)> = Vec::new();
    let read = each_member(raw, |key, value| {
        let key = unescaped(key, usize::MAX).filter(|_| fields.len() < MAX_FIELDS);
        if let Some(key) = key.filter(|key| fields.iter().all(|(known, _)| known != key)) {
            fields.push((key, value.get()));
        }
    });
    read.ok()?;
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, raw)| *raw);
    let id = ["id", "name", "model"].iter().find_map(|key| name(field(key)?))?;
    let aliases = field("aliases").map(first_names).unwrap_or_default();
    let size = |raw: &str| whole(raw).filter(|size| *size > 0);
    let sizes = ["n_ctx", "max_model_len", "context_length", "context_window"];
    Some(Model {
        created: field("created").and_then(whole).unwrap_or(0),
        owned_by: field("owned_by").and_then(name),
        context: sizes.iter().find_map(|key| size(field(key)?)).or_else(|| size(member(field("meta")?, "n_ctx")?)),
        vision: vision(&fields),
        loaded: field("status").and_then(|raw| member(raw, "value")).map(|state| IN_MEMORY.contains(&state)),
        fields: shown(&fields, &aliases),
        aliases: aliases.into_iter().filter(|alias| *alias != id).collect(),
        id,
    })
}

/// Whether images are accepted: from a list of input modalities, or from an object of flags.
fn vision(fields: &[(Cow<'_, str>, &str)]) -> Option<bool> {
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, raw)| *raw);
    let holders = ["architecture", "meta"].into_iter().filter_map(field);
    let inner = holders.flat_map(|raw| ["input_modalities", "modalities"].map(|key| member(raw, key)));
    inner.chain(["input_modalities", "modalities"].map(field)).flatten().find_map(|raw| {
        let value: Value = serde_json::from_str(raw).ok()?;
        match &value {
            Value::Array(kinds) => Some(kinds.iter().any(|kind| kind == "image" || kind == "vision")),
            other => other["vision"].as_bool(),
        }
    })
}

/// The fields to pass on: not those that this proxy writes itself, nor details of the upstream's machine.
fn shown(fields: &[(Cow<'_, str>, &str)], aliases: &[String]) -> Vec<(String, String)> {
    // The entries of llama-server's router contain command lines, in `status` or, in other versions, elsewhere.
    let is_router = fields.iter().any(|(key, raw)| key == "status" && raw.starts_with('{'));
    let mut room = LONGEST_ENTRY;
    let mut passed = Vec::new();
    for (key, raw) in fields {
        let text = match &**key {
            "id" | "object" | "created" | "owned_by" | "provider" | "endpoint" | "endpoints" => continue,
            "args" | "preset" | "path" | "model_path" => continue,
            "aliases" => Value::from(aliases).to_string(),
            "status" if is_router => match member(raw, "value") {
                Some(state) => format!(r#"{{"value":{state}}}"#),
                None => continue,
            },
            "meta" | "tags" | "architecture" => (*raw).to_owned(),
            _ if is_router || raw.len() > room => continue,
            _ => (*raw).to_owned(),
        };
        let size = key.len() + text.len();
        // An unpaired surrogate would make strict clients reject the whole list.
        if size <= room && serde_json::from_str::<Value>(&text).is_ok() {
            room -= size;
            passed.push((key.to_string(), text));
        }
    }
    passed
}

pub(crate) fn name(raw: &str) -> Option<String> {
    let name = (raw.len() <= ESCAPED * LONGEST_NAME).then(|| serde_json::from_str::<String>(raw).ok())??;
    (!name.is_empty() && name.len() <= LONGEST_NAME).then_some(name)
}

/// The first [`MAX_ALIASES`] names of a list, without duplicates.
fn first_names(raw: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let read = each_element(raw, |raw| {
        let next = if names.len() < MAX_ALIASES { name(raw.get()) } else { None };
        names.extend(next.filter(|name| !names.contains(name)));
    });
    if read.is_ok() { names } else { Vec::new() }
}

/// An integer, which may be written as a float or a string.
fn whole(raw: &str) -> Option<u64> {
    let number: f64 = raw.trim_matches('"').parse().ok()?;
    (0.0..=LARGEST).contains(&number).then_some(number as u64)
}

#[cfg(test)]
mod tests;
