//! Edits members of a JSON body in place: finds the byte ranges to replace. All other bytes stay as received. Pure.

use crate::api::json::{ESCAPED, each_member, span, unescaped};
use crate::config::Edits;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::ops::Range;

/// The most changes to one body: a client that repeats an edited member must not multiply the configured values, which
/// may take 64 KiB.
pub(crate) const MAX_CHANGES: usize = 256;

/// A byte range of a body, and its replacement.
pub type Change = (Range<usize>, Vec<u8>);

/// The edit of one member of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberEdit {
    name: String,
    action: Option<Action>,
    /// Edits of the members of its value.
    nested: Vec<Self>,
}

#[derive(Debug, Clone, PartialEq)]
enum Action {
    Set(Value),
    Default(Value),
    Remove,
}

use Action::{Default, Remove, Set};

/// The edits of a model, overridden by those of one of its variants.
pub fn merged(model: &Edits, variant: Option<&Edits>) -> Vec<MemberEdit> {
    let mut all = Vec::new();
    for Edits { set, default, remove } in [model].into_iter().chain(variant) {
        let set = set.iter().map(|(path, value)| (path, Set(value.clone())));
        let default = default.iter().map(|(path, value)| (path, Default(value.clone())));
        for (path, action) in set.chain(default).chain(remove.iter().map(|path| (path, Remove))) {
            match path.split_once('.') {
                Some((outer, inner)) => {
                    find_or_add(&mut find_or_add(&mut all, outer).nested, inner).action = Some(action)
                }
                None => *find_or_add(&mut all, path) = MemberEdit::new(path, Some(action)),
            }
        }
    }
    all
}

fn find_or_add<'a>(all: &'a mut Vec<MemberEdit>, name: &str) -> &'a mut MemberEdit {
    let at = all.iter().position(|edit| edit.name == name).unwrap_or(all.len());
    if at == all.len() {
        all.push(MemberEdit::new(name, None));
    }
    &mut all[at]
}

impl MemberEdit {
    fn new(name: &str, action: Option<Action>) -> Self {
        Self { name: name.to_owned(), action, nested: Vec::new() }
    }

    pub(crate) fn set(name: &str, value: &str) -> Self {
        Self::new(name, Some(Set(value.into())))
    }

    pub(crate) fn remove(name: &str) -> Self {
        Self::new(name, Some(Remove))
    }

    /// Whether `value` is replaced or removed as a whole. A value that is not an object has no members to edit.
    fn replaces(&self, value: &str) -> bool {
        let is_set = |edit: &Self| matches!(edit.action, Some(Set(_)));
        is_set(self) || self.action == Some(Remove) || !value.starts_with('{') && self.nested.iter().any(is_set)
    }

    /// The value to write where the member is missing or replaced, if any.
    fn new_value(&self) -> Option<Value> {
        let mut new = match &self.action {
            Some(Set(value) | Default(value)) => Some(value.clone()),
            Some(Remove) | None => None,
        };
        for Self { name, action, .. } in &self.nested {
            match (&mut new, action) {
                (Some(Value::Object(map)), Some(Set(value) | Default(value))) => {
                    map.insert(name.clone(), value.clone());
                }
                (Some(Value::Object(map)), Some(Remove)) => {
                    map.shift_remove(name);
                }
                (_, Some(Set(value))) | (None, Some(Default(value))) => new = Some(json!({ name: value })),
                _ => {}
            }
        }
        new
    }
}

/// The changes that make these edits; `None` if there would be more than [`MAX_CHANGES`].
pub(crate) fn changes<'e>(body: &str, edits: impl IntoIterator<Item = &'e MemberEdit>) -> Option<Vec<Change>> {
    let (mut changes, edits) = (Vec::new(), edits.into_iter().collect::<Vec<_>>());
    if !edits.is_empty() {
        edit_object(body, body, &edits, &mut changes);
    }
    (changes.len() <= MAX_CHANGES).then_some(changes)
}

/// Adds the changes of `object`, a part of `body`.
fn edit_object(body: &str, object: &str, edits: &[&MemberEdit], changes: &mut Vec<Change>) {
    let longest = ESCAPED * edits.iter().map(|edit| edit.name.len()).max().unwrap_or(0);
    let mut is_present = vec![false; edits.len()];
    // A run of adjacent members to remove.
    let mut removed = None::<Range<usize>>;
    let mut is_empty = true;
    let _ = each_member(object, |name, value| {
        if changes.len() > MAX_CHANGES {
            return;
        }
        let plain = unescaped(name, longest);
        let edit = plain.and_then(|plain| edits.iter().position(|edit| edit.name == plain)).map(|at| {
            is_present[at] = true;
            edits[at]
        });
        let replacement = edit.filter(|edit| edit.replaces(value.get())).map(MemberEdit::new_value);
        let (name, place) = (span(body, name.get()), span(body, value.get()));
        if replacement == Some(None) {
            removed = Some(removed.take().map_or(name.start, |run| run.start)..place.end);
            return;
        }
        is_empty = false;
        changes.extend(removed.take().map(|run| (run.start..name.start, Vec::new())));
        match (replacement.flatten(), edit) {
            (Some(new), _) => changes.push((place, new.to_string().into())),
            (None, Some(edit)) if value.get().starts_with('{') && !edit.nested.is_empty() => {
                edit_object(body, value.get(), &edit.nested.iter().collect::<Vec<_>>(), changes);
            }
            _ => {}
        }
    });
    if let Some(run) = removed {
        // A run at the end takes the comma before it along.
        let before = body[..run.start].trim_ascii_end();
        let before = before.strip_suffix(',').filter(|_| !is_empty).unwrap_or(before);
        changes.push((before.len()..run.end, Vec::new()));
    }
    let missing = edits.iter().zip(is_present).filter(|(_, is_present)| !is_present);
    let added = missing.filter_map(|(edit, _)| Some(format!("{}:{}", Value::from(&*edit.name), edit.new_value()?)));
    let added = added.collect::<Vec<_>>().join(",");
    if !added.is_empty() {
        let open = span(body, object).start + object.find('{').map_or(0, |at| at + 1);
        changes.push((open..open, (added + if is_empty { "" } else { "," }).into()));
    }
}

/// The changed body as consecutive parts. Where changes overlap, the first one wins.
pub fn parts(body: &[u8], mut changes: Vec<Change>) -> Vec<Cow<'_, [u8]>> {
    changes.sort_by_key(|(place, _)| (place.start, place.end));
    let (mut parts, mut at) = (Vec::with_capacity(2 * changes.len() + 1), 0);
    for (place, new) in changes {
        if place.start >= at {
            parts.extend([Cow::Borrowed(&body[at..place.start]), Cow::Owned(new)]);
            at = place.end;
        }
    }
    parts.push(Cow::Borrowed(&body[at..]));
    parts
}

#[cfg(test)]
mod tests;
