//! What an error and a printed configuration show of what may be a secret.

use crate::{ONE, complaint, good, parse, wrong};
use llmproxy::config::{Config, print};
use serde_json::{Value, json};

/// Values in the wrong shape at places where secrets belong; each must be refused.
const ENDPOINT: [&str; 29] = [
    "apiKeys: canary",
    "apiKeys: 4711081504711",
    "apiKeys: {canary: x}",
    "apiKeys: [{canary: x}]",
    "apiKeys: [[canary]]",
    "apiKeys: [true, canary, 5]",
    "apiKey: [canary]",
    "apiKey: {canary: canary}",
    "apiKey: {canary: 1, canary: 2}",
    "apiKey: \"canary\\nx\"",
    "apiKey: canary, apiKeys: [canary]",
    "apiKeyFile: sk-canary-1",
    "apiKeyFile: [canary]",
    "auth: canary",
    "auth: [canary]",
    "auth: {type: canary}",
    "auth: {canary: bearer}",
    "auth: {type: basic, username: \"u:canary\", password: x}",
    "auth: {type: header, name: \"X-Key: canary\"}, apiKey: k",
    "headers: canary",
    "headers: [canary]",
    "headers: [\"Authorization: Bearer canary\"]",
    "headers: [{op: canary, key: x, value: y}]",
    "headers: [{op: insert, key: \"Authorization: canary\", value: y}]",
    "headers: [{op: insert, key: x, value: [canary]}]",
    "headers: [{op: insert, key: x, value: y, canary: z}]",
    "proxy: [canary]",
    "proxy: {canary: x}",
    "proxy: \"http://u:canary@h\"",
];

const SECTIONS: [&str; 22] = [
    "auth: canary",
    "auth: [canary]",
    "auth: {canary: x}",
    "auth: {keys: canary}",
    "auth: {keys: [canary]}",
    "auth: {keys: {canary: x}}",
    "auth: {keys: [{canary: laptop}]}",
    "auth: {keys: [{name: a, key: [canary]}]}",
    "auth: {keys: [{name: a, key: {canary: x}}]}",
    "auth: {keys: [{name: a, key: \"sha256:canary\"}]}",
    "auth: {keys: [{name: a, key: k, admin: canary}]}",
    "auth: {keys: [{name: a, key: k, keyFile: canary}]}",
    "admin: canary",
    "admin: {token: [canary]}",
    "admin: {token: {canary: x}}",
    "admin: {enabled: canary}",
    "admin: {canary: x}",
    "jobs: {webhooks: canary}",
    "jobs: {webhooks: {secret: {canary: x}}}",
    "jobs: {webhooks: {secret: [canary], allow: [\"https://h/canary\"]}}",
    "auth: {keys: [{name: a, key: k}]}\nlisteners: [{name: l, port: 1, keys: canary}]",
    "auth: {keys: [{name: a, key: k}]}\nlisteners: [{name: l, port: 1, keys: [canary]}]",
];

const OLDER: [&str; 9] = [
    "backends: [{url: \"http://h:1\", api_key: [canary]}]",
    "backends: [{url: \"http://u:canary@h:1\"}]",
    "{\"Models\": {\"m\": {\"Backends\": [{\"BaseUrl\": \"http://h:1\", \"ApiKeys\": \"canary\"}]}}}",
    "{\"Models\": {\"m\": {\"Backends\": [{\"BaseUrl\": \"http://h:1?key=canary\"}]}}}",
    "{\"Models\": {\"m\": {\"Backends\": [\"canary\"]}}}",
    "http_server: {forwards: []}\nupstreams: [{name: a, url: \"http://h\", auth: canary}]\nupstream_groups: []",
    "http_server: {forwards: []}\nupstreams: [{name: a, url: \"http://h\", auth: {type: canary}}]\nupstream_groups: []",
    "http_server: {forwards: []}\nupstreams: [{name: a, url: \"http://h\", headers: [canary]}]\nupstream_groups: []",
    "http_server: {forwards: []}\nupstreams: []\nupstream_groups: [{name: g, upstreams: [], http_client: {proxy: canary}}]",
];

#[test]
fn a_value_in_the_wrong_shape_where_a_secret_belongs_is_refused_and_never_printed() {
    // U24
    let texts = ENDPOINT.iter().map(|content| format!("endpoints: [{{name: a, address: h, port: 1, {content}}}]"));
    let texts = texts.chain(SECTIONS.iter().map(|section| format!("{ONE}{section}")));
    for text in texts.chain(OLDER.iter().map(|text| (*text).to_owned())) {
        let lines = wrong(&text).join("\n");
        assert!(!lines.contains("canary") && !lines.contains("4711"), "{text}\n{lines}");
    }
}

#[test]
fn a_secret_that_became_a_key_is_not_printed_as_an_unknown_one() {
    // U24
    let line = wrong("endpoints: [{name: a, address: h, port: 1, apiKey: x, sk-canary}]").join("\n");
    assert!(line.starts_with("f.yml:1:55: endpoints[0].***: unknown key; here are known: "), "{line}");
    assert_eq!(complaint("serwer: {}"), "serwer: unknown key; did you mean `server`?");
}

#[test]
fn a_variable_of_a_wrong_value_is_told_at_its_place_and_under_no_name_that_may_be_a_secret() {
    // U24
    let lines = wrong(&format!("{ONE}auth: {{keys: [{{name: a, key: \"${{NO_SUCH}}\", canary: \"${{NO_SUCH}}\"}}]}}"));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].ends_with("auth.keys[0].key: the environment variable NO_SUCH is not set, or empty"), "{lines:?}");
    assert!(lines[1].contains("auth.keys[0].***: unknown key"), "{lines:?}");
}

#[test]
fn a_yaml_error_does_not_repeat_the_keys_around_it() {
    // U24
    for text in [
        "canary: {[b]: c}",
        "auth: {canary: !x y}",
        "a: {canary: {[b]: c}}",
        "a: *canary",
        "a: !canary b",
        "apiKey: !!int canary",
        "a: [!!bool \"canary\", !!float canary]",
        "%canary\n---\na: b",
    ] {
        let lines = wrong(text).join("\n");
        assert!(!lines.contains("canary"), "{text}\n{lines}");
    }
}

#[test]
fn a_path_in_an_error_is_never_shortened() {
    // H3
    let path = format!("/run/{}/key-of-the-cloud.txt", "a-long-folder/".repeat(20));
    let line = complaint(&format!("auth: {{keys: [{{name: a, keyFile: {path}}}]}}"));
    assert!(line.contains(&format!("the file {path:?} cannot be read")), "{line}");
    let line = complaint(&format!("admin: {{tokenFile: {path}}}"));
    assert!(line.contains(&path), "{line}");
}

/// What `--print-config` prints, as JSON.
fn printed(config: &Config) -> Value {
    serde_yaml::from_str(&print::yaml(config)).expect("YAML")
}

#[test]
fn a_header_that_carries_no_secret_is_printed_as_it_is() {
    // H4
    let text = "endpoints: [{name: a, address: h, port: 1, headers: [{op: insert, key: X-Title, value: my app}, \
        {op: replace, key: HTTP-Referer, value: \"https://my.site/a\"}, {op: replace, key: X-Goog-Api-Key, value: canary-1}, \
        {op: insert, key: x-y, value: Bearer canary}, {op: insert, key: x-z, value: \"${KEY}\"}, {op: insert, key: x-f, valueFile: key.txt}]}]";
    let headers = &printed(&good(text))["endpoints"][0]["headers"];
    let shown = |op: &str, key: &str, value: &str| json!({"op": op, "key": key, "value": value});
    let wanted = [
        shown("insert", "x-title", "my app"),
        shown("replace", "http-referer", "https://my.site/a"),
        shown("replace", "x-goog-api-key", "***"),
        shown("insert", "x-y", "***"),
        shown("insert", "x-z", "***"),
        shown("insert", "x-f", "***"),
    ];
    assert_eq!(*headers, json!(wanted));
}

#[test]
fn a_text_that_may_be_a_key_is_printed_as_a_mask_where_bodies_are_edited_and_a_mask_is_no_value() {
    let route = |edits: &str| format!("{ONE}\nmodels: {{m: {{match: [x], {edits}}}}}");
    let edits = "set: {api_key: canary-1, k.auth: {a: [canary-2]}, x: sk-canary-3, max_tokens: 5}, \
        variants: {v: {default: {o: {Token: canary-4, n: [1]}}}}";
    let config = good(&route(edits));
    assert!(!print::yaml(&config).contains("canary"), "{}", print::yaml(&config));
    let model = &printed(&config)["models"]["m"];
    assert_eq!(model["set"], json!({"api_key": "***", "k.auth": {"a": ["***"]}, "x": "***", "max_tokens": 5}));
    assert_eq!(model["variants"]["v"]["default"], json!({"o": {"Token": "***", "n": [1]}}));
    for value in ["\"***\"", "{a: [\"***\"]}"] {
        let text = format!("models: {{m: {{match: [x], set: {{a: {value}}}}}}}");
        let wanted = "models[m].set[a]: holds the mask that stands for a secret; put the secret in";
        assert_eq!(complaint(&text), wanted);
    }
}

#[cfg(feature = "legacy")]
#[test]
fn a_002_file_converts_to_one_that_can_be_used_as_it_is() {
    // H4
    let text = include_str!("../../config/old/002-config.yaml");
    let printed = printed(&good(text));
    let endpoints = printed["endpoints"].as_array().expect("a list");
    let headers: Vec<&Value> = endpoints.iter().flat_map(|one| one["headers"].as_array().expect("a list")).collect();
    for (key, value) in [("x-custom-header", "MyProxyValue"), ("x-api-key", "***")] {
        assert!(headers.contains(&&json!({"op": "insert", "key": key, "value": value})), "{printed}");
    }
}

#[test]
fn top_level_keys_that_begin_with_x_are_ignored() {
    // SPEC 2
    let text = "x-common: &common {address: h, port: 1, note: \"${NO_SUCH}\"}\nx-y: 1\n\
        endpoints: [{name: a, address: h, port: 1}]\n";
    assert_eq!(good(text).endpoints.len(), 1);
    let merged = "x-common: &common {address: h, port: 1}\nendpoints: [{name: a, <<: *common}, {name: b, <<: *common}]";
    assert_eq!(good(merged).endpoints[1].base.port, 1);
    assert!(complaint("server: {x-y: 1}").contains("unknown key"));
    assert!(parse("x-y: 1").is_err());
}
