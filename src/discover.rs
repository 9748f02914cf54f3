//! Looks for model servers on this machine: asks the well-known loopback ports for `/v1/models`.

use crate::base::clock;
use crate::config::{Endpoint, Timeouts};
use crate::model::catalog::models_of;
use crate::upstream::{Channel, Order, headers};
use http::Method;
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;

/// vLLM, llama-server, LM Studio, text-generation-webui, Ollama and their neighbours.
const PORTS: [u16; 9] = [8000, 8001, 8002, 8080, 8081, 1234, 5000, 5001, 11434];
/// A local server answers this in milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);
const MOST: usize = 4 << 20;

/// Said when there is neither a configuration nor a server.
pub const NOTHING: &str = "\
there is no configuration file, and no model server answers on this machine's well-known ports.
Write config/endpoints.yml, four lines are enough:

endpoints:
  - name: server1
    address: 127.0.0.1
    port: 8001

`llmproxy --demo` shows how it works without any model server,
`llmproxy --discover` looks for servers and prints a configuration.";

/// The servers that answer, as endpoints, in the order of the ports above.
pub fn look() -> Vec<Endpoint> {
    let asked = PORTS.map(|port| {
        let thread = std::thread::Builder::new().name("discover".into());
        thread.spawn(move || {
            let endpoint = Endpoint::plain(format!("local-{port}"), "127.0.0.1", port);
            is_model_server(&endpoint).then_some(endpoint)
        })
    });
    asked.into_iter().filter_map(|thread| thread.ok()?.join().ok().flatten()).collect()
}

fn is_model_server(endpoint: &Endpoint) -> bool {
    let Some((200, body)) = get(endpoint, "/v1/models") else {
        return false;
    };
    let Ok(list) = serde_json::from_slice::<Value>(&body) else {
        return false;
    };
    // Another llmproxy lists models with who provides them: to stand behind oneself would be a circle.
    let is_proxy = list["data"].as_array().is_some_and(|d| d.iter().any(|m| m.get("provider").is_some()));
    !is_proxy && models_of(&list).is_ok()
}

/// A GET within a second: status and body.
pub fn get(endpoint: &Endpoint, path: &str) -> Option<(u16, Vec<u8>)> {
    let order = Order {
        method: Method::GET,
        path,
        raw: false,
        headers: headers::own(endpoint),
        body: [&[], &[], &[]],
        rest: None,
        timeouts: Timeouts { total: Some(PATIENCE), ..Timeouts::default() },
        gone: None,
        watch: None,
    };
    let mut answer = Channel::new(endpoint, 1).ok()?.send(&order).ok()?;
    let until = clock::now() + PATIENCE;
    let (mut body, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match answer.read(&mut piece).ok()? {
            0 => return Some((answer.status.as_u16(), body)),
            n if body.len() < MOST && clock::now() < until => body.extend_from_slice(&piece[..n]),
            _ => return None,
        }
    }
}

/// A configuration file that serves these endpoints.
pub fn configuration(endpoints: &[Endpoint]) -> String {
    let mut text = String::from("# Found on this machine. Save as config/endpoints.yml.\nendpoints:\n");
    for endpoint in endpoints {
        let (name, host, port) = (&endpoint.name, &endpoint.base.host, endpoint.base.port);
        let _ = write!(text, "  - name: {name}\n    address: {host}\n    port: {port}\n");
    }
    text
}
