//! Unit tests of `errors`.

use super::*;

#[test]
fn an_unknown_model_names_what_is_there() {
    let mut failure = Failure::new(Kind::ModelNotFound, "The model `x` is not served here.").param("model");
    failure.available_models = Some(vec!["a".into(), "b".into()]);
    let body: Value = serde_json::from_slice(&failure.body(Dialect::OpenAi)).expect("JSON");
    assert_eq!(body["error"]["code"], "model_not_found");
    assert_eq!(body["error"]["type"], "invalid_request_error");
    assert_eq!(body["error"]["param"], "model");
    assert_eq!(body["error"]["available_models"], json!(["a", "b"]));
}

#[test]
fn anthropic_has_an_error_shape_of_its_own() {
    let failure = Failure::new(Kind::NoEndpoint, "x");
    let body: Value = serde_json::from_slice(&failure.body(Dialect::Anthropic)).expect("JSON");
    assert_eq!((&body["type"], &body["error"]["type"]), (&json!("error"), &json!("overloaded_error")));
}

#[test]
fn an_event_ends_with_an_empty_line_and_is_no_end_marker() {
    for dialect in [Dialect::OpenAi, Dialect::Responses, Dialect::Anthropic] {
        let event = String::from_utf8(Failure::new(Kind::Upstream, "lost").event(dialect)).expect("UTF-8");
        assert!(event.ends_with("\n\n") && event.contains("lost"));
        assert!(!event.contains("[DONE]") && !event.contains("stop"));
    }
}

#[test]
fn an_error_about_the_context_is_known_by_what_each_server_says() {
    let recorded = include_str!("../../../tests/data/err_context.raw");
    let body = recorded.split("\r\n\r\n").nth(1).expect("a body");
    assert!(matches!(exceeded_context(body.as_bytes()), Some(Some(1..))));
    // R12
    for (body, size) in [
        (r#"{"error":{"code":"context_length_exceeded","message":"too long"}}"#, None),
        (
            r#"{"error":{"code":"context_length_exceeded","message":"This model's maximum context length is 4097 tokens. However, you requested 4927 tokens."}}"#,
            Some(4097),
        ),
        (
            r#"{"object":"error","message":"This model's maximum context length is 8192 tokens. However, you requested 9000.","type":"BadRequestError","code":400}"#,
            Some(8192),
        ),
        (
            r#"{"error":{"message":"The decoder prompt (length 9000) is longer than the maximum model length of 8192.","type":"BadRequestError","code":400}}"#,
            Some(8192),
        ),
        (
            r#"{"error":{"message":"You passed 9000 input tokens and requested 1 output tokens. However, the model's context length is only 8192 tokens.","code":400}}"#,
            Some(8192),
        ),
        (r#"{"type":"error","error":{"type":"exceed_context_size_error","n_ctx":512}}"#, Some(512)),
    ] {
        assert_eq!(exceeded_context(body.as_bytes()), Some(size), "{body}");
    }
    for other in [
        "",
        "[]",
        "{}",
        r#"{"error":"exceed_context_size_error"}"#,
        r#"{"error":{"type":"x"}}"#,
        r#"{"error":{"message":"the context size is exceeded, says this text"}}"#,
        r#"{"error":{"message":"maximum context length is unknown"}}"#,
    ] {
        assert_eq!(exceeded_context(other.as_bytes()), None, "{other}");
    }
}
