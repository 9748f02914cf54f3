//! One table of keys per section drives reading, defaults and printing. Contains the [`table!`] macro and the kinds of
//! values.

use super::features::Feature;
use super::node::Value;
use super::reader::Field;
use super::shown::none_of;
use super::text;
use crate::util::secret::Secret;
use crate::util::units::{parse_duration, parse_size, print_duration, print_size};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Declares a section of the file: a struct, its defaults and its keys.
///
/// `field: Type = default, method("key", ...);` calls that method of [`Keys`] with the field. Without `= default` the
/// type's default applies. Arguments may refer to other fields by the name after `as`. `check` is called with a
/// section of a file when all its keys have been read.
macro_rules! table {
    ($(#[$meta:meta])* $vis:vis struct $name:ident as $this:ident $((check = $check:path))? {
        $($(#[$doc:meta])* $field_vis:vis $field:ident: $type:ty $(= $default:expr)?, $method:ident($($arg:expr),*);)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name {
            $($(#[$doc])* $field_vis $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: table!(@default $($default)?),)* }
            }
        }

        impl $crate::config::table::Table for $name {
            fn keys(&mut self, keys: &mut $crate::config::table::Keys) {
                let $this = self;
                $(keys.$method(&mut $this.$field, $($arg),*);)*
                $(keys.read(|section| $check($this, section));)?
            }
        }
    };
    (@default) => {
        Default::default()
    };
    (@default $default:expr) => {
        $default
    };
    ($(#[$meta:meta])* $vis:vis struct $name:ident $((check = $check:path))? { $($fields:tt)* }) => {
        table! { $(#[$meta])* $vis struct $name as this $((check = $check))? { $($fields)* } }
    };
}

/// Declares an enum and the words for its values in a file.
macro_rules! words {
    ($(#[$meta:meta])* $vis:vis enum $name:ident {
        $($(#[$doc:meta])* $value:ident = $word:literal $(| $other:literal)*,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name {
            $($(#[$doc])* $value,)*
        }

        impl $crate::config::table::Words for $name {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$value), $(($other, Self::$value),)*)*];
        }
    };
}

/// A choice of words. Of several words for one value, the first is printed.
pub(crate) trait Words: Copy + PartialEq + 'static {
    const WORDS: &'static [(&'static str, Self)];

    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

/// A section of the file.
pub(super) trait Table: Clone {
    /// Visits each key, in order.
    fn keys(&mut self, keys: &mut Keys);
}

/// A visitor of the keys of a section, which reads or prints them.
pub(super) enum Keys<'k, 'f> {
    Read(&'k Field<'f>),
    Print(&'k mut Map<String, Json>),
}

impl Keys<'_, '_> {
    /// An optional key; the field keeps its default if it is absent.
    pub(super) fn key<T>(&mut self, field: &mut T, key: &str, kind: Kind<T>) {
        if let Keys::Read(section) = self
            && let Some(value) = (kind.read)(&section.get(key), Some(field))
        {
            *field = value;
        }
        self.print(key, (kind.print)(field));
    }

    /// A required key.
    pub(super) fn required<T>(&mut self, field: &mut T, key: &str, kind: Kind<T>) {
        self.key(field, key, kind);
        self.read(|section| {
            let field = section.get(key);
            if !field.is_given() {
                field.problem("is missing");
            }
        });
    }

    /// A secret, given as `key` or as `keyFile`.
    pub(super) fn secret(&mut self, field: &mut Option<Secret>, key: &str) {
        self.read(|section| *field = section.secret_at(key, |_| true));
        self.print(key, field.as_ref().map_or(Json::Null, masked));
    }

    /// A field that is not the value of a single key.
    pub(super) fn with<T>(&mut self, field: &mut T, keys: impl FnOnce(&mut T, &mut Self)) {
        keys(field, self);
    }

    /// Checks the section of a file.
    pub(super) fn read(&mut self, read: impl FnOnce(&Field)) {
        if let Keys::Read(section) = self {
            read(section);
        }
    }

    /// A key for printing only.
    pub(super) fn print(&mut self, key: &str, value: impl Into<Json>) {
        if let Keys::Print(map) = self {
            map.insert(key.into(), value.into());
        }
    }

    /// A field without a key.
    pub(super) fn internal<T>(&mut self, _: &mut T) {}

    /// A nested section whose keys belong to this struct.
    pub(super) fn within(&mut self, key: &str, keys: impl FnOnce(&mut Keys)) {
        match self {
            Keys::Read(section) => read_section(&section.get(key), (), |(), section| keys(section)),
            Keys::Print(map) => {
                let mut inner = Map::new();
                keys(&mut Keys::Print(&mut inner));
                map.insert(key.into(), inner.into());
            }
        }
    }
}

/// The keys of a section with their values.
pub(super) fn printed(table: &impl Table) -> Json {
    let mut map = Map::new();
    table.clone().keys(&mut Keys::Print(&mut map));
    map.into()
}

/// A secret as printed: masked, unless it is known not to be one.
pub(super) fn masked(secret: &Secret) -> Json {
    secret.printed().unwrap_or("***").into()
}

/// Takes the value so far. Returns `None` if the key is absent or wrong, which it records.
type Read<T> = dyn Fn(&Field, Option<&T>) -> Option<T>;

/// A kind of value: how it is read and printed.
pub(super) struct Kind<T> {
    pub read: Box<Read<T>>,
    pub print: Box<dyn Fn(&T) -> Json>,
}

impl<T> Kind<T> {
    pub(super) fn new(read: impl Fn(&Field) -> Option<T> + 'static, print: impl Fn(&T) -> Json + 'static) -> Self {
        Self { read: Box::new(move |field, _| read(field)), print: Box::new(print) }
    }

    /// The same kind for another type.
    pub(super) fn inside<U: 'static>(self, put: fn(T) -> U, get: fn(&U) -> Option<&T>) -> Kind<U>
    where
        T: 'static,
    {
        let Self { read, print } = self;
        Kind::new(move |field| read(field, None).map(put), move |value| get(value).map(&print).into())
    }

    /// A kind that is only read, since older formats are not printed.
    pub(super) fn read_only(read: impl Fn(&Field) -> Option<T> + 'static) -> Self {
        Self::new(read, |_| Json::Null)
    }
}

/// A value parsed by a function whose errors are predicates.
pub(super) fn plain<T>(
    read: impl Fn(&Value) -> Result<T, String> + 'static,
    print: impl Fn(&T) -> Json + 'static,
) -> Kind<T> {
    Kind::new(move |field| field.read(&read), print)
}

pub(super) fn flag() -> Kind<bool> {
    let read = |value: &Value| match value {
        Value::Bool(flag) => Ok(*flag),
        Value::Text { text, .. } if text == "true" => Ok(true),
        Value::Text { text, .. } if text == "false" => Ok(false),
        _ => Err("is not true or false".into()),
    };
    plain(read, |flag| json!(flag))
}

/// A flag that needs an optional part of the program.
pub(super) fn switch(feature: &'static Feature) -> Kind<bool> {
    let read = move |field: &Field| {
        let flag = (flag().read)(field, None)?;
        if let (true, Err(absent)) = (flag, feature.require()) {
            field.problem(absent);
        }
        Some(flag)
    };
    Kind::new(read, |flag| json!(flag))
}

/// A whole number; `what` is the noun for messages, such as `a port`.
pub(super) fn number<T: TryFrom<u64> + Serialize>(what: &'static str, range: RangeInclusive<u64>) -> Kind<T> {
    let read = move |value: &Value| {
        let number = value.whole().and_then(|number| u64::try_from(number).ok());
        let number = number.filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| format!("is not {what} ({} to {})", range.start(), range.end()))
    };
    plain(read, |number| json!(number))
}

/// A number, whole or not.
pub(super) fn factor(range: RangeInclusive<f64>) -> Kind<f64> {
    let read = move |value: &Value| {
        let number = value.numeric().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("is not a number ({} to {})", range.start(), range.end()))
    };
    plain(read, |number| json!(number))
}

const DAY: Duration = Duration::from_secs(86_400);
pub(super) const SOME_TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;
pub(super) const ANY_TIME: RangeInclusive<Duration> = Duration::ZERO..=DAY;
/// For intervals.
pub(super) const PERIOD: RangeInclusive<Duration> = Duration::from_millis(100)..=DAY;

/// A duration: a number of milliseconds or a text such as `1h30m`.
pub(super) fn time(range: RangeInclusive<Duration>) -> Kind<Duration> {
    let (least, most) = (print_duration(*range.start()), print_duration(*range.end()));
    let read = move |field: &Field| {
        let (path, bare) = (&field.path, field.value().and_then(Value::bare));
        if let Some(millis) = bare.filter(|millis| (1..100).contains(millis) && !path.ends_with("Ms")) {
            let text = format!("{path}: {millis} means {millis} milliseconds; write {millis}s for seconds");
            field.warn(text);
        }
        field.read(|value| {
            let time = value.measure(parse_duration, Duration::from_millis).filter(|time| range.contains(time));
            time.ok_or_else(|| format!("is not a time from {least} to {most}; write 500ms, 30s, 5m or 1h30m"))
        })
    };
    Kind::new(read, |time| if time.is_zero() { json!(0) } else { print_duration(*time).into() })
}

/// A duration that is printed in milliseconds, as its key says.
pub(super) fn millis(range: RangeInclusive<Duration>) -> Kind<Duration> {
    Kind { print: Box::new(|time| json!(time.as_millis() as u64)), ..time(range) }
}

/// A duration; 0 means no limit.
pub(super) fn limit() -> Kind<Option<Duration>> {
    let Kind { read, print } = time(ANY_TIME);
    let read = move |field: &Field| read(field, None).map(|time| Some(time).filter(|time| !time.is_zero()));
    Kind::new(read, move |limit| print(&limit.unwrap_or_default()))
}

/// A size: a number of bytes or a text such as `64MiB`.
pub(super) fn size(range: RangeInclusive<u64>) -> Kind<u64> {
    let (least, most) = (print_size(*range.start()), print_size(*range.end()));
    let read = move |value: &Value| {
        let size = value.measure(parse_size, |bytes| bytes).filter(|size| range.contains(size));
        size.ok_or_else(|| format!("is not a size from {least} to {most}; write 32KiB, 64MiB or 10MB"))
    };
    plain(read, |size| print_size(*size).into())
}

/// A text that `parse` accepts; its errors are predicates.
pub(super) fn text<T: Display>(parse: impl Fn(&str) -> Result<T, String> + 'static) -> Kind<T> {
    Kind::new(move |field| field.parse(&parse), |value| value.to_string().into())
}

/// The path of a file or folder (`what`).
pub(super) fn path(what: &'static str) -> Kind<PathBuf> {
    let read = move |field: &Field| field.parse(|text| text::path(text, what));
    Kind::new(read, |path| path.display().to_string().into())
}

/// One of the words of a type.
pub(super) fn word<T: Words>() -> Kind<T> {
    choice(T::WORDS)
}

/// One of several words.
pub(super) fn choice<T: Copy + PartialEq>(words: &'static [(&'static str, T)]) -> Kind<T> {
    let print = |value: &T| words.iter().find(|(_, other)| other == value).map(|(word, _)| *word).into();
    Kind::new(|field| field.parse(|text| meaning(text, words)), print)
}

pub(crate) fn meaning<T: Copy + PartialEq>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let first = |n: &usize| words[..*n].iter().all(|(_, other)| *other != words[*n].1);
    let told = (0..words.len()).filter(first).map(|n| words[n].0);
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| none_of(text, "is not one of", told))
}

/// A value that may be missing.
pub(super) fn optional<T: 'static>(kind: Kind<T>) -> Kind<Option<T>> {
    let Kind { read, print } = kind;
    Kind {
        read: Box::new(move |field, now| {
            let value = read(field, now.and_then(Option::as_ref));
            // An empty list is a value.
            value.filter(|_| !matches!(field.value(), None | Some(Value::Null))).map(Some)
        }),
        print: Box::new(move |value| value.as_ref().map_or(Json::Null, &print)),
    }
}

/// A special word, or a value of another kind.
pub(super) fn or_word<T: Clone + PartialEq + 'static>(word: &'static str, meaning: T, kind: Kind<T>) -> Kind<T> {
    let (Kind { read, print }, printed) = (kind, meaning.clone());
    Kind {
        read: Box::new(move |field, now| if field.is_word(word) { Some(meaning.clone()) } else { read(field, now) }),
        print: Box::new(move |value| if *value == printed { word.into() } else { print(value) }),
    }
}

pub(super) fn list<T: 'static>(kind: Kind<T>) -> Kind<Vec<T>> {
    let Kind { read, print } = kind;
    let read = move |field: &Field| Some(field.items()?.filter_map(|item| read(&item, None)).collect());
    Kind::new(read, move |list: &Vec<T>| list.iter().map(&print).collect())
}

/// A map with keys of its own.
pub(super) fn section<T: Table + Default + 'static>() -> Kind<T> {
    Kind {
        read: Box::new(|field, now| Some(read_section(field, now.cloned().unwrap_or_default(), T::keys))),
        print: Box::new(printed),
    }
}

/// A list of sections, each with these defaults.
pub(super) fn items<T: Table + 'static>(default: T) -> Kind<Vec<T>> {
    Kind { print: Box::new(|list| list.iter().map(printed).collect()), ..items_as(default, T::keys) }
}

/// A list of sections with the keys of an older format.
pub(super) fn items_as<T: Clone + 'static>(default: T, keys: fn(&mut T, &mut Keys)) -> Kind<Vec<T>> {
    list(Kind::read_only(move |field| Some(read_section(field, default.clone(), keys))))
}

/// The value of a section, based on these defaults.
pub(super) fn read_section<T>(field: &Field, mut value: T, keys: impl FnOnce(&mut T, &mut Keys)) -> T {
    if field.is_section() {
        keys(&mut value, &mut Keys::Read(field));
    }
    value
}

/// A name that is unique among its kind (`what`).
pub(super) fn unique(what: &'static str) -> Kind<String> {
    let read = move |field: &Field| {
        let name = field.parse(text::name)?;
        field.refuse_second(&name, what);
        Some(name)
    };
    Kind::new(read, |name| json!(name))
}

/// A reference to the name of a `what` in the file.
pub(super) fn reference(what: &'static str) -> Kind<String> {
    let read = move |field: &Field| {
        let names = field.diagnostics.names(what).iter().map(|(name, _)| name.as_str());
        field.parse(|text| match names.clone().find(|name| *name == text) {
            Some(name) => Ok(name.to_owned()),
            None => Err(none_of(text, &format!("is no {what} of this file; there are"), names)),
        })
    };
    Kind::new(read, |name| json!(name))
}
