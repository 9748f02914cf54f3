//! The members of a JSON body that matter to a job, each value as it was written.

use super::failure::{Failure, Kind};
use super::peek::{self, ModelMember};
use super::scan::find_text;
use serde_json::value::RawValue;

/// The members that [`Members`] keeps; any others stay where they are, however many there are.
const NAMES: [&str; 9] = [
    "messages",
    "temperature",
    "presence_penalty",
    "frequency_penalty",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    WEBHOOK,
    "stream",
];

/// The member that is ours and goes no further.
pub const WEBHOOK: &str = "webhookUrl";

/// A body, and where its members stand.
pub struct Members<'a> {
    text: &'a str,
    model: Option<&'a RawValue>,
    values: [Option<&'a RawValue>; NAMES.len()],
    /// Where the name of `webhookUrl` begins and its value ends.
    webhook: Option<(usize, usize)>,
}

impl<'a> Members<'a> {
    /// Reads a body, which is checked whole.
    ///
    /// # Errors
    /// It is no JSON object, or says something twice.
    pub fn read(body: &'a [u8]) -> Result<Self, Failure> {
        let text = peek::text(body)?;
        let mut model = ModelMember::default();
        let mut found = Self { text, model: None, values: [None; NAMES.len()], webhook: None };
        let mut twice = None;
        peek::each_member(text, |name, value| {
            if model.take(name, value) {
                return;
            }
            let Some(at) = NAMES.iter().position(|known| peek::spells(name, known)) else { return };
            if found.values[at].replace(value).is_some() {
                twice = Some(NAMES[at]);
            }
            if NAMES[at] == WEBHOOK {
                let place = |raw: &RawValue| raw.get().as_ptr() as usize - text.as_ptr() as usize;
                found.webhook = Some((place(name), place(value) + value.get().len()));
            }
        })?;
        found.model = model.only()?;
        match twice {
            Some(name) => Err(Failure::new(Kind::InvalidBody, format!("The body says `{name}` more than once."))),
            None => Ok(found),
        }
    }

    /// The value of `model` or one of [`NAMES`].
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        match NAMES.iter().position(|known| *known == name) {
            Some(at) => self.values[at],
            None => self.model.filter(|_| name == "model"),
        }
    }

    /// The body without `webhookUrl`, in two pieces; every other byte stays as it was written.
    pub fn without_webhook(&self) -> [&'a str; 2] {
        let Some((start, end)) = self.webhook else { return [self.text, ""] };
        let (before, after) = (&self.text[..start], &self.text[end..]);
        match after.trim_start().strip_prefix(',') {
            Some(after) => [before, after.trim_start()],
            None => [before.trim_end().trim_end_matches(','), after],
        }
    }
}

/// Whether a body asks for a webhook; one that cannot be read does not.
pub fn has_webhook(body: &[u8]) -> bool {
    find_text(body, WEBHOOK.as_bytes()).is_some() && Members::read(body).is_ok_and(|members| members.webhook.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(body: &str) -> String {
        Members::read(body.as_bytes()).expect("JSON").without_webhook().concat()
    }

    #[test]
    fn a_body_without_its_webhook_is_otherwise_the_same() {
        let seed = r#""seed": 12345678901234567890"#;
        let x = r#""x": [1e400, "\u00e4\ud800"]"#;
        let webhook = r#""webhook\u0055rl" : "https://h""#;
        assert_eq!(without(&format!(" {{ {seed}, {webhook} , {x} }} ")), format!(" {{ {seed}, {x} }} "));
        assert_eq!(without(&format!("{{{webhook},{x}}}")), format!("{{{x}}}"));
        assert_eq!(without(&format!("{{ {x} ,{webhook} }}")), format!("{{ {x}  }}"));
        assert_eq!(without(&format!("{{{webhook}}}")), "{}");
        assert_eq!(without(&format!("{{{x}}}")), format!("{{{x}}}"));
        let body = format!("{{{webhook}}}");
        let members = Members::read(body.as_bytes()).expect("JSON");
        assert_eq!(members.get(WEBHOOK).map(RawValue::get), Some("\"https://h\""));
    }

    #[test]
    fn only_a_member_of_the_body_itself_counts() {
        assert!(has_webhook(br#"{"webhookUrl":null}"#));
        assert!(!has_webhook(br#"{"a":{"webhookUrl":1},"b":"webhookUrl"}"#));
        assert!(!has_webhook(br#"{"webhookUrl":1"#));
    }

    #[test]
    fn what_matters_is_said_once() {
        for body in [
            r#"{"top_p":1,"top_p":1}"#,
            r#"{"webhookUrl":"a","webhook\u0055rl":"b"}"#,
            r#"{"model":"a","Model":"b"}"#,
            "[]",
        ] {
            assert!(Members::read(body.as_bytes()).is_err(), "{body}");
        }
        assert!(Members::read(br#"{"other":1,"other":2}"#).is_ok());
    }

    // U01: 100,000 members of one object are read once, not once for each other.
    #[test]
    fn many_different_members_are_no_work() {
        let many: String = (0..100_000).map(|n| format!("\"m{n}\":{n},")).collect();
        let body = format!("{{{many}\"model\":\"m\"}}");
        assert_eq!(Members::read(body.as_bytes()).expect("JSON").get("model").map(RawValue::get), Some("\"m\""));
    }
}
