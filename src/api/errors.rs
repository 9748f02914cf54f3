//! The errors of this proxy in the dialect of each API, and how to read those of endpoints.

use memchr::memmem;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

/// Why the proxy itself answers a request with an error.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub kind: Kind,
    /// A sentence for the client, with the remedy. Never contains a secret or the address of an endpoint.
    pub(crate) message: String,
    /// The body field or parameter at fault.
    pub param: Option<&'static str>,
    /// Sent in seconds, rounded up.
    pub(crate) retry_after: Option<Duration>,
    /// Only for an unknown model.
    pub(crate) available_models: Option<Vec<String>>,
    /// Failed attempts at endpoints.
    pub(crate) attempts: Vec<Attempted>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Attempted {
    pub(crate) endpoint: String,
    #[serde(rename = "error")]
    pub(crate) what: String,
}

const REQUEST: &str = "invalid_request_error";
const PERMISSION: &str = "permission_error";

macro_rules! kinds {
    ($($name:ident = $wire:expr,)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $($name),+
        }

        impl Kind {
            /// Status, `type` and `code`, as OpenAI and llama-server use them.
            pub(crate) fn wire(self) -> (u16, &'static str, &'static str) {
                match self {
                    $(Self::$name => $wire),+
                }
            }
        }
    };
}

kinds! {
    // The request could be read in more than one way. The connection is closed.
    BadFraming = (400, REQUEST, "bad_request"),
    InvalidBody = (400, REQUEST, "invalid_body"),
    // No model was given, and there is no default.
    ModelRequired = (400, REQUEST, "model_required"),
    Unauthorized = (401, "authentication_error", "invalid_api_key"),
    // Preflight of an origin that is not allowed.
    OriginRefused = (403, PERMISSION, "origin_not_allowed"),
    Forbidden = (403, PERMISSION, "forbidden"),
    // By an administrator; not a status that clients retry.
    Stopped = (403, PERMISSION, "request_stopped"),
    ModelNotFound = (404, REQUEST, "model_not_found"),
    PathNotFound = (404, "not_found_error", "not_found"),
    MethodNotAllowed = (405, REQUEST, "method_not_allowed"),
    RequestTimeout = (408, REQUEST, "request_timeout"),
    // `If-Match` does not match.
    Changed = (412, REQUEST, "precondition_failed"),
    BodyTooLarge = (413, REQUEST, "request_too_large"),
    TargetTooLong = (414, REQUEST, "uri_too_long"),
    NotJson = (415, REQUEST, "unsupported_media_type"),
    // A foreign `Host` at a loopback listener.
    Misdirected = (421, REQUEST, "misdirected_request"),
    RateLimited = (429, "rate_limit_error", "rate_limit_exceeded"),
    HeadTooLarge = (431, REQUEST, "head_too_large"),
    // A bug in this program.
    Internal = (500, "server_error", "internal_error"),
    // A transfer coding that is not `chunked`.
    UnknownCoding = (501, "not_supported_error", "unknown_transfer_coding"),
    Upstream = (502, "upstream_error", "upstream_error"),
    NoEndpoint = (503, "no_endpoint_available", "no_endpoint_available"),
    // All matching endpoints are asleep, and this request does not wake them.
    Asleep = (503, "no_endpoint_available", "no_endpoint_available"),
    // A limit is reached.
    Overloaded = (503, "overloaded", "overloaded"),
    QueueTimeout = (503, "queue_timeout", "queue_timeout"),
    Draining = (503, "overloaded", "draining"),
    UpstreamTimeout = (504, "upstream_timeout", "upstream_timeout"),
    VersionUnsupported = (505, REQUEST, "http_version_not_supported"),
    StorageFull = (507, "storage_error", "storage_full"),
    // According to `Via`, the request has passed this proxy before.
    Loop = (508, REQUEST, "loop_detected"),
}

impl Kind {
    pub fn status(self) -> u16 {
        self.wire().0
    }
}

/// Which API's error shape a path expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Dialect {
    /// Also for all other paths.
    #[default]
    OpenAi,
    /// `/v1/responses`: OpenAI's bodies, but other stream events.
    Responses,
    Anthropic,
}

impl Failure {
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

    #[must_use]
    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    pub(crate) fn body(&self, dialect: Dialect) -> Vec<u8> {
        self.json(dialect).to_string().into_bytes()
    }

    /// The event for a stream that has already started, without `[DONE]`.
    pub(crate) fn event(&self, dialect: Dialect) -> Vec<u8> {
        let (name, data) = match dialect {
            Dialect::OpenAi => ("", self.json(dialect)),
            Dialect::Anthropic => ("event: error\n", self.json(dialect)),
            Dialect::Responses => {
                let (_, _, code) = self.kind.wire();
                let data = json!({"type": "error", "code": code, "message": self.message, "param": self.param});
                ("event: error\n", data)
            }
        };
        format!("{name}data: {data}\n\n").into_bytes()
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
            error["attempts"] = json!(self.attempts);
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

/// The text before the size in messages of OpenAI and vLLM.
const CONTEXT_IS: [&str; 3] =
    ["maximum context length is ", "model's context length is only ", "maximum model length of "];

/// Whether an error says that the prompt exceeds the context, and the size of the context if given. llama-server has a
/// `type` for it, OpenAI a `code`, vLLM only a message.
pub(crate) fn exceeded_context(body: &[u8]) -> Option<Option<u64>> {
    let body: Value = serde_json::from_slice(body).ok()?;
    // Older versions of vLLM have no `error` object around the message.
    let error = body.get("error").filter(|error| error.is_object()).unwrap_or(&body);
    let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
    let size = CONTEXT_IS.iter().find_map(|phrase| {
        let (_, rest) = text("message").split_once(phrase)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    });
    let known = text("type") == "exceed_context_size_error" || text("code") == "context_length_exceeded";
    (known || size.is_some()).then(|| error.get("n_ctx").and_then(Value::as_u64).or(size))
}

pub(crate) fn is_loading(body: &[u8]) -> bool {
    memmem::find(body, b"Loading model").is_some()
}

#[cfg(test)]
mod tests;
