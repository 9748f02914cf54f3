//! SPEC 3: paths as clients write them, targets that name a host, and what every answer carries.

use crate::support::client::{Client, Ended};
use crate::support::fact::{DEADLINE, Latch, ms};
use crate::support::program::Program;
use crate::support::proxy::CHAT;
use crate::support::proxy::Setup;
use crate::support::proxy::chat;
use crate::support::proxy::get;
use crate::support::proxy::post;
use crate::support::proxy::post_with;
use crate::support::proxy::stream;
use crate::support::script::{Script, event};
use crate::support::upstream::Upstream;
use llmproxy::util::time;

#[test]
fn slashes_too_many_and_a_second_v1_are_as_if_they_were_not_there() {
    // R19
    let upstream = Upstream::serving(&["m"]);
    let paths = [
        "//v1/chat/completions",
        "/v1//chat///completions",
        "/v1/chat/completions/",
        "/v1/v1/chat/completions",
        "//v1//v1/chat/completions//",
        "/chat/completions/",
        "/%76%31/v1//chat/completions",
    ];
    upstream.always(CHAT, Script::json("{}"));
    let proxy = Setup::over(&[&upstream]).start();
    for path in paths {
        assert_eq!(proxy.post(path, chat("m")).status(), 200, "{path}");
        assert_eq!(upstream.take(CHAT).target(), CHAT, "{path}");
    }
    assert_eq!(proxy.post("/v1/chat/completions/?a=//b/", chat("m")).status(), 200);
    assert_eq!(upstream.take(CHAT).target(), "/v1/chat/completions?a=//b/");
    for path in ["//v1/models", "/v1/models/", "/v1/v1/models", "/models//", "//v1//models//m/", "//health/"] {
        assert_eq!(proxy.get(path).status(), 200, "{path}");
    }
    let refused = proxy.post("//v1/messages/", "{");
    assert_eq!((refused.status(), refused.json()["type"].as_str()), (400, Some("error")), "Anthropic's shape");
    for path in ["/", "//", "/v1", "/v1/", "/v1/v1/", "/v1%2Fmodels", "/V1/models"] {
        assert_eq!(proxy.get(path).status(), 404, "{path}");
    }
}

#[test]
fn raw_listeners_keep_paths_as_they_are() {
    // R19
    let upstream = Upstream::serving(&["m"]);
    let (_program, mut client) = raw(&upstream);
    for path in ["//v1//x/", "/v1/v1/x", "/x/", "/a//?b=//"] {
        let bare = path.split('?').next().unwrap_or_default();
        upstream.on(bare, Script::json("{}"));
        client.send(get(path));
        assert_eq!(client.answer().status(), 200, "{path}");
        assert_eq!(upstream.take(bare).target(), path);
    }
}

fn raw(upstream: &Upstream) -> (Program, Client) {
    let program = Program::start(&format!(
        "server: {{port: 0, mode: raw, group: g, cors: []}}\ngroups: [{{name: g, endpoints: [{{name: e}}]}}]\n\
         endpoints: [{{name: e, address: 127.0.0.1, port: {}, healthCheck: false, models: [m], apiKey: canary-endpoint}}]\n",
        upstream.addr().port()
    ));
    let client = program.client();
    (program, client)
}

#[test]
fn a_target_never_says_where_to_connect_to() {
    // U06
    let upstream = Upstream::serving(&["m"]);
    upstream.always("/", Script::json("{}"));
    upstream.always("/x", Script::json("{}"));
    upstream.always("//other:1/x", Script::json("{}"));
    upstream.always("/@other:1/x", Script::json("{}"));
    upstream.always("/http://other:1/x", Script::json("{}"));
    let (program, _) = raw(&upstream);
    let host = program.addr;
    // Targets, and the path that the endpoint gets, if any.
    let targets = [
        ("/x", Some("/x")),
        ("//other:1/x", Some("//other:1/x")),
        ("/@other:1/x", Some("/@other:1/x")),
        ("/http://other:1/x", Some("/http://other:1/x")),
        (&*format!("http://{host}/x"), Some("/x")),
        (&*format!("http://{host}"), Some("/")),
        ("http://other:1/x", None),
        ("https://other:1/", None),
        ("ftp://other:1/x", None),
        ("other:1", None),
        ("@other:1/x", None),
        ("*", None),
        ("*/x", None),
        ("?x", None),
    ];
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "CONNECT", "TRACE"] {
        for (target, path) in targets {
            let here = method == "OPTIONS" && (target == "*" || target == format!("http://{host}"));
            let path = path.filter(|_| !matches!(method, "CONNECT" | "TRACE") && !here);
            let before = path.map_or(0, |path| upstream.count(path));
            let mut client = program.client();
            client.send(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            let status = client.answer_to(method).status();
            match path {
                Some(path) => assert_eq!((status, upstream.count(path)), (200, before + 1), "{method} {target}"),
                None if here => assert_eq!(status, 204, "{method} {target}"),
                None => assert!(matches!(status, 400 | 405), "{status} for {method} {target}"),
            }
        }
    }
    assert_eq!(upstream.count("*"), 0);
}

#[test]
fn every_answer_has_one_date() {
    // D5
    let upstream = Upstream::serving(&["m"]);
    let proxy = Setup::over(&[&upstream]).start();
    upstream.on(CHAT, Script::json("{}"));
    let theirs = "Sun, 06 Nov 1994 08:49:37 GMT";
    let requests = [
        get("/health").into_bytes(),
        get("/v1/models").into_bytes(),
        get("/nowhere").into_bytes(),
        b"GET / HTTP/1.0\r\n\r\n".to_vec(),
        b"nonsense\r\n\r\n".to_vec(),
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        post(CHAT, "{"),
        post(CHAT, chat("m")),
    ];
    for request in requests {
        let answer = proxy.ask(&request);
        let date = answer.field("date").unwrap_or_else(|| panic!("no date: {:?}", answer.head));
        assert!(date.len() == 29 && date.ends_with(" GMT") && date != theirs, "{date}");
    }
    upstream.on(CHAT, Script::answer(200, &[("Date", theirs), ("Content-Type", "application/json")], "{}"));
    assert_eq!(proxy.chat("m").field("date"), Some(theirs), "an endpoint's own counts");
}

#[test]
fn times_count_from_the_complete_request() {
    // S17
    let upstream = Upstream::serving(&["m"]);
    upstream.on(CHAT, Script::json("{}"));
    let program = Program::start(&crate::support::program::yaml(&[&upstream], ""));
    let whole = post_with(CHAT, "X-Request-Id: slow-upload\r\n", chat("m"));
    let (mut client, mut quiet) = (program.client(), program.client());
    let (start, rest) = whole.split_at(whole.len() - 10);
    client.send(&start[..30]);
    assert!(!quiet.hears_within(ms(600)));
    client.send(&start[30..]);
    assert!(!quiet.hears_within(ms(600)));
    client.send(rest);
    assert_eq!(client.answer().status(), 200);
    let line = program.logged(&[" 200 request_id=slow-upload "]);
    let total = line.split("total_ms=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    assert!(total.unwrap_or_else(|| panic!("no total: {line}")) < 500.0, "{line}");
}

#[test]
fn a_cut_answer_to_http_1_0_is_reset() {
    // U39, R13, S6
    let upstream = Upstream::serving(&["m"]);
    let latch = Latch::new();
    upstream.on(
        CHAT,
        Script::head(200, &[("Content-Type", "text/plain"), ("Transfer-Encoding", "chunked")])
            .chunk("one")
            .latch(&latch)
            .cut(),
    );
    let proxy = Setup::over(&[&upstream]).start();
    let request = String::from_utf8(post(CHAT, chat("m"))).expect("text").replace("HTTP/1.1", "HTTP/1.0");
    let mut client = proxy.sent(request);
    let head = client.head();
    assert_eq!((head.status, head.field("content-length")), (200, None));
    assert_eq!(client.read_some().expect("the first chunk"), b"one");
    latch.open();
    let (rest, ended) = client.body();
    assert_eq!((rest.len(), ended), (0, Ended::Cut), "a reset, not an end");
    // In a stream what happened is told first.
    upstream.on(CHAT, Script::sse().chunk(event("one")).cut());
    let request = String::from_utf8(post(CHAT, stream("m"))).expect("text").replace("HTTP/1.1", "HTTP/1.0");
    let answer = proxy.ask(request);
    assert!(answer.text().contains("upstream_error"), "{}", answer.text());
    assert_eq!(answer.ended, Ended::Cut);
    // Only the one that asks is open: what was reset is counted no more.
    let end = time::now() + DEADLINE;
    while !proxy.get("/metrics").text().lines().any(|line| line == "llmproxy_connections 1") {
        assert!(time::now() < end, "a connection is left behind");
    }
}
