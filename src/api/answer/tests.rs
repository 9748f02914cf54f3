//! Unit tests of `answer`.

use super::*;

/// The stream pushed whole, and byte by byte.
fn all_ways(text: &str) -> Events {
    let (mut whole, mut torn) = (Events::default(), Events::default());
    whole.push(text.as_bytes());
    text.as_bytes().chunks(1).for_each(|byte| torn.push(byte));
    let facts = |e: &Events| (e.has_begun(), e.is_between_events(), e.saw_end_marker(), e.tokens());
    assert_eq!(facts(&whole), facts(&torn), "{text:?}");
    whole
}

#[test]
fn each_apis_own_end_is_known_as_an_event_of_its_own() {
    // R15
    for end in [
        "data: [DONE]\n\n",
        "data:[DONE]\n\n",
        "data: [DONE]\r\n\r\n",
        "data: [DONE]\r\r",
        "data: [DONE]",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        "data: {\"type\": \"message_stop\"}\n\n",
        "event: response.completed\ndata: {\"response\":{}}\n\n",
        "data: {\"sequence_number\":9,\"type\":\"response.incomplete\"}\n\n",
        "data: {\"response\":{\"error\":null},\"type\":\"response.failed\"}\n\n",
        "data: {\"type\":\"speech.audio.done\"}\n\n",
        "data: {\"type\":\"image_generation.completed\",\"b64_json\":\"x\"}\n\n",
        "data: {\"content\":\"\",\"stop\": true}\n\n",
        "data: {\"error\":{\"message\":\"out of memory\"}}\n\n",
        "event: error\ndata: {\"type\":\"error\"}\n\n",
    ] {
        assert!(all_ways(&format!("data: {{\"a\":1}}\n\n{end}")).saw_end_marker(), "{end:?}");
        assert!(all_ways(&format!("{end}\n\n: bye\n\n")).saw_end_marker(), "{end:?}");
    }
}

#[test]
fn text_inside_an_event_is_no_end() {
    // U17
    for text in [
        "data: {\"choices\":[{\"delta\":{\"content\":\"data: [DONE]\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\n\\ndata: [DONE]\\n\\n\"}}]}\n\n",
        "data: one\ndata: [DONE]\n\n",
        "data: [DONE]\ndata: two\n\n",
        "data: say [DONE]\n\n",
        ": data: [DONE]\n\n",
        "id: [DONE]\n\n",
        "data: {\"type\":\"delta\",\"text\":\"message_stop\"}\n\n",
        "data: {\"type\":\"x\",\"inner\":{\"type\":\"message_stop\",\"stop\":true,\"error\":1}}\n\n",
        "data: {\"delta\":\"{\\\"type\\\":\\\"message_stop\\\"}\",\"type\":\"response.output_text.delta\"}\n\n",
        "data: {\"content\":\"x\",\"stop\":false}\n\n",
        "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n",
        "event: response.created\ndata: {\"response\":{\"error\":null}}\n\n",
        "data: {\"type\":\"message_st",
        "data: [DON",
        "event: message_stop_sequence\ndata: {}\n\n",
        "event: response.completed\n",
        "event: response.completed\ndata: {\"type\":\"response.completed\",\"resp",
    ] {
        assert!(!all_ways(text).saw_end_marker(), "{text:?}");
    }
}

#[test]
fn comments_and_empty_lines_are_no_event() {
    // L8
    for text in ["", "\n", "\r\n\r\n", ":\n\n", ": ping\n\n: ping\r\n", ":", ": half a comm"] {
        assert!(!all_ways(text).has_begun(), "{text:?}");
    }
    for text in ["d", "data", ": ping\n\ndata: x", "event: x\n", "retry: 1\n\n", "{\"no\": \"stream\"}"] {
        assert!(all_ways(text).has_begun(), "{text:?}");
    }
}

#[test]
fn an_event_may_follow_after_an_empty_line_or_a_comment() {
    for text in ["", "data: x\n\n", "data: x\r\n\r\n", "data: x\n\n: ping\n"] {
        assert!(all_ways(text).is_between_events(), "{text:?}");
    }
    for text in ["data: x\n", "data: x", "data: x\n\ndata", ": half"] {
        assert!(!all_ways(text).is_between_events(), "{text:?}");
    }
}

#[test]
fn recorded_streams_end_and_bring_about_a_token_with_each_event() {
    for (recorded, tokens) in [
        (include_str!("../../../tests/data/chat_stream.raw"), 8..=9),
        (include_str!("../../../tests/data/messages_stream.raw"), 6..=9),
        (include_str!("../../../tests/data/responses_stream.raw"), 6..=14),
        (include_str!("../../../tests/data/completion_native_stream.raw"), 4..=5),
    ] {
        let (_, body) = recorded.split_once("\r\n\r\n").expect("a head");
        // Without the frames of chunks.
        let body = body.split("\r\n").filter(|part| usize::from_str_radix(part, 16).is_err()).collect::<String>();
        let events = all_ways(&body);
        assert!(events.saw_end_marker() && tokens.contains(&events.tokens()), "{} in {body}", events.tokens());
        let cut = body.trim_end().rfind("\n\n").expect("two events");
        assert!(!all_ways(&body[..cut]).saw_end_marker());
    }
}

#[test]
fn no_line_is_kept_beyond_its_bound() {
    let mut events = Events::default();
    events.push(b"data: ");
    for _ in 0..100 {
        events.push(&[b'x'; 10_000]);
    }
    assert!(events.partial.len() <= LONGEST_LINE && events.partial.capacity() <= 2 * LONGEST_LINE);
    events.push(b"\n\ndata: [DONE]\n\n");
    assert!(events.saw_end_marker());
}

fn of(recorded: &str) -> Tokens {
    let mut reader = UsageReader::default();
    recorded.as_bytes().chunks(7).for_each(|chunk| reader.push(chunk));
    reader.tokens()
}

#[test]
fn a_whole_answer_tells_usage_and_speed() {
    let tokens = of(include_str!("../../../tests/data/chat.raw"));
    assert_eq!((tokens.prompt, tokens.cached, tokens.completion), (Some(56), Some(32), Some(12)));
    assert_eq!(tokens.per_second.map(f64::round), Some(2012.0));
}

#[test]
fn a_stream_tells_in_its_last_events() {
    let with_usage = of(include_str!("../../../tests/data/chat_stream_usage.raw"));
    assert_eq!((with_usage.prompt, with_usage.cached, with_usage.completion), (Some(56), Some(55), Some(8)));
    let timings_only = of(include_str!("../../../tests/data/chat_stream.raw"));
    assert!(timings_only.prompt.is_some() && timings_only.completion.is_some());
    let responses = of(include_str!("../../../tests/data/responses_stream.raw"));
    assert_eq!((responses.prompt, responses.cached, responses.completion), (Some(46), Some(45), Some(6)));
}

#[test]
fn anthropics_input_is_what_no_cache_took_part_in() {
    // L7
    let known = of(r#"{"usage":{"input_tokens":25,"cache_read_input_tokens":46,"output_tokens":7}}"#);
    assert_eq!((known.prompt, known.cached, known.completion), (Some(71), Some(46), Some(7)));
    let made = of(r#"{"usage":{"input_tokens":5,"cache_creation_input_tokens":90,"cache_read_input_tokens":0}}"#);
    assert_eq!((made.prompt, made.cached), (Some(95), Some(0)));
    // LiteLLM tells OpenAI's sum and Anthropic's parts.
    let both = of(r#"{"usage":{"prompt_tokens":71,"cache_read_input_tokens":46}}"#);
    assert_eq!((both.prompt, both.cached), (Some(71), Some(46)));
}

#[test]
fn no_number_is_too_large_for_a_count_or_taken_for_a_speed() {
    let most = u64::MAX;
    let parts = of(&format!(
        r#"{{"usage":{{"input_tokens":{most},"cache_read_input_tokens":{most},"cache_creation_input_tokens":1}}}}"#
    ));
    assert_eq!((parts.prompt, parts.cached), (Some(most), Some(most)));
    let timed = |speed: &str| {
        of(&format!(
            r#"{{"timings":{{"prompt_n":{most},"cache_n":9,"prompt_per_second":{speed},"predicted_per_second":{speed}}}}}"#
        ))
    };
    assert_eq!(timed("100").prompt, Some(most));
    assert_eq!((timed("100").per_second, timed("100").prompt_per_second), (Some(100.0), Some(100.0)));
    for speed in ["1e308", "1e999", "1e13", "0", "-1", "null"] {
        assert_eq!((timed(speed).per_second, timed(speed).prompt_per_second), (None, None), "{speed}");
    }
}

#[test]
fn a_stream_of_messages_tells_first_what_went_in_and_last_what_came_out() {
    // L7
    let recorded = include_str!("../../../tests/data/messages_stream.raw");
    let messages = of(recorded);
    assert_eq!((messages.prompt, messages.cached, messages.completion), (Some(56), Some(55), Some(6)));
    let first = of(recorded.split("content_block_stop").next().expect("a part"));
    assert_eq!((first.prompt, first.cached, first.completion), (Some(56), Some(55), Some(0)));
}

#[test]
fn counts_are_found_before_and_behind_long_data() {
    // L7: llama-server's embeddings tell them first, others last.
    let data = format!("[{}0.1]", "0.0123456789,".repeat(100_000));
    for text in [
        format!(r#"{{"usage":{{"prompt_tokens":5,"total_tokens":5}},"data":{data}}}"#),
        format!(r#"{{"data":{data},"usage":{{"prompt_tokens":5,"total_tokens":5}}}}"#),
        format!(r#"{{"data":{data}, "usage" : {{"prompt_tokens" : 5}} ,"more":{data}}}"#),
    ] {
        assert_eq!(of(&text).prompt, Some(5), "{}", &text[..40]);
        let mut whole = UsageReader::default();
        whole.push(text.as_bytes());
        assert_eq!(whole.tokens().prompt, Some(5), "{}", &text[..40]);
    }
}

#[test]
fn one_token_has_no_speed() {
    // L7
    for speed in ["0.0", "1000000.0"] {
        let text = format!(r#"{{"timings":{{"prompt_n":3,"predicted_n":1,"predicted_per_second":{speed}}}}}"#);
        assert_eq!((of(&text).completion, of(&text).per_second), (Some(1), None));
    }
    assert_eq!(of(r#"{"timings":{"predicted_n":9,"predicted_per_second":0.0}}"#).per_second, None);
    assert_eq!(of(r#"{"timings":{"predicted_n":9,"predicted_per_second":2.5}}"#).per_second, Some(2.5));
}

#[test]
fn a_null_usage_and_a_torn_end_are_nothing() {
    assert_eq!(of(r#"{"usage":null}"#), Tokens::default());
    assert_eq!(of(r#"{"usage":{"prompt_to"#), Tokens::default());
    let chosen = of(r#"{"usage":{"prompt_tokens":7},"choices":[{"text":"\"usage\":{\"prompt_tokens\":9}"}]}"#);
    assert_eq!(chosen.prompt, Some(7), "text is no count");
}

#[test]
fn only_what_is_not_whole_is_kept() {
    let mut reader = UsageReader::default();
    reader.push(br#""usage":{"never":""#);
    for _ in 0..1000 {
        reader.push(&[b'x'; 1000]);
        reader.push(&[b'y'; 100_000]);
    }
    reader.push(br#""usage":{"prompt_tokens":5}"#);
    assert!(reader.rest.capacity() <= 4 * LONGEST_USAGE);
    assert_eq!(reader.tokens().prompt, Some(5));
}

fn ids(answer: &str, size: usize) -> Vec<String> {
    let (mut reader, mut ids) = (IdReader::default(), Vec::new());
    answer.as_bytes().chunks(size).for_each(|chunk| reader.push(chunk, |id| ids.push(id.to_owned())));
    ids
}

// R23
#[test]
fn the_id_is_found_whatever_stands_before_it_and_however_it_is_cut() {
    let recorded = include_str!("../../../tests/data/responses_stream.raw");
    for (answer, wanted) in [
        (recorded, &["resp_UubmiH6o47CEUas4KVlZIccQ88BlVufw"][..]),
        (r#"{"id":"resp_1","output":[{"id":"msg_1"}]}"#, &["resp_1"]),
        (
            r#"{"output":[{"id":"msg_1","content":"\"id\":\"resp_9\""}], "id" : "resp_1","x":{"id":"resp_2"}}"#,
            &["msg_1", "resp_1"],
        ),
        (r#"{"previous_response_id":"resp_0","id":"ad56-63e6"}"#, &["ad56-63e6"]),
        (r#"{"id":7,"id":"","id":null,"error":{}}"#, &[]),
        (r#"{"id":"resp_"#, &[]),
    ] {
        for size in [1, 7, 10_000] {
            assert_eq!(ids(answer, size), wanted, "{answer}");
        }
    }
    let late = format!(r#"{{"x":"{}","id":"resp_1"}}"#, "x".repeat(HEAD));
    assert!(ids(&late, 100).is_empty());
}
