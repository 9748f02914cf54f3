//! Options and environment variables that override the file. Options take precedence over variables.

use super::address::listen_host;
use super::table::{Words, meaning};
use super::{Config, LogFormat, Problem};
use crate::util::units::unquoted;
use log::LevelFilter;
use std::time::Duration;

/// Values of the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--host`, as typed.
    pub host: Option<String>,
    /// `--port`
    pub port: Option<u16>,
    /// `--log-level`
    pub log_level: Option<LevelFilter>,
    /// `--log-format`
    pub log_format: Option<LogFormat>,
    /// `--shutdown-timeout`
    pub drain_timeout: Option<Duration>,
}

impl Overrides {
    /// Applies the overrides. Each wrong value is a problem that names its option or variable.
    pub fn apply(&self, config: &mut Config, variable: &dyn Fn(&str) -> Option<String>) -> Result<(), Vec<Problem>> {
        let Config { server, log, .. } = config;
        let mut problems = Vec::new();
        let host = match &self.host {
            None => from_environment("LLMPROXY_HOST", variable, &mut problems, listen_host),
            Some(text) => {
                let wrong = |error| problems.push(Problem::at("--host", format!("{text:?} {error}")));
                listen_host(text).map_err(wrong).ok()
            }
        };
        server.host = host.unwrap_or_else(|| server.host.clone());
        let port = |text: &str| text.parse().map_err(|_| "is not a port (0 to 65535)".to_owned());
        let port = self.port.or_else(|| from_environment("PORT", variable, &mut problems, port));
        server.port = port.unwrap_or(server.port);
        let level = |text: &str| meaning(&text.to_ascii_lowercase(), Words::WORDS);
        let level = self.log_level.or_else(|| from_environment("LLMPROXY_LOG", variable, &mut problems, level));
        log.level = level.unwrap_or(log.level);
        log.format = self.log_format.unwrap_or(log.format);
        server.drain_timeout = self.drain_timeout.unwrap_or(server.drain_timeout);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

fn from_environment<T>(
    name: &str,
    variable: &dyn Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let text = variable(name)?;
    let text = Some(unquoted(text.trim())).filter(|text| !text.is_empty())?;
    // The value is not repeated: it may be another program's secret.
    parse(text).map_err(|error| problems.push(Problem::at(name, format!("its value {error}")))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use log::LevelFilter;

    #[test]
    fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
        let variable = |name: &str| match name {
            "LLMPROXY_HOST" => Some("::".to_owned()),
            "PORT" => Some("9000".to_owned()),
            "LLMPROXY_LOG" => Some(String::new()),
            _ => None,
        };
        let mut config = Config::default();
        let flags = Overrides { port: Some(9001), log_format: Some(LogFormat::Json), ..Overrides::default() };
        flags.apply(&mut config, &variable).unwrap();
        assert_eq!((config.server.host.as_str(), config.server.port), ("::", 9001));
        assert_eq!((config.log.level, config.log.format), (LevelFilter::Info, LogFormat::Json));
    }

    #[test]
    fn every_wrong_value_is_named_and_a_variable_is_not_repeated() {
        let variable = |name: &str| (name == "PORT" || name == "LLMPROXY_LOG").then(|| "canary".to_owned());
        let flags = Overrides { host: Some("a b".into()), ..Overrides::default() };
        let problems = flags.apply(&mut Config::default(), &variable).unwrap_err();
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "--host: \"a b\" is not an IP address or a host name",
                "PORT: its value is not a port (0 to 65535)",
                "LLMPROXY_LOG: its value is not one of error, warn, info, debug"
            ]
        );
    }
}
