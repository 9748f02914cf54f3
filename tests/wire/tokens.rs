//! SPEC 10: tokens are read in passing, wherever in an answer they stand, and what was seen of a stream counts.

use crate::support::fact::Latch;
use crate::support::program::{Program, yaml};
use crate::support::proxy::CHAT;
use crate::support::proxy::chat;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;

/// The access line of one request to this path.
fn line(path: &str, body: String, script: Script) -> String {
    let upstream = Upstream::serving(&["m"]);
    upstream.on(path, script);
    let program = Program::start(&yaml(&[&upstream], ""));
    let mut client = program.client();
    client.send(post(path, body));
    client.answer();
    program.logged(&[&format!("POST {path} 200")])
}

fn has(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(&format!(" {part} ")), "{part} in {line}");
    }
}

#[test]
fn messages_tell_what_was_cached_as_a_part_of_the_prompt() {
    // L7: the page showed 184 % cached.
    let body = r#"{"type":"message","usage":{"cache_read_input_tokens":46,"input_tokens":25,"output_tokens":7}}"#;
    has(&line("/v1/messages", chat("m"), Script::json(body)), &["tokens_in=71", "tokens_cached=46", "tokens_out=7"]);
    let recorded = Script::raw(include_bytes!("../data/messages_stream.raw"));
    let streamed = line("/v1/messages", stream("m"), recorded);
    has(&streamed, &["tokens_in=56", "tokens_cached=55", "tokens_out=6"]);
}

#[test]
fn long_embeddings_tell_their_tokens_before_or_behind_their_data() {
    // L7
    let data = format!(r#""data":[{{"embedding":[{}0.5]}}]"#, "0.0123456789,".repeat(20_000));
    for body in [
        format!(r#"{{"usage":{{"prompt_tokens":5,"total_tokens":5}},{data}}}"#),
        format!(r#"{{{data},"usage":{{"prompt_tokens":5,"total_tokens":5}}}}"#),
    ] {
        has(&line("/v1/embeddings", chat("m"), Script::json(body)), &["tokens_in=5"]);
    }
}

#[test]
fn a_single_token_has_no_speed() {
    // L7
    let body =
        r#"{"timings":{"cache_n":0,"prompt_n":9,"predicted_n":1,"predicted_ms":0.0,"predicted_per_second":0.0}}"#;
    let line = line(CHAT, chat("m"), Script::json(body));
    has(&line, &["tokens_in=9", "tokens_out=1"]);
    assert!(!line.contains("tokens_per_second"), "{line}");
}

#[test]
fn a_stream_that_its_client_ends_counts_what_was_seen() {
    // L7
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(CHAT, Script::sse().chunk(event("one")).chunk(event("two")).latch(&latch).end());
    let program = Program::start(&yaml(&[&upstream], ""));
    let mut client = program.client();
    client.send(post(CHAT, stream("m")));
    client.head();
    assert_eq!((client.event(), client.event()), (Some(event("one")), Some(event("two"))));
    drop(client);
    has(&program.logged(&["POST /v1/chat/completions 499"]), &["tokens_out=2"]);
}
