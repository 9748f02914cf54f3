//! The proxy under test in this process, on a free port, with times short enough for tests.

use super::client::{Answer, Client};
use super::fact::{DEADLINE, ms};
use super::upstream::Upstream;
use llmproxy::app::{self, Running};
use llmproxy::config::{Auth, Config, Endpoint, Timeouts};
use llmproxy::util::secret::Secret;
use llmproxy::util::time;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

/// A configuration in the making.
pub struct Setup {
    pub config: Config,
}

impl Setup {
    /// Endpoints named `a`, `b`, `c`... in this order. No round but the first happens by itself.
    pub fn over(upstreams: &[&Upstream]) -> Self {
        let mut config = Config::default();
        config.server.port = 0;
        config.server.drain_timeout = ms(1000);
        config.health_check.interval = Duration::from_secs(60);
        let names = ["a", "b", "c", "d"];
        config.endpoints = names.iter().zip(upstreams).map(|(name, up)| endpoint(name, up.addr())).collect();
        assert_eq!(config.endpoints.len(), upstreams.len(), "names for all");
        Self { config }
    }

    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.config.endpoints.push(endpoint);
        self
    }

    pub fn with(mut self, edit: impl FnOnce(&mut Config)) -> Self {
        edit(&mut self.config);
        self
    }

    /// Changes the stage time-outs of every endpoint so far.
    pub fn timeouts(mut self, edit: impl FnOnce(&mut Timeouts)) -> Self {
        edit(&mut self.config.timeouts);
        self.config.endpoints.iter_mut().for_each(|endpoint| endpoint.timeouts = self.config.timeouts);
        self
    }

    pub fn start(self) -> Proxy {
        let Ok(running) = app::start(self.config) else { panic!("the proxy does not start") };
        Proxy { addr: running.addr(), running }
    }
}

/// An enabled endpoint without keys, probed at the default path.
pub fn endpoint(name: &str, addr: SocketAddr) -> Endpoint {
    Endpoint::plain(name, addr.ip().to_string(), addr.port())
}

/// The same with keys, sent as `Authorization: Bearer`.
pub fn with_keys(mut endpoint: Endpoint, keys: &[&str]) -> Endpoint {
    endpoint.auth = Auth::Bearer;
    endpoint.api_keys = keys.iter().map(|key| Secret::new(*key)).collect();
    endpoint
}

pub struct Proxy {
    pub addr: SocketAddr,
    running: Running,
}

impl Proxy {
    pub fn client(&self) -> Client {
        Client::connect(self.addr)
    }

    /// A client that has sent this.
    pub fn sent(&self, request: impl AsRef<[u8]>) -> Client {
        let mut client = self.client();
        client.send(request);
        client
    }

    /// One request on a connection of its own.
    pub fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        self.sent(request).answer()
    }

    pub fn get(&self, target: &str) -> Answer {
        self.ask(get(target))
    }

    pub fn post(&self, target: &str, body: impl AsRef<[u8]>) -> Answer {
        self.ask(post(target, body))
    }

    /// A chat with this model, not streamed.
    pub fn chat(&self, model: &str) -> Answer {
        self.post(CHAT, chat(model))
    }

    pub fn health(&self) -> Value {
        self.get("/health").json()
    }

    /// Waits until no request is at an endpoint: its connection is back in the pool.
    pub fn idle(&self) {
        self.until(|health| {
            let endpoints = health["endpoints"].as_object();
            endpoints.is_some_and(|all| all.values().all(|one| one["inFlight"] == 0))
        });
    }

    /// Asks `/health` until it says so.
    pub fn until(&self, so: impl Fn(&Value) -> bool) {
        let end = time::now() + DEADLINE;
        let mut client = self.client();
        loop {
            client.send(get("/health"));
            let health = client.answer().json();
            if so(&health) {
                return;
            }
            assert!(time::now() < end, "never said after {DEADLINE:?}; last: {health}");
        }
    }

    /// Probes all endpoints and waits for it.
    pub fn force_check(&self) -> Value {
        self.post("/health/force-check", "").json()
    }

    /// Ids of `/v1/models`, in order.
    pub fn models(&self) -> Vec<String> {
        let list = self.get("/v1/models").json();
        let entries = list["data"].as_array().unwrap_or_else(|| panic!("a list: {list}"));
        entries.iter().map(|entry| entry["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// After a fault: a good request on a fresh connection is served.
    pub fn still_serves(&self) {
        let answer = self.get("/health");
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }

    /// Puts another configuration in force; what needs a restart.
    pub fn reload(&self, edit: impl FnOnce(&mut Config)) -> Vec<&'static str> {
        self.try_reload(edit).expect("it fits")
    }

    /// For configurations that may be refused.
    pub fn try_reload(&self, edit: impl FnOnce(&mut Config)) -> Result<Vec<&'static str>, String> {
        let mut config = Config::clone(&self.running.snapshot().config);
        edit(&mut config);
        self.running.reload(config)
    }

    /// Where its listeners are: the main one, those of `listeners`, the page's own.
    pub fn addrs(&self) -> &[SocketAddr] {
        self.running.addrs()
    }

    /// The page's link.
    pub fn admin_link(&self) -> Option<String> {
        self.running.admin_link()
    }

    /// Drains and joins.
    pub fn stop(self) {
        self.running.stop();
    }
}

pub const CHAT: &str = "/v1/chat/completions";

pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

pub fn post(target: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    post_with(target, "", body)
}

/// `fields` are whole lines, each with its CR LF.
pub fn post_with(target: &str, fields: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{fields}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub fn chat(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"Hello!"}}]}}"#)
}

pub fn stream(model: &str) -> String {
    format!(r#"{{"model":"{model}","stream":true,"messages":[{{"role":"user","content":"Hello!"}}]}}"#)
}
