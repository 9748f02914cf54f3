//! Unit tests of `stream`.

use super::*;

/// The stream pushed whole, and byte by byte.
fn all_ways(text: &str) -> Events {
    let (mut whole, mut torn) = (Events::default(), Events::default());
    whole.push(text.as_bytes());
    text.as_bytes().chunks(1).for_each(|byte| torn.push(byte));
    let facts = |e: &Events| (e.has_begun(), e.is_between_events(), e.has_ended(), e.tokens());
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
        assert!(all_ways(&format!("data: {{\"a\":1}}\n\n{end}")).has_ended(), "{end:?}");
        assert!(all_ways(&format!("{end}\n\n: bye\n\n")).has_ended(), "{end:?}");
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
        assert!(!all_ways(text).has_ended(), "{text:?}");
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
        assert!(events.has_ended() && tokens.contains(&events.tokens()), "{} in {body}", events.tokens());
        let cut = body.trim_end().rfind("\n\n").expect("two events");
        assert!(!all_ways(&body[..cut]).has_ended());
    }
}

#[test]
fn no_line_is_kept_beyond_its_bound() {
    let mut events = Events::default();
    events.push(b"data: ");
    for _ in 0..100 {
        events.push(&[b'x'; 10_000]);
    }
    assert!(events.partial.len() <= LONGEST && events.partial.capacity() <= 2 * LONGEST);
    events.push(b"\n\ndata: [DONE]\n\n");
    assert!(events.has_ended());
}
