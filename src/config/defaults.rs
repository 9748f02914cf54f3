//! What an empty file means: the default of every section. `config/full.yml` prints the same, checked by a test.

use super::{
    Cache, CorsOrigin, HealthCheck, Log, LogFormat, Queue, Retry, Routing, Server, SsePing, Strategy, Timeouts,
    UnknownModel,
};
use std::time::Duration;

impl Default for Server {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8080,
            workers: 64,
            backlog: 64,
            max_connections: 1024,
            per_client: 64,
            max_body: 32 << 20,
            body_memory: 256 << 20,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(25),
            cors: vec![CorsOrigin::Local],
            allowed_hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            sse_ping: Some(SsePing::default()),
        }
    }
}

impl Default for SsePing {
    fn default() -> Self {
        Self { after: Duration::from_secs(15), every: Duration::from_secs(15) }
    }
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            path: "/v1/models".into(),
            failure_threshold: 3,
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { ttl: Some(Duration::from_secs(30)), ttl_multiplier: None }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Some(Duration::from_secs(3)),
            first_byte: Some(Duration::from_secs(600)),
            idle: Some(Duration::from_secs(120)),
            total: None,
        }
    }
}

impl Default for Routing {
    fn default() -> Self {
        Self { strategy: Strategy::Failover, unknown_model: UnknownModel::Error }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self { length: 64, timeout: Duration::from_secs(120) }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: None,
            initial_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(10),
            on_connect: true,
            on_reset: true,
            on_timeout: true,
            on_status: true,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: log::LevelFilter::Info, format: LogFormat::Text, access: true }
    }
}
