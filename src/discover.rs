//! Looks for model servers on this machine: asks the well-known loopback ports for `/v1/models`.

use crate::api::model_list::list_of;
use crate::config::{Endpoint, Timeouts};
use crate::upstream::{UpstreamClient, UpstreamRequest, headers};
use http::Method;
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;

/// vLLM, llama-server, LM Studio, text-generation-webui, KoboldCpp, Ollama, Lemonade, exo and their neighbours.
const PORTS: [u16; 12] = [8000, 8001, 8002, 8080, 8081, 9931, 1234, 5000, 5001, 11434, 13305, 52415];
/// A local server answers this in milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);
const MOST: usize = 4 << 20;
/// Where the proxy listens by default, as llama-server does.
const OWN_PORT: u16 = 8080;

/// The error without a configuration and without a server.
pub(crate) const NOTHING: &str = "\
there is no configuration file, and no model server answers on this machine's well-known ports.
Write config/endpoints.yml, four lines are enough:

endpoints:
  - name: server1
    address: 127.0.0.1
    port: 8001

`llmproxy --demo` shows how it works without any model server,
`llmproxy --discover` looks for servers and prints a configuration.";

/// The error when every server that was found asks for a key.
pub(crate) const LOCKED: &str = "\
there is no configuration file, and the model servers on this machine ask for a key.
`llmproxy --discover` prints a configuration with a place for it.";

pub struct Server {
    pub endpoint: Endpoint,
    /// It needs a key.
    pub wants_key: bool,
}

pub(crate) fn look() -> Vec<Server> {
    look_at(&PORTS)
}

/// The servers on these ports of the loopback address, in their order.
pub fn look_at(ports: &[u16]) -> Vec<Server> {
    let asked: Vec<_> = ports
        .iter()
        .map(|&port| {
            let thread = std::thread::Builder::new().name("discover".into());
            thread.spawn(move || server(Endpoint::plain(format!("local-{port}"), "127.0.0.1", port)))
        })
        .collect();
    asked.into_iter().filter_map(|thread| thread.ok()?.join().ok().flatten()).collect()
}

/// The model server there. Another llmproxy is left out: it could be this one, which would be a loop.
fn server(endpoint: Endpoint) -> Option<Server> {
    let (status, body) = get(&endpoint, "/v1/models")?;
    let wants_key = match status {
        200 => list_of(&body).map(|_| false).ok()?,
        401 => true,
        // Other services that answer 403, such as AirPlay on port 5000, do not send JSON.
        403 => serde_json::from_slice::<Value>(&body).map(|_| true).ok()?,
        _ => return None,
    };
    (!is_proxy(&endpoint)).then_some(Server { endpoint, wants_key })
}

fn is_proxy(endpoint: &Endpoint) -> bool {
    let health = get(endpoint, "/health").and_then(|(_, body)| serde_json::from_slice::<Value>(&body).ok());
    health.is_some_and(|health| health.get("healthy_endpoints").is_some() && health.get("total_endpoints").is_some())
}

/// A GET within a second: status and body.
pub(crate) fn get(endpoint: &Endpoint, path: &str) -> Option<(u16, Vec<u8>)> {
    let timeouts = Timeouts { total: Some(PATIENCE), ..Timeouts::default() };
    let headers = || headers::own(endpoint);
    let request = UpstreamRequest::own(Method::GET, path, &headers, timeouts);
    let mut answer = UpstreamClient::new(endpoint, 1).ok()?.send(&request).ok()?;
    let mut body = Vec::new();
    let is_whole = answer.read_to_end(&mut body, MOST).ok()?;
    is_whole.then_some((answer.status.as_u16(), body))
}

/// A configuration file that serves these servers.
pub fn configuration(servers: &[Server]) -> String {
    let mut text = String::from("# Found on this machine. Save as config/endpoints.yml.\n");
    if servers.iter().any(|server| server.endpoint.base.port == OWN_PORT) {
        let _ = writeln!(text, "server:\n  port: 8090 # {OWN_PORT} is taken by a model server");
    }
    text.push_str("endpoints:\n");
    for Server { endpoint, wants_key } in servers {
        let (name, host, port) = (&endpoint.name, &endpoint.base.host, endpoint.base.port);
        let _ = write!(text, "  - name: {name}\n    address: {host}\n    port: {port}\n");
        if *wants_key {
            let _ = writeln!(text, "    apiKey: ${{LOCAL_{port}_KEY}} # it asks for a key: set this variable to it");
        }
    }
    text
}
