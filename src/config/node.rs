//! YAML as a tree that preserves repeated keys, order and positions.

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Number, Value as Json};
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

/// The most values in a file. Those behind aliases count at each use, which stops alias bombs.
const MOST_NODES: u32 = 50_000;
/// The most open brackets: the YAML scanner's time grows with their square.
const MOST_BRACKETS: usize = 200;

const NO_KEY: &str = "a key is a plain word";
const TOO_LARGE: &str = "is a whole number of more than 64 bits, which would be rounded";
const NOT_FINITE: &str = "is not a finite number";
const NO_TAG: &str = "YAML tags (`!name`) have no meaning here; put the text in quotes";

/// Removes a byte order mark and, in JSON, blanks out `//` comments. A `//` inside a word, as in a URL, is not a
/// comment.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.trim_start().starts_with(['{', '/']) || !text.contains("//") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let (mut in_text, mut in_comment, mut escaped, mut before) = (false, false, false, ' ');
    for (at, c) in text.char_indices() {
        if c == '\n' {
            in_comment = false;
        } else if !in_text && !in_comment && text[at..].starts_with("//") {
            in_comment = before.is_whitespace() || "{}[],\"".contains(before);
        } else if c == '"' && !in_comment && !escaped {
            in_text = !in_text;
        }
        escaped = in_text && c == '\\' && !escaped;
        before = c;
        // As wide as the comment, so that positions remain correct.
        out.push(if in_comment { ' ' } else { c });
    }
    Cow::Owned(out)
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// Its number in file order; [`locate`] turns it into line and column.
    pub at: u32,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Any number; whole ones are exact to 64 bits.
    Number(Number),
    /// A text, and whether all of it is in the file itself, not in a variable.
    Text {
        text: String,
        /// `false` when part of it came from a variable.
        literal: bool,
    },
    List(Vec<Node>),
    /// A map in the order of the file, repeated keys included.
    Map(Vec<Entry>),
    /// A value that cannot be read, and why.
    Broken(String),
}

impl Value {
    /// A text with a unit, or a number in units of `bare`.
    pub(super) fn measure<T>(&self, parse: fn(&str) -> Option<T>, bare: fn(u64) -> T) -> Option<T> {
        match self {
            Self::Text { text, .. } => parse(text),
            Self::Number(_) => self.whole().and_then(|number| u64::try_from(number).ok()).map(bare),
            _ => None,
        }
    }

    /// A whole number without a unit.
    pub(super) fn bare(&self) -> Option<u64> {
        self.measure(|text| text.trim().parse().ok(), |number| number)
    }

    /// A whole number of either sign.
    pub(super) fn whole(&self) -> Option<i64> {
        self.numeric().filter(|number| number.fract() == 0.0).map(|number| number as i64)
    }

    /// Any number; a variable's value is a text.
    pub(super) fn numeric(&self) -> Option<f64> {
        match self {
            Self::Number(number) => number.as_f64(),
            Self::Text { text, .. } if text.starts_with(|c: char| c.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        }
    }

    /// The value as JSON; an error says what is wrong with it.
    pub(super) fn json(&self) -> Result<Json, String> {
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(flag) => Json::Bool(*flag),
            Self::Number(number) => Json::Number(number.clone()),
            Self::Text { text, .. } => Json::String(text.clone()),
            Self::List(list) => list.iter().map(|node| node.value.json()).collect::<Result<_, _>>()?,
            Self::Map(entries) => {
                let mut map = Map::new();
                for entry in entries {
                    if map.insert(entry.key.clone(), entry.value.value.json()?).is_some() {
                        return Err(format!("has {:?} twice; keep one", entry.key));
                    }
                }
                Json::Object(map)
            }
            Self::Broken(why) => return Err(why.clone()),
        })
    }
}

impl Node {
    /// The value of a key, exactly as spelled.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }
}

/// Names in the order of the file, with the numbers of their nodes.
pub(super) type Names = Vec<(String, u32)>;

/// The names in a list of maps with a `name`.
pub(super) fn names_in(list: Option<&Node>) -> Names {
    let Some(Value::List(items)) = list.map(|list| &list.value) else { return Names::new() };
    let name = |item: &Node| match item.get("name")? {
        Node { at, value: Value::Text { text, .. } } => Some((text.clone(), *at)),
        _ => None,
    };
    items.iter().filter_map(name).collect()
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub at: u32,
    pub key: String,
    pub value: Node,
}

/// The text is not YAML, or not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Line and column, from 1.
    pub place: Option<(usize, usize)>,
    pub text: String,
}

/// Reads one document; an empty one is [`Value::Null`].
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    if let Some(place) = too_many_brackets(text) {
        return Err(Fault { place: Some(place), text: format!("more than {MOST_BRACKETS} open brackets") });
    }
    let mut tree = build(text, None).map_err(|error| fault(text, &error))?;
    merge(&mut tree);
    Ok(tree)
}

/// Line and column, both from 1, of node `at` of a text that [`parse`] accepted.
///
/// The YAML reader reports a position only with an error, so the text is read again up to that node, which then fails.
pub(super) fn locate(text: &str, at: u32) -> Option<(usize, usize)> {
    let error = build(text, Some(at)).err()?;
    error.location().map(|place| (place.line(), place.column()))
}

fn build(text: &str, stop: Option<u32>) -> Result<Node, serde_yaml::Error> {
    let count = Cell::new(0);
    Build { count: &count, stop }.deserialize(serde_yaml::Deserializer::from_str(text))
}

/// Builds a value. `count` numbers the values; building number `stop` fails.
#[derive(Clone, Copy)]
struct Build<'c> {
    count: &'c Cell<u32>,
    stop: Option<u32>,
}

impl Build<'_> {
    fn node<E: Error>(self, value: Value) -> Result<Node, E> {
        Ok(Node { at: self.number()?, value })
    }

    fn number<E: Error>(self) -> Result<u32, E> {
        let at = self.count.get();
        if self.stop == Some(at) {
            return Err(E::custom("here"));
        }
        if at >= MOST_NODES {
            return Err(E::custom(format!("more than {MOST_NODES} values, aliases counted at each use")));
        }
        self.count.set(at + 1);
        Ok(at)
    }
}

impl<'de> DeserializeSeed<'de> for Build<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! visit_numbers {
    ($($visit:ident: $number:ty as $from:ident),*) => {
        $(fn $visit<E: Error>(self, value: $number) -> Result<Node, E> {
            let number = Number::$from(value.into()).map(Value::Number);
            self.node(number.unwrap_or_else(|| Value::Broken(TOO_LARGE.into())))
        })*
    };
}

impl<'de> Visitor<'de> for Build<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        self.node(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        self.node(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        self.node(Value::Bool(value))
    }

    visit_numbers!(visit_u64: u64 as from_u128, visit_u128: u128 as from_u128);
    visit_numbers!(visit_i64: i64 as from_i128, visit_i128: i128 as from_i128);

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        let number = Number::from_f64(value).map(Value::Number);
        self.node(number.unwrap_or_else(|| Value::Broken(NOT_FINITE.into())))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        self.node(Value::Text { text: value.into(), literal: true })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let at = self.number()?;
        let mut list = Vec::new();
        while let Some(node) = seq.next_element_seed(self)? {
            list.push(node);
        }
        Ok(Node { at, value: Value::List(list) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let at = self.number()?;
        let mut entries = Vec::new();
        while let Some(key) = map.next_key_seed(self)? {
            let text = match key.value {
                Value::Text { text, .. } => text,
                Value::Null => "null".into(),
                Value::Bool(flag) => flag.to_string(),
                Value::Number(number) => number.to_string(),
                _ => return Err(A::Error::custom(NO_KEY)),
            };
            entries.push(Entry { at: key.at, key: text, value: map.next_value_seed(self)? });
        }
        Ok(Node { at, value: Value::Map(entries) })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Node, A::Error> {
        Err(A::Error::custom(NO_TAG))
    }
}

/// Merges `<<: *anchor` (one map or a list of maps) into the map around it; the map's own keys take precedence.
fn merge(node: &mut Node) {
    match &mut node.value {
        Value::List(list) => list.iter_mut().for_each(merge),
        Value::Map(entries) => {
            entries.iter_mut().for_each(|entry| merge(&mut entry.value));
            let (merges, mut own): (Vec<_>, Vec<_>) = std::mem::take(entries).into_iter().partition(is_merge);
            if !merges.is_empty() {
                let mut names: HashSet<String> = own.iter().map(|entry| snake(&entry.key)).collect();
                let inherited = merges.into_iter().flat_map(|entry| maps(entry.value));
                own.extend(inherited.filter(|entry| names.insert(snake(&entry.key))));
            }
            *entries = own;
        }
        _ => {}
    }
}

fn is_merge(entry: &Entry) -> bool {
    entry.key == "<<"
        && match &entry.value.value {
            Value::List(list) => list.iter().all(|node| matches!(node.value, Value::Map(_))),
            value => matches!(value, Value::Map(_)),
        }
}

/// The entries of a map, or of a list of maps.
fn maps(node: Node) -> Vec<Entry> {
    match node.value {
        Value::Map(entries) => entries,
        Value::List(list) => list.into_iter().flat_map(maps).collect(),
        _ => Vec::new(),
    }
}

/// `healthCheck` as `health_check`.
pub(super) fn snake(key: &str) -> String {
    let mut text = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

/// The position at which too many brackets are open. Those in comments and quotes are counted too.
fn too_many_brackets(text: &str) -> Option<(usize, usize)> {
    let mut open = 0_usize;
    let is_too_deep = |byte: u8| {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        open > MOST_BRACKETS
    };
    text.bytes().position(is_too_deep).map(|offset| line_and_column(text, offset))
}

fn fault(text: &str, error: &serde_yaml::Error) -> Fault {
    let message = error.to_string();
    if message.contains("more than one document") {
        // What follows may be another document, or a line indented less than the first one.
        let second = serde_yaml::Deserializer::from_str(text).nth(1);
        let error = second.and_then(|document| IgnoredAny::deserialize(document).err());
        if let Some(error) = error.filter(|error| error.location().is_some()) {
            return fault(text, &error);
        }
        let begin = text.lines().enumerate().filter(|(_, line)| line.starts_with("---")).last();
        let place = begin.map(|(index, _)| (index + 1, 1));
        return Fault { place, text: "a second document begins; a file holds one".into() };
    }
    if let Some((before, offset)) = message.split_once(" at position ") {
        // This error has an offset only.
        let offset = offset.chars().map_while(|c| c.to_digit(10)).fold(0, |all, digit| all * 10 + digit as usize);
        return Fault { place: Some(line_and_column(text, offset)), text: before.into() };
    }
    let Some(place) = error.location().map(|place| (place.line(), place.column())) else {
        return Fault { place: None, text: message };
    };
    let mut message = message.replacen(&format!(" at line {} column {}", place.0, place.1), "", 1);
    // The message starts with the path of keys, one of which may be a secret, so only the position is used.
    if let Some(own) = [NO_KEY, NO_TAG, "recursion limit exceeded"].into_iter().find(|own| message.ends_with(own)) {
        message = own.into();
    }
    // This message contains the value.
    if message.contains("invalid value: ") || message.contains("invalid type: ") {
        message = "the YAML tag (`!!name`) in front does not fit this value; put the text in quotes".into();
    }
    if message.contains("<document start>") {
        message = "does not belong to what stands above; is it indented as much as the first key?".into();
    }
    let indent = |line: usize| text.lines().nth(line - 1).unwrap_or("").split(|c: char| !c.is_whitespace()).next();
    if indent(place.0).is_some_and(|white| white.contains('\t')) {
        message += "; a tab: YAML indents with spaces only";
    }
    Fault { place: Some(place), text: message }
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = String::from_utf8_lossy(&text.as_bytes()[..offset.min(text.len())]);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

#[cfg(test)]
mod tests;
