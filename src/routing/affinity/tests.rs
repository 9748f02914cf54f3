//! Unit tests of `affinity`.

use super::*;
use std::sync::LazyLock;

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
    assert_eq!(affinity.home(&first, &caches), None);
    affinity.remember(&first, 9);
    let second = request(&affinity, &["a", "b", "c"]);
    for turn in [&first, &second, &request(&affinity, &["a", "x"])] {
        assert_eq!(affinity.home(turn, &caches), Some((1, "affinity")));
    }
    affinity.remember(&second, 7);
    assert_eq!(affinity.home(&request(&affinity, &["a", "b", "c", "d"]), &caches), Some((0, "affinity")));
    assert_eq!(affinity.home(&request(&affinity, &["a", "y"]), &caches), Some((1, "affinity")), "an older branch");
    assert_eq!(affinity.home(&request(&affinity, &["b"]), &caches), None, "the system prompt alone is no home");
}

#[test]
fn an_endpoint_that_restarted_is_forgotten() {
    let affinity = Affinity::default();
    let (first, second) = (request(&affinity, &["a"]), request(&affinity, &["a", "b"]));
    affinity.remember(&first, 1);
    affinity.remember(&second, 2);
    let third = request(&affinity, &["a", "b", "c"]);
    assert_eq!(affinity.home(&third, &[1, 2]), Some((1, "affinity")));
    assert_eq!(affinity.home(&third, &[1, 3]), Some((0, "affinity")), "the next longest prefix counts");
    assert_eq!(affinity.home(&third, &[3, 4]), None);
}

#[test]
fn a_session_counts_where_the_prompt_is_new() {
    let affinity = Affinity::default();
    let with = |body: &str, session: &'static [u8]| {
        affinity.hashes(JsonBody::read(body.as_bytes()).ok().as_ref(), "m", std::iter::once(session))
    };
    affinity.remember(&with(r#"{"messages":[{"role":"user","content":"a"}]}"#, b"s1"), 5);
    let new = with(r#"{"messages":[{"role":"user","content":"other"}]}"#, b"s1");
    assert_eq!(affinity.home(&new, &[4, 5]), Some((1, "session")));
    assert_eq!(affinity.home(&with(r#"{"messages":[]}"#, b"s2"), &[4, 5]), None);
}

#[test]
fn memory_is_bounded_however_many_conversations_there_are() {
    let affinity = Affinity::default();
    for n in 0..100_000u64 {
        affinity.remember(&PrefixHashes { links: vec![n], session_keys: vec![] }, 1);
    }
    assert!(lock(&affinity.homes).len() <= 2 * GENERATION);
    let last = PrefixHashes { links: vec![99_999 - GENERATION as u64 / 2], session_keys: vec![] };
    assert_eq!(affinity.home(&last, &[1]), Some((0, "affinity")));
}

#[test]
fn a_favourite_is_left_only_when_full_or_much_busier() {
    let load = |in_flight, limit| Load { in_flight, limit };
    let to = |home, other| bypass(home, std::iter::once(other));
    assert_eq!(to(load(1, Some(1)), load(0, Some(1))), Some("affinity_full"));
    assert_eq!(to(load(3, Some(4)), load(0, Some(4))), None, "it has a free slot, and the cache");
    assert_eq!(to(load(3, None), load(0, None)), None);
    assert_eq!(to(load(4, None), load(0, None)), Some("affinity_busy"));
    assert_eq!(to(load(9, None), load(3, None)), None);
    assert_eq!(to(load(9, None), load(1, Some(1))), None, "the other has no room");
}

static AFFINITY: LazyLock<Affinity> = LazyLock::new(Affinity::default);

fn of(body: &str) -> PrefixHashes {
    AFFINITY.hashes(JsonBody::read(body.as_bytes()).ok().as_ref(), "m", std::iter::empty())
}

fn chat(messages: &[(&str, &str)]) -> PrefixHashes {
    let messages: Vec<String> =
        messages.iter().map(|(role, text)| format!(r#"{{"role":"{role}","content":"{text}"}}"#)).collect();
    of(&format!(r#"{{"model":"x","messages":[{}]}}"#, messages.join(",")))
}

#[test]
fn the_next_turn_holds_every_link_of_the_one_before() {
    let first = chat(&[("system", "s"), ("user", "a")]);
    let second = chat(&[("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")]);
    assert_eq!((first.links.len(), second.links.len()), (1, 3));
    assert_eq!(second.links[0], first.links[0]);
    let branch = chat(&[("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "d")]);
    assert_eq!(branch.links[..2], second.links[..2]);
    assert_ne!(branch.links[2], second.links[2]);
}

#[test]
fn the_same_system_prompt_alone_makes_no_conversation() {
    assert_eq!(chat(&[("system", "s"), ("developer", "t")]).links.len(), 0);
    for (message, links) in
        [(r#"{"\u0072ole":"syste\u006d"}"#, 0), (r#"{"role":1}"#, 1), (r#"{"role":""}"#, 1), ("7", 1), (r#""a""#, 1)]
    {
        assert_eq!(of(&format!(r#"{{"messages":[{message}]}}"#)).links.len(), links, "{message}");
    }
    let (a, b) = (chat(&[("system", "s"), ("user", "a")]), chat(&[("system", "s"), ("user", "b")]));
    assert_ne!(a.links, b.links);
    let other = chat(&[("system", "t"), ("user", "a")]);
    assert_ne!(a.links, other.links, "another system prompt is another conversation");
    assert_ne!(
        of(r#"{"messages":[{"role":"user","content":"a"}],"tools":[1]}"#),
        of(r#"{"messages":[{"role":"user","content":"a"}]}"#)
    );
    let anthropic =
        |system: &str| of(&format!(r#"{{"system":"{system}","messages":[{{"role":"user","content":"a"}}]}}"#));
    assert_ne!(anthropic("s").links, anthropic("t").links);
}

#[test]
fn spacing_escapes_and_the_order_of_members_make_no_difference() {
    let plain = of(
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"é/1"}]}],"tools":[{"a":1,"b":{"c":null}}]}"#,
    );
    let other = of(
        r#" { "tools" : [ { "b" : {"c":null}, "a": 1 } ] , "messages" : [ { "content":[{"text":"\u00e9\/1","type":"text"}], "role":"user" } ] } "#,
    );
    assert_eq!(plain, other);
}

#[test]
fn cache_markers_that_move_make_no_difference() {
    let marked = of(
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]}]}"#,
    );
    assert_eq!(marked, of(r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}]}"#));
}

#[test]
fn a_prompt_that_grows_keeps_its_blocks() {
    let text = |n: usize| (0..n).map(|i| char::from(b'a' + (i / 100 % 26) as u8)).collect::<String>();
    let of_text = |n| of(&format!(r#"{{"prompt":"{}"}}"#, text(n)));
    let (short, long) = (of_text(3000), of_text(5000));
    assert_eq!((short.links.len(), long.links.len()), (2, 4));
    assert_eq!(short.links[..], long.links[..2]);
    assert_eq!(of_text(10).links, of_text(10).links);
    assert_eq!(of_text(10).links.len(), 1);
    assert_eq!(of(&format!(r#"{{"prompt":["{}"]}}"#, text(3000))), short, "a list of one text");
    let tokens = |n: u32| (0..n).map(|token| token.to_string()).collect::<Vec<_>>().join(",");
    let of_tokens = |n| of(&format!(r#"{{"prompt":[{}]}}"#, tokens(n))).links;
    let (short, long) = (of_tokens(1_000), of_tokens(5_000));
    assert_eq!(short[..], long[..short.len()]);
    assert!(short.len() < long.len() && long.len() < 50, "more than the newest links are not held");
    assert_eq!(of_tokens(3).len(), 1);
    assert_eq!(of(r#"{"input":"a","instructions":"s"}"#).links.len(), 1);
}

#[test]
fn session_keys_come_in_order_of_strength_and_differ_by_kind() {
    let sessions = [&b"s"[..]];
    let body = JsonBody::read(br#"{"user":"s","prompt_cache_key":"s","messages":[]}"#).ok();
    let hashes = AFFINITY.hashes(body.as_ref(), "m", sessions.into_iter());
    let only_user = of(r#"{"user":"s"}"#);
    assert_eq!((hashes.session_keys.len(), only_user.session_keys.len()), (3, 1));
    assert_eq!(hashes.session_keys[2], only_user.session_keys[0]);
    assert!(hashes.session_keys[0] != hashes.session_keys[1] && hashes.session_keys[1] != hashes.session_keys[2]);
}

#[test]
fn what_says_nothing_is_no_session_and_no_prompt() {
    for value in ["null", "\"\"", "5", "{}"] {
        let body = format!(r#"{{"user":{value},"prompt_cache_key":{value},"metadata":{{"user_id":{value}}}}}"#);
        assert_eq!(of(&body).session_keys, [0; 0], "{body}");
    }
    assert_eq!(AFFINITY.hashes(None, "m", [&b""[..]].into_iter()).session_keys, [0; 0]);
    assert_eq!(of(r#"{"messages":null,"prompt":"a"}"#), of(r#"{"prompt":"a"}"#));
}

#[test]
fn another_model_is_another_conversation() {
    let body = JsonBody::read(br#"{"messages":[{"role":"user","content":"a"}],"user":"u"}"#).ok();
    let [a, b] = ["m", "n"].map(|model| AFFINITY.hashes(body.as_ref(), model, std::iter::empty()));
    assert!(a.links != b.links && a.session_keys != b.session_keys);
}

#[test]
fn what_is_no_conversation_has_no_links_and_history_is_bounded() {
    for body in ["", "[]", "{}", r#"{"messages":5}"#, r#"{"messages":null}"#, r#"{"messages":[{"content":"\ud800"}]}"#]
    {
        assert_eq!(of(body).links.len(), 0, "{body}");
    }
    let many = vec![("user", "x"); 1000];
    assert_eq!(chat(&many).links.len(), MOST_LINKS);
}

// D2
#[test]
fn the_line_that_differs_in_every_request_counts_for_nothing_wherever_the_system_prompt_has_it() {
    let line = |n: u32| format!("x-anthropic-billing-header: cc_version=2.1.37.0d9; cc_entrypoint=cli; cch={n:05x};");
    let said = r#""messages":[{"role":"user","content":"a"}]"#;
    let block = |text: &str| format!(r#"{{"type":"text","text":"{text}"}}"#);
    let system = |value: String| of(&format!(r#"{{"system":{value},{said}}}"#));
    let plain = system(format!("[{}]", block("s")));
    for n in [0, 0xfa690] {
        assert_eq!(system(format!("[{},{}]", block(&line(n)), block("s"))), plain);
        assert_eq!(system(format!("[{},{}]", block("s"), block(&format!("{}\\n", line(n))))), plain);
        assert_eq!(system(format!("[{}]", block(&format!("{}\\ns", line(n))))), plain);
        assert_eq!(system(format!(r#""{}""#, line(n))), of(&format!("{{{said}}}")));
        let message = |content: &str| {
            of(&format!(r#"{{"messages":[{{"content":{content},"role":"system"}},{{"role":"user","content":"a"}}]}}"#))
        };
        assert_eq!(message(&format!(r#""b\n{}\nc""#, line(n))), message(r#""b\nc""#));
        assert_eq!(message(&format!("[{},{}]", block(&line(n)), block("s"))), message(&format!("[{}]", block("s"))));
    }
    assert_ne!(plain, system(format!("[{}]", block("t"))), "what remains counts");
}

// D2
#[test]
fn a_session_is_named_by_the_user_id_of_claude_code_in_each_of_its_shapes() {
    let session_keys = |metadata: &str| of(&format!(r#"{{"metadata":{metadata}}}"#)).session_keys;
    let session = session_keys(r#"{"user_id":"user_ab_account_cd_session_ef"}"#);
    assert_eq!(session.len(), 1);
    assert_eq!(session_keys(r#"{"x":[{}],"user_id":"user_00_account__session_ef"}"#), session);
    assert_eq!(session_keys(r#"{"user_id":"{\"session_id\":\"ef\",\"device_id\":\"x\"}"}"#), session);
    assert_ne!(session_keys(r#"{"user_id":"user_ab_account_cd_session_ee"}"#), session);
    assert_eq!(session_keys(r#"{"user_id":"somebody"}"#).len(), 1);
    for none in [
        "null",
        "{}",
        "[]",
        r#"["a"]"#,
        r#"{"user_id":7}"#,
        r#"{"user_id":""}"#,
        r#"{"user_id":"{\"session_id\":\"\"}"}"#,
    ] {
        assert_eq!(session_keys(none).len(), 0, "{none}");
    }
}

#[test]
fn millions_of_parts_and_lines_take_no_more_memory_than_a_few_and_no_more_than_linear_time() {
    let tokens = of(&format!(r#"{{"prompt":[1{}]}}"#, ",1".repeat(1_000_000)));
    assert_eq!(tokens.links.len(), MOST_LINKS);
    let lines = "x-anthropic-billing-header:\\n".repeat(200_000);
    assert_eq!(of(&format!(r#"{{"system":"{lines}s"}}"#)), of(r#"{"system":"s"}"#));
}
