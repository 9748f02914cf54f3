//! Unit tests of `validate`.

use super::*;

fn found(body: &str) -> Vec<(&'static str, String)> {
    let members = JsonBody::read(body.as_bytes()).expect("JSON");
    let all = check("/v1/chat/completions", &members, &Webhooks::default());
    all.into_iter().map(|one| (one.code, Value::from(one.path).to_string())).collect()
}

#[test]
fn everything_that_is_wrong_is_told_with_its_place() {
    // S004-06, S004-07
    let body = r#"{"model":1,"messages":[{"role":"user","content":"x"},{"content":1},3,{"role":7}],"temperature":2.1,
            "presence_penalty":-3,"frequency_penalty":"x","top_p":1.5,"max_tokens":0,"webhookUrl":"ftp://x"}"#;
    let all = [
        ("invalid_type", r#"["model"]"#),
        ("invalid_type", r#"["messages",1,"role"]"#),
        ("invalid_type", r#"["messages",2]"#),
        ("invalid_type", r#"["messages",3,"role"]"#),
        ("too_big", r#"["temperature"]"#),
        ("too_small", r#"["presence_penalty"]"#),
        ("invalid_type", r#"["frequency_penalty"]"#),
        ("too_big", r#"["top_p"]"#),
        ("too_small", r#"["max_tokens"]"#),
        ("invalid_string", r#"["webhookUrl"]"#),
    ];
    assert_eq!(found(body), all.map(|(code, path)| (code, path.to_owned())));
    for body in ["{}", r#"{"messages":[]}"#, r#"{"messages":{}}"#, r#"{"messages":null}"#] {
        assert_eq!(found(body).len(), 1, "{body}");
    }
    let long = format!(r#"{{"model":"{}","messages":[{{"role":"user"}}]}}"#, "m".repeat(MAX_NAME));
    assert_eq!(found(&long), [("too_big", r#"["model"]"#.to_owned())]);
    // U18: as many as a reader wants, not as many as a body can hold.
    assert_eq!(found(&format!("{{\"messages\":[{}1]}}", "1,".repeat(100_000))).len(), MOST);
}

#[test]
fn what_the_original_refused_or_dropped_is_right_here() {
    // W004-3
    let body = r#"{"messages":[{"role":"tool","content":[{"type":"text","text":"x"}]}],"tools":[],"seed":1,"stream":true,
            "temperature":null,"top_p":0,"max_tokens":1,"response_format":{}}"#;
    assert!(found(body).is_empty());
}
