//! The fuzz targets' properties on seeded cases, and every disguise of `Transfer-Encoding: chunked` that can be made up.

#[path = "../scripts/fuzz/properties.rs"]
mod properties;

use llmproxy::http::head::{Limits, Parser};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;

const HEADS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "\r\nPOST /v1/chat/completions?a=b HTTP/1.1\r\nhost: h:1\r\nContent-Length: 5\r\nConnection: close\r\nExpect: 100-continue\r\n\r\nhello",
    "POST http://h/v1/%61?x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\nX: \u{e9}\r\n\r\n",
];
const BODIES: &[&str] = &[
    "a3\r\nabc\r\n0\r\n\r\n",
    "b00A;x=y\r\n0123456789\r\n1\r\n\r\r\n0\r\nA: b\r\nC:\r\n\r\nGET / HTTP/1.1",
    "\u{d0}0123456789",
];
const JSON: &[&str] = &[
    r#"{"model":"m","messages":[{"role":"user","content":"hi \ud83d\ude00"}],"stream":true,"n":1e5}"#,
    r#" { "a" : {"model":[1,-2.5e+3,null]} , "mod\u0065l" : "\u0061/b" , "\ud800":"\\\"" } "#,
    "a=b&model=a%2Fb+c&x",
];
const CONVERSATIONS: &[&str] = &[
    r#"{"system":"x-anthropic-billing-header: cch=1;\nBe kind.","messages":[{"role":"user","content":[{"type":"text","text":"a","cache_control":{}}]}],"metadata":{"user_id":"user_1_account_2_session_3"}}"#,
    r#"{"messages":[{"role":"system","content":"x-anthropic-billing-header: x"},{"role":"user","content":"hi"}],"tools":[{"a":1.5}],"user":"u","prompt_cache_key":"k"}"#,
    r#"{"prompt":[1,2,3],"input":"a","instructions":null,"metadata":{"user_id":"{\"session_id\":\"s\"}"}}"#,
];
const LISTS: &[&str] = &[
    r#"{"models":[{"name":"a"}],"object":"list","data":[{"id":"b","aliases":["b","c"],"created":1.5,"meta":{"n_ctx":8192},"status":{"value":"loaded","args":["x"]}}]}"#,
    r#"[{"id":"a","owned_by":"x","max_model_len":"5","root":"r","permission":[{"id":"p"}]},{"model":"b"},7]"#,
    r#"data: {"response":{"id":"resp_1","output":[{"id":"msg_1"}]},"id" : "x\""}"#,
];
const FORMS: &[&str] = &[
    "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b\r\nContent-Disposition: form-data; name=f; filename=\"x\"\r\n\r\n\0\r\n--b--\r\n",
    "preamble\r\n--b \t\r\nContent-Disposition: form-data; name=model\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nm\r\n--b-- \r\nepilogue",
];
const JOBS: &[&str] = &[
    r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"webhookUrl":"https://example.com/x"}"#,
    r#" { "webhook\u0055rl" : "https://h.example" , "messages" : [ {"\u0072ole":"user"} , {"role":1} ] , "temperature":-0.5e0 } "#,
    r#"{"max_tokens":1,"top_p":1.0,"messages":[{"role":"tool","x":[1e5,null,"\ud83d\ude00"]}],"other":{"model":1,"webhookUrl":2}}"#,
];
const ENVIRONMENTS: &[&str] = &[
    "# c\nexport A=1\nB = \"x # y\" # z\r\nC='q' \nD=a b # c\nE=\n F=g=h\nnothing\n",
    "\u{feff}PORT=3000\nAPI_KEY=`k`",
];
const RENAMES: &[&str] = &[
    "new\0{\"model\":\"m\",\"stream\":true}",
    "\"\\\n\u{e9}\0 {\"x\":{\"model\":1},\"model\" : \"\\ud83d\\ude00\" , \"y\":[9007199254740993]}\n",
];
const EDITED: &[&str] = &[
    r#"{"a":0,"b":1,"c":2,"k":{"e":1,"f":2,"g":3},"z":{"a":1}}"#,
    r#" { "c" : [1,{"c":2}] ,"\u0063":"\ud83d\ude00" , "k":{"g":1 , "g":"}"} ,"k":{ } ,"n":9007199254740993 , "c":null } "#,
    r#"{"k":[1],"system":[{"type":"text","text":"x-anthropic-billing-header: cc_version=2.1.4.8a; cch\u003d6\u0035abc;\nYou"}],"messages":[{"role":"system","content":"x"}]}"#,
];
const ROUTES: &[&str] = &[
    include_str!("../config/old/003-dynamic_routing.json"),
    "// all\n{\"Models\": {\"m\": {\"Strategy\": 1, \"Backends\": [{\"BaseUrl\": \"http://h:1/v1\", \"ApiKeys\": [\"canary-1\"], \"Weight\": 3, // three\n \"Enabled\": true}]}}}",
    r#"{"models":{"a\u002fb":{"strategy":"weighted","backends":[{"name":"n","baseurl":"https://u\/v1","apiKeys":["canary"],"backendModelName":null},{"Endpoint":"e"}]},"":{}}}"#,
];
const ANSWERS: &[&str] = &[
    "aHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "aHTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\nA\r\n0123456789\r\n0\r\nA: b\r\n\r\n",
    "aHTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {}\n\ndata: [DONE]\n\n",
    "\0HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
];
const WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    ";",
    ",",
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    "model",
    "\"model\":\"x\",",
    "\"id\":\"resp_",
    "x-anthropic-billing-header:",
    "\\u006d",
    "\\ud800",
    "true",
    "null",
    "Host: h\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "chunked",
    "0\r\n\r\n",
    "ffffffffffffffff",
    "+",
    "-",
    "0x",
    "%2e",
    "..",
    "/",
    "#",
    "HTTP/1.0",
    "--b",
    "--b--",
    "name=model",
    "name=Model",
    "\"webhookUrl\":\"https://h\",",
    "\"role\":\"user\"",
    "--b \r\n",
    "\u{feff}",
    "=",
    "&",
];

/// Runs a property on edited copies of the samples: the same cases each time.
fn fuzz(seed: u64, cases: usize, samples: &[&str], property: fn(&[u8])) {
    let mut rng = StdRng::seed_from_u64(seed);
    for sample in samples {
        property(sample.as_bytes());
    }
    for _ in 0..cases {
        let mut bytes = samples[rng.random_range(0..samples.len())].as_bytes().to_vec();
        for _ in 0..rng.random_range(1..5) {
            edit(&mut rng, &mut bytes, samples);
        }
        property(&bytes);
    }
}

fn edit(rng: &mut StdRng, bytes: &mut Vec<u8>, samples: &[&str]) {
    let start = rng.random_range(0..=bytes.len());
    let end = rng.random_range(start..=bytes.len().min(start + 12));
    match rng.random_range(0..7) {
        0 => drop(bytes.drain(start..end)),
        1 => bytes.insert(start, rng.random()),
        2 if start < bytes.len() => bytes[start] = rng.random(),
        3 => drop(bytes.splice(start..end, bytes[start..end].repeat(3))),
        4 => bytes.truncate(start),
        5 => drop(bytes.splice(start..start, samples[rng.random_range(0..samples.len())].bytes())),
        _ => drop(bytes.splice(start..start, WORDS[rng.random_range(0..WORDS.len())].bytes())),
    }
}

#[test]
fn a_head_has_one_reading_however_it_arrives() {
    fuzz(1, 20_000, HEADS, properties::head);
}

#[test]
fn a_body_has_one_reading_however_it_arrives() {
    fuzz(2, 20_000, BODIES, properties::body);
}

#[test]
fn a_peek_finds_what_a_full_parse_finds() {
    fuzz(3, 20_000, JSON, properties::peek);
}

#[test]
fn a_conversation_is_known_again_however_it_is_written() {
    fuzz(5, 10_000, CONVERSATIONS, properties::chain);
}

#[test]
fn what_is_kept_of_a_list_is_bounded_and_can_be_shown() {
    fuzz(6, 20_000, LISTS, properties::list);
}

#[test]
fn a_form_names_one_model() {
    fuzz(5, 20_000, FORMS, properties::multipart);
}

#[test]
fn a_jobs_body_is_what_a_full_parse_finds() {
    fuzz(6, 20_000, JOBS, properties::members);
}

#[test]
fn a_variable_stands_in_one_line() {
    fuzz(7, 20_000, ENVIRONMENTS, properties::environment);
}

#[test]
fn a_rename_changes_the_name_alone() {
    fuzz(4, 20_000, RENAMES, properties::rename);
}

#[test]
fn edits_in_place_do_what_edits_of_the_value_would() {
    fuzz(8, 20_000, EDITED, properties::edits);
}

#[test]
fn a_file_of_routes_is_read_or_refused_whatever_it_holds() {
    fuzz(6, 5_000, ROUTES, properties::routes);
}

// U10, U11, U22, U25, U26
#[test]
fn an_answer_has_one_reading_however_it_arrives() {
    fuzz(5, 20_000, ANSWERS, properties::answer);
}

/// Names and values that some server has taken for `Transfer-Encoding: chunked`, as whole field lines.
fn disguises() -> BTreeSet<Vec<u8>> {
    let (name, value) = ("Transfer-Encoding", "chunked");
    let mut lines = BTreeSet::new();
    let mut add = |parts: &[&[u8]]| {
        lines.insert(parts.concat());
    };
    for byte in 0..=255u8 {
        let b = &[byte][..];
        let (n, v) = (name.as_bytes(), value.as_bytes());
        // The white space that every client sends, before the value, is no disguise.
        if byte != b' ' {
            add(&[n, b":", b, v]);
        }
        add(&[n, b": ", b, v]);
        add(&[n, b": ", v, b]);
        add(&[n, b": ", v, b, b"x"]);
        add(&[n, b": ", &v[..3], b, &v[3..]]);
        add(&[n, b": ", b, v, b]);
        add(&[n, b": x", b, v]);
        // Letters make another name of it, and a colon the line's own.
        if !byte.is_ascii_alphanumeric() && byte != b':' {
            add(&[n, b, b": ", v]);
            add(&[b, n, b": ", v]);
            if byte != b'-' {
                add(&[b"Transfer", b, b"Encoding: ", v]);
            }
        }
        if byte.is_ascii_control() || byte == b' ' {
            add(&[n, b, v]);
            add(&[b"X: y\r\n", b, n, b": ", v]);
        }
    }
    // What ends a line elsewhere does not here.
    for end in ["\n", "\r", "\0", "\x0b", "\x0c", "\n\r", "\r\r\n", "\n\n", "\r\n\t", "\r\n "] {
        add(&[b"X: y", end.as_bytes(), name.as_bytes(), b": ", value.as_bytes()]);
    }
    // Upper and lower case: all ways to write the word but the usual one.
    for mask in 1..1u32 << value.len() {
        let cased: String =
            value.char_indices().map(|(at, c)| if mask >> at & 1 == 1 { c.to_ascii_uppercase() } else { c }).collect();
        add(&[name.as_bytes(), b": ", cased.as_bytes()]);
    }
    for other in ["gzip", "identity", "chunked", "x", "", "\"\"", "cow"] {
        for text in [
            format!("{name}: {other}, chunked"),
            format!("{name}: chunked, {other}"),
            format!("{name}: {other},chunked"),
            format!("{name}: chunked,{other}"),
            format!("{name}: chunked\r\n{name}: {other}"),
            format!("{name}: {other}\r\n{name}: chunked"),
            format!("{name}: chunked\r\ntransfer_encoding: {other}"),
            format!("{name}: chunked;{other}"),
            format!("{name}: {other};q=chunked"),
            format!("{name}: {other}\r\n chunked"),
            format!("{name}:\r\n chunked, {other}"),
            format!("{name}: chunked\r\nContent-Length: 5\r\nX: {other}"),
            format!("Content-Length: 5\r\nX: {other}\r\n{name}: chunked"),
        ] {
            add(&[text.as_bytes()]);
        }
    }
    for quoted in [
        "\"chunked\"",
        "'chunked'",
        "<chunked>",
        "(chunked)",
        "chunked()",
        "\\chunked",
        "%63hunked",
        "=?utf-8?q?chunked?=",
        "chunked chunked",
        "chunkedchunked",
    ] {
        add(&[name.as_bytes(), b": ", quoted.as_bytes()]);
    }
    lines
}

// A2
#[test]
fn no_disguise_of_chunked_lets_a_second_request_through() {
    let limits = Limits { target: 8192, head: 32768, fields: 100, body: 1 << 20 };
    let mut met = 0;
    for line in disguises() {
        let request =
            [b"POST / HTTP/1.1\r\nHost: h\r\n", &line[..], b"\r\n\r\n0\r\n\r\nGET /second HTTP/1.1\r\nHost: h\r\n\r\n"]
                .concat();
        let status = Parser::default().parse(&request, &limits).map_err(|failure| failure.kind.status());
        assert!(matches!(status, Err(400 | 501)), "{}: {status:?}", line.escape_ascii());
        met += 1;
    }
    assert!(met >= 1768, "{met}");
}
