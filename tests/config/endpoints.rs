//! `endpoints`: where they are, how they are asked, what is sent to them.

use crate::{good, wrong};
use llmproxy::config::load;
use llmproxy::config::{Auth, Endpoint, Mac, OnClientGone, Op, Prefer, Probe, Wake};
use std::path::Path;
use std::time::Duration;

/// The endpoint of a flow map's content; it has a name.
fn endpoint(content: &str) -> Endpoint {
    good(&format!("endpoints: [{{name: a, {content}}}]")).endpoints.remove(0)
}

/// An endpoint that has a place.
fn placed(content: &str) -> Endpoint {
    endpoint(&format!("address: h, port: 1, {content}"))
}

/// The only thing said about an endpoint, without its place.
fn complaint(content: &str) -> String {
    let lines = wrong(&format!("endpoints: [{{name: a, {content}}}]"));
    assert_eq!(lines.len(), 1, "{content}\n{}", lines.join("\n"));
    lines[0].splitn(4, ':').nth(3).expect("FILE:LINE:COL: text").trim_start().to_owned()
}

fn placed_complaint(content: &str) -> String {
    complaint(&format!("address: h, port: 1, {content}"))
}

#[test]
fn a_name_and_a_place_are_enough() {
    // S000-02, S000-03, S000-04
    let one = endpoint("address: 127.0.0.1, port: 8001");
    assert_eq!((one.name.as_str(), one.enabled, &one.probe), ("a", true, &Probe::Default));
    assert_eq!((one.base.tls, one.base.host.as_str(), one.base.port), (false, "127.0.0.1", 8001));
    assert_eq!((one.base.root.as_str(), one.base.api.as_str()), ("", "/v1"));
    assert_eq!((one.auth, one.on_client_gone), (Auth::None, OnClientGone::Cancel));
    assert!(one.api_keys.is_empty() && one.headers.is_empty() && one.models.is_empty());
    assert_eq!((one.default_model, one.proxy, one.user_agent), (None, None, None));
}

#[test]
fn the_place_is_an_address_and_a_port_or_a_url() {
    assert_eq!(endpoint("address: \"[::1]\", port: 1").base.host, "::1");
    let base = endpoint("url: https://openrouter.ai/api/v1").base;
    assert_eq!((base.tls, base.port, base.root.as_str(), base.api.as_str()), (true, 443, "/api", "/api/v1"));
    let cases = [
        ("url: http://h, port: 1", "endpoints[0]: give `url`, or `address` and `port`, not both"),
        ("address: h", "endpoints[0]: `port` is missing"),
        ("port: 1", "endpoints[0]: `address` is missing"),
        ("enabled: true", "endpoints[0]: `address` and `port` are missing (or `url` instead of both)"),
        ("address: h, port: 0", "endpoints[0].port: 0 is not a port (1 to 65535)"),
        ("address: h, port: 80010", "endpoints[0].port: 80010 is not a port (1 to 65535)"),
        ("address: http://h, port: 1", "is a URL; write it as `url: ...` and leave out `port`"),
        ("address: \"h:1\", port: 1", "the port has a key of its own: `port`"),
        ("url: h:1", "endpoints[0].url: \"h:1\" is not a URL; write http://host:port or https://host/v1"),
    ];
    for (content, expected) in cases {
        let line = complaint(content);
        assert!(line.ends_with(expected), "{content}: {line}");
    }
}

#[test]
fn credentials_in_a_url_are_refused_and_not_repeated() {
    let line = complaint("url: \"https://user:canary@h/v1\"");
    assert_eq!(line, "endpoints[0].url: this value has a user or password in it; use `apiKey` or `auth`");
}

#[test]
fn names_are_given_unique_and_printable() {
    // D3
    let names = |first: &str, second: &str| {
        wrong(&format!("endpoints: [{{name: {first}, address: h, port: 1}}, {{name: {second}, address: h, port: 2}}]"))
    };
    assert!(
        names("a", "a")[0].starts_with("f.yml:1:52: endpoints[1].name: \"a\" is the name of another endpoint above")
    );
    assert!(names("a", "\"\"")[0].ends_with("\"\" is empty"));
    assert!(names("a", "\"b\\n\"")[0].contains("control character"));
    assert!(names("a", "\" b\"")[0].contains("space around it"));
    assert!(names("a", "5")[0].ends_with("5 is not a text; put it in quotes"));
    assert!(names("a", "null")[0].ends_with("endpoints[1].name: is missing"));
    assert_eq!(wrong("endpoints: [text, 5, [1]]").len(), 3);
}

#[test]
fn a_probe_has_a_path_of_its_own_or_is_off() {
    // S000-05
    assert_eq!(placed("healthCheckPath: /health").probe, Probe::Path("/health".into()));
    assert_eq!(placed("healthCheckPath: null").probe, Probe::Default);
    assert_eq!(placed("healthCheck: false").probe, Probe::Never);
    assert_eq!(placed("healthCheck: true").probe, Probe::Default);
    assert!(placed_complaint("healthCheckPath: health").ends_with("\"health\" does not start with /"));
    assert!(placed_complaint("healthCheckPath: \"/a b\"").contains("percent-encode"));
    assert!(placed_complaint("healthCheck: false, healthCheckPath: /x").contains("has no use"));
}

#[test]
fn keys_come_as_one_as_several_from_a_variable_or_a_file() {
    let keys = |content: &str| {
        let one = placed(content);
        let keys: Vec<_> = one.api_keys.iter().map(|key| key.reveal().to_owned()).collect();
        (keys, one.auth)
    };
    assert_eq!(keys("apiKey: k"), (vec!["k".into()], Auth::Bearer));
    assert_eq!(keys("apiKeys: [k, \"${KEY}\"]"), (vec!["k".into(), "sk-canary-1".into()], Auth::Bearer));
    assert_eq!(keys("apiKeyFile: key.txt"), (vec!["sk-canary-2".into()], Auth::Bearer));
    assert_eq!(keys("apiKeys: [], apiKey: null"), (vec![], Auth::None));
    let cases = [
        ("apiKey: \"${NO_SUCH}\"", "endpoints[0].apiKey: the environment variable NO_SUCH is not set, or empty"), // D6
        ("apiKey: \"\"", "endpoints[0].apiKey: is empty"),
        ("apiKey: 12345", "endpoints[0].apiKey: is not a text; put it in quotes"),
        ("apiKey: \"canary\\n\"", "endpoints[0].apiKey: has a line break or another control character in it"),
        ("apiKey: \"***\"", "endpoints[0].apiKey: is the mask that stands for a secret; put the secret in"),
        ("apiKey: a, apiKeys: [b]", "endpoints[0].apiKeys: give `apiKey` or `apiKeys`, not both"),
        ("apiKey: a, apiKeyFile: key.txt", "endpoints[0].apiKeyFile: give `apiKey` or `apiKeyFile`, not both"),
        ("apiKeyFile: none.txt", "endpoints[0].apiKeyFile: the file \"none.txt\" cannot be read: entity not found"),
        ("apiKeyFile: empty.txt", "endpoints[0].apiKeyFile: the file \"empty.txt\" is empty"),
        ("apiKeyFile: \"${KEY}\"", "endpoints[0].apiKeyFile: the file this value cannot be read: entity not found"),
        ("apiKey: schlüssel", "endpoints[0]: a key has a character that cannot be sent in a header (ASCII only)"),
        ("apiKeys: [a, {}]", "endpoints[0].apiKeys[1]: is not a text; put it in quotes"),
    ];
    for (content, line) in cases {
        assert_eq!(placed_complaint(content), line);
    }
}

#[test]
fn a_key_is_sent_as_bearer_or_in_a_header_and_a_password_as_basic() {
    assert_eq!(placed("apiKey: k, auth: {type: bearer}").auth, Auth::Bearer);
    let header = Auth::Header { name: "x-api-key".into() };
    assert_eq!(placed("apiKey: k, auth: {type: header, name: X-Api-Key}").auth, header);
    let Auth::Basic { username, password } = placed("auth: {type: basic, username: u, passwordFile: key.txt}").auth
    else {
        panic!("basic")
    };
    assert_eq!((username.as_str(), password.reveal()), ("u", "sk-canary-2"));
    assert_eq!(placed("auth: {type: none}").auth, Auth::None);
    let cases = [
        ("auth: {}", "`type` is missing: bearer, basic, header or none"),
        ("auth: {type: berer}, apiKey: k", "did you mean `bearer`?"),
        ("auth: {type: bearer}", "needs an `apiKey` beside it"),
        ("auth: {type: header, name: x-key}", "needs an `apiKey` beside it"),
        ("auth: {type: header}, apiKey: k", "`type: header` needs `name`, the header that takes the key"),
        ("auth: {type: header, name: \"x y\"}, apiKey: k", "\"x y\" is not a header name"),
        ("auth: {type: header, name: Host}, apiKey: k", "cannot be changed"),
        ("auth: {type: basic, username: u}", "`type: basic` needs `username` and `password`"),
        ("auth: {type: basic, username: \"u:v\", password: p}", "is not a user name"),
        (
            "auth: {type: basic, username: u, password: p}, apiKey: k",
            "does not send the `apiKey` beside it; remove one of them",
        ),
        ("auth: {type: none}, apiKey: k", "does not send the `apiKey` beside it; remove one of them"),
        ("auth: {type: bearer, username: u}, apiKey: k", "`username` has a use only with `type: basic`"),
        ("auth: {type: bearer, name: x}, apiKey: k", "`name` has a use only with `type: header`"),
        ("auth: {type: bearer, token: x}, apiKey: k", "unknown key here; `admin.token` exists"),
        ("auth: bearer", "endpoints[0].auth: \"bearer\" is not a map of `key: value`"),
    ];
    for (content, expected) in cases {
        let line = placed_complaint(content);
        assert!(line.ends_with(expected), "{content}: {line}");
    }
}

#[test]
fn headers_are_inserted_replaced_and_removed_but_not_those_of_the_connection() {
    let headers = placed(
        "headers: [{op: insert, key: X-Title, value: t}, {op: replace, key: x-key, valueFile: key.txt}, {op: remove, key: X-B}]",
    )
    .headers;
    let seen: Vec<_> = headers.iter().map(|h| (h.op, h.key.as_str(), h.value.reveal())).collect();
    assert_eq!(seen, [(Op::Insert, "x-title", "t"), (Op::Replace, "x-key", "sk-canary-2"), (Op::Remove, "x-b", "")]);
    let cases = [
        ("{op: insert, key: x}", "`value` is missing"),
        ("{op: replace, key: x, value: \"\"}", "headers[0].value: is empty"),
        ("{op: replace, key: x, value: \"a\\r\\nb\"}", "control character in it"),
        ("{op: insert, key: x, value: \"a\\0\"}", "control character in it"),
        ("{op: insert, key: x, value: ü}", "`value` has a character that cannot be sent in a header (ASCII only)"),
        ("{op: remove, key: x, value: v}", "`remove` takes no value"),
        ("{op: add, key: x, value: v}", "\"add\" is not one of insert, replace, remove"),
        ("{op: insert, key: \"x:\", value: v}", "\"x:\" is not a header name"),
        ("{op: insert, value: v}", "headers[0].key: is missing"),
        ("{key: x, value: v}", "headers[0].op: is missing"),
    ];
    for (header, expected) in cases {
        let line = placed_complaint(&format!("headers: [{header}]"));
        assert!(line.ends_with(expected), "{header}: {line}");
    }
    for name in ["Connection", "Host", "content-length", "TE", "trailer", "Transfer-Encoding", "upgrade", "keep-alive"]
    {
        let line = placed_complaint(&format!("headers: [{{op: remove, key: {name}}}]"));
        assert!(line.ends_with("belongs to the connection or the framing and cannot be changed"), "{line}");
    }
}

#[test]
fn models_and_the_default_among_them_are_texts() {
    let one = placed("models: [qwen3, \"7\"], defaultModel: qwen3");
    assert_eq!(
        (one.models.as_slice(), one.default_model.as_deref()),
        (&["qwen3".into(), "7".into()][..], Some("qwen3"))
    );
    assert_eq!(placed("defaultModel: any").default_model.as_deref(), Some("any"));
    assert!(placed_complaint("models: [a], defaultModel: b").ends_with("\"b\" is not one of this endpoint's `models`"));
    assert!(placed_complaint("models: [\"\"]").ends_with("models[0]: \"\" is empty"));
    assert!(placed_complaint("models: [4.10]").ends_with("4.1 is not a text; put it in quotes"));
}

#[test]
fn an_endpoint_overrides_time_outs_one_by_one() {
    let config = good(
        "timeouts: {connect: 1s, total: 5m}\nendpoints: [{name: a, address: h, port: 1, timeouts: {firstByte: 2s, total: 0}}]",
    );
    let timeouts = config.endpoints[0].timeouts;
    assert_eq!(timeouts.connect, Some(Duration::from_secs(1)));
    assert_eq!(timeouts.first_byte, Some(Duration::from_secs(2)));
    assert_eq!((timeouts.idle, timeouts.total), (Some(Duration::from_secs(120)), None));
}

#[test]
fn a_proxy_is_an_http_url_whose_password_is_not_repeated() {
    let proxy = placed("proxy: \"http://u:p@h:3128\"").proxy.unwrap();
    assert_eq!(proxy.reveal(), "http://u:p@h:3128");
    for url in ["https://u:canary@h:1", "http://u:canary@h", "http://u:canary@h:1/x", "u:canary"] {
        let line = placed_complaint(&format!("proxy: \"{url}\""));
        assert!(line.starts_with("endpoints[0]: `proxy` ") && !line.contains("canary"), "{line}");
    }
}

#[test]
fn what_is_done_when_the_client_leaves_and_who_we_say_we_are() {
    let one = placed("onClientGone: finish, userAgent: me/1, enabled: false");
    assert_eq!(
        (one.on_client_gone, one.user_agent.as_deref(), one.enabled),
        (OnClientGone::Finish, Some("me/1"), false)
    );
    assert!(placed_complaint("onClientGone: stop").contains("is not one of cancel, finish"));
    assert!(placed_complaint("userAgent: \"a\\nb\"").contains("cannot be sent in a header"));
}

#[test]
fn a_file_of_authorities_must_be_there_and_be_pem() {
    // R21
    let file = |path: &Path| match path.to_str() {
        Some("ca.pem") => Ok(include_str!("../data/tls/ca.pem").to_owned()),
        Some("key.pem") => Ok("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".into()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    };
    let read = |path: &str| {
        let text = format!("endpoints: [{{name: a, url: 'https://h/v1', caFile: {path}}}]");
        load::parse("f.yml", &text, &|_| None, &file).map(|loaded| loaded.config)
    };
    let config = read("ca.pem").unwrap();
    let named = config.endpoints[0].ca_file.as_ref().unwrap();
    assert_eq!((named.path.as_str(), named.certificates.len()), ("ca.pem", 1));
    for (path, what) in [("key.pem", "PEM"), ("nowhere.pem", "cannot be read")] {
        let line = read(path).unwrap_err()[0].to_string();
        assert!(line.contains("caFile") && line.contains(path) && line.contains(what), "{line}");
    }
}

// Issue 14, section 3
#[test]
fn a_machine_is_woken_by_its_mac_address_and_the_rest_has_defaults() {
    let wake = |content: &str| placed(&format!("wake: {{{content}}}")).wake.unwrap();
    let plain = wake("mac: 00:11:22:33:44:55");
    assert_eq!(plain, Wake { mac: Mac([0, 0x11, 0x22, 0x33, 0x44, 0x55]), ..Wake::default() });
    assert_eq!((plain.via, plain.timeout), ("255.255.255.255:9".parse().unwrap(), Duration::from_secs(180)));
    assert_eq!((plain.background, plain.prefer), (false, Prefer::Awake));
    assert_eq!(wake("mac: AA-bb-0C-dd-EE-ff").mac.to_string(), "aa:bb:0c:dd:ee:ff");
    assert_eq!(wake("mac: 11:22:33:44:55:10").mac.to_string(), "11:22:33:44:55:10", "no number of base 60");
    for (via, read) in [
        ("192.168.1.255", "192.168.1.255:9"),
        ("192.168.1.10:7", "192.168.1.10:7"),
        ("127.0.0.1:40000", "127.0.0.1:40000"),
        ("\"::1\"", "[::1]:9"),
        ("\"[fd00::5]\"", "[fd00::5]:9"),
        ("\"[ff02::1%2]:7\"", "[ff02::1%2]:7"),
    ] {
        assert_eq!(wake(&format!("mac: 00:11:22:33:44:55, via: {via}")).via.to_string(), read);
    }
    let one = wake("mac: 00:11:22:33:44:55, timeout: 90s, background: true, prefer: wake");
    assert_eq!((one.timeout, one.background, one.prefer), (Duration::from_secs(90), true, Prefer::Wake));
    assert_eq!(placed("wake: null").wake, None);
}

#[test]
fn what_cannot_wake_a_machine_is_a_problem_with_its_place_and_a_remedy() {
    for (content, expected) in [
        ("wake: {}", "endpoints[0].wake: `mac` is missing"),
        ("wake: {via: 10.0.0.255}", "endpoints[0].wake: `mac` is missing"),
        ("wake: 00:11:22:33:44:55", "endpoints[0].wake: this value is not a map of `key: value`"),
        ("wake: {mac: 00:11:22:33:44:55, timeout: 0}", "is not a time from 1ms to 1d; write 500ms, 30s, 5m or 1h30m"),
        ("wake: {mac: 00:11:22:33:44:55, prefer: me}", "\"me\" is not one of awake, wake"),
        (
            "wake: {mac: 00:11:22:33:44:55, command: x}",
            "unknown key; here are known: mac, via, timeout, background, prefer",
        ),
    ] {
        let line = placed_complaint(content);
        assert!(line.contains(expected), "{content}: {line}");
    }
    for mac in [
        "00:11:22:33:44",
        "00:11:22:33:44:55:66",
        "0:11:22:33:44:55",
        "00:11-22:33:44:55",
        "gg:11:22:33:44:55",
        "001122334455",
        "\"+1:11:22:33:44:55\"",
        "\"\"",
    ] {
        let line = placed_complaint(&format!("wake: {{mac: {mac}}}"));
        assert!(line.starts_with("endpoints[0].wake.mac: "), "{line}");
        assert!(line.ends_with("is not a MAC address; write it as 00:11:22:33:44:55"), "{line}");
    }
    for (via, expected) in [
        ("pc.local", "not a name"),
        ("pc.local:9", "not a name"),
        ("192.168.1.0/24", "is not an IP address"),
        ("192.168.1.255:99999", "is not an IP address"),
        ("192.168.1.255:0", "is not an address that packets can be sent to"),
        ("0.0.0.0", "is not an address that packets can be sent to"),
    ] {
        let line = placed_complaint(&format!("wake: {{mac: 00:11:22:33:44:55, via: {via}}}"));
        assert!(line.starts_with("endpoints[0].wake.via: ") && line.contains(expected), "{line}");
    }
    let line = placed_complaint("healthCheck: false, wake: {mac: 00:11:22:33:44:55}");
    assert!(line.starts_with("endpoints[0].wake: needs probes") && line.ends_with("remove `healthCheck: false`"));
}

#[test]
fn a_machine_whose_models_are_known_from_itself_alone_is_warned_of() {
    let warnings = |endpoint: &str, rest: &str| {
        let text = format!("endpoints: [{{name: a, address: h, port: 1, {endpoint}}}]\n{rest}");
        load::parse("f.yml", &text, &|_| None, &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap().warnings
    };
    let wake = "wake: {mac: 00:11:22:33:44:55}";
    let [warning] = warnings(wake, "").try_into().unwrap();
    assert!(warning.contains("endpoint a: ") && warning.contains("`models`"), "{warning}");
    for (endpoint, rest) in [
        ("models: [m]", ""),
        ("weight: 1", "models: {fast: {backends: [{endpoint: a, model: m}]}}"),
        ("weight: 1", "groups: [{name: g, endpoints: [{name: a}]}]\nserver: {group: g, mode: raw}"),
    ] {
        assert_eq!(warnings(&format!("{endpoint}, {wake}"), rest), [""; 0], "{endpoint} {rest}");
    }
}
