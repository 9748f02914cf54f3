//! One request as its access record and all locally generated answers see it.

use super::outcome::{ForwardContext, Relayed, ServedBy};
use crate::api::errors::{Failure, Kind};
use crate::api::paths;
use crate::config::CorsOrigin;
use crate::http::head::{Fields, Head};
use crate::http::response::Response;
use crate::observe::access::{AccessRecord, End};
use crate::observe::active::Activity;
use crate::observe::escape;
use crate::observe::log_writer;
use crate::observe::metrics::Metrics;
use crate::proxy::{cors, downstream};
use crate::routing::rate_limit::Quota;
use crate::routing::snapshot::Snapshot;
use crate::util::units::print_duration;
use crate::util::{random, time};
use http::{HeaderName, HeaderValue, StatusCode, header};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest path, method or model name in a record, in characters: clients choose them.
const SHOWN: usize = 256;

pub(crate) struct RequestContext {
    pub(crate) record: AccessRecord,
    began: Instant,
    /// Fields of every answer: request id, CORS, rate limit.
    pub(crate) common: Arc<Fields>,
    access: bool,
    entry: Option<Entry>,
    quota: Option<Quota>,
}

/// The listener of a request, and where it is counted.
pub(crate) struct Entry {
    pub(crate) forward: Arc<str>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) activity: Arc<Activity>,
}

impl RequestContext {
    /// A request with a valid head.
    pub(crate) fn new(head: &Head, peer: IpAddr, began: Instant, snapshot: &Snapshot, entry: Entry) -> Self {
        let id = cors::request_id(head).unwrap_or_else(random::request_id);
        let mut common = with_id(&id);
        let row = paths::find(&head.method, &head.target.canonical());
        if row.is_page() {
            page_fields().into_iter().for_each(|(name, value)| common.push(name, value));
        }
        let client = cors::client(head, peer, &snapshot.config.server.trusted_proxies);
        // Format 004, the only one with `jobs.always`, sent these on every answer [S004-17].
        let jobs = &snapshot.config.jobs;
        if jobs.enabled && jobs.always && !row.is_page() {
            common.push(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            common.push(header::X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN"));
        }
        Self {
            record: AccessRecord {
                method: short(head.method.as_str()),
                path: short(head.target.path()),
                ..AccessRecord::new(id, client, row)
            },
            began,
            common: Arc::new(common),
            access: snapshot.config.log.access,
            entry: Some(entry),
            quota: None,
        }
    }

    /// Adds the CORS fields. No other site may read answers of the administration page.
    #[must_use]
    pub(crate) fn with_cors(mut self, head: &Head, rules: &[CorsOrigin]) -> Self {
        if !self.record.row.is_page() {
            cors::add_cors(Arc::make_mut(&mut self.common), rules, head);
        }
        self
    }

    #[must_use]
    pub(crate) fn never_stored(mut self) -> Self {
        Arc::make_mut(&mut self.common).push(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self
    }

    /// A request whose head could not be parsed.
    pub(crate) fn unread(peer: IpAddr, began: Instant) -> Self {
        let id = random::request_id();
        let common = Arc::new(with_id(&id));
        Self {
            record: AccessRecord::new(id, peer, &paths::OTHER),
            began,
            common,
            access: true,
            entry: None,
            quota: None,
        }
    }

    /// Adds what is left of a rate limit to every answer.
    pub(crate) fn report_limit(&mut self, quota: &Quota) {
        // Of two limits the tighter one is reported.
        if self.quota.is_some_and(|known| quota.granted && known.remaining <= quota.remaining) {
            return;
        }
        self.quota = Some(*quota);
        let fields = Arc::make_mut(&mut self.common);
        fields.remove_prefixed("x-ratelimit-");
        let reset = Duration::from_millis(quota.reset.as_millis().try_into().unwrap_or(u64::MAX));
        let pairs = [
            ("x-ratelimit-limit-requests", quota.limit.to_string()),
            ("x-ratelimit-remaining-requests", quota.remaining.to_string()),
            ("x-ratelimit-reset-requests", if reset.is_zero() { "0s".to_owned() } else { print_duration(reset) }),
        ];
        for (name, value) in pairs {
            if let Ok(value) = HeaderValue::from_str(&value) {
                fields.push(HeaderName::from_static(name), value);
            }
        }
    }

    /// Adds a field to every answer.
    pub(crate) fn add_field(&mut self, name: HeaderName, value: Option<HeaderValue>) {
        if let Some(value) = value {
            Arc::make_mut(&mut self.common).push(name, value);
        }
    }

    pub(crate) fn json(&self, response: &mut Response, status: StatusCode, body: &[u8]) {
        let mut fields = Fields::clone(&self.common);
        fields.push(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(response, status, &fields, body);
    }

    /// Sends an answer, or 503 if too much is held for clients that do not read.
    fn send(&self, response: &mut Response, status: StatusCode, fields: &Fields, body: &[u8]) {
        if let Err(failure) = response.afford(body.len()) {
            return self.refuse(response, &failure);
        }
        response.send(status, fields, body);
        self.done(status, body.len());
    }

    pub(crate) fn local(&self, response: &mut Response, answer: Result<LocalResponse, Failure>) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => return self.refuse(response, &failure),
        };
        let mut fields = Fields::clone(&self.common);
        if !answer.fields.iter().any(|(name, _)| *name == header::CONTENT_TYPE) {
            fields.push(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, value) in &answer.fields {
            fields.push(name.clone(), value.clone());
        }
        self.send(response, answer.status, &fields, &answer.body);
    }

    /// Answers with text of the Prometheus exposition format 0.0.4.
    pub(crate) fn text(&self, response: &mut Response, body: &str) {
        let mut fields = Fields::clone(&self.common);
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        fields.push(header::CONTENT_TYPE, kind);
        self.send(response, StatusCode::OK, &fields, body.as_bytes());
    }

    pub(crate) fn preflight(&self, response: &mut Response, head: &Head, cors: &[CorsOrigin]) {
        match cors::preflight(cors, head) {
            Err(failure) => self.refuse(response, &failure),
            Ok(answer) => {
                let mut fields = Fields::clone(&self.common);
                fields.extend(&answer);
                response.send(StatusCode::NO_CONTENT, &fields, &[]);
                self.done(StatusCode::NO_CONTENT, 0);
            }
        }
    }

    pub(crate) fn not_allowed(&self, response: &mut Response, methods: &'static str) {
        let failure = Failure::new(Kind::MethodNotAllowed, format!("This path takes {methods} only."));
        let (mut fields, body) = downstream::refusal(&failure, self.record.row.dialect, &self.common);
        fields.push(header::ALLOW, HeaderValue::from_static(methods));
        response.send(downstream::status(&failure), &fields, &body);
        self.done(downstream::status(&failure), body.len());
    }

    pub(crate) fn refuse(&self, response: &mut Response, failure: &Failure) {
        self.refuse_model(response, None, failure);
    }

    pub(crate) fn refuse_model(&self, response: &mut Response, model: Option<&str>, failure: &Failure) {
        let (fields, body) = downstream::refusal(failure, self.record.row.dialect, &self.common);
        response.send(downstream::status(failure), &fields, &body);
        let (status, _, code) = failure.kind.wire();
        let record = self.ended(status, body.len() as u64);
        self.write(AccessRecord { end: End::Refused, reason: Some(code), model: model.map(short), ..record }, false);
        // A client that does not speak HTTP cannot read the answer, so the log tells the reason.
        let level = if self.record.path == "-" { log::Level::Info } else { log::Level::Debug };
        log::log!(level, "request {} of {} refused: {}", self.record.request_id, self.record.client, failure.message);
    }

    fn done(&self, status: StatusCode, bytes: usize) {
        self.write(self.ended(status.as_u16(), bytes as u64), false);
    }

    /// Writes the access line of a forwarded request.
    pub(crate) fn log(&self, status: u16, ctx: &ForwardContext<'_>, served_by: Option<&ServedBy>, relayed: &Relayed) {
        let model = served_by.and_then(|served_by| served_by.model.as_deref()).or(ctx.body.name());
        let record = AccessRecord {
            model: model.map(short),
            endpoint: served_by.map(|served_by| served_by.endpoint.name().to_owned()),
            reason: served_by.map(|served_by| served_by.reason),
            attempts: served_by.map_or(0, |served_by| served_by.attempts),
            queue: Some(ctx.queued.get()).filter(|queued| !queued.is_zero()),
            first_byte: relayed.first_byte.map(|at| at.saturating_duration_since(self.began)),
            tokens: relayed.tokens,
            recomputed: relayed.recomputed,
            end: relayed.end,
            ..self.ended(status, ctx.client.sent())
        };
        self.write(record, served_by.is_some_and(|served_by| served_by.named));
    }

    /// Writes the access line of a request whose client left before a worker took it.
    pub(crate) fn client_left(&self) {
        self.write(AccessRecord { end: End::ClientGone, ..self.ended(499, 0) }, false);
    }

    fn ended(&self, status: u16, bytes: u64) -> AccessRecord {
        let total = time::now().saturating_duration_since(self.began);
        AccessRecord { status, bytes, total, ..self.record.clone() }
    }

    fn write(&self, record: AccessRecord, named: bool) {
        let record = Arc::new(record);
        if let Some(Entry { forward, metrics, activity }) = &self.entry {
            activity.ended(&record);
            let model = record.model.as_deref().filter(|_| named);
            metrics.ended(&record, forward, model);
        }
        if self.access {
            log_writer::access(&record);
        }
    }
}

fn short(name: &str) -> String {
    escape::cut(name, SHOWN).to_owned()
}

fn with_id(id: &str) -> Fields {
    let mut fields = Fields::with_capacity(4);
    if let Ok(value) = HeaderValue::from_str(id) {
        fields.push(HeaderName::from_static("x-request-id"), value);
    }
    fields
}

/// A complete answer made by another module.
pub(crate) struct LocalResponse {
    pub status: StatusCode,
    pub(crate) body: Vec<u8>,
    pub(crate) fields: Vec<(HeaderName, HeaderValue)>,
}

impl LocalResponse {
    pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Self {
        Self { status, body: body.to_string().into_bytes(), fields: Vec::new() }
    }

    /// With one more field; a value that no field may have is left out.
    pub(crate) fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.fields.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }
}

/// Security fields of every answer below `/admin`.
fn page_fields() -> Vec<(HeaderName, HeaderValue)> {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
        base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let pairs = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("origin-agent-cluster"), "?1"),
        (HeaderName::from_static("x-permitted-cross-domain-policies"), "none"),
        (HeaderName::from_static("x-dns-prefetch-control"), "off"),
    ];
    pairs.map(|(name, value)| (name, HeaderValue::from_static(value))).to_vec()
}
