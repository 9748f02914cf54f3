//! Header fields in the order in which they came.

use http::{HeaderName, HeaderValue};

/// Keeps order and repetitions; names are lower case, values unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(HeaderName, HeaderValue)>);

impl Fields {
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    pub fn push(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push((name, value));
    }

    pub(crate) fn extend(&mut self, others: &Self) {
        self.0.extend_from_slice(&others.0);
    }

    pub(crate) fn remove_prefixed(&mut self, prefix: &str) {
        self.0.retain(|(name, _)| !name.as_str().starts_with(prefix));
    }

    /// The first value of a name, given in any case.
    pub(crate) fn get(&self, name: impl AsRef<str>) -> Option<&HeaderValue> {
        self.iter().find(|(n, _)| **n == *name.as_ref()).map(|(_, value)| value)
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a HeaderValue> {
        self.iter().filter(move |(n, _)| **n == *name).map(|(_, value)| value)
    }

    /// The non-empty elements of a comma-separated field, over all its lines (RFC 9110 5.6.1).
    pub(crate) fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let elements = self.all(name).flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> + Clone {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in lines {
            fields.push(name.parse().expect("name"), HeaderValue::from_bytes(value.as_bytes()).expect("value"));
        }
        fields
    }

    #[test]
    fn order_and_repetitions_survive() {
        let fields = fields(&[("X-A", "1"), ("b", "2"), ("x-a", "3")]);
        let seen: Vec<_> = fields.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
        assert_eq!(seen, ["x-a=1", "b=2", "x-a=3"]);
        assert_eq!(fields.get("X-a").unwrap(), "1");
        assert_eq!(fields.get(http::header::HOST), None);
        assert_eq!(fields.all("x-a").count(), 2);
    }

    #[test]
    fn a_list_spans_lines_and_has_no_empty_elements() {
        let fields = fields(&[("connection", "close, ,x"), ("connection", ",\tTE ")]);
        assert_eq!(fields.list("connection").collect::<Vec<_>>(), [&b"close"[..], b"x", b"TE"]);
    }
}
