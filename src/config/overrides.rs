//! Options and variables that override the file: an option wins over a variable, a variable over the file.

use super::check::{LOG_FORMATS, LOG_LEVELS, listen_host};
use super::reader::not_one_of;
use super::{Config, Problem};
use crate::util::units::unquoted;

/// Values of the command line, as typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--host`
    pub host: Option<String>,
    /// `--port`
    pub port: Option<u16>,
    /// `--log-level`
    pub log_level: Option<String>,
    /// `--log-format`
    pub log_format: Option<String>,
}

impl Overrides {
    /// Applies them; every wrong value is a problem that names its option or variable.
    pub fn apply(&self, config: &mut Config, variable: &dyn Fn(&str) -> Option<String>) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut set = |given: Option<Given>, take: &mut dyn FnMut(&str) -> Result<(), String>| {
            let Some(given) = given else { return };
            if let Err(error) = take(&given.text) {
                // A variable's value is not repeated: it may be another program's secret.
                let shown = if given.typed { format!("{:?}", given.text) } else { "its value".into() };
                problems.push(Problem {
                    place: given.place.into(),
                    key: String::new(),
                    text: format!("{shown} {error}"),
                });
            }
        };
        let of = |flag: &Option<String>, option: &'static str, name: &'static str| match flag {
            Some(text) => Some(Given { text: text.clone(), place: option, typed: true }),
            None => {
                let text = (!name.is_empty()).then(|| variable(name)).flatten()?;
                let text = unquoted(text.trim()).to_owned();
                if text.is_empty() {
                    return None;
                }
                Some(Given { text, place: name, typed: false })
            }
        };
        set(of(&self.host, "--host", "LLMPROXY_HOST"), &mut |text| {
            config.server.host = listen_host(text)?;
            Ok(())
        });
        set(of(&self.port.map(|port| port.to_string()), "--port", "PORT"), &mut |text| {
            config.server.port = text.parse().map_err(|_| "is not a port (0 to 65535)")?;
            Ok(())
        });
        set(of(&self.log_level, "--log-level", "LLMPROXY_LOG"), &mut |text| {
            config.log.level = word(text, &LOG_LEVELS)?;
            Ok(())
        });
        set(of(&self.log_format, "--log-format", ""), &mut |text| {
            config.log.format = word(text, &LOG_FORMATS)?;
            Ok(())
        });
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

struct Given {
    text: String,
    place: &'static str,
    typed: bool,
}

fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    found.map(|(_, value)| *value).ok_or_else(|| not_one_of(text, words.iter().map(|(word, _)| *word)))
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
        let flags = Overrides { port: Some(9001), log_format: Some("json".into()), log_level: None, host: None };
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
