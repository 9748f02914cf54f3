//! Unit tests of `framing`.

use super::*;

fn fields(lines: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in lines {
        fields.push(name.parse().expect("name"), HeaderValue::from_bytes(value.as_bytes()).expect("value"));
    }
    fields
}

fn framing(lines: &[(&str, &str)]) -> Result<Framing, u16> {
    Framing::of(&fields(lines), Version::Http11, 1000).map_err(|failure| failure.kind.status())
}

#[test]
fn a_body_is_sized_chunked_or_not_there() {
    assert_eq!(framing(&[("host", "x")]), Ok(Framing::None));
    assert_eq!(framing(&[("Content-Length", "0")]), Ok(Framing::Sized(0)));
    assert_eq!(framing(&[("Content-Length", "0001000")]), Ok(Framing::Sized(1000)));
    assert_eq!(framing(&[("TRANSFER-ENCODING", "chunked")]), Ok(Framing::Chunked));
}

// A1, A4
#[test]
fn two_statements_about_the_length_are_refused() {
    for lines in [
        [("content-length", "3"), ("transfer-encoding", "chunked")],
        [("content-length", "3"), ("transfer-encoding", "gzip")],
        [("content-length", "3"), ("content-length", "3")],
        [("content-length", "3"), ("content-length", "4")],
        [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        [("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")],
        // A6 does not hide A1.
        [("content-length", "99999"), ("transfer-encoding", "chunked")],
    ] {
        assert_eq!(framing(&lines), Err(400), "{lines:?}");
    }
}

// A4, A5
#[test]
fn a_length_is_digits_and_nothing_else() {
    for value in [
        "",
        "+3",
        "-1",
        "0x3",
        "40x",
        "3, 3",
        "3,3",
        "3 3",
        "3.0",
        "1e2",
        "\"3\"",
        "3;",
        "٣",
        "18446744073709551616",
        "99999999999999999999999999999999999999999",
    ] {
        assert_eq!(framing(&[("content-length", value)]), Err(400), "{value}");
    }
}

// A6
#[test]
fn a_length_above_the_limit_is_too_large() {
    assert_eq!(framing(&[("content-length", "1000")]), Ok(Framing::Sized(1000)));
    for value in ["1001", "99999999999999", "18446744073709551615", "00000000000000000000000000001001"] {
        assert_eq!(framing(&[("content-length", value)]), Err(413), "{value}");
    }
}

// A2
#[test]
fn only_the_plain_word_chunked_is_a_coding() {
    for value in ["gzip", "identity", "xchunked", "chunkedx", "gzip, chunked", "deflate, gzip,chunked"] {
        assert_eq!(framing(&[("transfer-encoding", value)]), Err(501), "{value}");
    }
    for value in [
        "",
        ",",
        "Chunked",
        "CHUNKED",
        "chunKed",
        "\"chunked\"",
        "'chunked",
        "chunked,",
        ",chunked",
        "chunked, chunked",
        "chunked;",
        "chunked;q=1",
        "chunked chunked",
        "chu nked",
        "chunked\u{e9}",
        "\u{212a}chunked",
        "[chunked]",
        "chunked,\tCHUNKED",
        "gzip,,chunked",
        // D6
        "chunked, gzip",
        "chunked,identity",
        "Chunked ,\tgzip",
        "gzip, chunked, gzip",
        "chunked, gzip, chunked",
    ] {
        let expected = if value == "'chunked" { 501 } else { 400 };
        assert_eq!(framing(&[("transfer-encoding", value)]), Err(expected), "{value}");
    }
    for name in [
        "Transfer_Encoding",
        "transfer.encoding",
        "TransferEncoding",
        "transfer--encoding",
        "~transfer-encoding",
        "transfer-encoding'",
    ] {
        assert_eq!(framing(&[(name, "chunked")]), Err(400), "{name}");
    }
    for name in ["content_length", "contentlength", "Content.Length", "+content-length"] {
        assert_eq!(framing(&[(name, "3")]), Err(400), "{name}");
    }
    for name in ["x-transfer-encoding", "content-length2", "accept-encoding", "te"] {
        assert_eq!(framing(&[(name, "3")]), Ok(Framing::None), "{name}");
    }
}

// A3
#[test]
fn chunks_are_unknown_to_http_1_0() {
    let fields = fields(&[("transfer-encoding", "chunked")]);
    assert_eq!(Framing::of(&fields, Version::Http10, 9).unwrap_err().kind, Kind::BadFraming);
}

// A14
#[test]
fn a_host_is_there_once_and_sound() {
    let check = |lines: &[(&str, &str)], version, target: Option<&str>| {
        let target = target.map(|text| Authority::parse(text, "http").expect("authority"));
        check_host(&fields(lines), version, target).is_ok()
    };
    assert!(!check(&[], Version::Http11, None));
    assert!(check(&[], Version::Http10, None));
    assert!(!check(&[("host", "a"), ("host", "a")], Version::Http10, None));
    for host in ["a", "a:80", "A.b-c_d:8080", "127.0.0.1:1", "[::1]", "[::1]:80", "a:", "xn--e1afmkfd.example"] {
        assert!(check(&[("host", host)], Version::Http11, None), "{host}");
    }
    for host in [
        "", ":80", "a b", "a,b", "a/b", "u@a", "a:b", "a:+1", "a:65536", "a:1:2", "::1", "[::1", "[]", "[g]", "é",
        "a\\", "a?", "a#",
    ] {
        assert!(!check(&[("host", host)], Version::Http11, None), "{host}");
    }
    assert!(check(&[("host", "A:80")], Version::Http11, Some("a")));
    assert!(check(&[("host", "[::1]:80")], Version::Http11, Some("[::1]:80")));
    assert!(!check(&[("host", "a")], Version::Http11, Some("a:81")));
    assert!(!check(&[("host", "a")], Version::Http11, Some("b")));
}

#[test]
fn the_connection_closes_when_asked_and_by_default_in_1_0() {
    let keeps = |version, value: &str| keeps_alive(&fields(&[("connection", value)]), version);
    assert!(keeps(Version::Http11, "x") && keeps(Version::Http11, "upgrade") && keeps(Version::Http11, "closed"));
    assert!(!keeps(Version::Http11, "TE, Close") && !keeps(Version::Http11, "close, keep-alive"));
    assert!(
        !keeps(Version::Http10, "x")
            && keeps(Version::Http10, "Keep-Alive")
            && !keeps(Version::Http10, "keep-alive,close")
    );
}

#[test]
fn only_a_body_is_waited_for() {
    let expects = |version, framing, value: &str| expects_continue(&fields(&[("expect", value)]), version, framing);
    assert!(
        expects(Version::Http11, Framing::Sized(1), "100-Continue")
            && expects(Version::Http11, Framing::Chunked, "100-continue")
    );
    assert!(
        !expects(Version::Http11, Framing::Sized(0), "100-continue")
            && !expects(Version::Http11, Framing::None, "100-continue")
    );
    assert!(
        !expects(Version::Http10, Framing::Sized(1), "100-continue")
            && !expects(Version::Http11, Framing::Sized(1), "200-ok")
    );
}
