//! The members of a JSON body, each value as it was written.

use super::failure::{Failure, Kind};
use super::peek;
use super::scan::find_text;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Names, decoded, and values in the order of the body.
pub struct Members<'a>(pub Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads a body, which is checked whole.
    ///
    /// # Errors
    /// It is no JSON object, or says something twice.
    pub fn read(body: &'a [u8]) -> Result<Self, Failure> {
        let text = peek::text(body)?;
        let mut reader = serde_json::Deserializer::from_str(text);
        let members = reader.deserialize_map(Outermost).and_then(|found| reader.end().map(|()| found));
        let members =
            members.map_err(|error| Failure::new(Kind::InvalidBody, format!("The body is not JSON: {error}.")))?;
        let twice =
            members.iter().enumerate().find(|(n, (name, _))| members[..*n].iter().any(|(other, _)| other == name));
        match twice {
            Some((_, (name, _))) => {
                let text = format!("The body says `{}` more than once.", super::plan::shown(name));
                Err(Failure::new(Kind::InvalidBody, text))
            }
            None => Ok(Self(members)),
        }
    }

    /// The value of a member.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| *value)
    }

    /// The body without a member; every value stays as it was written.
    pub fn without(&self, name: &str) -> String {
        let rest = self.0.iter().filter(|(other, _)| other != name);
        let rest: Vec<_> =
            rest.map(|(name, value)| format!("{}:{value}", serde_json::Value::from(name.as_str()))).collect();
        format!("{{{}}}", rest.join(","))
    }
}

/// Whether a body has a member of its own by this name; a body that cannot be read has none.
pub fn has_member(body: &[u8], name: &str) -> bool {
    find_text(body, name.as_bytes()).is_some() && Members::read(body).is_ok_and(|members| members.get(name).is_some())
}

struct Outermost;

impl<'a> Visitor<'a> for Outermost {
    type Value = Vec<(String, &'a RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_without_a_member_is_otherwise_the_same() {
        let body = br#" { "seed": 12345678901234567890, "webhookUrl" : "https://h", "x": [1e400, "\u00e4\ud800"] } "#;
        let members = Members::read(body).expect("JSON");
        assert_eq!(members.without("webhookUrl"), r#"{"seed":12345678901234567890,"x":[1e400, "\u00e4\ud800"]}"#);
        assert_eq!(members.get("webhookUrl").map(RawValue::get), Some("\"https://h\""));
    }

    #[test]
    fn only_a_member_of_the_body_itself_counts() {
        assert!(has_member(br#"{"webhookUrl":null}"#, "webhookUrl"));
        assert!(!has_member(br#"{"a":{"webhookUrl":1},"b":"webhookUrl"}"#, "webhookUrl"));
        assert!(!has_member(br#"{"webhookUrl":1"#, "webhookUrl"));
        assert!(Members::read(br#"{"a":1,"a":2}"#).is_err() && Members::read(b"[]").is_err());
    }
}
