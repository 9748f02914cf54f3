//! Unit tests of `edit`: what is sent for what came, byte by byte.

use super::*;
use crate::api::body::JsonBody;
use serde_json::json;

/// `{"set": {...}, "default": {...}, "remove": [...]}`
fn edits(given: &Value) -> Edits {
    let names = given["remove"].as_array().into_iter().flatten();
    let remove = names.map(|name| name.as_str().expect("a name").to_owned()).collect();
    let members = |name: &str| given[name].as_object().cloned().unwrap_or_default();
    Edits { set: members("set"), default: members("default"), remove }
}

fn sent(body: &str, model: Option<&str>, edits: &[MemberEdit]) -> String {
    let parts = JsonBody::read(body.as_bytes()).expect(body).edited(model, edits, false).expect("few changes").concat();
    let sent = String::from_utf8(parts).expect("UTF-8");
    JsonBody::read(sent.as_bytes()).expect("as sound as before");
    sent
}

fn edited(body: &str, given: &Value) -> String {
    sent(body, None, &merged(&edits(given), None))
}

// Issue 14, shows 2: set, default, remove x present, absent, nested, escaped names, duplicates outside, big integers, unicode.
#[test]
fn every_other_byte_of_an_edited_body_stays() {
    let odd = r#""n": 12345678901234567890123 ,"x":"\ud800é","x" :1e400"#;
    let set = json!({"set": {"t": 0.5}});
    let default = json!({"default": {"t": 0.5}});
    let remove = json!({"remove": ["t"]});
    let cases = [
        // Present.
        (set.clone(), format!(r#"{{ {odd}, "t" : 1 }}"#), format!(r#"{{ {odd}, "t" : 0.5 }}"#)),
        (default.clone(), format!(r#"{{ {odd}, "t" : 1 }}"#), format!(r#"{{ {odd}, "t" : 1 }}"#)),
        (default.clone(), r#"{"t":null}"#.into(), r#"{"t":null}"#.into()),
        (remove.clone(), format!(r#"{{ "t" : [1,{{}}] , {odd} }}"#), format!("{{ {odd} }}")),
        (remove.clone(), format!(r#"{{ {odd},"t":1}}"#), format!("{{ {odd}}}")),
        (remove.clone(), r#"{"a":1, "t":"}", "b":2}"#.into(), r#"{"a":1, "b":2}"#.into()),
        (remove.clone(), r#"{ "t":1 }"#.into(), "{ }".into()),
        // Absent.
        (set.clone(), format!("{{ {odd} }}"), format!(r#"{{"t":0.5, {odd} }}"#)),
        (set.clone(), " { } ".into(), r#" {"t":0.5 } "#.into()),
        (default.clone(), format!("{{{odd}}}"), format!(r#"{{"t":0.5,{odd}}}"#)),
        (remove.clone(), format!("{{{odd}}}"), format!("{{{odd}}}")),
        // Nested: what has the same name elsewhere is something else.
        (set.clone(), r#"{"a":{"t":1}}"#.into(), r#"{"t":0.5,"a":{"t":1}}"#.into()),
        (remove.clone(), r#"{"a":{"t":1},"b":["t"]}"#.into(), r#"{"a":{"t":1},"b":["t"]}"#.into()),
        (json!({"set": {"k.e": false}}), r#"{"k":{"e":true, "f":1e0}}"#.into(), r#"{"k":{"e":false, "f":1e0}}"#.into()),
        (json!({"set": {"k.e": false}}), r#"{"k": { }}"#.into(), r#"{"k": {"e":false }}"#.into()),
        (json!({"set": {"k.e": false}}), r#"{"x":1}"#.into(), r#"{"k":{"e":false},"x":1}"#.into()),
        (json!({"set": {"k.e": false}}), r#"{"k":null}"#.into(), r#"{"k":{"e":false}}"#.into()),
        (json!({"default": {"k.e": 1, "k.f": 2}}), r#"{"k":{"e":0}}"#.into(), r#"{"k":{"f":2,"e":0}}"#.into()),
        (json!({"default": {"k.e": 1, "k.f": 2}}), "{}".into(), r#"{"k":{"e":1,"f":2}}"#.into()),
        (json!({"default": {"k.e": 1}, "remove": ["k.f"]}), r#"{"k":"text"}"#.into(), r#"{"k":"text"}"#.into()),
        (json!({"set": {"k.e": 1}, "default": {"k.f": 2}}), r#"{"k":[]}"#.into(), r#"{"k":{"e":1,"f":2}}"#.into()),
        (json!({"remove": ["k.e"]}), r#"{"k":{"e":1,"f":2,"e":3},"e":4}"#.into(), r#"{"k":{"f":2},"e":4}"#.into()),
        (json!({"remove": ["k.e"]}), "{}".into(), "{}".into()),
        // Escaped names, and names that only begin so.
        (set.clone(), r#"{"\u0074":1,"t2":2,"T":3}"#.into(), r#"{"\u0074":0.5,"t2":2,"T":3}"#.into()),
        (default, r#"{"\u0074":1}"#.into(), r#"{"\u0074":1}"#.into()),
        (remove.clone(), r#"{"\u0074" : 1 ,"a":2}"#.into(), r#"{"a":2}"#.into()),
        (json!({"set": {"k.e": 1}}), r#"{"\u006b":{"\u0065":0}}"#.into(), r#"{"\u006b":{"\u0065":1}}"#.into()),
        (
            json!({"set": {"é\"\n😀": 1}}),
            r#"{"\u00e9\u0022\n\uD83D\ude00":0}"#.into(),
            r#"{"\u00e9\u0022\n\uD83D\ude00":1}"#.into(),
        ),
        (json!({"set": {"é\"\n": 1}}), "{}".into(), r#"{"é\"\n":1}"#.into()),
        // Several times, among duplicates of others.
        (set, r#"{"t":1,"a":1,"a":2,"t":{"t":3}}"#.into(), r#"{"t":0.5,"a":1,"a":2,"t":0.5}"#.into()),
        (
            remove.clone(),
            r#"{"t":1, "t":2, "a":1, "t":3, "a":2 , "t":4 , "t":5 }"#.into(),
            r#"{"a":1, "a":2  }"#.into(),
        ),
        (remove, r#"{"t":1,"t":2}"#.into(), "{}".into()),
        // Values: large numbers, unicode, null, whole trees.
        (json!({"set": {"s": 18446744073709551615_u64}}), r#"{"s":1}"#.into(), r#"{"s":18446744073709551615}"#.into()),
        (json!({"set": {"s": -9223372036854775808_i64}}), "{}".into(), r#"{"s":-9223372036854775808}"#.into()),
        (
            json!({"set": {"s": null, "u": "é\n😀", "l": [{"a": 1.0}]}}),
            "{}".into(),
            "{\"s\":null,\"u\":\"é\\n😀\",\"l\":[{\"a\":1.0}]}".into(),
        ),
        // Together.
        (
            json!({"set": {"a": 1, "b": 2}, "default": {"c": 3, "d": 4}, "remove": ["e", "f"]}),
            r#"{"e":0,"d":0,"a":0,"f":0}"#.into(),
            r#"{"b":2,"c":3,"d":0,"a":1}"#.into(),
        ),
        (json!({"set": {"a": 1}, "remove": ["b"]}), r#"{"b":0}"#.into(), r#"{"a":1}"#.into()),
    ];
    assert!(cases.len() >= 24);
    for (given, body, expected) in cases {
        assert_eq!(edited(&body, &given), expected, "{given} on {body}");
    }
}

#[test]
fn the_model_is_renamed_along_with_the_edits() {
    let all = merged(&edits(&json!({"set": {"a": 1}, "remove": ["b"]})), None);
    assert_eq!(sent(r#"{"model" : "x","b":1}"#, Some("y"), &all), r#"{"a":1,"model" : "y"}"#);
    assert_eq!(sent("{}", Some("y"), &all), r#"{"model":"y","a":1}"#);
    assert_eq!(sent(r#"{"model":"x","c":2}"#, None, &all), r#"{"a":1,"model":"x","c":2}"#);
}

#[test]
fn what_a_variant_says_of_a_member_counts_instead_of_what_the_model_says() {
    let cases = [
        // The same member.
        (json!({"set": {"t": 1}}), json!({"set": {"t": 2}}), r#"{"t":0}"#, r#"{"t":2}"#),
        (json!({"set": {"t": 1}}), json!({"default": {"t": 2}}), r#"{"t":0}"#, r#"{"t":0}"#),
        (json!({"set": {"t": 1}}), json!({"remove": ["t"]}), r#"{"t":0}"#, "{}"),
        (json!({"remove": ["t"]}), json!({"set": {"t": 2}}), "{}", r#"{"t":2}"#),
        (json!({"default": {"t": 1}}), json!({"default": {"t": 2}}), "{}", r#"{"t":2}"#),
        // Others are both edited.
        (json!({"set": {"a": 1}}), json!({"set": {"b": 2}}), "{}", r#"{"a":1,"b":2}"#),
        (json!({"set": {"k.a": 1}}), json!({"set": {"k.b": 2}}), r#"{"k":{"a":0}}"#, r#"{"k":{"b":2,"a":1}}"#),
        (json!({"set": {"k.a": 1}}), json!({"remove": ["k.a"]}), r#"{"k":{"a":0}}"#, r#"{"k":{}}"#),
        // A member of what the model sets.
        (json!({"set": {"k": {"a": 1}}}), json!({"set": {"k.b": 2}}), r#"{"k":{"c":0}}"#, r#"{"k":{"a":1,"b":2}}"#),
        (json!({"set": {"k": {"a": 1}}}), json!({"remove": ["k.a"]}), "{}", r#"{"k":{}}"#),
        (json!({"set": {"k": 1}}), json!({"set": {"k.a": 2}}), "{}", r#"{"k":{"a":2}}"#),
        (json!({"set": {"k": 1}}), json!({"default": {"k.a": 2}}), "{}", r#"{"k":1}"#),
        (json!({"default": {"k": {"a": 1}}}), json!({"set": {"k.a": 2}}), "{}", r#"{"k":{"a":2}}"#),
        (json!({"default": {"k": {"a": 1}}}), json!({"set": {"k.a": 2}}), r#"{"k":{"b":0}}"#, r#"{"k":{"a":2,"b":0}}"#),
        (json!({"remove": ["k"]}), json!({"set": {"k.a": 2}}), r#"{"k":{"b":0}}"#, r#"{"k":{"a":2}}"#),
        (json!({"remove": ["k"]}), json!({"remove": ["k.a"]}), r#"{"k":{"b":0}}"#, "{}"),
        // The whole of what the model edits inside.
        (json!({"set": {"k.a": 1}}), json!({"set": {"k": 2}}), r#"{"k":{}}"#, r#"{"k":2}"#),
        (json!({"set": {"k.a": 1}}), json!({"remove": ["k"]}), r#"{"k":{}}"#, "{}"),
        (json!({"set": {"k.a": 1}}), json!({"default": {"k": 2}}), r#"{"k":{}}"#, r#"{"k":{}}"#),
    ];
    for (model, variant, body, expected) in cases {
        assert_eq!(sent(body, None, &merged(&edits(&model), Some(&edits(&variant)))), expected, "{model} {variant}");
    }
}

#[test]
fn of_changes_that_overlap_the_first_counts() {
    let changes = vec![(4..6, b"z".to_vec()), (3..4, b"y".to_vec()), (1..5, b"x".to_vec()), (0..0, b"w".to_vec())];
    assert_eq!(parts(b"012345", changes).concat(), b"w0x5");
}

#[test]
fn a_body_that_repeats_edited_members_endlessly_is_refused_before_it_grows() {
    let edit = merged(&edits(&json!({"set": {"t": "long", "k.e": 1}, "remove": ["r"]})), None);
    for member in [r#""t":1"#, r#""k":{}"#, r#""k":1"#, r#""r":1,"x":1"#] {
        let body = |n: usize| format!("{{{}}}", vec![member; n].join(","));
        let edited = |n: usize| {
            JsonBody::read(body(n).as_bytes()).expect("JSON").edited(None, &edit, false).map(|parts| parts.len())
        };
        assert!(edited(200).is_ok() && edited(100_000).is_err(), "{member}");
    }
}
