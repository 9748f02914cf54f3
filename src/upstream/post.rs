//! One POST to a URL chosen by users (webhooks): no redirects, and each address is checked before connecting.

use super::error::{UpstreamError, UpstreamErrorKind};
use crate::config::{Base, Endpoint, Timeouts};
use crate::upstream::client::{UpstreamClient, UpstreamRequest};
use crate::upstream::resolver::Guard;
use crate::util::cancel::CancelToken;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct Post<'a> {
    pub(crate) base: &'a Base,
    pub path: &'a str,
    /// Fields beside `Content-Type` and `User-Agent`.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: [&'a [u8]; 3],
}

/// Returns the status; `guard` checks each address of the host.
pub(crate) fn deliver(
    post: &Post<'_>,
    patience: Duration,
    cancel: &Arc<CancelToken>,
    guard: Guard,
) -> Result<u16, String> {
    let base = post.base;
    let endpoint = Endpoint { base: base.clone(), keep_alive: Duration::ZERO, ..Endpoint::plain("webhook", "", 1) };
    let client = UpstreamClient::guarded(&endpoint, guard)?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("llmproxy/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in &post.headers {
        let value = HeaderValue::from_str(value).map_err(|_| "has a field that cannot be sent".to_owned())?;
        headers.insert(HeaderName::from_static(name), value);
    }
    let timeouts = Timeouts { connect: None, first_byte: None, idle: None, total: Some(patience) };
    let headers = || headers.clone();
    let request = UpstreamRequest {
        raw: true,
        body: post.body.to_vec(),
        cancel: Some(Arc::clone(cancel)),
        ..UpstreamRequest::own(Method::POST, post.path, &headers, timeouts)
    };
    match client.send(&request) {
        Ok(answer) => Ok(answer.status.as_u16()),
        Err(UpstreamError { kind: UpstreamErrorKind::Timeout(_), .. }) => {
            Err(format!("it did not answer within {}s", patience.as_secs()))
        }
        Err(fault) => Err(fault.cause),
    }
}
