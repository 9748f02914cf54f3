//! SPEC 10, metrics: what was done is counted, under names and labels that stay few.

use crate::support::proxy::CHAT;
use crate::support::proxy::Proxy;
use crate::support::proxy::Setup;
use crate::support::proxy::post;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use llmproxy::config::UnknownModel;
use std::collections::BTreeSet;

fn text(proxy: &Proxy) -> String {
    proxy.get("/metrics").text().to_owned()
}

/// Waits until a sample says so.
fn says(proxy: &Proxy, sample: &str) {
    proxy.until(|_| text(proxy).lines().any(|line| line == sample));
}

#[test]
fn a_request_leaves_its_traces() {
    // S002-23..28
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::raw(include_bytes!("../data/chat.raw")));
    let proxy = Setup::over(&[&upstream]).start();
    proxy.chat("m");
    for sample in [
        r#"llmproxy_upstream_requests_total{group="default",upstream="a"} 1"#,
        r#"llmproxy_upstream_duration_seconds_count{group="default",upstream="a"} 1"#,
        r#"llmproxy_http_requests_total{forward="main",method="POST",path="/v1/chat/completions"} 1"#,
        r#"llmproxy_http_request_duration_seconds_count{forward="main",method="POST",path="/v1/chat/completions"} 1"#,
        r#"llmproxy_time_to_first_byte_seconds_count{endpoint="a",model="m"} 1"#,
        r#"llmproxy_tokens_total{endpoint="a",model="m",kind="prompt"} 56"#,
        r#"llmproxy_tokens_total{endpoint="a",model="m",kind="cached"} 32"#,
        r#"llmproxy_tokens_total{endpoint="a",model="m",kind="completion"} 12"#,
        r#"llmproxy_endpoint_up{endpoint="a"} 1"#,
        r#"llmproxy_endpoint_in_flight{endpoint="a"} 0"#,
        "llmproxy_queue_length 0",
        "llmproxy_workers_busy 0",
        "llmproxy_reload_success 1",
        "llmproxy_log_dropped_total 0",
    ] {
        says(&proxy, sample);
    }
    assert!(text(&proxy).contains("llmproxy_build_info{version="));
    assert!(text(&proxy).contains("llmproxy_tokens_per_second{endpoint=\"a\",model=\"m\"} 20"));
}

#[test]
fn an_attempt_that_no_other_follows_is_no_retry() {
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    first.on(CHAT, Script::new().cut());
    second.on(CHAT, Script::new().cut());
    let proxy = Setup::over(&[&first, &second]).start();
    assert_eq!(proxy.chat("m").status(), 502);
    says(&proxy, r#"llmproxy_retries_total{endpoint="a",reason="reset"} 1"#);
    let metrics = proxy.get("/metrics");
    assert!(!metrics.text().contains(r#"llmproxy_retries_total{endpoint="b""#), "{}", metrics.text());
}

#[test]
fn faults_retries_leavers_and_losses_are_counted() {
    let (first, second) = (Upstream::serving(&["m"]), Upstream::serving(&["m"]));
    first.on(CHAT, Script::new().cut());
    first.on(CHAT, Script::error(500, "x"));
    first.on(CHAT, Script::sse().chunk(event("one")).cut());
    second.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&first, &second]).start();
    proxy.chat("m");
    proxy.chat("m");
    proxy.post(CHAT, stream("m"));
    first.on(CHAT, Script::sse().chunk(event("one")).stall());
    let mut leaver = proxy.sent(post(CHAT, stream("m")));
    leaver.head();
    leaver.event();
    drop(leaver);
    proxy.chat("zz");
    for sample in [
        r#"llmproxy_retries_total{endpoint="a",reason="status"} 1"#,
        r#"llmproxy_retries_total{endpoint="a",reason="reset"} 1"#,
        r#"llmproxy_upstream_errors_total{error="request_error",group="default",upstream="a"} 1"#,
        r#"llmproxy_upstream_lost_total{endpoint="a"} 1"#,
        r#"llmproxy_client_gone_total{stage="answering"} 1"#,
        r#"llmproxy_http_request_errors_total{forward="main",error="request_error",status="404"} 1"#,
    ] {
        says(&proxy, sample);
    }
}

#[test]
fn made_up_names_and_paths_are_all_other() {
    // B10, W002-11
    let upstream = Upstream::serving(&["m"]);
    upstream.always(CHAT, Script::json("{}"));
    let proxy =
        Setup::over(&[&upstream]).with(|config| config.routing.unknown_model = UnknownModel::Passthrough).start();
    let mut size = 0;
    for n in 0..200 {
        proxy.chat(&format!("made-up-{n}"));
        proxy.get(&format!("/made/up/{n}"));
        if n == 20 {
            // What the looking itself adds is there too.
            says(&proxy, r#"llmproxy_http_requests_total{forward="main",method="GET",path="other"} 21"#);
            says(&proxy, r#"llmproxy_time_to_first_byte_seconds_count{endpoint="a",model="other"} 21"#);
            proxy
                .until(|_| ["/health", "/metrics"].iter().all(|path| text(&proxy).contains(&format!("path={path:?}"))));
            size = text(&proxy).lines().count();
        }
    }
    proxy.idle();
    let after = text(&proxy);
    assert_eq!(after.lines().count(), size);
    assert!(!after.contains("made"), "{after}");
    says(&proxy, r#"llmproxy_http_requests_total{forward="main",method="GET",path="other"} 200"#);
    says(&proxy, r#"llmproxy_time_to_first_byte_seconds_count{endpoint="a",model="other"} 200"#);
}

#[test]
fn metrics_can_be_switched_off() {
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).with(|config| config.metrics.enabled = false).start();
    assert_eq!(proxy.get("/metrics").status(), 404);
    assert_eq!(proxy.post("/metrics", "").status(), 405);
}

#[test]
fn the_dashboard_asks_for_everything_there_is_and_for_nothing_else() {
    let dashboard = include_str!("../../scripts/package/grafana.json");
    serde_json::from_str::<serde_json::Value>(dashboard).expect("JSON");
    let names = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let words = words.filter_map(|word| word.strip_prefix("llmproxy_"));
        words.map(|word| word.trim_end_matches("_bucket").to_owned()).collect()
    };
    let exist = [include_str!("../../src/observe/metrics.rs"), include_str!("../../src/proxy/status.rs")];
    let code = exist.map(|text| text.split("#[cfg(test)]").next().expect("a first part"));
    assert_eq!(names(dashboard), names(&code.concat()));
}
