//! Unit tests of `metrics`.

use super::super::access::tests::chat;
use super::*;
use std::thread;

fn ended(metrics: &Metrics, record: &AccessRecord) {
    metrics.ended(record, "main", Some("m"));
}

#[test]
fn an_ended_request_is_counted_where_it_belongs() {
    // S002-26, S002-27
    let metrics = Metrics::default();
    ended(&metrics, &chat());
    ended(&metrics, &AccessRecord { status: 429, attempts: 0, endpoint: None, ..chat() });
    ended(&metrics, &AccessRecord { status: 499, end: End::ClientGone, first_byte: None, ..chat() });
    let text = metrics.render(&[]);
    for line in [
        r#"llmproxy_http_requests_total{forward="main",method="POST",path="/v1/chat/completions"} 3"#,
        r#"llmproxy_http_request_errors_total{forward="main",error="request_error",status="429"} 1"#,
        r#"llmproxy_ratelimit_total{forward="main"} 1"#,
        r#"llmproxy_client_gone_total{stage="waiting"} 1"#,
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line}\n{text}");
    }
}

#[test]
fn any_number_of_names_leaves_the_size_flat() {
    // B10, W002-11
    let metrics = Metrics::default();
    for n in 0..10_000 {
        let name = format!("m{n}\"\\\n");
        metrics.count(Family::UpstreamRequests, &["default", &name]);
        ended(&metrics, &AccessRecord { method: name, ..chat() });
    }
    let text = metrics.render(&[]);
    assert!(text.lines().count() < 2 * MAX_SERIES + 200, "{}", text.lines().count());
    assert!(text.contains(r#"{group="other",upstream="other"} 8000"#), "beyond the bound");
}

#[test]
fn counts_of_many_threads_add_up() {
    let metrics = Metrics::default();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..1000).for_each(|_| ended(&metrics, &chat())));
        }
    });
    let text = metrics.render(&[]);
    assert!(
        text.contains(r#"llmproxy_http_requests_total{forward="main",method="POST",path="/v1/chat/completions"} 8000"#)
    );
}
