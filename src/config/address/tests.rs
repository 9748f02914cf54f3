//! Unit tests of `address`.

use super::*;

#[test]
fn a_base_with_or_without_v1_gives_exactly_one() {
    let parts = |url: &str| base(url).map(|b| (b.tls, b.host, b.port, b.root, b.api)).unwrap();
    let plain = (false, "h".to_owned(), 8001, String::new(), "/v1".to_owned());
    for url in ["http://h:8001", "http://h:8001/", "http://h:8001/v1", "http://h:8001/v1/", "HTTP://H:8001//"] {
        assert_eq!(parts(url), plain, "{url}");
    }
    let paths = |url: &str| base(url).map(|b| (b.root, b.api)).unwrap();
    let cases = [
        ("https://openrouter.ai/api/v1", "/api", "/api/v1"),
        ("https://openrouter.ai/api", "/api", "/api/v1"),
        ("https://x/v1beta/openai", "/v1beta/openai", "/v1beta/openai"),
        ("https://x/api/coding/v3/", "/api/coding", "/api/coding/v3"),
        ("https://x/vllm", "/vllm", "/vllm/v1"),
        ("https://x/v2/x/v1", "/v2/x", "/v2/x/v1"),
        ("https://x/v", "/v", "/v/v1"),
    ];
    for (url, root, api) in cases {
        assert_eq!(paths(url), (root.into(), api.into()), "{url}");
    }
    let port = |url: &str| base(url).map(|b| (b.host, b.port)).unwrap();
    assert_eq!(port("https://x"), ("x".into(), 443));
    assert_eq!(port("http://x"), ("x".into(), 80));
    assert_eq!(port("http://[::1]:8001/v1"), ("::1".into(), 8001));
}

#[test]
fn a_url_that_is_no_base_says_what_to_do() {
    let cases = [
        ("h:8001", "is not a URL"),
        ("ftp://h", "is not an http://"),
        ("http://u:p@h", "use `apiKey` or `auth`"),
        ("http://h/v1?x=1", "query"),
        ("http://h/#x", "fragment"),
        ("http://h/a b", "character"),
        ("http://h/ü", "character"),
        ("http://h/a/../b", "`..`"),
        ("http://", "has no host"),
        ("http://:80", "has no host"),
        ("http://h:0", "1 to 65535"),
        ("http://h:70000", "1 to 65535"),
        ("http://h:x", "not a number"),
        ("http://::1:80", "brackets"),
        ("http://h/v1/chat/completions", "without /chat/completions"),
        ("http://h/v1/chat/completions/", "without /chat/completions"),
        ("http://h/chat/completions", "without /chat/completions"),
        ("http://h/V1/models", "without /models"),
    ];
    for (url, expected) in cases {
        let error = base(url).unwrap_err();
        assert!(error.contains(expected), "{url}: {error}");
    }
}

#[test]
fn a_url_that_ends_in_a_route_is_no_base() {
    // R20
    let cases = [
        "/v1|/embeddings",
        "/v1|/models",
        "/v1|/models/qwen3",
        "/v1|/messages",
        "/v1|/messages/count_tokens",
        "/v1|/responses",
        "/v1|/rerank",
        "/v1|/reranking",
        "/v1|/audio/speech",
        "/v1|/audio/transcriptions",
        "/v1|/images/generations",
        "/v1|/completions",
        "/api/v1|/chat/completions",
        "/api/v0|/models",
        "/v2|/chat",
        "|/api/chat",
        "|/api/generate",
        "|/api/tags",
        "|/api/embed",
        "|/api/embeddings",
        "/x|/api/chat",
        "|/completion",
        "|/embedding",
        "|/infill",
        "|/health",
        "|/props",
        "|/audio/speech",
        "/x|/chat/completions",
        "|/rerank",
        "/openai/v1|/responses/abc",
    ];
    for case in cases {
        let (_, route) = case.split_once('|').unwrap();
        let error = base(&format!("http://h{}", case.replace('|', ""))).unwrap_err();
        assert!(error.ends_with(&format!("give the base, without {route}")), "{case}: {error}");
    }
    for path in [
        "",
        "/",
        "/v1",
        "/api",
        "/api/v1",
        "/openai",
        "/v1beta/openai",
        "/models/x/v1",
        "/embeddings/v1",
        "/vllm",
        "/inference",
        "/engines/llama.cpp/v1",
        "/client/v4/accounts/a/ai/v1",
        "/openai/deployments/gpt",
        "/chatbot",
    ] {
        assert!(base(&format!("http://h{path}")).is_ok(), "{path}");
    }
}

#[test]
fn hosts_are_addresses_or_names() {
    for (text, name) in
        [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1"), ("::", "::"), ("Pi.local", "pi.local"), ("my_box", "my_box")]
    {
        assert_eq!(host(text), Ok(name.into()));
    }
    for text in ["", ".", "a b", "a..b", "1.2.3", "1.2.3.4.5", "256.1.1.1", "h:80", "http://h", "hé", "a/b"] {
        assert!(host(text).is_err(), "{text}");
    }
}

#[test]
fn origins_are_what_a_browser_sends() {
    let of = |text| origin(text).unwrap();
    assert_eq!(of("local"), CorsOrigin::Local);
    assert_eq!(of("*"), CorsOrigin::Any);
    assert_eq!(of("HTTPS://Chat.Example.com:443"), CorsOrigin::Origin("https://chat.example.com".into()));
    assert_eq!(of("http://[::1]:3000"), CorsOrigin::Origin("http://[::1]:3000".into()));
    assert_eq!(of("chrome-extension://abc"), CorsOrigin::Origin("chrome-extension://abc".into()));
    assert_eq!(of("Moz-Extension://*"), CorsOrigin::Scheme("moz-extension".into()));
    for text in [
        "https://*",
        "http://*",
        "moz-extension://*/",
        "chat.example.com",
        "https://a/",
        "https://a/b",
        "https://",
        "null",
        "://a",
        "https://u@a",
    ] {
        assert!(origin(text).is_err(), "{text}");
    }
}

#[test]
fn networks_are_addresses_or_blocks() {
    let of = |text| network(text).map(|n| (n.address.to_string(), n.prefix)).unwrap();
    assert_eq!(of("10.1.2.3"), ("10.1.2.3".into(), 32));
    assert_eq!(of("10.1.2.3/8"), ("10.0.0.0".into(), 8));
    assert_eq!(of("0.0.0.0/0"), ("0.0.0.0".into(), 0));
    assert_eq!(of("fd00:1::5/16"), ("fd00::".into(), 16));
    assert_eq!(of("::1"), ("::1".into(), 128));
    for text in ["", "localhost", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "::1/129", "10.0.0.0/8/8"] {
        assert!(network(text).is_err(), "{text}");
    }
}

#[test]
fn a_proxy_is_http_with_a_port() {
    for text in ["http://h:3128", "http://u:p@h:3128", "http://u:p@h:3128/", "http://[::1]:3128"] {
        assert_eq!(proxy(text), Ok(()), "{text}");
    }
    for text in ["https://h:3128", "h:3128", "http://h", "http://h:3128/x", "http://u:p p@h:3128", "http://@:1"] {
        assert!(proxy(text).is_err(), "{text}");
    }
}
