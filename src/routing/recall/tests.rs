//! Unit tests of `recall`.

use super::*;
use crate::api::body::JsonBody;
use crate::routing::affinity::Affinity;

fn prompt(affinity: &Affinity, body: &str) -> Prompt {
    affinity.prompt(JsonBody::read(body.as_bytes()).ok().as_ref(), "m", std::iter::empty())
}

fn chat(affinity: &Affinity, texts: impl Iterator<Item = String>) -> Prompt {
    let messages: Vec<String> = texts.map(|text| format!(r#"{{"role":"user","content":"{text}"}}"#)).collect();
    prompt(affinity, &format!(r#"{{"messages":[{}]}}"#, messages.join(",")))
}

fn changed(old: &Prompt, new: &Prompt) -> Option<(usize, usize)> {
    change(old, new, common(old, new)).map(|change| (change.at, change.of))
}

#[test]
fn the_first_different_message_is_found_in_a_conversation_of_any_length() {
    let affinity = Affinity::default();
    for length in [1, 2, 100, 256, 257, 1_000] {
        let with = |edited: Option<usize>, length: usize| {
            chat(&affinity, (0..length).map(|n| if Some(n) == edited { "x".into() } else { n.to_string() }))
        };
        let old = with(None, length);
        assert_eq!(changed(&old, &with(None, length)), None, "{length}");
        assert_eq!(changed(&old, &with(None, length + 2)), None, "{length}");
        assert_eq!(changed(&old, &with(Some(length - 1), length)), Some((length, length)), "{length}");
        if length > 2 {
            // Both keep the newest 256 links.
            assert_eq!(changed(&old, &with(Some(length - 2), length + 1)), Some((length - 1, length + 1)), "{length}");
            assert_eq!(changed(&old, &with(None, length - 2)), None, "it goes back");
        }
    }
}

#[test]
fn a_message_that_is_no_part_of_the_prompt_is_counted() {
    let affinity = Affinity::default();
    let with = |line: &str, text: &str| {
        let billing = format!(r#"{{"role":"system","content":"x-anthropic-billing-header: {line}"}}"#);
        prompt(
            &affinity,
            &format!(
                r#"{{"messages":[{billing},{{"role":"user","content":"a"}},{{"role":"user","content":"{text}"}}]}}"#
            ),
        )
    };
    assert_eq!(changed(&with("1", "b"), &with("2", "b")), None);
    assert_eq!(changed(&with("1", "b"), &with("2", "c")), Some((3, 3)));
}

#[test]
fn a_message_that_is_no_part_of_the_prompt_is_counted_where_it_stands() {
    let affinity = Affinity::default();
    let with = |last: &str| {
        let user = |text: &str| format!(r#"{{"role":"user","content":"{text}"}}"#);
        let billing = r#"{"role":"user","content":"x-anthropic-billing-header: 1"}"#;
        prompt(&affinity, &format!(r#"{{"messages":[{},{billing},{},{}]}}"#, user("a"), user("b"), user(last)))
    };
    assert_eq!((with("c").unlinked, with("c").messages), (0, 4));
    assert_eq!(changed(&with("c"), &with("d")), Some((4, 4)));
}

#[test]
fn prompts_that_begin_no_conversation_are_not_remembered() {
    let (affinity, recall, live) = (Affinity::default(), Recall::default(), Arc::new(Live::new()));
    for _ in 0..2 {
        recall.remember(&prompt(&affinity, r#"{"messages":[{"role":"system","content":"s"}]}"#), &live, None);
    }
    assert_eq!(lock(&recall.conversations).len(), 0);
}

#[test]
fn memory_is_bounded_and_a_conversation_is_held_once() {
    let (affinity, recall, live) = (Affinity::default(), Recall::default(), Arc::new(Live::new()));
    for n in 0..200 {
        for length in 1..4 {
            recall.remember(&chat(&affinity, (0..length).map(|m| format!("{n}.{m}"))), &live, None);
        }
    }
    let all = lock(&recall.conversations);
    assert_eq!((all.len(), all.back().map(|last| last.prompt.messages)), (MOST, Some(3)));
}
