//! The request target: what may stand in it, and the one reading by which it is routed. Knows no route.

use super::framing::{Authority, refuse};
use crate::api::errors::Failure;
use crate::api::query;
use http::Method;
use http::uri::PathAndQuery;
use std::borrow::Cow;

/// A request target in origin form (or `*`), its text as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(PathAndQuery);

impl Target {
    /// The path as it came, escapes and all.
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// What follows the first `?`.
    pub fn query(&self) -> Option<&str> {
        self.0.query()
    }

    /// Path and query as they came.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The path by which to decide: escapes of unreserved characters are decoded, as RFC 3986 6.2.2.2 calls for.
    /// `%2F` stays, since an escaped slash separates nothing: it may be part of a model's name.
    pub fn canonical(&self) -> Cow<'_, str> {
        let path = self.path();
        if !path.contains('%') {
            return Cow::Borrowed(path);
        }
        let mut plain = String::with_capacity(path.len());
        let mut rest = path;
        while let Some(at) = rest.find('%') {
            let (before, escape) = rest.split_at(at);
            plain.push_str(before);
            match query::escaped(escape.as_bytes()) {
                Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => plain.push(byte.into()),
                _ => plain.push_str(&escape[..3]),
            }
            rest = &escape[3..];
        }
        plain.push_str(rest);
        Cow::Owned(plain)
    }

    /// Reads a target in any of its forms (RFC 9112 3.2); the absolute form also gives the host it names.
    pub(super) fn parse<'a>(text: &'a str, method: &Method) -> Result<(Self, Option<Authority<'a>>), Failure> {
        // RFC 9112 3.2: a fragment is never sent, and what is not ASCII must be escaped.
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(refuse("the target holds a character that must be percent-encoded"));
        }
        if text.starts_with('/') {
            return Ok((Self::origin(text.into())?, None));
        }
        if text == "*" && *method == Method::OPTIONS {
            return Ok((Self(PathAndQuery::from_static("*")), None));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refuse("the target does not start with `/`"))?;
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let authority = Authority::parse(authority, scheme)?;
        if path.is_empty() && *method == Method::OPTIONS {
            // RFC 9112 3.2.4: this is how a proxy is told `*`.
            return Ok((Self(PathAndQuery::from_static("*")), Some(authority)));
        }
        let origin = if path.starts_with('/') { path.into() } else { format!("/{path}") };
        Ok((Self::origin(origin)?, Some(authority)))
    }

    fn origin(text: String) -> Result<Self, Failure> {
        let path = text.split('?').next().unwrap_or_default();
        if !path.contains(['%', '\\', '.']) {
            return Self::whole(text);
        }
        let Some(decoded) = query::decoded(path, false) else {
            return Err(refuse("the path holds a `%` that starts no escape"));
        };
        if decoded.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\') {
            return Err(refuse("the path holds a control character or a backslash"));
        }
        // What servers behind us make of `..`, `%2e%2e%2f` or `..;x` differs, so nobody gets to see one.
        let mut names = decoded.split(|byte| *byte == b'/').map(|part| part.split(|byte| *byte == b';').next());
        if names.any(|name| matches!(name, Some(b"." | b".."))) {
            return Err(refuse("the path holds a `.` or `..` segment"));
        }
        Self::whole(text)
    }

    fn whole(text: String) -> Result<Self, Failure> {
        let whole = PathAndQuery::try_from(text);
        Ok(Self(whole.map_err(|_| refuse("the target holds a character that must be percent-encoded"))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Result<Target, Failure> {
        Target::parse(text, &Method::GET).map(|(target, _)| target)
    }

    #[test]
    fn path_and_query_are_kept_as_they_came() {
        let target = target("/v1//x%41?a=%20&b=/../\\{").unwrap();
        assert_eq!((target.path(), target.query()), ("/v1//x%41", Some("a=%20&b=/../\\{")));
        assert_eq!(target.as_str(), "/v1//x%41?a=%20&b=/../\\{");
        assert_eq!(self::target("/").unwrap().query(), None);
        assert_eq!(self::target("/?").unwrap().query(), Some(""));
    }

    // F6
    #[test]
    fn the_canonical_path_decodes_letters_and_nothing_that_separates() {
        for (text, canonical) in [
            ("/%61dmin", "/admin"),
            ("/v1/models/qwen%2D3%2e5", "/v1/models/qwen-3.5"),
            ("/v1/models/a%2Fb", "/v1/models/a%2Fb"),
            ("/v1%3bx/%25%7E", "/v1%3bx/%25~"),
            ("/ADMIN", "/ADMIN"),
            ("/v1//chat", "/v1//chat"),
            ("/v1;x/chat", "/v1;x/chat"),
            ("/%C3%A9%", ""),
        ] {
            match target(text) {
                Ok(target) => assert_eq!(target.canonical(), canonical, "{text}"),
                Err(failure) => assert_eq!((failure.kind.status(), canonical), (400, ""), "{text}"),
            }
        }
    }

    // F5, F6
    #[test]
    fn a_path_that_servers_read_differently_is_refused() {
        for text in [
            "/v1/../admin",
            "/..",
            "/.",
            "/./v1",
            "/a/.",
            "/%2e%2e/x",
            "/%2E./x",
            "/.%2e",
            "/..%2fadmin",
            "/%2e%2e%2fadmin",
            "/a%2f..%2fb",
            "/..;/admin",
            "/..;x=y/admin",
            "/%2e%2e%3b/admin",
            "/a\\b",
            "/a%5cb",
            "/a%5C..",
            "/%00",
            "/a%0d%0ab",
            "/%7f",
            "/%",
            "/%4",
            "/%zz",
            "/%+1",
            "/a?b#c",
            "/#",
            "/é",
            "/a\u{7f}",
            "/<x>",
            "/`",
            "",
        ] {
            assert_eq!(target(text).expect_err(text).kind.status(), 400, "{text}");
        }
        for text in ["/...", "/.well-known/x", "/a..b", "/v1/x..", "/..a", "/v1/files/%e9", "/a;b"] {
            assert!(target(text).is_ok(), "{text}");
        }
    }

    // A14
    #[test]
    fn the_absolute_form_gives_its_host_and_becomes_the_origin_form() {
        for (text, origin) in [("http://h:80/v1?x", "/v1?x"), ("HTTP://h:80", "/"), ("http://h:80?x=1", "/?x=1")] {
            let (target, authority) = Target::parse(text, &Method::GET).unwrap();
            assert_eq!(target.as_str(), origin, "{text}");
            assert_eq!(authority, Some(Authority::parse("h", "http").unwrap()));
        }
        for text in [
            "ftp://h/",
            "http:///x",
            "http://u@h/",
            "h:80",
            "v1",
            "//",
            "://h/",
            "http:/h",
            "http://h,i/",
            "http://h/../x",
        ] {
            assert_eq!(target(text).is_err(), text != "//", "{text}");
        }
    }

    #[test]
    fn the_asterisk_belongs_to_options() {
        // U06
        let absolute = |text| Target::parse(text, &Method::OPTIONS).unwrap().0.as_str().to_owned();
        assert_eq!(
            (absolute("http://h:80"), absolute("http://h/"), absolute("http://h?")),
            ("*".into(), "/".into(), "/?".into())
        );
        assert_eq!(Target::parse("*", &Method::OPTIONS).unwrap().0.path(), "*");
        assert!(Target::parse("*", &Method::GET).is_err());
        assert!(Target::parse("*x", &Method::OPTIONS).is_err());
    }
}
