//! Unit tests of `client`.

use super::*;

// U06
#[test]
fn no_path_leads_anywhere_but_to_the_endpoint() {
    let bases = [("h", 8001, ""), ("::1", 443, "/v1"), ("127.0.0.1", 80, "/api/v3")];
    let paths = [
        "*",
        "@evil",
        "@evil:80/x",
        ":80",
        ":80/x",
        "//evil/",
        "//evil:80",
        "/\\evil",
        "\\evil",
        "?",
        "?x@evil",
        "/",
        "",
        "/v1",
        "/v1?a=@evil",
        "/v1/@evil",
        "/v1//evil/x",
        "/v1@evil",
        "/v1:80",
        "http://evil/",
        "#x",
        "/x#@evil",
        "/%2F%2Fevil",
        ".evil",
        "evil",
        "/v1/models",
    ];
    for (host, port, given) in bases {
        let base = Base { given: given.into(), ..Base::plain(host, port) };
        let endpoint = Endpoint { base, ..Endpoint::plain("a", host, port) };
        let client = UpstreamClient::new(&endpoint, 1).expect("a channel");
        for (path, raw) in paths.iter().flat_map(|path| [(path, true), (path, false)]) {
            let Ok(uri) = client.uri(path, raw) else { continue };
            let bare = uri.host().expect("a host").trim_start_matches('[').trim_end_matches(']');
            assert_eq!((uri.scheme_str(), bare, uri.port_u16()), (Some("http"), host, Some(port)), "{path} {uri}");
            // What is connected to is read from the text of it by others.
            let again: Uri = uri.to_string().parse().expect("a URI");
            assert_eq!(again.authority(), uri.authority(), "{path} {uri}");
        }
        for path in ["/", "/v1/models", "/v1?a=@evil", "//evil/"] {
            assert!(client.uri(path, true).is_ok(), "{path}");
        }
        assert!(client.uri("*", true).is_err());
    }
}
