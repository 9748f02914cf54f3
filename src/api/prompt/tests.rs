//! Unit tests of `prompt`.

use crate::api::body::JsonBody;
use crate::api::edit::parts;
use serde_json::{Value, json};

fn has_image(body: &str) -> bool {
    JsonBody::read(body.as_bytes()).expect(body).has_image()
}

#[test]
fn an_image_is_found_in_every_api_and_only_where_it_is_one() {
    let with = [
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:"}}]}]}"#,
        r#"{"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64"}}]}]}"#,
        r#"{"messages":[{"content":[{"type":"tool_result","content":[{"type":"image","source":{}}]}]}]}"#,
        r#"{"input":[{"role":"user","content":[{"type":"input_image","image_url":"data:"}]}]}"#,
        r#"{"input":[{"type":"input_image"}]}"#,
        r#"{"input":[{"type":"function_call_output","output":[{"type":"input_image"}]}]}"#,
        r#"{"messages":[{"content":"\ud800"},{"content":[{"t\u0079pe":"im\u0061ge_url"}]}]}"#,
    ];
    for body in with {
        assert!(has_image(body), "{body}");
    }
    let without = [
        "{}",
        r#"{"messages":"image"}"#,
        r#"{"messages":[{"role":"user","content":"{\"type\":\"image_url\"}"}]}"#,
        r#"{"messages":[{"content":[{"type":"text","text":"image"}]}],"tools":[{"type":"image"}]}"#,
        r#"{"type":"image","messages":[{"content":[{"type":"input_text","image":{"type":"image"}}]}]}"#,
        r#"{"messages":[{"content":[{"type":["image"]}, 1, null, []]}]}"#,
    ];
    for body in without {
        assert!(!has_image(body), "{body}");
    }
    let deep = |n: usize| format!(r#"{{"messages":{}{{"type":"image"}}{}}}"#, "[".repeat(n), "]".repeat(n));
    assert!(has_image(&deep(3)) && !has_image(&deep(100)), "as deep as an API allows, so that no body costs much");
}

fn stable(body: &str) -> String {
    let body = JsonBody::read(body.as_bytes()).expect(body);
    String::from_utf8(body.edited(None, &[], true).expect("few changes").concat()).expect("UTF-8")
}

fn line(version: &str, checksum: &str) -> String {
    format!("x-anthropic-billing-header: cc_version={version}; cc_entrypoint=cli; cch={checksum};")
}

// Issue 14, section 1: bytes change in exactly those places.
#[test]
fn the_changing_characters_of_the_billing_line_become_zeros_and_nothing_else_changes() {
    let bodies: [fn(&str) -> Value; 8] = [
        |line| json!({"system": [{"type": "text", "text": line}, {"type": "text", "text": "You are"}], "messages": []}),
        |line| json!({"system": line}),
        |line| json!({"system": format!("{line}\nYou are \"it\" é😀")}),
        |line| json!({"system": format!("é\u{1}\n{line}\r\nYou are")}),
        |line| json!({"messages": [{"role": "system", "content": line}, {"role": "user", "content": "hello"}]}),
        |line| json!({"messages": [{"role": "developer", "content": [{"type": "text", "text": line}]}]}),
        |line| json!({"instructions": line, "input": "a"}),
        |line| json!({"input": [{"role": "system", "content": [{"type": "input_text", "text": line}]}]}),
    ];
    for body in bodies {
        let [first, second] =
            [("2.1.42.834", "65abc"), ("2.1.42.0d9", "fa690")].map(|(v, c)| body(&line(v, c)).to_string());
        let expected = body(&line("2.1.42.000", "00000")).to_string();
        assert_eq!([stable(&first), stable(&second)], [expected.as_str(), &expected]);
        assert_eq!(expected.len(), first.len());
    }
}

#[test]
fn a_line_without_checksums_stays_and_so_does_one_that_a_user_wrote() {
    let same = [
        json!({"system": line("2.1.42", "").replace("cch=", "cch")}),
        json!({"system": "x-anthropic-billing-header"}),
        json!({"system": format!("about {}", line("2.1.42.834", "65abc"))}),
        json!({"system": "cc_version=2.1.42.834; cch=65abc"}),
        json!({"messages": [{"role": "user", "content": line("2.1.42.834", "65abc")}]}),
        json!({"messages": [{"role": "assistant", "content": [{"type": "text", "text": line("2.1.42.834", "65abc")}]}]}),
        json!({"tools": [line("2.1.42.834", "65abc")], "prompt": line("2.1.42.834", "65abc")}),
        json!({"system": [1, null, {"text": 1}], "input": line("2.1.4.8", "6")}),
    ];
    for body in same {
        assert_eq!(stable(&body.to_string()), body.to_string());
    }
    let two = json!({"system": format!("{}\n{}", line("2.1.42.834", "6"), line("1.2.3.4", "65abcdef"))});
    let expected = json!({"system": format!("{}\n{}", line("2.1.42.000", "0"), line("1.2.3.0", "00000000"))});
    assert_eq!(stable(&two.to_string()), expected.to_string());
}

#[test]
fn a_line_begins_a_text_or_follows_a_line_break_and_nothing_else_written_like_it() {
    let text = |before: &str, line: &str, after: &str| format!(r#"{{"s\u0079stem":"{before}{line}{after}"}}"#);
    let [before, after] = [("2.1.42.834", "65abc"), ("2.1.42.000", "00000")].map(|(v, c)| line(v, c));
    for (start, end) in [("", ""), (r"\ud83d\ude00\u00e9\n", r"\r\nb"), (r"\\\\\n  ", r"\\"), (r"\ud800\n", r"\nb")] {
        assert_eq!(stable(&text(start, &before, end)), text(start, &after, end));
    }
    for start in [r"\\n", r#"\""#, "n"] {
        assert_eq!(stable(&text(start, &before, "")), text(start, &before, ""), "{start}");
    }
    let bare = r#"{"system":"x-anthropic-billing-header: cch=65abc\n","a":[]}"#;
    assert_eq!(stable(bare), bare.replace("65abc", "00000"));
}

#[test]
fn an_edit_of_the_system_prompt_counts_instead() {
    let body = json!({"system": line("2.1.42.834", "65abc")}).to_string();
    let json = JsonBody::read(body.as_bytes()).expect("JSON");
    let set = crate::api::edit::MemberEdit::set("system", "s");
    assert_eq!(json.edited(None, &[set], true).expect("few changes").concat(), br#"{"system":"s"}"#);
    assert_eq!(parts(b"a", Vec::new()).concat(), b"a");
}
