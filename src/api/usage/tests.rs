//! Unit tests of `usage`.

use super::*;

fn of(recorded: &str) -> Tokens {
    let mut tail = Tail::default();
    recorded.as_bytes().chunks(7).for_each(|piece| tail.push(piece));
    tail.tokens()
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
    let told = of(r#"{"usage":{"input_tokens":25,"cache_read_input_tokens":46,"output_tokens":7}}"#);
    assert_eq!((told.prompt, told.cached, told.completion), (Some(71), Some(46), Some(7)));
    let made = of(r#"{"usage":{"input_tokens":5,"cache_creation_input_tokens":90,"cache_read_input_tokens":0}}"#);
    assert_eq!((made.prompt, made.cached), (Some(95), Some(0)));
    // LiteLLM tells OpenAI's sum and Anthropic's parts.
    let both = of(r#"{"usage":{"prompt_tokens":71,"cache_read_input_tokens":46}}"#);
    assert_eq!((both.prompt, both.cached), (Some(71), Some(46)));
}

#[test]
fn a_stream_of_messages_tells_first_what_went_in_and_last_what_came_out() {
    // L7
    let recorded = include_str!("../../../tests/data/messages_stream.raw");
    let messages = of(recorded);
    assert_eq!((messages.prompt, messages.cached, messages.completion), (Some(56), Some(55), Some(6)));
    let left = of(recorded.split("content_block_stop").next().expect("a part"));
    assert_eq!((left.prompt, left.cached, left.completion), (Some(56), Some(55), Some(0)));
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
        let mut whole = Tail::default();
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
    let mut tail = Tail::default();
    tail.push(br#""usage":{"never":""#);
    for _ in 0..1000 {
        tail.push(&[b'x'; 1000]);
        tail.push(&[b'y'; 100_000]);
    }
    tail.push(br#""usage":{"prompt_tokens":5}"#);
    assert!(tail.rest.capacity() <= 4 * LONGEST);
    assert_eq!(tail.tokens().prompt, Some(5));
}
