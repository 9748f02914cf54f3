//! `--print-config` and `--check`: what is printed reads back and tells no secret.

use crate::{good, wrong};
use llmproxy::config::Auth;
use llmproxy::config::Config;
use llmproxy::config::KeyText;
use llmproxy::config::Op;
use llmproxy::config::print;

const RICH: &str = r#"
server:
  host: "::1"
  port: 0
  maxBody: 12345
  bodyMemory: 10MB
  keepAlive: 1h30m
  drainTimeout: 0
  cors: ["*", https://a.example, local]
  allowedHosts: [my.box, "on"]
  trustedProxies: [10.0.0.0/8, "::1"]
  ssePing: off
  group: bare
  mode: raw
endpoints:
  - {name: "plain", address: "::1", port: 8001, healthCheck: false, models: ["null", "a: b", "$x", "ü/😀", "7"]}
  - {name: "two words", url: https://openrouter.ai/api/v1, apiKeys: [canary-1, canary-2], enabled: false}
  - {name: "3", url: https://x/v1beta/openai, apiKey: canary-3, auth: {type: header, name: x-goog-api-key}}
  - {name: "\"q\"\\", url: http://x/v2/x/v1, auth: {type: basic, username: "u$", password: canary-4}, defaultModel: m}
  - name: changed
    url: http://h/base
    healthCheckPath: /health
    apiKey: canary-5
    headers: [{op: insert, key: x-api-key, value: canary-6}, {op: remove, key: b}, {op: replace, key: cookie, value: canary-7}, {op: insert, key: x-title, value: "a: $b"}]
    onClientGone: finish
    timeouts: {connect: 0, total: 90061ms}
    proxy: http://u:canary-8@h:1
    userAgent: "me/1 (it's)"
  - {name: last, address: h, port: 2, proxy: "http://h:3128", weight: 9, maxConcurrent: 3}
  - {name: free, address: h, port: 3, maxConcurrent: unlimited}
  - {name: sleeper, address: h, port: 4, models: [x], wake: {mac: 00-11-22-AA-bb-cc, via: "[ff02::1%2]:7", timeout: 90s, background: true, prefer: wake}}
models:
  fast: {strategy: rr, backends: [{endpoint: last, model: "a: $b", weight: 2}, {endpoint: "two words", enabled: false}]}
  "org/odd: \"$x\" ü": {backends: [{endpoint: last}]}
  "null": {backends: [{endpoint: last}]}
queue: {length: 0, timeout: 1s}
auth:
  keys:
    - {name: "the \"first\"", key: canary-9, models: ["*x", "a: b"], endpoints: ["two words"], maxParallel: 1}
    - {name: second, key: canary-10, rateLimit: {perSecond: 0.25, burst: 7}, background: true, admin: true}
groups:
  - name: "my group"
    endpoints: [{name: last, weight: 8}, {name: free}]
    strategy: wrr
    retry: {attempts: 4, on: [status]}
    timeouts: {connect: 0, total: 5m}
    userAgent: "LLMProxy/1.0"
    proxy: http://u:canary-11@h:1
    stream: false
    keepAlive: 0
  - {name: bare, endpoints: [{name: free}]}
listeners:
  - {name: "to my group", port: 3000, host: 0.0.0.0, group: "my group", keys: none, rateLimit: {perSecond: 100, burst: 200}, mode: raw}
  - {name: other, port: 0, keys: [second]}
  - {name: ops, port: 9000, mode: status}
rateLimit: {perSecond: 1.5}
metrics: {enabled: false}
healthCheck: {interval: 100ms, timeout: 1s, path: "/h?x=1", failureThreshold: 1}
cache: {ttlMs: null, ttlMultiplier: 0.5}
timeouts: {idle: 0}
routing: {strategy: priority, unknownModel: default}
retry: {attempts: 7, initialDelay: 0, on: [reset]}
jobs: {enabled: true, maxConcurrent: 3, attempts: 1, retention: 2h, timeout: 1m, maxQueued: 7, dir: "a b", always: true, webhooks: {allow: [hooks.lan, "[::1]"], secret: canary-12, attempts: 1}}
admin: {enabled: true, host: "::", port: 9100, token: canary-13, routesFile: "r.json", allowedHosts: [box.lan]}
log: {level: error, format: json, access: false}
"#;

/// The secrets of a configuration in the order they are printed.
pub fn secrets(config: &Config) -> Vec<String> {
    let mut all = Vec::new();
    for one in &config.endpoints {
        all.extend(one.api_keys.iter().map(|key| key.reveal()));
        if let Auth::Basic { password, .. } = &one.auth {
            all.push(password.reveal());
        }
        let masked = one.headers.iter().filter(|change| change.op != Op::Remove && change.value.printed().is_none());
        all.extend(masked.map(|change| change.value.reveal()));
        all.extend(one.proxy.iter().map(|proxy| proxy.reveal()).filter(|proxy| proxy.contains('@')));
    }
    let keys = config.keys.iter().map(|one| match &one.key {
        KeyText::Plain(key) => key.reveal(),
        KeyText::Sha256(_) => panic!("the sample has none"),
    });
    all.extend(keys);
    all.extend(config.groups.iter().filter_map(|group| group.proxy.as_ref()).map(|proxy| proxy.reveal()));
    all.extend(config.jobs.webhooks.secret.as_ref().map(|secret| secret.reveal()));
    all.extend(config.admin.token.as_ref().map(|secret| secret.reveal()));
    all.into_iter().map(str::to_owned).collect()
}

pub fn put_in(text: &str, secrets: &[String]) -> String {
    let (comment, body) = text.split_once('\n').unwrap();
    assert!(comment.starts_with('#') && comment.contains("'***'"));
    let mut parts = body.split("'***'");
    let mut whole = parts.next().unwrap().to_owned();
    let rest: Vec<_> = parts.collect();
    assert_eq!(rest.len(), secrets.len(), "{body}");
    for (secret, part) in secrets.iter().zip(rest) {
        whole += &format!("\"{secret}\"{part}");
    }
    whole
}

#[test]
fn the_effective_configuration_reads_back_with_the_secrets_put_in() {
    let texts = [
        RICH,
        include_str!("../../config/full.yml"),
        include_str!("../../config/endpoints.yml"),
        include_str!("../../config/old/000-endpoints.yml"),
        "endpoints: [{name: a, address: h, port: 1}]",
    ];
    for text in texts {
        let config = good(text);
        let printed = print::yaml(&config);
        assert_eq!(good(&put_in(&printed, &secrets(&config))), config, "{printed}");
    }
}

#[test]
fn nothing_printed_holds_a_secret() {
    let config = good(RICH);
    assert_eq!(secrets(&config).len(), 13);
    for text in [print::yaml(&config), print::summary(&config), format!("{config:?}")] {
        assert!(!text.contains("canary"), "{text}");
    }
}

#[test]
fn a_printed_configuration_with_masks_is_not_mistaken_for_a_real_one() {
    let printed = print::yaml(&good(RICH));
    let lines = wrong(&printed);
    assert!(lines.iter().filter(|line| line.contains("is the mask")).count() == 13, "{}", lines.join("\n"));
}

#[test]
fn the_summary_fits_one_screen() {
    let many: String = (0..100).map(|i| format!("  - {{name: e{i}, address: h, port: 1}}\n")).collect();
    for text in [RICH.to_owned(), format!("endpoints:\n{many}")] {
        let summary = print::summary(&good(&text));
        assert!(summary.lines().count() <= 26, "{summary}");
        assert!(summary.contains("listens on  http://"), "{summary}");
    }
    let summary = print::summary(&good("endpoints: [{name: pc, address: 10.0.0.2, port: 8001, models: [a, b]}]"));
    assert!(summary.contains("pc  http://10.0.0.2:8001  a, b"), "{summary}");
    assert!(summary.contains("1 of 1 switched on"), "{summary}");
}
