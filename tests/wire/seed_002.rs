//! SPEC 9, format 002: the documented file does what its document says.

use crate::older::ask;
use crate::older::endpoint;
use crate::older::rust;
use crate::older::start;
use crate::older::two;
use crate::support::proxy::{CHAT, get, post, post_with};
use crate::support::script::Script;
use serde_json::json;

#[test]
fn a_002_file_has_its_forward_by_weight_and_its_admin_address() {
    let upstreams = two();
    let (text, port) = rust(&upstreams);
    let program = start(&text);
    // S002-01, S002-14: 8 to 2.
    let names: Vec<String> = (0..20).map(|_| endpoint(&ask(port, post(CHAT, "as it is"))).to_owned()).collect();
    let count = |name: &str| names.iter().filter(|n| *n == name).count();
    assert_eq!((count("openai_primary"), count("anthropic_primary")), (16, 4), "{names:?}");
    // S002-05, S002-06
    assert_eq!(program.asked(get("/health")).text(), "OK");
    let metrics = program.asked(get("/metrics"));
    for line in [
        "llmproxy_upstream_requests_total{group=\"mixgroup\",upstream=\"openai_primary\"} 16", // S002-23
        "llmproxy_upstream_duration_seconds_count{group=\"mixgroup\",upstream=\"anthropic_primary\"} 4", // S002-24
        "llmproxy_http_requests_total{forward=\"to_mixgroup\",method=\"POST\",path=",          // S002-26
        "llmproxy_http_request_duration_seconds_bucket{forward=\"to_mixgroup\",method=\"POST\",path=",
    ] {
        assert!(metrics.text().contains(line), "{line}\n{}", metrics.text());
    }
    // S002-07
    for (upstream, path) in upstreams.iter().zip(["/v1/health", "/health"]) {
        upstream.always(path, Script::answer(418, &[], "theirs"));
    }
    assert_eq!(ask(port, get("/health")).status(), 418);
    // S002-08, S002-23..25: a dead upstream is left out, nobody sees it (W002-8).
    let [mut openai, anthropic] = upstreams;
    openai.kill();
    let (before, served) = (anthropic.count(CHAT), 50);
    (0..served).for_each(|_| assert_eq!(ask(port, post(CHAT, "x")).status(), 200));
    assert_eq!(anthropic.count(CHAT) - before, served);
    let metrics = program.asked(get("/metrics"));
    let line = "llmproxy_upstream_errors_total{error=\"request_error\",group=\"mixgroup\",upstream=\"openai_primary\"}";
    let errors = metrics.text().lines().find_map(|l| l.strip_prefix(line)).map(|n| n.trim().parse::<u32>());
    assert!(matches!(errors, Some(Ok(1..=5))), "tried a few times, not fifty: {errors:?}");
    openai.revive();
    program.logged(&["openai_primary", "unknown -> failing"]);
}

#[test]
fn a_002_file_sends_its_own_credentials_and_headers() {
    let upstreams = two();
    let (text, port) = rust(&upstreams);
    let _program = start(&text);
    let fields = "Authorization: Bearer mine\r\nX-Custom-Header: client's\r\nUser-Agent: curl\r\nX-More: 1\r\n";
    upstreams[0].on("/v1/responses", Script::json("{}"));
    ask(port, post_with("/v1/responses?a=%20b", fields, "x"));
    let received = upstreams[0].take("/v1/responses");
    assert_eq!(received.target(), "/v1/responses?a=%20b", "S002-12, W002-5");
    assert_eq!(received.all("authorization"), ["Bearer YOUR_API_KEY"], "S002-09, W002-3");
    assert_eq!(received.all("x-custom-header"), ["client's"], "S002-10, W002-4: only if absent");
    assert_eq!((received.field("user-agent"), received.field("x-more")), (Some("curl"), Some("1")), "S002-15, S002-11");
    let host = upstreams[0].addr().to_string();
    assert_eq!(received.field("host"), Some(host.as_str()), "W002-10");
    ask(port, post(CHAT, "x"));
    let received = upstreams[0].take(CHAT);
    assert_eq!(received.field("x-custom-header"), Some("MyProxyValue"));
    assert_eq!(received.field("user-agent"), Some("LLMProxy/1.0"), "S002-15");
}

#[test]
fn a_002_file_tries_again_and_passes_the_last_answer_on() {
    let upstreams = two();
    let (text, port) = rust(&upstreams);
    let _program = start(&text.replace("initial: 500", "initial: 100"));
    // S002-19, W002-8: three extra tries, over all upstreams.
    upstreams.iter().for_each(|upstream| upstream.always(CHAT, Script::error(503, "later")));
    let answer = ask(port, post(CHAT, "x"));
    assert_eq!((answer.status(), answer.json()["error"]["message"].clone()), (503, json!("later")), "S002-21, W002-12");
    assert_eq!(upstreams.iter().map(|upstream| upstream.count(CHAT)).sum::<usize>(), 4);
}
