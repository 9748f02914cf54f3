//! Unit tests of `affinity`.

use super::*;

fn request(affinity: &Affinity, messages: &[&str]) -> PrefixHashes {
    let messages: Vec<String> =
        messages.iter().map(|text| format!(r#"{{"role":"user","content":"{text}"}}"#)).collect();
    let body = format!(r#"{{"messages":[{{"role":"system","content":"same"}},{}]}}"#, messages.join(","));
    affinity.hashes(JsonBody::read(body.as_bytes()).ok().as_ref(), "m", std::iter::empty())
}

#[test]
fn a_conversation_its_branches_and_regenerations_go_home() {
    let affinity = Affinity::default();
    let caches = [7, 9];
    let first = request(&affinity, &["a"]);
    assert_eq!(affinity.favourite(&first, &caches), None);
    affinity.remember(&first, 9);
    let second = request(&affinity, &["a", "b", "c"]);
    for turn in [&first, &second, &request(&affinity, &["a", "x"])] {
        assert_eq!(affinity.favourite(turn, &caches), Some((1, Known::Prompt)));
    }
    affinity.remember(&second, 7);
    assert_eq!(affinity.favourite(&request(&affinity, &["a", "b", "c", "d"]), &caches), Some((0, Known::Prompt)));
    assert_eq!(
        affinity.favourite(&request(&affinity, &["a", "y"]), &caches),
        Some((1, Known::Prompt)),
        "an older branch"
    );
    assert_eq!(affinity.favourite(&request(&affinity, &["b"]), &caches), None, "the system prompt alone is no home");
}

#[test]
fn an_endpoint_that_restarted_is_forgotten() {
    let affinity = Affinity::default();
    let (first, second) = (request(&affinity, &["a"]), request(&affinity, &["a", "b"]));
    affinity.remember(&first, 1);
    affinity.remember(&second, 2);
    let third = request(&affinity, &["a", "b", "c"]);
    assert_eq!(affinity.favourite(&third, &[1, 2]), Some((1, Known::Prompt)));
    assert_eq!(affinity.favourite(&third, &[1, 3]), Some((0, Known::Prompt)), "the next longest prefix counts");
    assert_eq!(affinity.favourite(&third, &[3, 4]), None);
}

#[test]
fn a_session_counts_where_the_prompt_is_new() {
    let affinity = Affinity::default();
    let with = |body: &str, session: &'static [u8]| {
        affinity.hashes(JsonBody::read(body.as_bytes()).ok().as_ref(), "m", std::iter::once(session))
    };
    affinity.remember(&with(r#"{"messages":[{"role":"user","content":"a"}]}"#, b"s1"), 5);
    let new = with(r#"{"messages":[{"role":"user","content":"other"}]}"#, b"s1");
    assert_eq!(affinity.favourite(&new, &[4, 5]), Some((1, Known::Session)));
    assert_eq!(affinity.favourite(&with(r#"{"messages":[]}"#, b"s2"), &[4, 5]), None);
}

#[test]
fn memory_is_bounded_however_many_conversations_there_are() {
    let affinity = Affinity::default();
    for n in 0..100_000u64 {
        affinity.remember(&PrefixHashes { links: vec![n], session_keys: vec![] }, 1);
    }
    assert!(lock(&affinity.homes).len() <= 2 * GENERATION);
    let last = PrefixHashes { links: vec![99_999 - GENERATION as u64 / 2], session_keys: vec![] };
    assert_eq!(affinity.favourite(&last, &[1]), Some((0, Known::Prompt)));
}

#[test]
fn a_favourite_is_left_only_when_full_or_much_busier() {
    let load = |in_flight, limit| Load { in_flight, limit };
    let to = |favourite, other| spill(favourite, std::iter::once(other));
    assert_eq!(to(load(1, Some(1)), load(0, Some(1))), Some(Spill::Full));
    assert_eq!(to(load(3, Some(4)), load(0, Some(4))), None, "it has a free slot, and the cache");
    assert_eq!(to(load(3, None), load(0, None)), None);
    assert_eq!(to(load(4, None), load(0, None)), Some(Spill::Busy));
    assert_eq!(to(load(9, None), load(3, None)), None);
    assert_eq!(to(load(9, None), load(1, Some(1))), None, "the other has no room");
}
