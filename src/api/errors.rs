//! Everything that can go wrong with a request, and how a client is told in the dialect it speaks.

use serde_json::{Value, json};
use std::time::Duration;

/// Why a request was not answered by an upstream. Facts for the client and one cause for the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What kind of failure: fixes status, `type` and `code`.
    pub kind: Kind,
    /// A sentence for the client, with the remedy. Never holds a secret or an upstream's address.
    pub(crate) message: String,
    /// The body field or parameter at fault.
    pub param: Option<&'static str>,
    /// Seconds a client should wait, rounded up when sent.
    pub(crate) retry_after: Option<Duration>,
    /// Names that would have been served (unknown model only).
    pub(crate) available_models: Option<Vec<String>>,
    /// What was tried at which endpoint, when upstreams failed.
    pub(crate) attempts: Vec<Attempted>,
}

/// One failed try, as told to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempted {
    pub(crate) endpoint: String,
    pub(crate) what: String,
}

/// The closed set of failures. `wire` gives status, type and code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 400: the bytes are not a request we can be sure of. The connection is closed.
    BadFraming,
    /// 400: the body is not what the API takes.
    InvalidBody,
    /// 400: no model, and nothing to stand in for it.
    ModelRequired,
    /// 401
    Unauthorized,
    /// 403: preflight of an origin that is not allowed.
    OriginRefused,
    /// 403: not from there.
    Forbidden,
    /// 403: ended from the page. Not a status that clients try again.
    Stopped,
    /// 404: nobody serves this model.
    ModelNotFound,
    /// 404: no such path.
    PathNotFound,
    /// 405: the path exists, the method does not.
    MethodNotAllowed,
    /// 408: head or body took too long.
    RequestTimeout,
    /// 413
    BodyTooLarge,
    /// 412: it is not what the client thinks it is.
    Changed,
    /// 415
    NotJson,
    /// 414
    TargetTooLong,
    /// 421: a loopback listener called by a foreign name.
    Misdirected,
    /// 429
    RateLimited,
    /// 431
    HeadTooLarge,
    /// 500: a bug of ours.
    Internal,
    /// 501: a transfer coding that is not `chunked`.
    UnknownCoding,
    /// 502: no usable answer came.
    Upstream,
    /// 503: every endpoint that could answer is unavailable.
    NoEndpoint,
    /// 503: more work than the bounds allow.
    Overloaded,
    /// 503: waited too long for a free slot.
    QueueTimeout,
    /// 503: being stopped.
    Draining,
    /// 504: a stage time-out ran out.
    UpstreamTimeout,
    /// 505
    VersionUnsupported,
    /// 508: the request has been here before.
    Loop,
    /// 507: no room on the disk.
    StorageFull,
}

impl Kind {
    /// Status, `type` and `code`, as OpenAI and llama-server use them.
    pub(crate) fn wire(self) -> (u16, &'static str, &'static str) {
        const REQUEST: &str = "invalid_request_error";
        match self {
            Self::BadFraming => (400, REQUEST, "bad_request"),
            Self::InvalidBody => (400, REQUEST, "invalid_body"),
            Self::ModelRequired => (400, REQUEST, "model_required"),
            Self::Unauthorized => (401, "authentication_error", "invalid_api_key"),
            Self::Forbidden => (403, "permission_error", "forbidden"),
            Self::Stopped => (403, "permission_error", "request_stopped"),
            Self::Changed => (412, REQUEST, "precondition_failed"),
            Self::NotJson => (415, REQUEST, "unsupported_media_type"),
            Self::OriginRefused => (403, "permission_error", "origin_not_allowed"),
            Self::ModelNotFound => (404, REQUEST, "model_not_found"),
            Self::PathNotFound => (404, "not_found_error", "not_found"),
            Self::MethodNotAllowed => (405, REQUEST, "method_not_allowed"),
            Self::RequestTimeout => (408, REQUEST, "request_timeout"),
            Self::BodyTooLarge => (413, REQUEST, "request_too_large"),
            Self::TargetTooLong => (414, REQUEST, "uri_too_long"),
            Self::Misdirected => (421, REQUEST, "misdirected_request"),
            Self::RateLimited => (429, "rate_limit_error", "rate_limit_exceeded"),
            Self::HeadTooLarge => (431, REQUEST, "head_too_large"),
            Self::Internal => (500, "server_error", "internal_error"),
            Self::UnknownCoding => (501, "not_supported_error", "unknown_transfer_coding"),
            Self::Upstream => (502, "upstream_error", "upstream_error"),
            Self::NoEndpoint => (503, "no_endpoint_available", "no_endpoint_available"),
            Self::Overloaded => (503, "overloaded", "overloaded"),
            Self::QueueTimeout => (503, "queue_timeout", "queue_timeout"),
            Self::Draining => (503, "overloaded", "draining"),
            Self::UpstreamTimeout => (504, "upstream_timeout", "upstream_timeout"),
            Self::Loop => (508, REQUEST, "loop_detected"),
            Self::StorageFull => (507, "storage_error", "storage_full"),
            Self::VersionUnsupported => (505, REQUEST, "http_version_not_supported"),
        }
    }

    pub fn status(self) -> u16 {
        self.wire().0
    }
}

/// Which API's error shape a path expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Dialect {
    /// Chat, completions, embeddings and all the rest.
    #[default]
    OpenAi,
    /// `/v1/responses`: the same bodies, but its own stream events.
    Responses,
    /// `/v1/messages`.
    Anthropic,
}

impl Failure {
    /// A failure with nothing but its sentence.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            param: None,
            retry_after: None,
            available_models: None,
            attempts: Vec::new(),
        }
    }

    #[must_use]
    pub fn param(mut self, name: &'static str) -> Self {
        self.param = Some(name);
        self
    }

    /// Tells the client when to come back.
    #[must_use]
    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The JSON body of the answer.
    pub(crate) fn body(&self, dialect: Dialect) -> Vec<u8> {
        self.json(dialect).to_string().into_bytes()
    }

    /// One event for a stream whose head is already out: never an end marker.
    pub(crate) fn event(&self, dialect: Dialect) -> Vec<u8> {
        let text = match dialect {
            Dialect::OpenAi => format!("data: {}\n\n", self.json(dialect)),
            Dialect::Anthropic => format!("event: error\ndata: {}\n\n", self.json(dialect)),
            Dialect::Responses => {
                let (_, _, code) = self.kind.wire();
                let data = json!({"type": "error", "code": code, "message": self.message, "param": self.param});
                format!("event: error\ndata: {data}\n\n")
            }
        };
        text.into_bytes()
    }

    fn json(&self, dialect: Dialect) -> Value {
        let (status, kind, code) = self.kind.wire();
        let mut error = match dialect {
            Dialect::Anthropic => json!({"type": anthropic_type(status), "message": self.message}),
            _ => json!({"message": self.message, "type": kind, "code": code, "param": self.param}),
        };
        if let Some(models) = &self.available_models {
            error["available_models"] = json!(models);
        }
        if !self.attempts.is_empty() {
            let attempts = self.attempts.iter().map(|a| json!({"endpoint": a.endpoint, "error": a.what}));
            error["attempts"] = attempts.collect();
        }
        match dialect {
            Dialect::Anthropic => json!({"type": "error", "error": error}),
            _ => json!({"error": error}),
        }
    }
}

/// Anthropic's error types by status (docs.anthropic.com, "Errors").
fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests {
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
}
