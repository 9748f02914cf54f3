//! Options and variables that override the file: an option wins over a variable, a variable over the file.

use super::address::listen_host;
use super::table::{Words, meaning};
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
        let mut problem = |place: &str, text: String| problems.push(Problem::at(place, text));
        let mut set = |option: (&str, Option<&str>), name: &str, take: &mut dyn FnMut(&str) -> Result<(), String>| {
            let from_environment = variable(name);
            let from_environment = from_environment.as_deref().map(|text| unquoted(text.trim()));
            if let (option, Some(text)) = option {
                take(text).unwrap_or_else(|error| problem(option, format!("{text:?} {error}")));
            } else if let Some(text) = from_environment.filter(|text| !text.is_empty()) {
                // A variable's value is not repeated: it may be another program's secret.
                take(text).unwrap_or_else(|error| problem(name, format!("its value {error}")));
            }
        };
        set(("--host", self.host.as_deref()), "LLMPROXY_HOST", &mut |text| {
            config.server.host = listen_host(text)?;
            Ok(())
        });
        set(("--port", self.port.map(|port| port.to_string()).as_deref()), "PORT", &mut |text| {
            config.server.port = text.parse().map_err(|_| "is not a port (0 to 65535)")?;
            Ok(())
        });
        set(("--log-level", self.log_level.as_deref()), "LLMPROXY_LOG", &mut |text| {
            config.log.level = meaning(&text.to_ascii_lowercase(), Words::WORDS)?;
            Ok(())
        });
        if let Some(text) = &self.log_format {
            match meaning(text, Words::WORDS) {
                Ok(format) => config.log.format = format,
                Err(error) => problem("--log-format", format!("{text:?} {error}")),
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
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
