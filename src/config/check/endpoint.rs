//! `endpoints`

use super::sections::{probe_path, timeouts, weight};
use super::{address, header};
use crate::config::authorities::certificates;
use crate::config::reader::{Field, Section};
use crate::config::shown::has_key;
use crate::config::{Auth, Base, CaFile, Endpoint, KEEP_ALIVE, MINIMAL, MaxConcurrent, OnClientGone, Probe, Timeouts};
use crate::util::secret::Secret;

pub(super) fn endpoints(root: &mut Section, shared: &Timeouts) -> Vec<Endpoint> {
    let field = root.field("endpoints");
    let mut names: Vec<String> = Vec::new();
    let endpoints = field.list(|item| item.item(|s| endpoint(s, shared, &mut names))).unwrap_or_default();
    if !field.is_given() {
        field.problem(format!("at least one is needed; a useful file is\n{MINIMAL}"));
    }
    if !endpoints.is_empty() && endpoints.iter().all(|endpoint| !endpoint.enabled) {
        root.warn("every endpoint is switched off (`enabled: false`)");
    }
    endpoints
}

fn endpoint(s: &mut Section, shared: &Timeouts, names: &mut Vec<String>) -> Option<Endpoint> {
    let name = unique(&s.required("name"), "endpoint", names);
    let base = base(s);
    let enabled = s.field("enabled").flag().unwrap_or(true);
    let probe = probe(s);
    let api_keys = api_keys(s);
    let auth = auth(s, !api_keys.is_empty());
    let headers = s.field("headers").guarded().list(|item| item.item(header::change)).unwrap_or_default();
    let models = s.field("models").list(|item| item.parse(word)).unwrap_or_default();
    let default_model = s.field("defaultModel");
    let default_model = default_model.parse(|text| match word(text) {
        Ok(text) if models.is_empty() || models.contains(&text) => Ok(text),
        Ok(_) => Err("is not one of this endpoint's `models`".into()),
        Err(error) => Err(error),
    });
    let weight = weight(&s.field("weight")).unwrap_or(1);
    let max_concurrent = max_concurrent(&s.field("maxConcurrent"));
    let cancel = [("cancel", OnClientGone::Cancel), ("finish", OnClientGone::Finish)];
    let on_client_gone = s.field("onClientGone").choice(&cancel).unwrap_or(OnClientGone::Cancel);
    let timeouts = s.field("timeouts").section(|s| timeouts(s, shared));
    let proxy = proxy(s);
    let user_agent = s.field("userAgent").parse(header::value);
    let ca_file = ca_file(&s.field("caFile"));
    Some(Endpoint {
        name: name?,
        base: base?,
        enabled,
        probe,
        api_keys,
        auth,
        headers,
        models,
        default_model,
        weight,
        max_concurrent,
        on_client_gone,
        timeouts,
        proxy,
        user_agent,
        ca_file,
        stream: true,
        keep_alive: KEEP_ALIVE,
    })
}

fn max_concurrent(field: &Field) -> MaxConcurrent {
    match () {
        () if !field.is_given() || field.is_word("auto") => MaxConcurrent::Auto,
        () if field.is_word("unlimited") => MaxConcurrent::Unlimited,
        () => field
            .number("a number of requests, auto or unlimited", 1..=65_536)
            .map_or(MaxConcurrent::Auto, MaxConcurrent::Most),
    }
}

/// A name that is unique among its kind (`what`).
pub(crate) fn unique(field: &Field, what: &str, names: &mut Vec<String>) -> Option<String> {
    let name = field.parse(word)?;
    if let Some(index) = names.iter().position(|other| *other == name) {
        field.problem(format!(
            "{name:?} is the name of another {what} above (number {}); each needs its own",
            index + 1
        ));
        return None;
    }
    names.push(name.clone());
    Some(name)
}

/// A name of an endpoint or a model: it ends up in headers, logs and labels.
pub(super) fn word(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("is empty".into());
    }
    if text.chars().any(char::is_control) || text.trim() != text {
        return Err("has a control character in it, or space around it".into());
    }
    no_key(text)
}

/// A name without a key in it.
pub(crate) fn no_key(text: &str) -> Result<String, String> {
    if has_key(text) {
        return Err("has a key in it, which logs and pages would show; is a line indented too far?".into());
    }
    Ok(text.to_owned())
}

/// Exactly one of `address` with `port`, and `url`.
fn base(s: &mut Section) -> Option<Base> {
    let (host, port, url) = (s.field("address"), s.field("port"), s.field("url"));
    if url.is_given() {
        if host.is_given() || port.is_given() {
            s.problem("give `url`, or `address` and `port`, not both");
            return None;
        }
        return url.parse(address::base);
    }
    let one = host.parse(|text| {
        address::host(text).map_err(|error| match text {
            _ if text.contains("://") => "is a URL; write it as `url: ...` and leave out `port`".into(),
            _ if text.contains(':') => format!("{error}; the port has a key of its own: `port`"),
            _ => error,
        })
    });
    let number = port.number("a port", 1..=65_535);
    match (host.is_given(), port.is_given()) {
        (true, true) => Some(Base::plain(one?, number?)),
        (false, false) => {
            s.problem("`address` and `port` are missing (or `url` instead of both)");
            None
        }
        (true, false) => {
            s.problem("`port` is missing");
            None
        }
        (false, true) => {
            s.problem("`address` is missing");
            None
        }
    }
}

fn probe(s: &mut Section) -> Probe {
    let (asked, path) = (s.field("healthCheck"), s.field("healthCheckPath"));
    let never = asked.flag() == Some(false);
    if never && path.is_given() {
        path.problem("has no use with `healthCheck: false`");
    }
    match probe_path(&path) {
        _ if never => Probe::Never,
        Some(path) => Probe::Path(path),
        None => Probe::Default,
    }
}

fn api_keys(s: &mut Section) -> Vec<Secret> {
    let several = s.field("apiKeys");
    let mut keys = several.list(|item| item.secret(|_| true)).unwrap_or_default();
    let one = s.secret("apiKey");
    if one.is_some() && several.is_given() {
        several.problem("give `apiKey` or `apiKeys`, not both");
    }
    keys.extend(one);
    if keys.iter().any(|key| !header::can_be_sent(key.reveal())) {
        s.problem("a key has a character that cannot be sent in a header (ASCII only)");
    }
    keys
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bearer,
    Basic,
    Header,
    None,
}

fn auth(s: &mut Section, has_key: bool) -> Auth {
    let field = s.field("auth").guarded();
    let default = if has_key { Auth::Bearer } else { Auth::None };
    // A key that was refused has its own problem.
    let key_given = has_key || ["apiKey", "apiKeyFile", "apiKeys"].iter().any(|key| s.gives(key));
    let auth = field.section(|s| {
        let kinds = [("bearer", Kind::Bearer), ("basic", Kind::Basic), ("header", Kind::Header), ("none", Kind::None)];
        let kind = s.field("type");
        let (username, password) = (s.field("username").parse(user), s.secret("password"));
        let name = s.field("name").parse(header::name);
        if !field.is_map() {
            return None;
        }
        if !kind.is_given() {
            s.problem("`type` is missing: bearer, basic, header or none");
        }
        let kind = kind.choice(&kinds)?;
        for key in ["username", "password", "passwordFile"] {
            if kind != Kind::Basic && s.gives(key) {
                s.problem(format!("`{key}` has a use only with `type: basic`"));
            }
        }
        if kind != Kind::Header && s.gives("name") {
            s.problem("`name` has a use only with `type: header`");
        }
        match kind {
            Kind::Bearer | Kind::Header if !key_given => s.problem("needs an `apiKey` beside it"),
            Kind::Basic | Kind::None if key_given => s.problem("does not send the `apiKey` beside it; take one away"),
            _ => {}
        }
        let missing = |key: &str| !s.gives(key);
        if kind == Kind::Basic && (missing("username") || missing("password") && missing("passwordFile")) {
            s.problem("`type: basic` needs `username` and `password`");
        }
        if kind == Kind::Header && missing("name") {
            s.problem("`type: header` needs `name`, the header that takes the key");
        }
        match kind {
            Kind::Bearer => Some(Auth::Bearer),
            Kind::None => Some(Auth::None),
            Kind::Basic => Some(Auth::Basic { username: username?, password: password? }),
            Kind::Header => Some(Auth::Header { name: name? }),
        }
    });
    auth.unwrap_or(default)
}

/// RFC 7617 2: the first colon ends the user name.
fn user(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(':') || text.chars().any(char::is_control) {
        return Err("is not a user name".into());
    }
    Ok(text.to_owned())
}

fn ca_file(field: &Field) -> Option<CaFile> {
    let (path, text) = field.file()?;
    match certificates(&text) {
        Ok(certificates) => Some(CaFile { path, certificates: certificates.into() }),
        Err(problem) => {
            field.problem(format!("the file {path:?} {problem}"));
            None
        }
    }
}

pub(in crate::config) fn proxy(s: &mut Section) -> Option<Secret> {
    let proxy = s.secret_when("proxy", |text| text.contains('@'))?;
    if let Err(error) = address::proxy(proxy.reveal()) {
        s.problem(format!("`proxy` {error}"));
        return None;
    }
    Some(proxy)
}
