//! Unit tests of `target`.

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
