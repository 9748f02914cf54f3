//! The toy model servers of `--demo`, the configuration that serves them, and the lines that show how to try it.
//! Knows nothing of the proxy but its configuration; loopback only.

mod answer;
mod server;

use self::answer::Toy;
use self::server::Server;
use crate::config::{Config, Endpoint, HealthCheck};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The model that both toys serve.
const SHARED: &str = "toy-shared";
const FAST: &str = "toy-fast";
const SLOW: &str = "toy-slow";

/// Both toy servers; dropping it stops them.
pub(crate) struct Demo {
    servers: Vec<Arc<Toy>>,
    _running: Vec<Server>,
}

pub(crate) fn start() -> io::Result<Demo> {
    let toys = [("toy-a", [SHARED, FAST]), ("toy-b", [SHARED, SLOW])];
    let started: io::Result<Vec<_>> = toys.into_iter().map(|(name, models)| server::start(name, models)).collect();
    let (servers, running) = started?.into_iter().unzip();
    Ok(Demo { servers, _running: running })
}

/// The configuration of a proxy in front of the toys: port 8080, or a free one when that is taken.
pub(crate) fn config(demo: &Demo) -> Config {
    let mut config = Config::default();
    config.server.port = free_port(&config.server.host, config.server.port);
    config.endpoints = demo.servers.iter().map(|toy| endpoint(toy)).collect();
    // Short, so that a paused toy is noticed at once.
    config.health_check = HealthCheck {
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        path: "/health".into(),
        failure_threshold: 1,
    };
    // With the page; its changes are not stored.
    config.admin.enabled = true;
    config.admin.routes_file = PathBuf::new();
    config
}

/// What to type next, given the address the proxy listens on and the link to its page.
pub(crate) fn banner(proxy: SocketAddr, page: &str, demo: &Demo) -> String {
    let proxy = if proxy.ip().is_unspecified() { (Ipv4Addr::LOCALHOST, proxy.port()).into() } else { proxy };
    let served = |toy: &Arc<Toy>| format!("  {} http://{} serves {}\n", toy.name, toy.addr, toy.models.join(" and "));
    let servers: String = demo.servers.iter().map(served).collect();
    let Toy { name, addr: toy, .. } = &*demo.servers[0];
    format!(
        r#"
Behind it, two toy model servers (fixed text, no model at work):
{servers}
Try it in another terminal.

The models of both servers, each once:
  curl http://{proxy}/v1/models

A chat, streamed:
  curl -N http://{proxy}/v1/chat/completions -H 'Content-Type: application/json' -d '{{"model":"{SHARED}","stream":true,"messages":[{{"role":"user","content":"What is llmproxy?"}}]}}'

What is going on, in a browser on this machine:
  {page}

Which servers are healthy:
  curl http://{proxy}/health

Failover: make {name} look dead (try it in the middle of a chat), look at once instead of
within 2 s, then send the chat again: toy-b answers.
  curl -X POST http://{toy}/demo/pause
  curl -X POST http://{proxy}/health/force-check

Bring {name} back:
  curl -X POST http://{toy}/demo/resume

Ctrl-C stops everything.
"#
    )
}

/// `port`, or 0 (any) when another program has it.
fn free_port(host: &str, port: u16) -> u16 {
    if TcpListener::bind((host, port)).is_ok() { port } else { 0 }
}

/// Time between two words of a model's answer: 20 words a second can be read along.
fn pace(model: &str) -> Duration {
    Duration::from_millis(match model {
        FAST => 15,
        SLOW => 150,
        _ => 50,
    })
}

fn endpoint(toy: &Toy) -> Endpoint {
    let plain = Endpoint::plain(toy.name, toy.addr.ip().to_string(), toy.addr.port());
    Endpoint { default_model: Some(SHARED.into()), ..plain }
}

#[cfg(test)]
mod tests;
