//! Places, unknown and repeated keys, and what is no YAML.

use crate::{complaint, good, with, wrong};

#[test]
fn every_problem_is_listed_at_once_in_the_order_of_the_file() {
    // D1, D2, D3
    let text = "\
server:
  port: 80010
  wrokers: 4
endpoints:
  - name: a
    address: h
    port: [1]
  - name: a
    address: h
    port: 1
  - address: h
    port: 1
    port: 2
healtCheck: {}
log:
  level: loud
";
    assert_eq!(
        wrong(text),
        [
            "f.yml:2:9: server.port: 80010 is not a port, or 0 for any free one (0 to 65535)",
            "f.yml:3:3: server.wrokers: unknown key; did you mean `workers`?",
            "f.yml:7:11: endpoints[0].port: a list is not a port (1 to 65535)",
            "f.yml:8:11: endpoints[1].name: \"a\" is the name of another endpoint above (number 1); each needs its own",
            "f.yml:11:5: endpoints[2].name: is missing",
            "f.yml:13:5: endpoints[2].port: is given twice; keep one",
            "f.yml:14:1: healtCheck: unknown key; did you mean `healthCheck`?",
            "f.yml:16:10: log.level: \"loud\" is not one of error, warn, info, debug",
        ]
    );
}

#[test]
fn a_syntax_error_names_line_and_column_and_a_tab_is_called_a_tab() {
    // D1
    assert_eq!(wrong("endpoints:\n  - name: a: b\n"), ["f.yml:2:12: mapping values are not allowed in this context"]);
    let [line] = wrong("endpoints:\n\t- name: a\n").try_into().unwrap();
    assert!(line.starts_with("f.yml:2:1: ") && line.ends_with("a tab: YAML indents with spaces only"), "{line}");
    let [line] = wrong("server: {host: \"x\n").try_into().unwrap();
    assert!(line.starts_with("f.yml:2:1: "), "{line}");
}

#[test]
fn a_byte_order_mark_is_accepted() {
    // D1
    let config = good("\u{feff}endpoints:\n  - {name: a, address: h, port: 1}\n");
    assert_eq!(config.endpoints[0].name, "a");
    assert_eq!(
        wrong("\u{feff}x: 1\nendpoints: [{name: a, address: h, port: 1}]\n")[0].split(' ').next(),
        Some("f.yml:1:1:")
    );
}

#[test]
fn json_is_read_as_well() {
    let config = good(r#"{"endpoints": [{"name": "a", "address": "h", "port": 1, "models": ["m\u00e9"]}]}"#);
    assert_eq!(config.endpoints[0].models, ["mé"]);
}

#[test]
fn a_second_document_is_refused() {
    let [line] = wrong("endpoints: []\n---\nendpoints: []\n").try_into().unwrap();
    assert_eq!(line, "f.yml:2:1: a second document begins; a file holds one");
}

#[test]
fn a_file_without_endpoints_shows_a_useful_one_of_four_lines() {
    for text in ["", "# nothing\n", "server: {port: 1}\n", "endpoints: []\n", "endpoints:\n"] {
        let [line] = wrong(text).try_into().unwrap();
        let (_, sample) = line.split_once("a useful file is\n").unwrap_or_else(|| panic!("{line}"));
        assert_eq!(sample.lines().count(), 4);
        assert_eq!(good(sample).endpoints[0].base.port, 8001);
    }
    assert!(wrong("just text")[0].contains("is not a map of sections"));
}

#[test]
fn both_spellings_of_a_key_are_accepted_but_not_together() {
    let config = good(
        "endpoints: [{name: a, address: h, port: 1, health_check_path: /x, api_keys: [k], on_client_gone: finish}]\n\
         health_check: {failure_threshold: 5}\ncache: {ttl_ms: 1}\nserver: {max_body: 1MiB, sse_ping: off}\n",
    );
    assert_eq!((config.health_check.failure_threshold, config.server.max_body), (5, 1 << 20));
    assert_eq!(config.server.sse_ping, None);
    assert_eq!(complaint("cache: {ttlMs: 1, ttl_ms: 2}"), "cache.ttlMs: is given twice; keep one"); // D3
}

#[test]
fn an_unknown_key_is_answered_with_the_nearest_the_right_place_or_what_is_known() {
    // D2
    assert_eq!(complaint("server: {maxbody: 1}"), "server.maxbody: unknown key; did you mean `maxBody`?");
    assert_eq!(complaint("workers: 5"), "workers: unknown key here; `server.workers` exists");
    assert_eq!(complaint("log: {colour: x}"), "log.colour: unknown key; here are known: level, format, access");
    assert_eq!(
        complaint("\"b\\e[2Jd\": 1"),
        "b\\u{1b}[2Jd: unknown key; here are known: server, timeouts, endpoints, healthCheck, cache, routing, models, \
        queue, auth, retry, groups, listeners, rateLimit, metrics, jobs, admin, log"
    );
}

#[test]
fn anchors_aliases_and_merge_keys_work() {
    let text = "\
endpoints:
  - &first
    name: a
    address: h
    port: 1
    headers: &changes [{op: remove, key: x-a}]
  - <<: *first
    name: b
    port: 2
  - {name: c, address: h, port: 3, headers: *changes}
";
    let config = good(text);
    let ports: Vec<_> = config.endpoints.iter().map(|one| (one.name.as_str(), one.base.port)).collect();
    assert_eq!(ports, [("a", 1), ("b", 2), ("c", 3)]);
    assert!(config.endpoints.iter().all(|one| one.headers.len() == 1));
}

#[test]
fn a_bomb_of_aliases_and_a_wall_of_brackets_end_at_once() {
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (letter, before) in ('b'..='k').zip('a'..) {
        bomb += &format!("{letter}: &{letter} [{}]\n", vec![format!("*{before}"); 10].join(", "));
    }
    assert_eq!(wrong(&bomb).len(), 1);
    assert_eq!(wrong(&"{a: ".repeat(200_000)), ["f.yml:1:801: more than 200 open brackets"]);
    assert_eq!(wrong(&"[".repeat(1 << 20)), ["f.yml:1:201: more than 200 open brackets"]);
}

#[test]
fn no_more_than_fifty_problems_are_told_and_the_rest_counted() {
    let text: String = (0..80).map(|i| format!("zzzzz{i}: 1\n")).collect();
    let lines = wrong(&format!("endpoints: [{{name: a, address: h, port: 1}}]\n{text}"));
    assert_eq!(lines.len(), 51);
    assert!(lines[49].starts_with("f.yml:51:1: zzzzz49:"), "{}", lines[49]);
    assert_eq!(lines[50], "f.yml: and 30 more");
}

#[test]
fn null_means_the_default_everywhere() {
    let section = "server: {port: null, cors: ~, ssePing: null}\nlog:\nrouting: {strategy: null}\nretry: {on: null}\n";
    assert_eq!(with(section), with(""));
}
