//! The files that come with the program: they load, say what the code says, and drift from nothing.

use crate::{good, parse};
use llmproxy::config::{Config, Probe, load};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

const FULL: &str = include_str!("../../config/full.yml");
const SCHEMA: &str = include_str!("../../config/schema.json");

#[test]
fn seed_000s_documented_file_means_what_its_document_says() {
    // S000-01..11
    let config = good(include_str!("../../config/old/000-endpoints.yml"));
    let seen: Vec<_> = config
        .endpoints
        .iter()
        .map(|one| (one.name.as_str(), one.base.host.as_str(), one.base.port, one.enabled, one.probe.clone()))
        .collect();
    let health = Probe::Path("/health".into());
    assert_eq!(
        seen,
        [
            ("server1", "127.0.0.1", 8001, true, health), // S000-02..05
            ("server2", "127.0.0.1", 8002, true, Probe::Default),
        ]
    );
    assert!(config.endpoints.iter().all(|one| !one.base.tls && one.base.root.is_empty() && one.base.api == "/v1"));
    let health = &config.health_check; // S000-06, S000-07
    assert_eq!((health.interval, health.timeout), (Duration::from_millis(30_000), Duration::from_millis(5_000)));
    assert_eq!((health.path.as_str(), health.failure_threshold), ("/v1/models", 3));
    assert_eq!((config.cache.ttl, config.cache.ttl_multiplier), (Some(Duration::from_millis(30_000)), None)); // S000-08
    assert_eq!(config.models_ttl(), Duration::from_millis(30_000)); // S000-09
    assert_eq!(config.server.port, 8080); // S000-11
    // W000-8: what it leaves out has a default.
    assert_eq!((config.retry, config.log), (Config::default().retry, Config::default().log));
}

#[test]
fn the_file_a_new_user_edits_loads_without_a_warning() {
    let text = include_str!("../../config/endpoints.yml");
    let load::Loaded { config, warnings, .. } = load::parse("endpoints.yml", text, &|_| None, &crate::file).unwrap();
    assert_eq!((config.endpoints.len(), warnings), (2, vec![]));
    assert_eq!(Config { endpoints: vec![], ..config }, Config::default());
}

#[test]
fn the_commented_parts_of_that_file_load_too() {
    let text = include_str!("../../config/endpoints.yml");
    let lines = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(yaml) if yaml.starts_with("  ") || yaml.starts_with("server:") => yaml,
        _ => line,
    });
    let text = lines.collect::<Vec<_>>().join("\n").replace("OPENROUTER_API_KEY", "KEY");
    let config = good(&text);
    assert_eq!((config.endpoints.len(), config.server.host.as_str()), (3, "0.0.0.0"));
}

#[test]
fn the_full_file_equals_the_defaults() {
    let mut config = good(FULL);
    let sample = config.endpoints.remove(0);
    assert_eq!(config, Config::default());
    let bare = good("endpoints: [{name: server1, address: 127.0.0.1, port: 8001}]").endpoints.remove(0);
    assert_eq!(sample, bare);
}

#[test]
fn the_full_file_has_every_key_with_a_comment() {
    let keys = load::keys();
    assert!(keys.len() > 60, "{}", keys.len());
    let words: BTreeSet<&str> = FULL.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    for key in keys {
        let last = key.rsplit('.').next().unwrap();
        assert!(words.contains(last), "{key}");
    }
    assert!(FULL.starts_with("# yaml-language-server: $schema=./schema.json\n"));
    let uncommented = |line: &&str| !line.contains('#') && !line.is_empty() && !line.ends_with(':');
    let lines: Vec<_> = FULL.lines().filter(uncommented).collect();
    assert_eq!(lines, ["    port: 8001"], "it shares the comment of `address`");
}

#[test]
fn the_schema_knows_exactly_the_keys_that_are_read() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut keys = BTreeSet::new();
    collect(&schema, "", &mut |path, _| {
        keys.insert(path.to_owned());
    });
    assert_eq!(keys, load::keys());
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_full_file() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let full: Value = serde_yaml::from_str(FULL).unwrap();
    let mut met = 0;
    collect(&schema, "", &mut |path, property| {
        let Some(default) = property.get("default") else { return };
        let pointer = format!("/{}", path.replace("[]", ".0").replace('.', "/"));
        assert_eq!(full.pointer(&pointer), Some(default), "{path}");
        met += 1;
    });
    assert!(met > 45, "{met}");
}

#[test]
fn every_word_the_schema_allows_is_accepted() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut met = 0;
    collect(&schema, "", &mut |path, property| {
        let Some(words) = property.get("enum").and_then(Value::as_array) else { return };
        let Some((section, key)) = path.split_once('.').filter(|(section, _)| !section.contains("[]")) else {
            return;
        };
        for word in words {
            let text = format!("endpoints: [{{name: a, address: h, port: 1}}]\n{section}: {{{key}: {word}}}\n");
            assert!(parse(&text).is_ok(), "{text}");
            met += 1;
        }
    });
    assert!(met >= 12, "{met}");
}

/// Calls `see` for every property of a schema, with its path as the reader writes it.
fn collect(schema: &Value, path: &str, see: &mut dyn FnMut(&str, &Value)) {
    for one in schema.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
        collect(one, path, see);
    }
    for items in ["items", "additionalProperties"].iter().filter_map(|key| schema.get(*key)) {
        collect(items, &format!("{path}[]"), see);
    }
    for (key, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        see(&path, property);
        collect(property, &path, see);
    }
}
