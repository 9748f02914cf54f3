//! `server`: the listener and the limits on what clients can make the proxy hold.

use super::address;
use super::sections::{ANY_TIME, SOME_TIME, sse_ping};
use crate::config::Server;
use crate::config::reader::Section;

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;

pub(super) fn server(s: &mut Section) -> Server {
    let default = Server::default();
    let server = Server {
        host: s.field("host").parse(address::listen_host).unwrap_or(default.host),
        port: s.field("port").number("a port, or 0 for any free one", 0..=65_535).unwrap_or(default.port),
        workers: s.field("workers").number("a number of threads", 1..=4096).unwrap_or(default.workers),
        backlog: s.field("backlog").number("a number of requests", 0..=65_536).unwrap_or(default.backlog),
        max_connections: s
            .field("maxConnections")
            .number("a number of connections", 1..=1_000_000)
            .unwrap_or(default.max_connections),
        per_client: s.field("perClient").number("a number of connections", 1..=1_000_000).unwrap_or(default.per_client),
        max_body: s.field("maxBody").size(KIB..=4 * GIB).unwrap_or(default.max_body),
        body_memory: s.field("bodyMemory").size(KIB..=1024 * GIB).unwrap_or(default.body_memory),
        head_timeout: s.field("headTimeout").duration(SOME_TIME).unwrap_or(default.head_timeout),
        body_timeout: s.field("bodyTimeout").duration(SOME_TIME).unwrap_or(default.body_timeout),
        keep_alive: s.field("keepAlive").duration(SOME_TIME).unwrap_or(default.keep_alive),
        write_timeout: s.field("writeTimeout").duration(SOME_TIME).unwrap_or(default.write_timeout),
        drain_timeout: s.field("drainTimeout").duration(ANY_TIME).unwrap_or(default.drain_timeout),
        cors: s.field("cors").list(|item| item.parse(address::origin)).unwrap_or(default.cors),
        allowed_hosts: s.field("allowedHosts").list(|item| item.parse(address::host)).unwrap_or_default(),
        trusted_proxies: s.field("trustedProxies").list(|item| item.parse(address::network)).unwrap_or_default(),
        sse_ping: sse_ping(&s.field("ssePing")),
    };
    if server.body_memory < server.max_body {
        s.problem("`bodyMemory` is less than `maxBody`: no body of that size would ever be accepted");
    }
    server
}
