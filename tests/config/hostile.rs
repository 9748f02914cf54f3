//! Files that are made to cost much. They are read in a time that grows with their size: with the square of it,
//! these would take minutes.

use crate::parse;
use std::fmt::Write;

/// As many entries as fit into the bound on values.
fn many(head: &str, entries: usize, entry: impl Fn(usize) -> String) -> String {
    (0..entries).fold(head.to_owned(), |mut text, n| {
        let _ = writeln!(text, "{}", entry(n));
        text
    })
}

const ONE: &str = "endpoints: [{name: a, address: h, port: 1}]\n";

#[test]
fn a_file_with_thousands_of_entries_of_one_kind_is_read_quickly() {
    let endpoints = many("endpoints:\n", 800, |n| format!("- {{name: endpointendpoint{n}, address: h, port: 1}}"));
    let files = [
        many(ONE, 5_000, |n| format!("endpointendpointendpoint{n}: 1")),
        many(&format!("{ONE}server:\n"), 5_000, |n| format!("  maxConnectionsmax{n}: 1")),
        many(&format!("{ONE}models:\n"), 4_000, |n| format!("  m{n}: {{}}")),
        many(&format!("{ONE}auth:\n  keys:\n"), 4_000, |n| format!("  - {{name: k{n}, key: a-secret-key-{n:06}}}")),
        many(&format!("{endpoints}groups:\n- name: g\n  endpoints:\n"), 2_000, |n| {
            format!("  - {{name: endpointendpointx{n}}}")
        }),
        many("backends:\n", 4_000, |n| format!("- {{name: n, url: \"http://h{n}:1\"}}")),
        many("endpoints:\n", 2_000, |_| "- {name: 1, address: 2, port: x}".to_owned()),
    ];
    for text in files {
        match parse(&text) {
            Ok(config) => assert!(config.keys.len() == 4_000 || config.endpoints.len() == 4_000),
            Err(problems) => assert!(problems.len() <= 51, "{}", problems.len()),
        }
    }
}

#[test]
fn thousands_of_problems_are_told_in_a_text_of_some_kilobytes() {
    let endpoints = many("endpoints:\n", 600, |n| format!("- {{name: e{n}, address: h, port: 1}}"));
    let text =
        many(&format!("{endpoints}groups:\n- name: g\n  endpoints:\n"), 2_000, |n| format!("  - {{name: x{n}}}"));
    let problems = parse(&text).unwrap_err();
    let said: usize = problems.iter().map(|problem| problem.to_string().len()).sum();
    assert!(said < 32 << 10, "{said} bytes");
    assert!(problems[0].place.starts_with("f.yml:605:"), "{}", problems[0]);
    assert_eq!(problems[50].text, "and more");
}
