//! Unit tests of `collect`.

use super::*;

#[test]
fn a_chat_stream_becomes_the_answer_it_would_have_been() {
    let body = concat!(
        ": ping\n\n",
        "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null},\"finish_reason\":null}]}\n\n",
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"}},{\"index\":1,\"delta\":{\"content\":\"x\"}}]}\r\n\r\n",
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\",\"tool_calls\":[{\"index\":0,\"id\":\"t\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}}]}\n\n",
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"}\"}}]},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n",
        "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":3}}\n\n",
        "data: [DONE]\n\n"
    );
    let answer = collect(body.as_bytes()).expect("complete");
    assert_eq!((&answer["object"], &answer["usage"]["prompt_tokens"]), (&json!("chat.completion"), &json!(3)));
    let first = &answer["choices"][0];
    assert_eq!((&first["message"]["content"], &first["message"]["role"]), (&json!("Hello"), &json!("assistant")));
    assert_eq!((&first["finish_reason"], first.get("delta")), (&json!("stop"), None));
    let call = &first["message"]["tool_calls"][0];
    assert_eq!((&call["id"], &call["function"]["arguments"]), (&json!("t"), &json!("{}")));
    assert_eq!(answer["choices"][1]["message"]["content"], "x");
}

#[test]
fn recorded_streams_become_answers() {
    for (raw, part) in [
        (&include_bytes!("../../../tests/data/chat_stream_usage.raw")[..], "message"),
        (include_bytes!("../../../tests/data/chat_stream.raw"), "message"),
        (include_bytes!("../../../tests/data/completions_stream.raw"), "text"),
    ] {
        let text = String::from_utf8_lossy(raw);
        let (_, body) = text.split_once("\r\n\r\n").expect("a head");
        // Chunk sizes stand between the events.
        let body: Vec<_> = body.lines().filter(|line| line.starts_with("data:")).collect();
        let answer = collect(body.join("\n\n").as_bytes()).expect("complete");
        assert!(
            answer["choices"][0][part].is_string() || answer["choices"][0][part]["content"].is_string(),
            "{answer}"
        );
        assert!(answer["choices"][0]["finish_reason"].is_string(), "{answer}");
    }
}

#[test]
fn a_stream_without_its_end_or_with_an_error_is_no_answer() {
    assert!(collect(b"data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n").is_err());
    let told = collect(b"data: {\"error\":{\"message\":\"too long\"}}\n\ndata: [DONE]\n\n");
    assert_eq!(told, Err("too long".into()));
    assert!(collect(b"data: {\n\n").is_err() && collect(b"").is_err());
    // U17: an end is an event of its own, and all that was begun must be finished.
    for body in [
        "data: [DONE]\n\n",
        ": data: [DONE]\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"data: [DONE]\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\n\\ndata: [DONE]\\n\\n\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{}}]}\n\ndata: x\ndata: [DONE]\n\n",
        "data: {\"choices\":[{\"index\":0,\"finish_reason\":\"stop\"},{\"index\":1,\"delta\":{\"content\":\"x\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{}}]}\n\nevent: error\ndata: {\"message\":\"too long\"}\n\ndata: [DONE]\n\n",
    ] {
        assert!(collect(body.as_bytes()).is_err(), "{body}");
    }
}

#[test]
fn events_end_in_every_way_that_servers_know() {
    let chunk = "data:{\"choices\":[{\"delta\":{\"content\":\"x\"}}]}";
    for (end, last) in
        [("\n\n", "\n\n"), ("\r\n\r\n", "\r\n"), ("\r\r", ""), ("\n\nid: 7\nretry: 1\nevent: chunk\n", "")]
    {
        let body = format!("\u{feff}: hello{end}{chunk}{end}{chunk}{end}data:[DONE]{last}");
        let answer = collect(body.as_bytes()).expect(&body);
        assert_eq!(answer["choices"][0]["message"]["content"], "xx", "{body}");
    }
}

// U41
#[test]
fn many_choices_and_calls_are_no_work() {
    let choices: Vec<_> =
        (0..10_000).rev().map(|n| json!({"index": n, "text": "x", "finish_reason": "stop"})).collect();
    let body = format!("data: {}\n\n", json!({"choices": choices}));
    let answer = collect(body.as_bytes()).expect("complete");
    assert_eq!((&answer["choices"][7]["index"], &answer["choices"][9_999]["text"]), (&json!(7), &json!("x")));
    let call = |n| json!({"index": 9_999 - n % 10_000, "id": "a", "function": {"arguments": "x"}});
    let calls: Vec<_> = (0..20_000).map(call).collect();
    let choice = json!({"delta": {"tool_calls": calls}, "finish_reason": "tool_calls"});
    let answer = collect(format!("data: {}\n\n", json!({"choices": [choice]})).as_bytes()).expect("complete");
    let calls = &answer["choices"][0]["message"]["tool_calls"];
    assert_eq!((&calls[5]["index"], &calls[5]["function"]["arguments"]), (&json!(5), &json!("xx")));
}
