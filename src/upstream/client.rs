//! The HTTP client of one endpoint: a ureq agent with its connections, one request, and the answer as it arrives.

use super::call::{Call, Entered, Stage, Watch};
use super::connect::Addresses;
use super::error::{UpstreamError, UpstreamErrorKind, fault};
use super::headers::{INSTANCE, Identity};
use super::idle::Reusing;
use super::tls::Tls;
use super::transport::TcpConnector;
use crate::config::{Base, Endpoint, Timeouts};
use crate::routing::slots::Slot;
use crate::upstream::resolver::{CachedResolver, Guard};
use crate::util::cancel::CancelToken;
use crate::util::time;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector};
use ureq::{Agent, Error, SendBody};

/// Bytes of the buffer for what is sent: as many as there are, within these bounds. The larger one holds the longest line
/// of a head.
const OUTPUT: [usize; 2] = [4 << 10, 40 << 10];
/// ureq's own time-outs never expire, but tell the transport what is being written; it has the real ones (`Call`).
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

pub(crate) struct UpstreamClient {
    agent: Agent,
    /// Scheme and authority of every request, whatever its target is.
    scheme: Scheme,
    authority: Authority,
    /// The authority without the scheme's default port.
    host: HeaderValue,
    base: Base,
    /// For `Via`; webhooks have none.
    identity: Option<Arc<Identity>>,
}

pub(crate) struct UpstreamRequest<'a> {
    pub(crate) method: Method,
    /// Path and query below the base, starting with `/v1/` for the API, else with `/`.
    pub path: &'a str,
    /// The path is appended to the base as configured, without a second `/v1`.
    pub(crate) raw: bool,
    /// Makes the fields, for each connection tried; `Content-Length` and `Host` are added here.
    pub(crate) headers: &'a dyn Fn() -> HeaderMap,
    /// Its parts, one after another.
    pub(crate) body: Vec<&'a [u8]>,
    /// Follows `body`; read while it is sent.
    pub(crate) tail: Option<BodyTail<'a>>,
    pub(crate) timeouts: Timeouts,
    pub(crate) cancel: Option<Arc<CancelToken>>,
    pub(crate) watch: Option<Rc<dyn Watch>>,
}

impl<'a> UpstreamRequest<'a> {
    /// A request of the proxy's own, without a body.
    pub(crate) fn own(method: Method, path: &'a str, headers: &'a dyn Fn() -> HeaderMap, timeouts: Timeouts) -> Self {
        let (body, tail, cancel, watch) = (Vec::new(), None, None, None);
        Self { method, path, raw: false, headers, body, tail, timeouts, cancel, watch }
    }
}

/// The rest of a body that is still arriving. It can be sent only once.
#[derive(Clone, Copy)]
pub(crate) struct BodyTail<'a> {
    pub(crate) from: &'a RefCell<dyn Read>,
    /// In bytes; if unknown, the body is sent chunked.
    pub(crate) length: Option<u64>,
}

/// The head of an answer, and its body as it arrives.
pub(crate) struct UpstreamResponse {
    pub status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Length of the body, if it was framed by it.
    pub(crate) length: Option<u64>,
    /// The body ends with the connection, so its end cannot be told from a lost connection.
    pub(crate) until_close: bool,
    /// Released with the last byte of the body, before the client can send its next request.
    pub(crate) slot: Option<Slot>,
    left: Option<u64>,
    /// Bytes returned by `unread`.
    ahead: Vec<u8>,
    /// Why nothing follows them, found out by `read_ahead`.
    failed: Option<UpstreamError>,
    body: Box<dyn Read>,
    call: Rc<Call>,
    _entered: Entered,
}

impl UpstreamClient {
    /// Keeps at most `connections` idle connections.
    ///
    /// # Errors
    /// The outgoing proxy of the endpoint is no usable URL.
    pub(crate) fn new(endpoint: &Endpoint, connections: usize) -> Result<Self, String> {
        Self::with(endpoint, connections, CachedResolver::default(), None)
    }

    /// A client for one request, which connects only to addresses that `guard` allows.
    pub(super) fn guarded(endpoint: &Endpoint, guard: Guard) -> Result<Self, String> {
        Self::with(endpoint, 0, CachedResolver::guarded(guard), None)
    }

    pub(super) fn with(
        endpoint: &Endpoint,
        connections: usize,
        names: CachedResolver,
        identity: Option<Arc<Identity>>,
    ) -> Result<Self, String> {
        let proxy = match &endpoint.proxy {
            Some(url) => Some(ureq::Proxy::new(url.reveal()).map_err(|_| "the proxy is not a usable URL")?),
            None => None,
        };
        let most_idle = if endpoint.keep_alive.is_zero() { 0 } else { connections };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .allow_non_standard_methods(true)
            .proxy(proxy)
            .user_agent("")
            .accept("")
            .accept_encoding("")
            .max_idle_connections(0)
            .timeout_connect(Some(NEVER))
            .timeout_send_request(Some(NEVER))
            .timeout_send_body(Some(NEVER))
            .build();
        let base = endpoint.base.clone();
        let host = if base.host.contains(':') { format!("[{}]", base.host) } else { base.host.clone() };
        let authority = Authority::try_from(format!("{host}:{}", base.port)).map_err(|_| "its host is no host")?;
        let (scheme, usual) = if base.tls { (Scheme::HTTPS, 443) } else { (Scheme::HTTP, 80) };
        let host = if base.port == usual { &host } else { authority.as_str() };
        let host = HeaderValue::from_str(host).map_err(|_| "its host is no host")?;
        let tls = Tls::new(&base, endpoint.ca_file.as_ref())?;
        let tcp = TcpConnector { addresses: Addresses::default(), authority: authority.clone(), tls };
        let chain = ().chain(ConnectProxyConnector::default()).chain(tcp);
        let connector = Reusing::new(chain, authority.clone(), most_idle, endpoint.keep_alive);
        Ok(Self { agent: Agent::with_parts(config, connector, names), scheme, authority, host, base, identity })
    }

    /// Whether a request with these `Via` lines came through this endpoint.
    pub(crate) fn is_in<'a>(&self, lines: impl Iterator<Item = &'a HeaderValue>) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.is_in(&self.authority, lines))
    }

    /// Sends a request once; a pooled connection that turns out to be dead is replaced once.
    ///
    /// # Errors
    /// No complete head came.
    pub(crate) fn send(&self, request: &UpstreamRequest<'_>) -> Result<UpstreamResponse, UpstreamError> {
        let is_head = request.method == Method::HEAD;
        let call = Call::new(request.timeouts, is_head, request.cancel.clone(), request.watch.clone(), time::now());
        let entered = call.enter();
        // A body that can be sent only once needs a connection that is not dead.
        call.fresh.set(request.tail.is_some());
        let mut result = self.exchange(request, &call);
        if let Err(fault) = &result
            && request.tail.is_none()
            && (call.unexpected.get() || fault.kind == UpstreamErrorKind::Reset && call.is_stale(time::now()))
        {
            call.restart(time::now());
            result = self.exchange(request, &call);
        }
        let (parts, body) = result?.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(UpstreamError { kind: UpstreamErrorKind::Garbled, cause: "switched protocols unasked".into() });
        }
        if let (Some(identity), Some(name)) = (&self.identity, parts.headers.get(INSTANCE)) {
            identity.note(&self.authority, name);
        }
        call.headed.set(true);
        // ureq reports no length for an empty body.
        let is_empty = parts.headers.get(http::header::CONTENT_LENGTH).is_some_and(|length| length == "0");
        let is_empty = is_empty && !parts.headers.contains_key(http::header::TRANSFER_ENCODING);
        let length = body.content_length().or(is_empty.then_some(0));
        let chunked = parts.headers.contains_key(http::header::TRANSFER_ENCODING) && length.is_none();
        Ok(UpstreamResponse {
            status: parts.status,
            headers: parts.headers,
            length,
            until_close: !chunked && length.is_none(),
            slot: None,
            left: length,
            ahead: Vec::new(),
            failed: None,
            body: Box::new(body.into_reader()),
            call,
            _entered: entered,
        })
    }

    fn exchange(
        &self,
        request: &UpstreamRequest<'_>,
        call: &Rc<Call>,
    ) -> Result<http::Response<ureq::Body>, UpstreamError> {
        let mut sent = http::Request::new(());
        *sent.method_mut() = request.method.clone();
        *sent.uri_mut() = self.uri(request.path, request.raw)?;
        *sent.headers_mut() = (request.headers)();
        sent.headers_mut().entry(http::header::HOST).or_insert_with(|| self.host.clone());
        if let Some(identity) = &self.identity {
            sent.headers_mut().append(http::header::VIA, identity.pseudonym.via.clone());
        }
        let head: usize = sent.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        let here = request.body.iter().map(|part| part.len() as u64).sum::<u64>();
        let length = request.tail.map_or(Some(here), |tail| tail.length.map(|tail| here + tail));
        let whole = length.map_or(OUTPUT[1], |length| usize::try_from(length).unwrap_or(OUTPUT[1]));
        let whole =
            whole.saturating_add(head + sent.uri().path_and_query().map_or(0, |path| path.as_str().len()) + 1024);
        call.output.set(whole.clamp(OUTPUT[0], OUTPUT[1]));
        call.is_chunked.set(length.is_none());
        let tail = Following { tail: request.tail, call };
        let parts = Parts { first: &[], rest: &request.body }.chain(tail);
        let mut parts = Upload { parts, left: length, call };
        let has_body = length != Some(0) || matches!(request.method, Method::POST | Method::PUT | Method::PATCH);
        let result = if has_body {
            // With a declared length ureq sends a reader unchunked.
            if let Some(length) = length {
                sent.headers_mut().insert(http::header::CONTENT_LENGTH, http::HeaderValue::from(length));
            }
            self.agent.run(sent.map(|()| SendBody::from_reader(&mut parts)))
        } else {
            self.agent.run(sent)
        };
        result.map_err(|e| fault(&e, call))
    }

    /// The URI has exactly one `/v1`, however the base is written, and always the endpoint's scheme, host and port.
    fn uri(&self, path: &str, raw: bool) -> Result<Uri, UpstreamError> {
        let refused = || UpstreamError { kind: UpstreamErrorKind::Garbled, cause: "the path cannot be sent".into() };
        if !path.starts_with('/') {
            return Err(refused());
        }
        let (prefix, tail) = match path.strip_prefix("/v1") {
            Some(tail) if tail.is_empty() || tail.starts_with(['/', '?']) => (&self.base.api, tail),
            _ if raw => (&self.base.given, path),
            _ => (&self.base.root, path),
        };
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
        let uri = uri.path_and_query(format!("{prefix}{tail}")).build();
        uri.ok().filter(|uri| uri.authority() == Some(&self.authority)).ok_or_else(refused)
    }
}

/// The parts of a body that are still to be sent.
struct Parts<'a> {
    first: &'a [u8],
    rest: &'a [&'a [u8]],
}

impl Read for Parts<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let (true, Some((first, rest))) = (self.first.is_empty(), self.rest.split_first()) {
            (self.first, self.rest) = (first, rest);
        }
        self.first.read(buf)
    }
}

/// Reads the body for ureq. Once the upstream has answered early, it only counts down the declared length.
struct Upload<'a, R> {
    parts: R,
    left: Option<u64>,
    call: &'a Call,
}

impl<R: Read> Read for Upload<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = self.left.map_or(0, |left| usize::try_from(left).unwrap_or(usize::MAX));
        let n = if self.call.upload_over.get() { buf.len().min(most) } else { self.parts.read(buf)? };
        self.left = self.left.map(|left| left.saturating_sub(n as u64));
        Ok(n)
    }
}

/// Reads the rest of a body. A slow client does not count against the upstream's time-outs.
struct Following<'a> {
    tail: Option<BodyTail<'a>>,
    call: &'a Call,
}

impl Read for Following<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(tail) = self.tail else { return Ok(0) };
        let read = tail.from.borrow_mut().read(buf);
        self.call.progress();
        read
    }
}

impl UpstreamResponse {
    /// Replaces the deadline of the whole answer (`timeouts.total`); returns the old one.
    pub(crate) fn end_by(&self, by: Option<Instant>) -> Option<Instant> {
        self.call.whole_by.replace(by)
    }

    /// The next bytes of the body; 0 at its end. From now on `timeouts.idle` applies.
    ///
    /// # Errors
    /// The answer was truncated or timed out.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> Result<usize, UpstreamError> {
        if !self.ahead.is_empty() {
            let n = self.ahead.len().min(buf.len());
            buf[..n].copy_from_slice(&self.ahead[..n]);
            self.ahead.drain(..n);
            return Ok(n);
        }
        let n = self.peek(buf)?;
        if n > 0 {
            self.begin();
        }
        Ok(n)
    }

    /// Appends the rest of the body; stops and returns false once `body` is longer than `limit`.
    ///
    /// # Errors
    /// Those of [`UpstreamResponse::read`]; `body` has what came before.
    pub(crate) fn read_to_end(&mut self, body: &mut Vec<u8>, limit: usize) -> Result<bool, UpstreamError> {
        self.read_by_chunks(&mut [0; 8 << 10], body, limit)
    }

    fn read_by_chunks(&mut self, chunk: &mut [u8], body: &mut Vec<u8>, limit: usize) -> Result<bool, UpstreamError> {
        loop {
            match self.read(chunk)? {
                0 => return Ok(true),
                n => body.extend_from_slice(&chunk[..n]),
            }
            if body.len() > limit {
                return Ok(false);
            }
        }
    }

    /// The body if it is complete by then and not longer than `limit`. The next reads return all the same, failures too.
    /// `chunk` is used to read it.
    pub(crate) fn read_ahead(&mut self, by: Instant, limit: usize, chunk: &mut [u8]) -> Option<&[u8]> {
        let usual = self.end_by(None);
        self.end_by(Some(usual.map_or(by, |usual| usual.min(by))));
        let mut body = Vec::new();
        let read = self.read_by_chunks(chunk, &mut body, limit);
        self.end_by(usual);
        self.unread(body);
        match read {
            Ok(is_whole) => return is_whole.then_some(&self.ahead),
            // Not the endpoint's fault; if the usual deadline has passed too, the next read says so.
            Err(fault) if fault.kind == UpstreamErrorKind::Timeout(Stage::Total) => self.call.expired.set(None),
            Err(fault) => self.failed = Some(fault),
        }
        None
    }

    /// Returns bytes of [`UpstreamResponse::peek`] to the front of the body, which counts as begun.
    pub(crate) fn unread(&mut self, bytes: Vec<u8>) {
        self.ahead = bytes;
        self.begin();
    }

    fn begin(&self) {
        if self.call.stage() != Stage::Body {
            self.call.enter_stage(Stage::Body, time::now());
        }
    }

    /// Reads part of the body while `timeouts.firstByte` keeps running.
    pub(crate) fn peek(&mut self, buf: &mut [u8]) -> Result<usize, UpstreamError> {
        if let Some(fault) = self.failed.take() {
            return Err(fault);
        }
        match self.body.read(buf) {
            Ok(0) if self.until_close && self.call.is_cancelled() => {
                Err(UpstreamError { kind: UpstreamErrorKind::ClientGone, cause: "the client has left".into() })
            }
            Ok(n) => {
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(n as u64);
                    // Returns the connection to the pool before the client, which has the whole answer, disconnects.
                    if n > 0 && *left == 0 {
                        let _ = self.body.read(&mut [0]);
                        self.slot = None;
                    }
                }
                if n == 0 {
                    self.slot = None;
                }
                Ok(n)
            }
            Err(e) => Err(fault(&Error::from(e), &self.call)),
        }
    }
}

#[cfg(test)]
mod tests;
