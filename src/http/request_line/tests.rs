//! Unit tests of `request_line`.

use super::*;

fn status(line: &str) -> u16 {
    let result = check_start(line.as_bytes(), 64).and_then(|()| check(format!("{line}\r\n").as_bytes()));
    result.map_or_else(|failure| failure.kind.status(), |()| 200)
}

// A13
#[test]
fn a_request_line_is_a_method_a_target_and_a_version() {
    let lines = "G@T / HTTP/1.1|GET  / HTTP/1.1|GET /  HTTP/1.1|GET / HTTP/1.1 | GET / HTTP/1.1|GET\t/ HTTP/1.1|GET /\tHTTP/1.1|\
            GET /a b HTTP/1.1|GET /\u{e9} HTTP/1.1|GET /#x HTTP/1.1|GET / http/1.1|GET / HTTP/1.1x|GET / HTTP/1.10|GET / HTTP/1|\
            GET / HTTP/+1.1|GET / XTTP/1.1|GET / HTTP/2.0 |GET HTTP/1.1|GET|GET |GET /|/ HTTP/1.1|* HTTP/1.1|GET * HTTP/1.1|\
            GET x HTTP/1.1|{\"a\":1}|GET /%00 HTTP/1.1|GET /../x HTTP/1.1|HTTP/1.1 200 OK";
    assert_eq!(lines.split('|').map(|line| assert_eq!(status(line), 400, "{line}")).count(), 29);
    for line in ["GET / HTTP/1.1", "OPTIONS * HTTP/1.1", "BREW /pot HTTP/1.0"] {
        assert_eq!(status(line), 200, "{line}");
    }
}

// A14, A15
#[test]
fn tunnels_and_other_versions_are_named_as_such() {
    for version in ["HTTP/0.9", "HTTP/1.9", "HTTP/2.0", "HTTP/3.0"] {
        assert_eq!(status(&format!("GET / {version}")), 505);
    }
    assert_eq!(status("PRI * HTTP/2.0"), 505);
    assert_eq!(status("CONNECT h:443 HTTP/1.1"), 405);
    assert_eq!(status("TRACE / HTTP/1.1"), 405);
}

// A13, A16
#[test]
fn a_start_without_hope_is_not_waited_for() {
    let status = |line: String| check_start(line.as_bytes(), 64).map_or_else(|failure| failure.kind.status(), |()| 0);
    for line in ["", "\r", "G", "GET", "GET ", "GET /", &"A".repeat(32)] {
        assert_eq!(status(line.into()), 0, "{line}");
    }
    for line in ["\rG", "G@", " ", "{", "GET\r", &"A".repeat(33)] {
        assert_eq!(status(line.into()), 400, "{line}");
    }
    assert_eq!(status(format!("GET {}", "a".repeat(64))), 0);
    assert_eq!(status(format!("GET {} ", "a".repeat(64))), 0);
    assert_eq!(status(format!("GET {}", "a".repeat(65))), 414);
    assert_eq!(status(format!("GET {} HTTP/1.1", "a".repeat(65))), 414);
}

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
    for text in
        ["ftp://h/", "http:///x", "http://u@h/", "h:80", "v1", "//", "://h/", "http:/h", "http://h,i/", "http://h/../x"]
    {
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
