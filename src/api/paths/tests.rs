//! What a path and a method want.

use super::*;

fn of(method: &str, path: &str) -> Route {
    route(&method.parse().expect("a method"), path, false)
}

/// A path at an endpoint, whatever its row.
#[derive(Debug, PartialEq)]
struct To(String, ModelSource);

impl PartialEq<To> for Route {
    fn eq(&self, other: &To) -> bool {
        matches!(self, Self::Forward(forward) if (&forward.path, forward.source) == (&other.0, other.1))
    }
}

fn to(path: &str, source: ModelSource) -> To {
    To(path.into(), source)
}

fn pattern(path: &str) -> &'static str {
    find(&Method::POST, path).label
}

/// What has a row of its own, without `/v1`.
fn posted(has_v1: bool) -> impl Iterator<Item = &'static str> {
    let is_one = move |row: &&PathRow| row.has_v1 == has_v1 && row.methods == POST && row.rest.is_empty();
    let rows = PATHS.iter().filter(is_one).filter(|row| matches!(row.service, Service::Endpoint(ModelSource::Body)));
    rows.map(|row| row.start.trim_start_matches('/'))
}

#[test]
fn api_paths_are_reached_with_and_without_v1() {
    assert_eq!(posted(true).count(), 16);
    for name in posted(true) {
        let wanted = to(&format!("/v1/{name}"), ModelSource::Body);
        assert_eq!(of("POST", &format!("/v1/{name}")), wanted);
        assert_eq!(of("POST", &format!("/{name}")), wanted);
    }
    assert_eq!(of("POST", "/audio/transcriptions"), to("/v1/audio/transcriptions", ModelSource::Body));
}

#[test]
fn llama_servers_own_paths_go_out_without_v1() {
    assert_eq!(posted(false).count(), 6);
    for name in posted(false) {
        assert_eq!(of("POST", &format!("/{name}")), to(&format!("/{name}"), ModelSource::Body));
        assert_eq!(of("POST", &format!("/v1/{name}")), to(&format!("/{name}"), ModelSource::Body));
    }
    assert_eq!(of("GET", "/props"), to("/props", ModelSource::Query));
    assert_eq!(of("HEAD", "/slots"), to("/slots", ModelSource::Query));
}

#[test]
fn other_paths_need_v1_and_a_model_in_the_body_or_a_model_in_the_query() {
    assert_eq!(of("POST", "/v1/something/new"), to("/v1/something/new", ModelSource::BodyOnly));
    assert_eq!(of("POST", "/something/new"), Route::Unknown);
    assert_eq!(of("GET", "/something"), Route::Unknown);
    let with_model = route(&Method::GET, "/something", true);
    assert_eq!(with_model, to("/something", ModelSource::QueryOnly));
}

#[test]
fn voices_are_read_with_and_without_a_model() {
    // R16
    for method in ["GET", "HEAD"] {
        for path in ["/v1/audio/voices", "/audio/voices"] {
            assert_eq!(of(method, path), to("/v1/audio/voices", ModelSource::Query), "{method} {path}");
        }
    }
    assert_eq!(of("DELETE", "/v1/audio/voices"), Route::NotAllowed("POST"));
    assert_eq!(of("GET", "/v1/audio/speech"), Route::NotAllowed("POST"));
}

#[test]
fn what_steers_or_counts_takes_no_slot() {
    // D3, D4
    let takes = |path: &str| match of("POST", path) {
        Route::Forward(forward) => forward.takes_slot(&Method::POST),
        other => panic!("{path}: {other:?}"),
    };
    for name in [
        "chat/completions/control",
        "chat/completions/input_tokens",
        "responses/input_tokens",
        "messages/count_tokens",
        "tokenize",
        "detokenize",
        "apply-template",
    ] {
        assert!(!takes(&format!("/{name}")) && !takes(&format!("/v1/{name}")), "{name}");
        let raw = Forward::raw(format!("/base/v1/{name}"));
        assert!(!raw.takes_slot(&Method::POST), "{name}");
    }
    let raw = Forward::raw("/any".into());
    let reads = |method: &Method| !raw.takes_slot(method);
    assert!([Method::GET, Method::HEAD, Method::OPTIONS].iter().all(reads) && raw.takes_slot(&Method::POST));
    for name in posted(true).chain(posted(false)).filter(|name| !NO_SLOT.iter().any(|last| name.ends_with(last))) {
        assert!(takes(&format!("/{name}")) && takes(&format!("/v1/{name}")), "{name}");
    }
}

#[test]
fn only_apis_that_stream_events_are_kept_alive_by_comments() {
    // R02, R03
    let streams = |path: &str, is_raw| match is_raw {
        true => Forward::raw(path.into()).has(Pings),
        false => Forward::post(path).has(Pings),
    };
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/infill", "/completion"] {
        assert!(streams(path, false) && streams(path, true), "{path}");
    }
    assert!(streams("//v1//chat/completions/", true), "slashes as R19 has them");
    assert!(streams("/chat/completions", true) && streams("/openai/v1/chat/completions", true));
    for path in [
        "/v1/audio/speech",
        "/v1/images/generations",
        "/api/chat",
        "/api/generate",
        "/api/extra/generate/stream",
        "/v1/embeddings",
        "/v1/responses/input_tokens",
        "/v1/api/chat",
        "/",
        "/v1/",
    ] {
        assert!(!streams(path, false) && !streams(path, true), "{path}");
    }
}

#[test]
fn a_wrong_method_is_told_the_right_one() {
    assert_eq!(of("GET", "/v1/chat/completions"), Route::NotAllowed("POST"));
    assert_eq!(of("POST", "/v1/models"), Route::NotAllowed("GET, HEAD"));
    assert_eq!(of("GET", "/health/force-check"), Route::NotAllowed("POST"));
    assert_eq!(of("DELETE", "/health"), Route::NotAllowed("GET, HEAD"));
}

// R19
#[test]
fn a_slash_at_the_end_and_a_second_v1_are_not_there() {
    for path in ["/v1/models/", "/v1/v1/models", "/v1/v1/v1/models//", "/models/", "//models", "//v1///v1/models"] {
        assert_eq!(of("GET", path), Route::Models, "{path}");
    }
    for path in ["/v1/chat/completions/", "/v1/v1/chat/completions", "/chat/completions/"] {
        assert_eq!(of("POST", path), to("/v1/chat/completions", ModelSource::Body), "{path}");
        assert_eq!(pattern(path), "/v1/chat/completions");
    }
    assert_eq!(of("GET", "/v1/v1/props/"), to("/props", ModelSource::Query));
    assert_eq!(of("GET", "/v1/health/"), Route::Health);
    assert_eq!(of("GET", "/v1/models/v1/"), Route::Model("v1".into()));
    assert_eq!(of("POST", "/v1/v1x"), to("/v1/v1x", ModelSource::BodyOnly));
    for path in ["//admin", "//admin//status", "//"] {
        assert_eq!(route(&Method::GET, path, true), Route::Unknown, "{path}");
    }
    assert_eq!(of("GET", "/admin//"), Route::Admin);
    let raw = special(Mode::Raw, "//v1/v1/x/", of("POST", "/v1/v1/x/"));
    assert_eq!(raw, to("//v1/v1/x/", ModelSource::Raw));
}

// U06
#[test]
fn the_asterisk_is_never_forwarded() {
    for mode in [Mode::Models, Mode::Raw] {
        assert_eq!(special(mode, "*", of("OPTIONS", "*")), Route::Preflight);
    }
}

#[test]
fn what_is_close_is_not_the_same() {
    for path in ["/", "/v1", "/v1/", "/v1/v1", "/V1/models", "/v1x/v1/models", "/admins", "/audio/"] {
        assert_eq!(of("GET", path), Route::Unknown, "{path}");
    }
    assert_eq!(of("GET", "/v1/models/org/name"), Route::Model("org/name".into()));
    assert_eq!(of("GET", "/v1/models/org%2Fname"), Route::Model("org/name".into()));
}

fn response_of(method: &str, path: &str) -> Option<String> {
    if let Route::Forward(forward) = of(method, path) { forward.response() } else { None }
}

// R23
#[test]
fn a_kept_response_is_read_deleted_and_cancelled() {
    for path in ["/v1/responses/resp_1", "/v1/responses/resp_1/input_items", "/responses/resp_1"] {
        assert_eq!(of("GET", path), to(&format!("/v1{}", path.trim_start_matches("/v1")), ModelSource::Response));
        assert_eq!(response_of("GET", path).as_deref(), Some("resp_1"), "{path}");
    }
    assert_eq!(of("DELETE", "/v1/responses/resp_1"), to("/v1/responses/resp_1", ModelSource::Response));
    assert_eq!(of("POST", "/v1/responses/resp_1/cancel"), to("/v1/responses/resp_1/cancel", ModelSource::Response));
    assert_eq!(response_of("POST", "/v1/responses/a%2Fb/cancel").as_deref(), Some("a/b"));
    for path in ["/v1/responses", "/v1/responses/", "/v1/responses/a/b", "/v1/chat/completions/x"] {
        assert_eq!(["GET", "POST", "DELETE"].map(|method| response_of(method, path)), [None, None, None], "{path}");
    }
    assert_ne!(of("POST", "/v1/responses/input_tokens"), to("/v1/responses/input_tokens", ModelSource::Response));
}

#[test]
fn each_path_gets_the_error_shape_of_its_api() {
    for (path, dialect) in [
        ("/v1/messages", Dialect::Anthropic),
        ("/messages/count_tokens", Dialect::Anthropic),
        ("/v1/messages/batches/x", Dialect::Anthropic),
        ("/v1/responses", Dialect::Responses),
        ("/responses/x/cancel", Dialect::Responses),
        ("/v1/responses/x/y", Dialect::Responses),
        ("/v1/chat/completions", Dialect::OpenAi),
    ] {
        for method in [Method::GET, Method::POST, Method::PUT] {
            assert_eq!(find(&method, path).dialect, dialect, "{method} {path}");
        }
    }
}

#[test]
fn metrics_name_a_path_by_its_pattern() {
    for (path, label) in [
        ("/", "/"),
        ("-", "other"),
        ("/v1", "other"),
        ("/chat/completions/", "/v1/chat/completions"),
        ("/v1/chat/completions/id/x", "/v1/chat/completions/{id}"),
        ("/chat/completions/control", "/v1/chat/completions/{id}"),
        ("/v1/models/org/name", "/v1/models/{id}"),
        ("/v1/responses/a", "/v1/responses/{id}"),
        ("/v1/responses/a/b/c", "/v1/responses/{id}"),
        ("/v1/messages/batches", "other"),
        ("/v1/audio/speech", "/v1/audio/*"),
        ("/images/x/y", "/v1/images/*"),
        ("/v1/metrics", "/metrics"),
        ("/jobs", "/v1/jobs"),
        ("/v1/props", "/props"),
        ("/stream", "/v1/stream"),
        ("/admin/status", "/admin/*"),
        ("/v1/admin", "other"),
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            assert_eq!(find(&method, path).label, label, "{method} {path}");
        }
    }
}

#[test]
fn only_three_paths_may_be_jobs() {
    let is_job = |path: &str| matches!(of("POST", path), Route::Forward(forward) if forward.has(MayBeJob));
    assert!(["/v1/chat/completions", "/completions", "/v1/embeddings/"].iter().all(|path| is_job(path)));
    assert!(!["/v1/rerank", "/v1/responses", "/completion", "/v1/chat/completions/x"].iter().any(|path| is_job(path)));
}
