//! `endpoints`: addresses, probes, credentials, headers, limits. `config/full.yml` explains each key.

use super::address::{self, base};
use super::edits::Stabilize;
use super::reader::Field;
use super::shown::looks_secret;
use super::table::*;
use super::text::{NOT_SENDABLE, can_be_sent, header_name, header_value, name, probe_path, user};
use super::{Base, Timeouts, Wake};
use crate::util::secret::Secret;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::time::Duration;

table! {
    /// One entry of `endpoints`.
    pub struct Endpoint (check = check) {
        pub name: String, required("name", unique("endpoint"));
        pub base: Base = Base::plain("", 1), with(place);
        pub enabled: bool = true, key("enabled", flag());
        pub probe: Probe = Probe::Default, with(probe);
        pub api_keys: Vec<Secret>, with(api_keys);
        pub auth: Auth = Auth::None, with(auth);
        pub headers: Vec<HeaderOp>, key("headers", items(HeaderOp::default()));
        /// Empty = read the endpoint's own list.
        pub models: Vec<String>, key("models", list(text(name)));
        pub default_model: Option<String>, key("defaultModel", optional(text(name)));
        pub weight: u16 = 1, key("weight", number("a weight", 1..=65_535));
        pub max_concurrent: MaxConcurrent = MaxConcurrent::Auto, key("maxConcurrent", max_concurrent());
        pub on_client_gone: OnClientGone = OnClientGone::Cancel, key("onClientGone", word());
        /// The global time-outs with the endpoint's overrides applied.
        pub timeouts: Timeouts, key("timeouts", section());
        /// HTTP proxy for outgoing calls, `http://[user:pass@]host:port`; a secret, as it may hold a password.
        pub proxy: Option<Secret>, with(proxy);
        pub user_agent: Option<String>, key("userAgent", optional(text(header_value)));
        pub ca_file: Option<CaFile>, key("caFile", ca_file());
        pub stabilize: Option<Stabilize>, key("stabilize", optional(word()));
        pub wake: Option<Wake>, key("wake", optional(section()));
        /// Exempts streamed answers from `timeouts.total`. Only a group can change it.
        pub stream: bool = true, internal();
        /// How long idle connections are kept; llama-server closes them after 5 s. Only a group can change it.
        pub keep_alive: Duration = Duration::from_secs(3), internal();
    }
}

impl Endpoint {
    /// An endpoint with an address and defaults.
    pub fn plain(name: impl Into<String>, host: impl Into<String>, port: u16) -> Self {
        Self { name: name.into(), base: Base::plain(host, port), ..Self::default() }
    }
}

fn check(endpoint: &Endpoint, section: &Field) {
    let Endpoint { models, default_model, .. } = endpoint;
    if default_model.as_ref().is_some_and(|model| !models.is_empty() && !models.contains(model)) {
        section.get("defaultModel").wrong("is not one of this endpoint's `models`");
    }
    if endpoint.wake.is_some() && endpoint.probe == Probe::Never {
        let text = "needs probes, which tell when the machine is awake; remove `healthCheck: false`";
        section.get("wake").problem(text);
    }
}

fn place(base: &mut Base, keys: &mut Keys) {
    keys.read(|section| *base = read_base(section).unwrap_or_else(|| base.clone()));
    if !base.tls && base.given.is_empty() {
        keys.print("address", base.host.clone());
        keys.print("port", base.port);
    } else {
        keys.print("url", base.to_string());
    }
}

/// Exactly one of `address` with `port`, and `url`.
fn read_base(section: &Field) -> Option<Base> {
    let (host, port, url) = (section.get("address"), section.get("port"), section.get("url"));
    if url.is_given() && (host.is_given() || port.is_given()) {
        section.problem("give `url`, or `address` and `port`, not both");
        return None;
    }
    if url.is_given() {
        return url.parse(base);
    }
    let one = host.parse(|text| {
        address::host(text).map_err(|error| match text {
            _ if text.contains("://") => "is a URL; write it as `url: ...` and leave out `port`".into(),
            _ if text.contains(':') => format!("{error}; the port has a key of its own: `port`"),
            _ => error,
        })
    });
    let number = (number("a port", 1..=65_535).read)(&port, None);
    match (host.is_given(), port.is_given()) {
        (true, true) => return Some(Base::plain(one?, number?)),
        (false, false) => section.problem("`address` and `port` are missing (or `url` instead of both)"),
        (true, false) => section.problem("`port` is missing"),
        (false, true) => section.problem("`address` is missing"),
    }
    None
}

/// The path to probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// `healthCheck: false`: the endpoint counts as available.
    Never,
    /// `healthCheck.path`.
    Default,
    /// The endpoint's own `healthCheckPath`.
    Path(String),
}

fn probe(probe: &mut Probe, keys: &mut Keys) {
    keys.read(|section| {
        let path = section.get("healthCheckPath");
        if (flag().read)(&section.get("healthCheck"), None) == Some(false) {
            *probe = Probe::Never;
            if path.is_given() {
                path.problem("has no use with `healthCheck: false`");
            }
        } else if let Some(path) = path.parse(probe_path) {
            *probe = Probe::Path(path);
        }
    });
    match probe {
        Probe::Never => keys.print("healthCheck", false),
        Probe::Default => keys.print("healthCheckPath", Json::Null),
        Probe::Path(path) => keys.print("healthCheckPath", path.clone()),
    }
}

fn api_keys(all: &mut Vec<Secret>, keys: &mut Keys) {
    keys.key(all, "apiKeys", list(Kind::new(|field| field.secret(|_| true), masked)));
    keys.read(|section| {
        let one = section.secret_at("apiKey", |_| true);
        if one.is_some() && section.gives("apiKeys") {
            section.get("apiKeys").problem("give `apiKey` or `apiKeys`, not both");
        }
        all.extend(one);
        if all.iter().any(|key| !can_be_sent(key.reveal())) {
            section.problem(format!("a key {NOT_SENDABLE}"));
        }
    });
}

/// `endpoints[].auth`
#[derive(Debug, Clone, PartialEq)]
pub enum Auth {
    None,
    /// `Authorization: Bearer KEY`; the default when a key is given.
    Bearer,
    /// `Authorization: Basic base64(username:password)`.
    Basic {
        username: String,
        password: Secret,
    },
    /// `NAME: KEY`.
    Header {
        name: String,
    },
}

words! {
    /// `endpoints[].auth.type`
    pub(super) enum AuthType {
        Bearer = "bearer",
        Basic = "basic",
        Header = "header",
        None = "none",
    }
}

fn auth(auth: &mut Auth, keys: &mut Keys) {
    keys.read(|section| *auth = read_auth(section).unwrap_or(Auth::None));
    let printed = match auth {
        Auth::None => json!({"type": "none"}),
        Auth::Bearer => json!({"type": "bearer"}),
        Auth::Basic { username, password } => {
            json!({"type": "basic", "username": username, "password": masked(password)})
        }
        Auth::Header { name } => json!({"type": "header", "name": name}),
    };
    keys.print("auth", printed);
}

fn read_auth(section: &Field) -> Option<Auth> {
    use AuthType::{Basic, Bearer, Header};
    const USES: [(&str, AuthType); 4] =
        [("username", Basic), ("password", Basic), ("passwordFile", Basic), ("name", Header)];
    // Invalid keys count: they are reported by themselves.
    let has_key = ["apiKey", "apiKeyFile", "apiKeys"].iter().any(|key| section.gives(key));
    let s = section.get("auth");
    let kind = (word::<AuthType>().read)(&s.get("type"), None);
    let (username, password) = (s.get("username").parse(user), s.secret_at("password", |_| true));
    let name = s.get("name").parse(header_name);
    if !s.is_given() {
        return has_key.then_some(Auth::Bearer);
    }
    if s.is_section() && !s.gives("type") {
        s.problem("`type` is missing: bearer, basic, header or none");
    }
    let kind = kind?;
    for (key, only) in USES.iter().filter(|(key, only)| kind != *only && s.gives(key)) {
        s.problem(format!("`{key}` has a use only with `type: {}`", only.word()));
    }
    match kind {
        Bearer | Header if !has_key => s.problem("needs an `apiKey` beside it"),
        Basic | AuthType::None if has_key => s.problem("does not send the `apiKey` beside it; remove one of them"),
        _ => {}
    }
    match kind {
        Bearer => Some(Auth::Bearer),
        Basic => {
            if !(s.gives("username") && (s.gives("password") || s.gives("passwordFile"))) {
                s.problem("`type: basic` needs `username` and `password`");
            }
            Some(Auth::Basic { username: username?, password: password? })
        }
        Header => {
            if !s.gives("name") {
                s.problem("`type: header` needs `name`, the header that takes the key");
            }
            Some(Auth::Header { name: name? })
        }
        AuthType::None => None,
    }
}

table! {
    /// One entry of `endpoints[].headers`.
    pub struct HeaderOp as change {
        pub op: Op = Op::Insert, required("op", word());
        pub key: String, required("key", text(header_name));
        /// Empty for `Remove`; a secret, as it is often a key.
        pub value: Secret, with(|value, keys| {
            keys.read(|section| *value = read_value(change.op, &change.key, section));
            if change.op != Op::Remove {
                keys.print("value", masked(value));
            }
        });
    }
}

words! {
    /// `op` of a header change [S002-10].
    pub enum Op {
        /// Set only if absent.
        Insert = "insert",
        Replace = "replace",
        Remove = "remove",
    }
}

/// Parts of the names of headers with credentials.
const SECRET_NAMES: [&str; 11] =
    ["apikey", "assertion", "auth", "cookie", "credential", "jwt", "key", "passw", "secret", "signature", "token"];

fn read_value(op: Op, key: &str, section: &Field) -> Secret {
    let secret_name = key.is_empty() || SECRET_NAMES.iter().any(|part| key.contains(part));
    let value = section.secret_at("value", |text| secret_name || looks_secret(text)).unwrap_or_default();
    let from_file = section.gives("valueFile");
    let is_given = section.gives("value") || from_file;
    if !can_be_sent(value.reveal()) {
        section.problem(format!("`value` {NOT_SENDABLE}"));
    }
    match op {
        Op::Remove if is_given => section.problem("`remove` takes no value"),
        Op::Insert | Op::Replace if !is_given => section.problem("`value` is missing"),
        _ => {}
    }
    let may_be_shown = !secret_name && !from_file && !section.get("value").is_filled_in();
    if may_be_shown && !looks_secret(value.reveal()) { value.shown() } else { value }
}

/// `endpoints[].maxConcurrent`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxConcurrent {
    /// llama-server's `total_slots` if it reports them, else no limit.
    Auto,
    /// No limit.
    Unlimited,
    /// At least 1.
    Most(u32),
}

fn max_concurrent() -> Kind<MaxConcurrent> {
    let most = number("a number of requests, auto or unlimited", 1..=65_536);
    let most = most.inside(MaxConcurrent::Most, |value| match value {
        MaxConcurrent::Most(most) => Some(most),
        _ => None,
    });
    or_word("auto", MaxConcurrent::Auto, or_word("unlimited", MaxConcurrent::Unlimited, most))
}

words! {
    /// `endpoints[].onClientGone`
    pub enum OnClientGone {
        Cancel = "cancel",
        Finish = "finish",
    }
}

/// The URL of a proxy is shown unless it has a user or password.
pub(super) fn proxy_secret(proxy: Secret) -> Secret {
    if proxy.reveal().contains('@') { proxy } else { proxy.shown() }
}

pub(super) fn proxy(proxy: &mut Option<Secret>, keys: &mut Keys) {
    keys.read(|section| {
        *proxy = section.secret_at("proxy", |text| text.contains('@')).map(proxy_secret);
        if let Some(Err(error)) = proxy.as_ref().map(|proxy| address::proxy(proxy.reveal())) {
            section.problem(format!("`proxy` {error}"));
        }
    });
    keys.print("proxy", proxy.as_ref().map_or(Json::Null, masked));
}

/// `endpoints[].caFile`
#[derive(Debug, Clone, PartialEq)]
pub struct CaFile {
    pub path: String,
    pub certificates: Arc<[Vec<u8>]>,
}

fn ca_file() -> Kind<Option<CaFile>> {
    let read = |field: &Field| {
        let (path, certificates) = field.text_file(certificates)?;
        Some(Some(CaFile { path, certificates: certificates.into() }))
    };
    Kind::new(read, |file| json!(file.as_ref().map(|file| &file.path)))
}

/// The certificates of a PEM text (RFC 7468), at least one.
pub(super) fn certificates(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let begin = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    let bodies = begin.map(|part| part.split_once("-----END CERTIFICATE-----").map(|(body, _)| body));
    let der = bodies.map(|body| BASE64_STANDARD.decode(body?.split_whitespace().collect::<String>()).ok());
    match der.collect::<Option<Vec<_>>>() {
        Some(certificates) if !certificates.is_empty() => Ok(certificates),
        Some(_) => Err("holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)".into()),
        None => Err("holds a certificate that is cut off or not base64".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_found_among_other_text_and_nothing_else_counts() {
        // R21
        let one = "-----BEGIN CERTIFICATE-----\nAQID\r\nBA==\n-----END CERTIFICATE-----\n";
        assert_eq!(certificates(one), Ok(vec![vec![1, 2, 3, 4]]));
        assert_eq!(certificates(&format!("# home\n{one}text\n{one}")).map(|all| all.len()), Ok(2));
        for text in ["", "x", "-----BEGIN PRIVATE KEY-----\nAQID\n-----END PRIVATE KEY-----"] {
            assert!(certificates(text).is_err_and(|e| e.contains("PEM")), "{text:?}");
        }
        for text in ["-----BEGIN CERTIFICATE-----\nAQID", "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----"] {
            assert!(certificates(text).is_err_and(|e| e.contains("base64")), "{text:?}");
        }
    }
}
