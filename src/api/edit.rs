//! A JSON body edited in place: which bytes are replaced, and the parts that are sent. Every other byte stays as it was
//! written. Pure.

use crate::api::json::{each_member, unescaped};
use crate::config::Edits;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::ops::Range;

/// Changes of one body, each of which may be as long as all values in the configuration: no client multiplies them.
pub(crate) const MOST_CHANGES: usize = 256;

/// A place in a body, and what replaces it.
pub type Change = (Range<usize>, Vec<u8>);

/// What becomes of one member of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberEdit {
    name: String,
    action: Option<Action>,
    /// What then becomes of the members of its value.
    below: Vec<Self>,
}

#[derive(Debug, Clone, PartialEq)]
enum Action {
    Set(Value),
    Default(Value),
    Remove,
}

use Action::{Default, Remove, Set};

/// The edits of a model, and of a variant of it. What the variant says of a member counts instead of what the model says.
pub fn merged(model: &Edits, variant: Option<&Edits>) -> Vec<MemberEdit> {
    let mut all = Vec::new();
    for Edits { set, default, remove } in [model].into_iter().chain(variant) {
        let set = set.iter().map(|(path, value)| (path, Set(value.clone())));
        let default = default.iter().map(|(path, value)| (path, Default(value.clone())));
        for (path, action) in set.chain(default).chain(remove.iter().map(|path| (path, Remove))) {
            match path.split_once('.') {
                Some((name, inner)) => edit_of(&mut edit_of(&mut all, name).below, inner).action = Some(action),
                None => *edit_of(&mut all, path) = MemberEdit::new(path, Some(action)),
            }
        }
    }
    all
}

fn edit_of<'a>(all: &'a mut Vec<MemberEdit>, name: &str) -> &'a mut MemberEdit {
    let at = all.iter().position(|edit| edit.name == name).unwrap_or(all.len());
    if at == all.len() {
        all.push(MemberEdit::new(name, None));
    }
    &mut all[at]
}

impl MemberEdit {
    fn new(name: &str, action: Option<Action>) -> Self {
        Self { name: name.to_owned(), action, below: Vec::new() }
    }

    pub(crate) fn set(name: &str, value: &str) -> Self {
        Self::new(name, Some(Set(value.into())))
    }

    pub(crate) fn remove(name: &str) -> Self {
        Self::new(name, Some(Remove))
    }

    /// Whether nothing stays of a value.
    fn replaces(&self, value: &str) -> bool {
        let is_set = |edit: &Self| matches!(edit.action, Some(Set(_)));
        // What is no object cannot be edited inside.
        is_set(self) || self.action == Some(Remove) || !value.starts_with('{') && self.below.iter().any(is_set)
    }

    /// The value where there is none, or in the place of one that is replaced.
    fn given(&self) -> Option<Value> {
        let mut given = match &self.action {
            Some(Set(value) | Default(value)) => Some(value.clone()),
            Some(Remove) | None => None,
        };
        for Self { name, action, .. } in &self.below {
            match (&mut given, action) {
                (Some(Value::Object(map)), Some(Set(value) | Default(value))) => {
                    map.insert(name.clone(), value.clone());
                }
                (Some(Value::Object(map)), Some(Remove)) => {
                    map.shift_remove(name);
                }
                (_, Some(Set(value))) | (None, Some(Default(value))) => given = Some(json!({ name: value })),
                _ => {}
            }
        }
        given
    }
}

/// The changes that make these edits in a body; none if it repeats their members so often that they would be too many.
pub(crate) fn changes(body: &str, edits: &[&MemberEdit]) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    if !edits.is_empty() {
        edit_object(body, body, edits, &mut changes);
    }
    (changes.len() <= MOST_CHANGES).then_some(changes)
}

/// Edits `object`, which stands in `body` and is known to be one.
fn edit_object(body: &str, object: &str, edits: &[&MemberEdit], changes: &mut Vec<Change>) {
    let place = |part: &str| {
        let start = part.as_ptr() as usize - body.as_ptr() as usize;
        start..start + part.len()
    };
    // With each letter as `\u0061`.
    let longest = 6 * edits.iter().map(|edit| edit.name.len()).max().unwrap_or(0);
    let mut met = vec![false; edits.len()];
    let (mut removed, mut has_more) = (None::<Range<usize>>, false);
    let _ = each_member(object, |name, value| {
        if changes.len() > MOST_CHANGES {
            return;
        }
        let found = unescaped(name, longest).and_then(|plain| edits.iter().position(|edit| edit.name == plain));
        let edit = found.map(|at| {
            met[at] = true;
            edits[at]
        });
        let new = edit.filter(|edit| edit.replaces(value.get())).map(MemberEdit::given);
        let (name, place) = (place(name.get()), place(value.get()));
        if new == Some(None) {
            removed = Some(removed.take().map_or(name.start, |run| run.start)..place.end);
            return;
        }
        has_more = true;
        changes.extend(removed.take().map(|run| (run.start..name.start, Vec::new())));
        match (new.flatten(), edit) {
            (Some(new), _) => changes.push((place, new.to_string().into())),
            (None, Some(edit)) if value.get().starts_with('{') && !edit.below.is_empty() => {
                edit_object(body, value.get(), &edit.below.iter().collect::<Vec<_>>(), changes);
            }
            _ => {}
        }
    });
    if let Some(run) = removed {
        // The last ones go with the comma before them.
        let before = body[..run.start].trim_ascii_end();
        let before = before.strip_suffix(',').filter(|_| has_more).unwrap_or(before);
        changes.push((before.len()..run.end, Vec::new()));
    }
    let missing = edits.iter().zip(met).filter(|(_, met)| !met);
    let added = missing.filter_map(|(edit, _)| Some(format!("{}:{}", Value::from(&*edit.name), edit.given()?)));
    let added = added.collect::<Vec<_>>().join(",");
    if !added.is_empty() {
        let open = place(object).start + object.find('{').map_or(0, |at| at + 1);
        changes.push((open..open, (added + if has_more { "," } else { "" }).into()));
    }
}

/// The body with these changes, in parts to be sent one after another. Of changes that overlap the first one counts.
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
