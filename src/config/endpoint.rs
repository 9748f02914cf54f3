//! `endpoints`: where they are, how they are probed, what is sent to them.

use super::address::{self, base};
use super::reader::{Field, Section};
use super::shown::looks_secret;
use super::table::{
    Keys, Kind, Table, flag, items, list, masked, number, optional, section, text, unique, word, word_of, words,
};
use super::text::{NOT_SENDABLE, can_be_sent, header_name, header_value, probe_path, user, word as name};
use super::{Base, Timeouts};
use crate::util::secret::Secret;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;
use std::time::Duration;

table! {
    /// One entry of `endpoints`.
    pub struct Endpoint (check = check) {
        pub name: String = String::new(), required("name", unique("endpoint"));
        pub base: Base = Base::plain("", 1), part(read_base, print_base);
        /// `false`: neither probed, listed nor counted.
        pub enabled: bool = true, key("enabled", flag());
        pub probe: Probe = Probe::Default, part(read_probe, print_probe);
        /// Keys sent to the endpoint, used in turn.
        pub api_keys: Vec<Secret> = Vec::new(), part(read_api_keys, |keys, map| print_api_keys(keys, map));
        /// How a key (or password) is sent.
        pub auth: Auth = Auth::None, part(read_auth, print_auth);
        /// Changes to request headers, in order.
        pub headers: Vec<HeaderOp> = Vec::new(), key("headers", items(HeaderOp::default()));
        /// Names served; empty = ask the endpoint.
        pub models: Vec<String> = Vec::new(), key("models", list(text(name)));
        /// Used for `auto`, an empty or a missing model.
        pub default_model: Option<String> = None, key("defaultModel", optional(text(name)));
        /// Its share with a strategy that uses weights, at least 1.
        pub weight: u16 = 1, key("weight", number("a weight", 1..=65_535));
        /// Requests in progress there at once.
        pub max_concurrent: MaxConcurrent = MaxConcurrent::Auto, key("maxConcurrent", max_concurrent());
        /// What happens upstream when the client disconnects.
        pub on_client_gone: OnClientGone = OnClientGone::Cancel, key("onClientGone", words(ON_CLIENT_GONE));
        /// Stage time-outs with the endpoint's overrides applied.
        pub timeouts: Timeouts = Timeouts::default(), key("timeouts", section());
        /// HTTP proxy for outgoing calls, `http://[user:pass@]host:port`; may hold a password, hence a secret.
        pub proxy: Option<Secret> = None, part(read_proxy, print_proxy);
        /// `User-Agent` sent when the client sent none.
        pub user_agent: Option<String> = None, key("userAgent", optional(text(header_value)));
        /// Authorities whose certificates are trusted here besides the built-in ones.
        pub ca_file: Option<CaFile> = None, key("caFile", ca_file());
        /// `timeouts.total` does not bound answers that are streamed. Only a group can change it.
        pub stream: bool = true, internal();
        /// How long idle connections are kept; cpp-httplib, the server in llama-server, closes them after 5 s. Only a
        /// group can change it.
        pub keep_alive: Duration = Duration::from_secs(3), internal();
    }
}

impl Endpoint {
    /// An endpoint with an address and nothing else, as four lines of configuration give it.
    pub fn plain(name: impl Into<String>, host: impl Into<String>, port: u16) -> Self {
        Self { name: name.into(), base: Base::plain(host, port), ..Self::default() }
    }
}

fn check(endpoint: &Endpoint, section: &Section) {
    let Endpoint { models, default_model, .. } = endpoint;
    if default_model.as_ref().is_some_and(|model| !models.is_empty() && !models.contains(model)) {
        section.find("defaultModel").wrong("is not one of this endpoint's `models`");
    }
}

/// Exactly one of `address` with `port`, and `url`.
fn read_base(section: &mut Section) -> Option<Base> {
    let (host, port, url) = (section.field("address"), section.field("port"), section.field("url"));
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

fn print_base(base: &Base, map: &mut Map<String, Json>) {
    if !base.tls && base.given.is_empty() {
        map.insert("address".into(), json!(base.host));
        map.insert("port".into(), json!(base.port));
    } else {
        map.insert("url".into(), base.to_string().into());
    }
}

/// The path that the health thread probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// `healthCheck: false`: never probed, counts as available.
    Never,
    /// `healthCheck.path`.
    Default,
    /// The endpoint's own `healthCheckPath`.
    Path(String),
}

fn read_probe(section: &mut Section) -> Option<Probe> {
    let never = flag().of(section, "healthCheck") == Some(false);
    let path = section.field("healthCheckPath");
    if never && path.is_given() {
        path.problem("has no use with `healthCheck: false`");
    }
    if never { Some(Probe::Never) } else { path.parse(probe_path).map(Probe::Path) }
}

fn print_probe(probe: &Probe, map: &mut Map<String, Json>) {
    let (key, value) = match probe {
        Probe::Never => ("healthCheck", json!(false)),
        Probe::Default => ("healthCheckPath", Json::Null),
        Probe::Path(path) => ("healthCheckPath", json!(path)),
    };
    map.insert(key.into(), value);
}

fn read_api_keys(section: &mut Section) -> Option<Vec<Secret>> {
    let several = section.field("apiKeys");
    let mut keys: Vec<_> = several.items().into_iter().flatten().filter_map(|item| item.secret(|_| true)).collect();
    let one = section.secret("apiKey", |_| true);
    if one.is_some() && several.is_given() {
        several.problem("give `apiKey` or `apiKeys`, not both");
    }
    keys.extend(one);
    if keys.iter().any(|key| !can_be_sent(key.reveal())) {
        section.problem(format!("a key {NOT_SENDABLE}"));
    }
    Some(keys)
}

fn print_api_keys(keys: &[Secret], map: &mut Map<String, Json>) {
    map.insert("apiKeys".into(), keys.iter().map(masked).collect());
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

const AUTH_TYPES: [&str; 4] = ["bearer", "basic", "header", "none"];

fn read_auth(section: &mut Section) -> Option<Auth> {
    // A key that was refused has its own problem.
    let has_key = ["apiKey", "apiKeyFile", "apiKeys"].iter().any(|key| section.gives(key));
    let field = section.field("auth");
    let auth = field.section(|s| {
        let kind = s.field("type");
        let (username, password) = (s.field("username").parse(user), s.secret("password", |_| true));
        let name = s.field("name").parse(header_name);
        if !s.is_given() {
            return None;
        }
        if !kind.is_given() {
            s.problem("`type` is missing: bearer, basic, header or none");
        }
        let kind = kind.parse(|text| word(text, &AUTH_TYPES.map(|kind| (kind, kind))))?;
        for (key, only) in [("username", "basic"), ("password", "basic"), ("passwordFile", "basic"), ("name", "header")]
        {
            if kind != only && s.gives(key) {
                s.problem(format!("`{key}` has a use only with `type: {only}`"));
            }
        }
        match kind {
            "bearer" | "header" if !has_key => s.problem("needs an `apiKey` beside it"),
            "basic" | "none" if has_key => s.problem("does not send the `apiKey` beside it; take one away"),
            _ => {}
        }
        if kind == "basic" && !(s.gives("username") && (s.gives("password") || s.gives("passwordFile"))) {
            s.problem("`type: basic` needs `username` and `password`");
        }
        if kind == "header" && !s.gives("name") {
            s.problem("`type: header` needs `name`, the header that takes the key");
        }
        match kind {
            "bearer" => Some(Auth::Bearer),
            "basic" => Some(Auth::Basic { username: username?, password: password? }),
            "header" => Some(Auth::Header { name: name? }),
            _ => Some(Auth::None),
        }
    });
    auth.flatten().or(has_key.then_some(Auth::Bearer))
}

fn print_auth(auth: &Auth, map: &mut Map<String, Json>) {
    let auth = match auth {
        Auth::None => json!({"type": "none"}),
        Auth::Bearer => json!({"type": "bearer"}),
        Auth::Basic { username, password } => {
            json!({"type": "basic", "username": username, "password": masked(password)})
        }
        Auth::Header { name } => json!({"type": "header", "name": name}),
    };
    map.insert("auth".into(), auth);
}

/// One entry of `endpoints[].headers`.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderOp {
    pub op: Op,
    pub key: String,
    /// New value; empty for `Remove`. Often a key, hence a secret.
    pub value: Secret,
}

/// `op` of a header change [S002-10].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Set only if absent.
    Insert,
    Replace,
    Remove,
}

const OPS: &[(&str, Op)] = &[("insert", Op::Insert), ("replace", Op::Replace), ("remove", Op::Remove)];

/// Parts of the names of headers that carry credentials.
const SECRET_NAMES: [&str; 11] =
    ["apikey", "assertion", "auth", "cookie", "credential", "jwt", "key", "passw", "secret", "signature", "token"];

impl Default for HeaderOp {
    fn default() -> Self {
        Self { op: Op::Insert, key: String::new(), value: Secret::default() }
    }
}

impl Table for HeaderOp {
    fn keys(&mut self, keys: &mut Keys) {
        keys.required(&mut self.op, "op", words(OPS));
        keys.required(&mut self.key, "key", text(header_name));
        match keys {
            Keys::Read(section) => self.read_value(section),
            Keys::Print(map) if self.op != Op::Remove => drop(map.insert("value".into(), masked(&self.value))),
            Keys::Print(_) => {}
        }
    }
}

impl HeaderOp {
    fn read_value(&mut self, section: &mut Section) {
        let secret_name = self.key.is_empty() || SECRET_NAMES.iter().any(|part| self.key.contains(part));
        let value = section.secret("value", |text| secret_name || looks_secret(text)).unwrap_or_default();
        let given = section.gives("value") || section.gives("valueFile");
        if !can_be_sent(value.reveal()) {
            section.problem(format!("`value` {NOT_SENDABLE}"));
        }
        match self.op {
            Op::Remove if given => section.problem("`remove` takes no value"),
            Op::Insert | Op::Replace if !given => section.problem("`value` is missing"),
            _ => {}
        }
        let from_elsewhere = section.gives("valueFile") || section.find("value").is_filled_in();
        let is_secret = secret_name || from_elsewhere || looks_secret(value.reveal());
        self.value = if is_secret { value } else { value.shown() };
    }
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

const CAPACITIES: &[(&str, MaxConcurrent)] = &[("auto", MaxConcurrent::Auto), ("unlimited", MaxConcurrent::Unlimited)];

fn max_concurrent() -> Kind<MaxConcurrent> {
    let read = |field: &Field| match CAPACITIES.iter().find(|(word, _)| field.is_word(word)) {
        Some((_, capacity)) => Some(*capacity),
        None => {
            let most = number("a number of requests, auto or unlimited", 1..=65_536);
            (most.read)(field, None).map(MaxConcurrent::Most)
        }
    };
    let print = |capacity: &MaxConcurrent| match capacity {
        MaxConcurrent::Most(most) => json!(most),
        word => word_of(*word, CAPACITIES).into(),
    };
    Kind::new(read, print)
}

/// `endpoints[].onClientGone`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnClientGone {
    /// Close the upstream connection at once.
    Cancel,
    /// Read the answer to its end.
    Finish,
}

const ON_CLIENT_GONE: &[(&str, OnClientGone)] = &[("cancel", OnClientGone::Cancel), ("finish", OnClientGone::Finish)];

/// The address of a proxy; without a password in it, it is no secret.
pub(super) fn proxy_secret(proxy: Secret) -> Secret {
    if proxy.reveal().contains('@') { proxy } else { proxy.shown() }
}

pub(super) fn read_proxy(section: &mut Section) -> Option<Option<Secret>> {
    let proxy = section.secret("proxy", |text| text.contains('@'))?;
    if let Err(error) = address::proxy(proxy.reveal()) {
        section.problem(format!("`proxy` {error}"));
    }
    Some(Some(proxy_secret(proxy)))
}

pub(super) fn print_proxy(proxy: &Option<Secret>, map: &mut Map<String, Json>) {
    map.insert("proxy".into(), proxy.as_ref().map_or(Json::Null, masked));
}

/// `endpoints[].caFile`
#[derive(Debug, Clone, PartialEq)]
pub struct CaFile {
    pub path: String,
    pub certificates: Arc<[Vec<u8>]>,
}

fn ca_file() -> Kind<Option<CaFile>> {
    let read = |field: &Field| {
        let (path, certificates) = field.file(certificates)?;
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
