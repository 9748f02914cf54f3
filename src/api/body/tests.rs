//! Unit tests of `body`.

use super::*;
use crate::api::errors::Kind;

/// Model and stream.
fn json(body: &[u8]) -> Result<(Option<Named>, bool), Failure> {
    let read = JsonBody::read(body)?;
    Ok((read.model()?, read.stream()))
}

fn model(body: &str) -> Option<String> {
    json(body.as_bytes()).expect(body).0.map(|named| named.name)
}

fn refusal(body: impl AsRef<[u8]>) -> Failure {
    let failure = json(body.as_ref()).expect_err("refused");
    assert_eq!(failure.kind, Kind::InvalidBody);
    failure
}

#[test]
fn model_and_stream_are_found_wherever_they_stand() {
    let body =
        r#" { "a" : {"model":"no"}, "messages":[{"model":"no","stream":true}], "model"	:\n"m/x-1", "stream" : true } "#;
    let body = body.replace("\\t", "\t").replace("\\n", "\n");
    let (named, stream) = json(body.as_bytes()).unwrap();
    let named = named.expect("model");
    assert_eq!((named.name.as_str(), &body[named.span], stream), ("m/x-1", "\"m/x-1\"", true));
    assert_eq!(model(r#"{"\u006do\u0064el":"\u00e9\/\ud83d\ude00\n"}"#), Some("é/😀\n".into()));
    assert_eq!(model(r#"{"model":""}"#), Some(String::new()));
    assert!(json(br#"{"str\u0065am":true}"#).unwrap().1);
    for other in ["false", "null", "1", "\"true\"", "[true]"] {
        assert!(!json(format!("{{\"stream\":{other}}}").as_bytes()).unwrap().1, "{other}");
    }
}

// B3: whether a missing model is served is for the router to say.
#[test]
fn a_missing_model_is_no_error_here() {
    for body in ["{}", r#"{"models":"x","Models":"x","mode":"x","model ":"x","model\"":"x","\u006d":1}"#] {
        assert_eq!(model(body), None);
    }
}

// B1
#[test]
fn what_is_not_one_json_object_is_refused() {
    for body in [
        "",
        " ",
        "hello",
        "{",
        "}",
        "{}x",
        "{} {}",
        "{}{}",
        "{},",
        "null",
        "3",
        "\"x\"",
        "{]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":+1}",
        "{\"a\":-}",
        "{\"a\":1e}",
        "{\"a\":NaN}",
        "{\"a\":tru}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\0\"}",
        "{\"a\":\"b}",
        "{\"a\":[1 2]}",
        "{\"a\":[1,]}",
        "{\"a\":1 \"b\":2}",
        "{1:2}",
        "{null:1}",
        "{}\0",
        "\0{}",
        "\u{c}{}",
        "{}\u{a0}",
        "// c\n{}",
        "{/**/}",
        "{\"a\":{\"b\":[{]}}",
        "a=b&model=c",
    ] {
        assert_eq!(refusal(body).param, None, "{body:?}");
    }
    assert!(refusal("").message.contains("empty"));
    assert!(refusal("{\"a\":1 2}").message.contains("line 1 column 8"));
}

// B2, U27
#[test]
fn two_models_are_refused_however_they_are_spelled() {
    let escaped = ["\\u006dodel", "mod\\u0065l", "\\u006D\\u006F\\u0064\\u0065\\u006C"];
    let cased = ["Model", "MODEL", "mODEl", "\\u004dodel", "\\u004D\\u004F\\u0044\\u0045\\u004C"];
    for second in ["model"].iter().chain(&escaped).chain(&cased) {
        for value in ["\"a\"", "null", "{}"] {
            for body in [
                format!("{{\"model\":\"a\",\"{second}\":{value}}}"),
                format!("{{\"{second}\":{value},\"x\":[],\"model\":\"a\"}}"),
            ] {
                let failure = refusal(&body);
                assert_eq!(failure.param, Some("model"), "{body}");
                assert!(failure.message.contains("`model` more than once"));
            }
        }
    }
}

// U27: what has no `model` for us has one for servers that match without case, and it was not looked at.
#[test]
fn a_model_with_capital_letters_is_refused() {
    for name in ["Model", "MODEL", "mod\\u0045l"] {
        assert_eq!(refusal(format!("{{\"{name}\":\"a\"}}")).param, Some("model"), "{name}");
    }
}

// B3
#[test]
fn a_model_is_text() {
    let kinds = [
        ("1", "number"),
        ("-1.5e3", "number"),
        ("null", "null"),
        ("true", "boolean"),
        ("[\"m\"]", "list"),
        ("{}", "object"),
    ];
    for (value, kind) in kinds {
        let failure = refusal(format!("{{\"model\": {value} }}"));
        assert!(failure.message.contains(kind) && failure.param == Some("model"), "{value}");
    }
    assert_eq!(model(&format!("{{\"model\":\"{}\"}}", "a".repeat(10_000))).map(|name| name.len()), Some(10_000));
    assert_eq!(refusal(format!("{{\"model\":\"{}\"}}", "a".repeat(MAX_NAME))).param, Some("model"));
}

// B4
#[test]
fn a_list_is_no_request() {
    assert!(refusal("[\"m\",true]").message.contains("not a JSON object"));
}

// B5
#[test]
fn a_missing_model_becomes_the_first_member() {
    let with = |body: &str| {
        String::from_utf8(
            JsonBody::read(body.as_bytes()).expect(body).edited(Some("m"), &[], false).expect(body).concat(),
        )
        .expect("UTF-8")
    };
    assert_eq!(with(r#" {"a": {"model": 1}}"#), r#" {"model":"m","a": {"model": 1}}"#);
    assert_eq!(with("{ \n}"), "{\"model\":\"m\" \n}");
}

#[test]
fn depth_is_bounded_and_costs_no_stack() {
    let nested = |open: &str, close: &str, depth: usize| {
        format!("{{\"a\":{}1{}}}", open.repeat(depth - 1), close.repeat(depth - 1))
    };
    for (open, close) in [("[", "]"), ("{\"b\":", "}"), ("[\"[{\\\"[\",", "]")] {
        assert!(json(nested(open, close, 128).as_bytes()).is_ok());
        assert!(refusal(nested(open, close, 129)).message.contains("deeper"));
        assert!(refusal(nested(open, close, 1_000_000)).message.contains("deeper"));
    }
    assert!(json(format!("{{\"a\":[{}1]}}", "[],{},".repeat(10_000)).as_bytes()).is_ok());
    assert!(json(format!("{{\"a\":\"{}\"}}", "[{\\\"".repeat(1000)).as_bytes()).is_ok());
    refusal("]".repeat(200) + &"[".repeat(100));
}

// B7
#[test]
fn text_is_utf_8_and_half_a_character_is_no_model() {
    let failure = refusal(b"{\"model\":\"a\",\"x\":\"\xff\"}");
    assert!(failure.message.contains("UTF-8 at byte 18"));
    refusal(b"{\"model\":\"a\"}\xc3");
    refusal(b"{\"a\":\"\xed\xa0\x80\"}");
    for half in ["\\ud800", "\\udc00", "\\ud800x", "\\ud800\\ud800", "\\udc00\\ud800"] {
        assert_eq!(refusal(format!("{{\"model\":\"{half}\"}}")).param, Some("model"));
        let elsewhere = format!("{{\"{half}\":\"{half}\",\"model\":\"m\",\"model{half}\":[\"{half}\"]}}");
        assert_eq!(model(&elsewhere), Some("m".into()));
    }
}

// B8
#[test]
fn a_byte_order_mark_is_named() {
    for mark in [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff"] {
        assert!(refusal([mark, b"{\"model\":\"a\"}"].concat()).message.contains("byte order mark"));
    }
}

#[test]
fn renaming_leaves_every_other_byte_alone() {
    let before = r#"{"n":12345678901234567890123, "m":{"model":"a"},"\ud800":1.0e+00 , "mod\u0065l" :  "#;
    let after = "\r\n,\"x\" : \"\\u0041\u{e9}\\ud800\",\"model \":\"a\" }\n";
    for name in ["b", "", "a\"b\\c\n\u{1}é😀"] {
        let body = format!("{before}\"\\u0061\"{after}");
        let pieces = JsonBody::read(body.as_bytes()).unwrap().edited(Some(name), &[], false).unwrap();
        assert_eq!((&*pieces[0], &*pieces[2]), (before.as_bytes(), after.as_bytes()));
        let whole = String::from_utf8(pieces.concat()).unwrap();
        assert_eq!(model(&whole), Some(name.into()));
    }
}

fn without(body: &str) -> String {
    String::from_utf8(JsonBody::read(body.as_bytes()).expect("JSON").without_webhook().concat()).expect("UTF-8")
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
    let members = JsonBody::read(body.as_bytes()).expect("JSON");
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
        r#"{"messages":[],"messages":[]}"#,
        r#"{"model":"a","Model":"b"}"#,
        r#"{"Model":"b"}"#,
        "[]",
    ] {
        assert!(JsonBody::read(body.as_bytes()).and_then(|json| json.check_once()).is_err(), "{body}");
    }
    assert!(JsonBody::read(br#"{"other":1,"other":2,"user":1,"user":2}"#).expect("JSON").check_once().is_ok());
}

// U01: 100,000 members of one object are read once, not once for each other.
#[test]
fn many_different_members_are_no_work() {
    let many: String = (0..100_000).map(|n| format!("\"m{n}\":{n},")).collect();
    let body = format!("{{{many}\"model\":\"m\"}}");
    assert_eq!(JsonBody::read(body.as_bytes()).expect("JSON").get("model").map(RawValue::get), Some("\"m\""));
}

#[test]
fn a_quote_or_bracket_is_found_wherever_it_stands() {
    for length in 0..100 {
        assert_eq!(quote_or_bracket(&vec![b'a'; length]), None);
        for at in 0..length {
            let mut bytes = vec![b'a'; length];
            bytes[at..].fill(b"\"[]{}"[at % 5]);
            assert_eq!(quote_or_bracket(&bytes), Some(at));
        }
    }
}
