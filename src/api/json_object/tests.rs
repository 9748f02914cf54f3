//! Unit tests of `json_object`.

use super::*;

fn without(body: &str) -> String {
    JsonObject::read(body.as_bytes()).expect("JSON").without_webhook().concat()
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
    let members = JsonObject::read(body.as_bytes()).expect("JSON");
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
        assert!(JsonObject::read(body.as_bytes()).is_err(), "{body}");
    }
    assert!(JsonObject::read(br#"{"other":1,"other":2}"#).is_ok());
}

// U01: 100,000 members of one object are read once, not once for each other.
#[test]
fn many_different_members_are_no_work() {
    let many: String = (0..100_000).map(|n| format!("\"m{n}\":{n},")).collect();
    let body = format!("{{{many}\"model\":\"m\"}}");
    assert_eq!(JsonObject::read(body.as_bytes()).expect("JSON").get("model").map(RawValue::get), Some("\"m\""));
}
