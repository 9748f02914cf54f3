//! SPEC 9: the documented files of the earlier proxies, started as they are but for the addresses of their providers. Each
//! converts to one of ours that does the same.

use crate::support::client::{Answer, Client};
use crate::support::program::Program;
use crate::support::proxy::{CHAT, chat, get, post, post_with};
use crate::support::script::Script;
use crate::support::upstream::Upstream;
use llmproxy::config::load;
use llmproxy::config::print;
use serde_json::Value;
use std::net::SocketAddr;

const GO: &str = include_str!("../../config/old/001-config.yaml");
const RUST: &str = include_str!("../../config/old/002-config.yaml");
const MANAGER: &str = include_str!("../../config/old/003-dynamic_routing.json");
/// The main listener takes a free port.
const ANY_PORT: [(&str, &str); 1] = [("PORT", "0")];

pub fn url(upstream: &Upstream, path: &str) -> String {
    format!("http://{}{path}", upstream.addr())
}

pub fn two() -> [Upstream; 2] {
    [(); 2].map(|()| {
        let upstream = Upstream::start();
        upstream.always(CHAT, Script::json("{}"));
        upstream
    })
}

pub fn go([a, b]: &[Upstream; 2]) -> String {
    GO.replace("https://api.deepseek.com", &url(a, "")).replace("https://api.poe.com/v1", &url(b, "/v1"))
}

pub fn manager([a, b]: &[Upstream; 2]) -> String {
    MANAGER
        .replace("https://api.provider1.com/v1", &url(a, "/v1"))
        .replace("https://api.provider2.com/v1beta", &url(b, "/v1beta"))
}

/// The file of 002 and the port of its forward.
pub fn rust([a, b]: &[Upstream; 2]) -> (String, u16) {
    let port = crate::gateway::ports(1)[0];
    let text = RUST
        .replace("https://api.openai.com/v1", &url(a, "/v1"))
        .replace("https://api.anthropic.com", &url(b, ""))
        .replace("port: 3000", &format!("port: {port}"));
    (text, port)
}

pub fn start(text: &str) -> Program {
    Program::start_with(text, &ANY_PORT)
}

pub fn ask(port: u16, request: impl AsRef<[u8]>) -> Answer {
    let mut client = Client::connect(SocketAddr::from(([127, 0, 0, 1], port)));
    client.send(request);
    client.answer()
}

impl Program {
    pub fn asked(&self, request: impl AsRef<[u8]>) -> Answer {
        ask(self.addr.port(), request)
    }
}

pub fn endpoint(answer: &Answer) -> &str {
    answer.field("x-llmproxy-endpoint").unwrap_or("none")
}

/// The name a server was asked for.
pub fn model(upstream: &Upstream, path: &str) -> Value {
    serde_json::from_str::<Value>(upstream.take(path).text()).expect("JSON")["model"].clone()
}

/// What can be seen of a few requests: the answers, and what the servers got.
fn seen(text: &str, port: Option<u16>, upstreams: &[Upstream; 2]) -> Vec<String> {
    let program = start(text);
    let main = program.addr.port();
    let name = "general-model-name-for-client";
    let requests = [
        post(CHAT, chat("glm-4.7")),
        post_with(CHAT, "Authorization: Bearer mine\r\nOrigin: https://x.example\r\n", chat("auto")),
        post(CHAT, chat(name)),
        post("/v1/completions?x=1", chat("unknown")),
        post(CHAT, "no JSON"),
        get("/v1/models").into_bytes(),
        get("/other").into_bytes(),
    ];
    let mut seen = Vec::new();
    for request in requests {
        let answer = ask(port.unwrap_or(main), request);
        let fields = ["x-llmproxy-endpoint", "x-llmproxy-model", "x-llmproxy-reason", "access-control-allow-origin"];
        seen.push(format!("{} {:?} {}", answer.status(), fields.map(|f| answer.field(f)), answer.text()));
    }
    drop(program);
    for upstream in upstreams {
        for path in [CHAT, "/v1/completions", "/v1beta/chat/completions"] {
            for _ in 0..upstream.count(path) {
                let got = upstream.take(path);
                seen.push(format!(
                    "{} {:?} {:?} {}",
                    got.target(),
                    got.all("authorization"),
                    got.field("user-agent"),
                    got.text()
                ));
            }
        }
    }
    seen
}

/// A file for these servers, and the port of its forward.
type File = dyn Fn(&[Upstream; 2]) -> (String, Option<u16>);

#[test]
fn a_converted_file_does_what_the_original_does() {
    let convert = |text: &str| {
        let loaded = load::parse("old", text, &|_| None, &|_| Err(std::io::ErrorKind::NotFound.into())).expect("right");
        let config = loaded.config;
        let (_, printed) =
            print::yaml(&config).split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("lines");
        let keys =
            ["your-api-key-here", "your-poe-key", "key1_for_provider1", "key2_for_provider1", "key_for_provider2"];
        let known = keys.into_iter().filter(|key| text.contains(key));
        // In the order of the file; the forward's file has three.
        let mut secrets: Vec<&str> = known.collect();
        if secrets.is_empty() {
            secrets = vec!["YOUR_API_KEY"; 3];
        }
        secrets.into_iter().fold(printed, |text, secret| text.replacen("***", secret, 1))
    };
    let fresh = || {
        two().map(|upstream| {
            upstream.always("/v1beta/chat/completions", Script::json("{}"));
            upstream.always("/v1/completions", Script::error(500, "no"));
            for path in ["/v1/models", "/v1/other", "/other"] {
                upstream.always(path, Script::answer(404, &[], "none"));
            }
            upstream
        })
    };
    let texts: [&File; 3] = [
        &|upstreams| (go(upstreams).replace("mode: random", "mode: round-robin").replace("retry: 3", "retry: 1"), None),
        &|upstreams| {
            let (text, port) = rust(upstreams);
            (text.replace("enabled: true # Whether to enable retries", "enabled: false #"), Some(port))
        },
        &|upstreams| (manager(upstreams), None),
    ];
    for text in texts {
        let [before, after] = [false, true].map(|converted| {
            let upstreams = fresh();
            let (text, port) = text(&upstreams);
            let text = if converted { convert(&text) } else { text };
            assert!(!text.contains("***"), "{text}");
            let ports = upstreams.each_ref().map(|upstream| upstream.addr().to_string());
            let seen = seen(&text, port, &upstreams).join("\n");
            ports.iter().zip(["A", "B"]).fold(seen, |text, (addr, name)| text.replace(addr, name))
        });
        assert_eq!(before, after);
    }
}
