//! Configuration through its public door: what a file may say, what it means, and what is said about a wrong one.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[cfg(not(any(feature = "jobs", feature = "admin", feature = "legacy", feature = "demo")))]
mod absent;
mod command;
#[cfg(all(feature = "jobs", feature = "admin"))]
mod effective;
mod endpoints;
mod files;
mod gateway;
mod hostile;
mod mutations;
mod names;
#[cfg(feature = "admin")]
mod older;
mod routes;
mod samples;
mod secrets;
mod syntax;
mod values;

use llmproxy::config::{Config, Problem, load};
use std::io;
use std::path::Path;

/// Variables of every test.
fn variable(name: &str) -> Option<String> {
    match name {
        "KEY" => Some("sk-canary-1".into()),
        "HOST" => Some("::1".into()),
        "PORT" => Some("9000".into()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

/// Files of every test.
fn file(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("key.txt") => Ok("sk-canary-2\n".into()),
        Some("empty.txt") => Ok("\n".into()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    load::parse("f.yml", text, &variable, &file).map(|loaded| loaded.config)
}

/// The configuration of a text that is right.
fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|problems| panic!("{text}\n{}", lines(&problems).join("\n")))
}

/// What is said about a text that is wrong, a line per problem.
fn wrong(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(config) => panic!("{text}\n{config:?}"),
        Err(problems) => lines(&problems),
    }
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// Something to add a section to.
const ONE: &str = "endpoints: [{name: a, address: h, port: 1}]\n";

/// The configuration of a section beside one endpoint.
fn with(section: &str) -> Config {
    good(&format!("{ONE}{section}"))
}

/// The only thing said about a section beside one endpoint, without its place.
fn complaint(section: &str) -> String {
    let lines = wrong(&format!("{ONE}{section}"));
    assert_eq!(lines.len(), 1, "{section}\n{}", lines.join("\n"));
    let after_place = lines[0].splitn(4, ':').nth(3).expect("FILE:LINE:COL: text");
    after_place.trim_start().to_owned()
}
