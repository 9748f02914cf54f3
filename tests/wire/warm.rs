//! Issue 14, warm agents: the queue keeps caches warm, and an answer tells what was in one.

use crate::support::client::{Answer, Client, Ended};
use crate::support::fact::{Latch, ms};
use crate::support::program::{Program, yaml};
use crate::support::proxy::{CHAT, Proxy, Setup, chat, post, post_with, stream};
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use llmproxy::config::{Config, MaxConcurrent, Strategy};
use serde_json::json;

fn affine(config: &mut Config) {
    config.routing.strategy = Strategy::Affinity;
    config.endpoints.iter_mut().for_each(|endpoint| endpoint.max_concurrent = MaxConcurrent::Most(1));
}

/// A turn of a conversation.
fn said(conversation: &str, turn: usize) -> String {
    let message = |n: usize| json!({"role": if n.is_multiple_of(2) { "user" } else { "assistant" }, "content": format!("{conversation}.{n}")});
    json!({"messages": (0..=2 * turn).map(message).collect::<Vec<_>>(), "model": "m"}).to_string()
}

fn told(answer: &Answer) -> (&str, &str) {
    let field = |name| answer.field(name).expect("a field");
    (field("x-llmproxy-endpoint"), field("x-llmproxy-reason"))
}

/// Two endpoints of one slot; the conversation `one` is at `a`, `two` at `b`.
fn homes(edit: impl FnOnce(&mut Config)) -> ([Upstream; 2], Proxy) {
    let servers = [Upstream::serving(&["m"]), Upstream::serving(&["m"])];
    servers.iter().for_each(|server| server.always(CHAT, Script::json("{}")));
    let proxy = Setup::over(&[&servers[0], &servers[1]]).with(affine).with(edit).start();
    for (conversation, home) in [("one", "a"), ("two", "b")] {
        let answer = proxy.post(CHAT, said(conversation, 0));
        assert_eq!(told(&answer), (home, "affinity_new"));
    }
    (servers, proxy)
}

/// A request that holds the only slot until the latch opens.
fn busy(server: &Upstream, proxy: &Proxy, conversation: &str) -> (Client, Latch) {
    let (latch, before) = (Latch::new(), server.count(CHAT));
    server.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    let client = proxy.sent(post(CHAT, said(conversation, 1)));
    server.wait_count(CHAT, before + 1);
    (client, latch)
}

fn queued(proxy: &Proxy, body: String, n: usize) -> Client {
    let client = proxy.sent(post(CHAT, body));
    proxy.until(|health| health["queue"]["waiting"] == n);
    client
}

/// Waits until the tokens of an answer of `b` are counted, and its speed with them.
fn measured(proxy: &Proxy) {
    proxy.until(|_| proxy.get("/metrics").text().contains("llmproxy_tokens_total{endpoint=\"b\""));
}

#[test]
fn a_conversation_waits_for_its_endpoint_while_another_is_idle() {
    let ([a, b], proxy) = homes(|_| ());
    let (mut first, latch) = busy(&a, &proxy, "one");
    let mut next = queued(&proxy, said("one", 2), 1);
    assert_eq!(told(&proxy.post(CHAT, said("new", 0))), ("b", "affinity_new"), "others take the idle slot");
    assert_eq!(told(&proxy.post(CHAT, said("two", 1))), ("b", "affinity"));
    latch.open();
    let answer = next.answer();
    assert_eq!(told(&answer), ("a", "affinity"));
    assert!(answer.field("x-llmproxy-queue-ms").is_some());
    assert_eq!((first.answer().status(), b.count(CHAT)), (200, 3));
    proxy.idle();
}

#[test]
fn it_moves_at_once_when_computing_the_prompt_again_costs_less() {
    let ([a, b], proxy) = homes(|_| ());
    b.on(CHAT, Script::json(r#"{"timings":{"cache_n":0,"prompt_n":1000,"prompt_ms":0.01,"prompt_per_second":1e9}}"#));
    assert_eq!(told(&proxy.post(CHAT, said("two", 1))).0, "b");
    measured(&proxy);
    let (mut first, latch) = busy(&a, &proxy, "one");
    moves_at_once(&proxy);
    latch.open();
    first.answer();
}

#[test]
fn speed_is_measured_by_the_first_event_of_a_stream_whose_endpoint_does_not_tell_it() {
    let ([a, b], proxy) = homes(|_| ());
    let usage =
        r#"data: {"choices":[],"usage":{"prompt_tokens":900000000,"prompt_tokens_details":{"cached_tokens":0}}}"#;
    b.on(CHAT, Script::sse().chunk(event("one")).chunk(format!("{usage}\n\n")).chunk("data: [DONE]\n\n").end());
    let streamed = said("two", 1).replace("\"model\"", "\"stream\":true,\"model\"");
    assert_eq!(told(&proxy.post(CHAT, streamed)).0, "b");
    measured(&proxy);
    let (mut first, latch) = busy(&a, &proxy, "one");
    moves_at_once(&proxy);
    latch.open();
    first.answer();
}

/// The conversation `one` does not even wait the two seconds of one whose cost is not known.
fn moves_at_once(proxy: &Proxy) {
    let answer = proxy.post(CHAT, said("one", 2));
    assert_eq!(told(&answer), ("b", "affinity_full"));
    let waited = answer.field("x-llmproxy-queue-ms").map_or(0, |text| text.parse::<u64>().expect("a number"));
    assert!(waited < 1_000, "{waited} ms");
}

#[test]
fn a_freed_slot_goes_to_the_conversation_that_is_in_the_cache_there() {
    let ([a, b], proxy) = homes(|_| ());
    let ((mut at_a, first), (mut at_b, second)) = (busy(&a, &proxy, "one"), busy(&b, &proxy, "two"));
    let (mut new, mut one, mut two) =
        (queued(&proxy, said("new", 0), 1), queued(&proxy, said("one", 2), 2), queued(&proxy, said("two", 2), 3));
    let third = Latch::new();
    b.on(CHAT, Script::new().latch(&third).then(Script::json("{}")));
    second.open();
    b.wait_count(CHAT, 3);
    proxy.until(|health| health["queue"]["waiting"] == 2);
    first.open();
    assert_eq!(told(&one.answer()), ("a", "affinity"), "before the new one, which came first");
    assert_eq!(told(&new.answer()), ("a", "queued"));
    third.open();
    assert_eq!(told(&two.answer()), ("b", "affinity"));
    [at_a.answer(), at_b.answer()].iter().for_each(|answer| assert_eq!(answer.status(), 200));
}

#[test]
fn a_session_waits_too() {
    let ([a, b], proxy) = homes(|_| ());
    let session = |text: &str| post_with(CHAT, "x-session-id: s\r\n", said(text, 0));
    assert_eq!(told(&proxy.ask(session("three"))).0, "a");
    let (mut first, latch) = busy(&a, &proxy, "one");
    let mut next = proxy.sent(session("four"));
    proxy.until(|health| health["queue"]["waiting"] == 1);
    latch.open();
    assert_eq!((told(&next.answer()), first.answer().status()), (("a", "session"), 200));
    assert_eq!(b.count(CHAT), 1);
}

#[test]
fn what_no_cache_helps_does_not_wait_while_an_endpoint_is_idle() {
    // An embedding is computed from nothing each time, whatever session it belongs to.
    for (path, body) in [
        ("/v1/embeddings", r#"{"model":"m","input":"x"}"#),
        ("/v1/rerank", r#"{"model":"m","query":"x","documents":["y"]}"#),
        ("/v1/audio/speech", r#"{"model":"m","input":"x"}"#),
    ] {
        let ([a, b], proxy) = homes(|_| ());
        [&a, &b].iter().for_each(|server| server.always(path, Script::json("{}")));
        let of_session = |path: &str, body: String| post_with(path, "x-session-id: s\r\n", body);
        assert_eq!(told(&proxy.ask(of_session(CHAT, said("three", 0)))).0, "a");
        let (mut first, latch) = busy(&a, &proxy, "one");
        let answer = proxy.ask(of_session(path, body.to_owned()));
        assert_eq!((told(&answer).0, answer.field("x-llmproxy-queue-ms")), ("b", None), "{path}");
        latch.open();
        first.answer();
    }
}

#[test]
fn nobody_is_refused_for_waiting_at_home_while_another_endpoint_is_idle() {
    for edit in [(|config| config.queue.timeout = ms(200)) as fn(&mut Config), |config| config.queue.length = 0] {
        let ([a, _b], proxy) = homes(edit);
        let (mut first, latch) = busy(&a, &proxy, "one");
        assert_eq!(told(&proxy.post(CHAT, said("one", 2))), ("b", "affinity_full"));
        latch.open();
        first.answer();
    }
}

#[test]
fn a_conversation_whose_endpoint_goes_down_while_it_waits_takes_another() {
    let ([mut a, b], proxy) = homes(|config| config.health_check.failure_threshold = 1);
    let (_first, _latch) = busy(&a, &proxy, "one");
    // Long enough that patience alone would not help.
    b.on(CHAT, Script::json(r#"{"timings":{"cache_n":0,"prompt_n":1000,"prompt_per_second":1.0}}"#));
    assert_eq!(told(&proxy.post(CHAT, said("two", 1))).0, "b");
    measured(&proxy);
    let mut next = queued(&proxy, said("one", 2), 1);
    a.kill();
    proxy.force_check();
    assert_eq!(told(&next.answer()).0, "b");
}

/// The `x-llmproxy-cached` of a whole answer, which must pass unchanged.
fn cached(path: &str, script: Script) -> Option<String> {
    let upstream = Upstream::serving(&["m"]);
    upstream.on(path, script);
    let answer = Setup::over(&[&upstream]).start().post(path, chat("m"));
    assert_eq!((answer.status(), answer.ended), (200, Ended::Complete));
    answer.field("x-llmproxy-cached").map(str::to_owned)
}

const COUNTS: &str = r#"{"usage":{"prompt_tokens":200,"prompt_tokens_details":{"cached_tokens":186}}}"#;

#[test]
fn a_whole_answer_tells_the_share_of_its_prompt_that_was_in_a_cache() {
    let share = |text: &str| cached(CHAT, Script::json(text));
    assert_eq!(share(COUNTS).as_deref(), Some("93%"));
    assert_eq!(share(r#"{"timings":{"cache_n":3,"prompt_n":1}}"#).as_deref(), Some("75%"));
    assert_eq!(
        share(r#"{"usage":{"prompt_tokens":7,"prompt_tokens_details":{"cached_tokens":0}}}"#).as_deref(),
        Some("0%")
    );
    assert_eq!(cached(CHAT, Script::raw(include_bytes!("../data/chat.raw"))).as_deref(), Some("57%"));
    let of_messages = r#"{"usage":{"cache_read_input_tokens":46,"input_tokens":25,"output_tokens":7}}"#;
    assert_eq!(cached("/v1/messages", Script::json(of_messages)).as_deref(), Some("65%"));
    let chunked = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")];
    let (start, rest) = COUNTS.split_at(20);
    assert_eq!(cached(CHAT, Script::head(200, &chunked).chunk(start).chunk(rest).end()).as_deref(), Some("93%"));
    let open = [("Content-Type", "application/json; charset=utf-8")];
    assert_eq!(cached(CHAT, Script::head(200, &open).bytes(COUNTS).cut()).as_deref(), Some("93%"));
}

#[test]
fn answers_whose_counts_are_not_there_or_not_readable_have_no_such_field() {
    assert_eq!(cached(CHAT, Script::json("{}")), None);
    assert_eq!(cached(CHAT, Script::json(r#"{"usage":{"prompt_tokens":200}}"#)), None);
    assert_eq!(cached(CHAT, Script::answer(200, &[("Content-Type", "text/plain")], COUNTS)), None);
    let packed = [("Content-Type", "application/json"), ("Content-Encoding", "gzip")];
    assert_eq!(cached(CHAT, Script::answer(200, &packed, COUNTS)), None);
    let theirs = [("Content-Type", "application/json"), ("X-Llmproxy-Cached", "1%")];
    assert_eq!(cached(CHAT, Script::answer(200, &theirs, "{}")), None, "another proxy's word is not passed on");
    let long = format!("{},\"data\":\"{}\"}}", &COUNTS[..COUNTS.len() - 1], "x".repeat(70 << 10));
    assert_eq!(cached(CHAT, Script::json(&long)), None);
    let chunked = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")];
    assert_eq!(cached(CHAT, Script::head(200, &chunked).chunk(&long).end()), None);
    assert_eq!(cached(CHAT, Script::sse().chunk(format!("data: {COUNTS}\n\n")).chunk("data: [DONE]\n\n").end()), None);
}

#[test]
fn an_answer_that_comes_slowly_is_not_held_back() {
    let (upstream, latch) = (Upstream::serving(&["m"]), Latch::new());
    let proxy = Setup::over(&[&upstream]).start();
    let (start, rest) = COUNTS.split_at(20);
    let length = COUNTS.len().to_string();
    let sized = [("Content-Type", "application/json"), ("Content-Length", length.as_str())];
    let chunked = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")];
    upstream.on(CHAT, Script::head(200, &sized).bytes(start).latch(&latch).bytes(rest));
    upstream.on(CHAT, Script::head(200, &chunked).chunk(start).latch(&latch).chunk(rest).end());
    let mut clients = vec![];
    for n in 1..3 {
        let mut client = proxy.sent(post(CHAT, chat("m")));
        upstream.wait_count(CHAT, n);
        let head = client.head();
        assert_eq!((head.status, head.field("x-llmproxy-cached")), (200, None));
        assert_eq!(client.read_some().as_deref(), Ok(start.as_bytes()), "while the rest has not come");
        clients.push(client);
    }
    latch.open();
    for mut client in clients {
        assert_eq!(client.body(), (rest.as_bytes().to_vec(), Ended::Complete));
    }
}

#[test]
fn an_answer_that_breaks_off_while_it_is_held_still_looks_cut() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    let sized = [("Content-Type", "application/json"), ("Content-Length", "500")];
    let chunked = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")];
    let open = [("Content-Type", "application/json")];
    for script in [
        Script::head(200, &sized).bytes(COUNTS).cut(),
        Script::head(200, &sized).bytes(COUNTS).reset(),
        Script::head(200, &chunked).chunk(COUNTS).cut(),
        Script::head(200, &chunked).chunk(COUNTS).bytes("zz\r\n").cut(),
        Script::head(200, &open).bytes(COUNTS).reset(),
    ] {
        upstream.on(CHAT, script);
        let answer = proxy.chat("m");
        assert_eq!((answer.status(), answer.ended), (200, Ended::Cut));
        assert_eq!(answer.field("x-llmproxy-cached"), None);
        assert!(COUNTS.as_bytes().starts_with(&answer.body), "{:?}", answer.text());
    }
    proxy.idle();
}

#[test]
fn one_that_came_slowly_and_then_broke_off_was_lost_and_is_no_timeout() {
    let (upstream, latch) = (Upstream::serving(&["m"]), Latch::new());
    let sized = [("Content-Type", "application/json"), ("Content-Length", "500")];
    upstream.on(CHAT, Script::head(200, &sized).bytes(COUNTS).latch(&latch).reset());
    let program = Program::start(&yaml(&[&upstream], ""));
    let mut client = program.client();
    client.send(post(CHAT, chat("m")));
    client.head();
    latch.open();
    assert_eq!(client.body().1, Ended::Cut);
    let line = program.logged(&["POST /v1/chat/completions 200"]);
    assert!(line.contains(" end=upstream_lost"), "{line}");
}

#[test]
fn the_access_line_tells_it_for_streams_too() {
    let upstream = Upstream::serving(&["m"]);
    let usage = format!("data: {{\"choices\":[],{}\n\n", &COUNTS[1..]);
    upstream.on(CHAT, Script::sse().chunk(event("one")).chunk(usage).chunk("data: [DONE]\n\n").end());
    let program = Program::start(&yaml(&[&upstream], ""));
    let mut client = program.client();
    client.send(post(CHAT, stream("m")));
    client.answer();
    let line = program.logged(&["POST /v1/chat/completions 200"]);
    assert!(line.contains(" tokens_cached=186 cached=93% "), "{line}");
}

#[test]
fn new_conversations_take_turns_whatever_known_ones_do_between() {
    let (_servers, proxy) = homes(|_| ());
    for (conversation, turn, wanted) in [("one", 1, ("a", "affinity")), ("three", 0, ("a", "affinity_new"))] {
        assert_eq!(told(&proxy.post(CHAT, said(conversation, turn))), wanted, "{conversation}");
    }
}
