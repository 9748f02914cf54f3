//! What a path and a method want.

use super::*;

fn of(method: &str, path: &str) -> Route {
    route(&method.parse().expect("a method"), path, false)
}

fn to(path: &str, names: ModelSource) -> Route {
    forward(path.into(), names)
}

#[test]
fn api_paths_are_reached_with_and_without_v1() {
    for name in API {
        let wanted = to(&format!("/v1/{name}"), ModelSource::Body);
        assert_eq!(of("POST", &format!("/v1/{name}")), wanted);
        assert_eq!(of("POST", &format!("/{name}")), wanted);
    }
    assert_eq!(of("POST", "/audio/transcriptions"), to("/v1/audio/transcriptions", ModelSource::Body));
}

#[test]
fn llama_servers_own_paths_go_out_without_v1() {
    for name in NATIVE {
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
        Route::Forward(forward) => forward.takes_place(&Method::POST),
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
        let raw = Forward { path: format!("/base/v1/{name}"), names: ModelSource::Raw };
        assert!(!raw.takes_place(&Method::POST), "{name}");
    }
    for name in API.iter().chain(&NATIVE).filter(|name| !ASIDE.iter().any(|aside| name.ends_with(aside))) {
        assert!(takes(&format!("/{name}")) && takes(&format!("/v1/{name}")), "{name}");
    }
}

#[test]
fn only_apis_that_stream_events_are_kept_alive_by_comments() {
    // R02, R03
    let streams = |path: &str, names| Forward { path: path.into(), names }.streams_events();
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/infill", "/completion"] {
        assert!(streams(path, ModelSource::Body) && streams(path, ModelSource::Raw), "{path}");
    }
    assert!(streams("//v1//chat/completions/", ModelSource::Raw), "slashes as R19 has them");
    assert!(streams("/chat/completions", ModelSource::Raw) && streams("/openai/v1/chat/completions", ModelSource::Raw));
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
        assert!(!streams(path, ModelSource::BodyOnly) && !streams(path, ModelSource::Raw), "{path}");
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

// R23
#[test]
fn a_kept_response_is_read_deleted_and_cancelled() {
    for path in ["/v1/responses/resp_1", "/v1/responses/resp_1/input_items", "/responses/resp_1"] {
        assert_eq!(of("GET", path), to(&format!("/v1{}", path.trim_start_matches("/v1")), ModelSource::Response));
        assert_eq!(response_of(path).as_deref(), Some("resp_1"), "{path}");
    }
    assert_eq!(of("DELETE", "/v1/responses/resp_1"), to("/v1/responses/resp_1", ModelSource::Response));
    assert_eq!(of("POST", "/v1/responses/resp_1/cancel"), to("/v1/responses/resp_1/cancel", ModelSource::Response));
    assert_eq!(response_of("/v1/responses/a%2Fb/cancel").as_deref(), Some("a/b"));
    for path in
        ["/v1/responses", "/v1/responses/", "/v1/responses/a/b", "/v1/responses//cancel", "/v1/chat/completions/x"]
    {
        assert_eq!(response_of(path), None, "{path}");
    }
    assert_ne!(of("POST", "/v1/responses/input_tokens"), to("/v1/responses/input_tokens", ModelSource::Response));
}
