//! Unit tests of `cli`.

use super::*;
use crate::config::LogFormat;

fn of(line: &str) -> Result<(Command, Options), String> {
    parse(line.split_whitespace().map(OsString::from))
}

#[test]
fn no_argument_serves() {
    assert_eq!(of(""), Ok((Command::Serve, Options::default())));
}

#[test]
fn every_option_is_read_in_each_spelling() {
    let options = Options {
        config: Some("a.yml".into()),
        overrides: Overrides {
            host: Some("::".into()),
            port: Some(0),
            log_level: Some(LevelFilter::Debug),
            log_format: Some(LogFormat::Json),
            drain_timeout: None,
        },
    };
    let long = "--config a.yml --host :: --port 0 --log-level debug --log-format json";
    assert_eq!(of(long), Ok((Command::Serve, options.clone())));
    let equals = "--config=a.yml --host=:: --port=0 --log-level=debug --log-format=json -t";
    assert_eq!(of(equals), Ok((Command::Check, options)));
    for short in ["-c a.yml", "-ca.yml", "-c=a.yml"] {
        let options = Options { config: Some("a.yml".into()), ..Options::default() };
        assert_eq!(of(short), Ok((Command::Serve, options)), "{short}");
    }
}

#[test]
fn the_words_of_seed_002_are_understood() {
    // S002-29
    let options = Options {
        config: Some("config.yaml".into()),
        overrides: Overrides {
            log_level: Some(LevelFilter::Debug),
            drain_timeout: Some(Duration::from_secs(30)),
            ..Overrides::default()
        },
    };
    assert_eq!(of("-c config.yaml -d --shutdown-timeout 30"), Ok((Command::Serve, options.clone())));
    assert_eq!(of("-c config.yaml --debug --shutdown-timeout=30 --test"), Ok((Command::Check, options)));
}

#[test]
fn each_command_has_its_word() {
    assert_eq!(of("--check"), Ok((Command::Check, Options::default())));
    assert_eq!(of("--print-config"), Ok((Command::PrintConfig, Options::default())));
    assert_eq!(of("--demo"), Ok((Command::Demo, Options::default())));
    assert_eq!(of("--discover"), Ok((Command::Discover, Options::default())));
    assert_eq!(of("--healthcheck"), Ok((Command::HealthCheck, Options::default())));
    assert_eq!(of("--demo -h"), Ok((Command::Help, Options::default())));
    assert_eq!(of("-V"), Ok((Command::Version, Options::default())));
    assert_eq!(of("-t -t"), Ok((Command::Check, Options::default())));
}

#[test]
fn wrong_usage_says_what_is_wrong() {
    let cases = [
        ("--check --demo", "--check and --demo cannot be combined"),
        ("--demo -c a.yml", "--demo needs no configuration; leave --config out"),
        ("--discover --config a.yml", "--discover needs no configuration; leave --config out"),
        ("--port 70000", "--port: \"70000\" is not a port (0 to 65535)"),
        ("--port x", "--port: \"x\" is not a port (0 to 65535)"),
        ("--log-level loud", "--log-level: \"loud\" is not one of error, warn, info, debug"),
        ("--log-format xml", "--log-format: \"xml\" is not one of text, json"),
        ("--shutdown-timeout 0", "--shutdown-timeout: \"0\" is not a number of seconds (1 to 120)"),
        ("--shutdown-timeout 121", "--shutdown-timeout: \"121\" is not a number of seconds (1 to 120)"),
        ("a.yml", "\"a.yml\" is not an option; a file is named by --config"),
        ("--host=", "an option has an empty value"),
    ];
    for (line, sentence) in cases {
        assert_eq!(of(line), Err(sentence.into()), "{line}");
    }
    for line in ["--config", "--verbose", "-x", "--check=yes"] {
        assert!(of(line).is_err(), "{line}");
    }
}

#[test]
fn the_help_names_every_option_variable_and_exit_code_in_80_columns() {
    let words = [
        "--config",
        "--check",
        "--print-config",
        "--demo",
        "--discover",
        "--host",
        "--port",
        "--log-level",
        "--log-format",
        "--shutdown-timeout",
        "--debug",
        "--test",
        "--healthcheck",
        "--help",
        "--version",
        "LLMPROXY_CONFIG",
        "LLMPROXY_HOST",
        "PORT",
        "LLMPROXY_LOG",
        " 0 ",
        " 64 ",
        " 66 ",
        " 71 ",
        " 77 ",
        " 78 ",
        " 1 ",
        "SIGTERM",
        "SIGINT",
        "SIGHUP",
    ];
    for word in words {
        assert!(HELP.contains(word), "{word}");
    }
    let longest = HELP.lines().max_by_key(|line| line.chars().count()).expect("lines");
    assert!(longest.chars().count() <= 80, "{longest}");
}
