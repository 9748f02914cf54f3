//! The command line: arguments to a [`Command`], or what is wrong with them.

use crate::config::{Overrides, Words, meaning};
use lexopt::{Arg, Parser, ValueExt};
use log::LevelFilter;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The text of `--help`.
pub const HELP: &str = "\
llmproxy: one OpenAI-compatible address in front of several model servers

usage: llmproxy [OPTIONS]              serve until told to stop
       llmproxy --demo                 try it: two toy model servers behind it

what to do, instead of serving:
  -t, --check, --test      load and check the configuration, print a summary
      --print-config       print the effective configuration, secrets masked
      --demo               serve two built-in toy model servers, no file needed
      --discover           look for model servers here, print a configuration
      --healthcheck        ask the running proxy for its health, exit 0 or 1
  -h, --help               print this
  -V, --version            print the version

options:
  -c, --config FILE        configuration; else $LLMPROXY_CONFIG, else the first
                           of config/endpoints.yml, config.yaml and
                           /etc/llmproxy/endpoints.yml that exists, else the
                           servers that --discover finds
      --host HOST          address to listen on
      --port PORT          port to listen on; 0 takes a free one
      --log-level LEVEL    error, warn, info or debug
  -d, --debug              as --log-level debug
      --log-format FORMAT  text or json
      --shutdown-timeout SECONDS
                           how long requests in progress may take to finish
                           after SIGTERM, 1 to 120; as server.drainTimeout

environment (an option wins over it, it wins over the file):
  LLMPROXY_CONFIG          as --config
  LLMPROXY_HOST            as --host
  PORT                     as --port
  LLMPROXY_LOG             as --log-level

files:
  data/jobs                submitted jobs (jobs.dir)

signals:
  SIGTERM, SIGINT          finish what is in progress, then stop; twice: at once
  SIGHUP                   read the configuration again; a bad one is ignored

exit codes:
  0   stopped as asked             71  address in use or not allowed
  64  wrong usage                  77  configuration file unreadable
  66  configuration file missing   78  configuration wrong
  1   anything else, or --healthcheck got no 200 from /health
";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Serve,
    Check,
    PrintConfig,
    Demo,
    /// Print a configuration for the model servers of this machine.
    Discover,
    HealthCheck,
    /// Print [`HELP`].
    Help,
    Version,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub config: Option<PathBuf>,
    pub(crate) overrides: Overrides,
}

/// Reads the arguments after the program's name; the error is a sentence for stderr.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<(Command, Options), String> {
    let mut parser = Parser::from_args(args);
    let mut options = Options::default();
    let mut chosen = None;
    let text = |error: lexopt::Error| error.to_string();
    while let Some(arg) = parser.next().map_err(text)? {
        let overrides = &mut options.overrides;
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok((Command::Help, options)),
            Arg::Short('V') | Arg::Long("version") => return Ok((Command::Version, options)),
            // `--test` and `--debug` are what seed 002 calls them [S002-29].
            Arg::Short('t') | Arg::Long("check" | "test") => choose(&mut chosen, "--check", Command::Check)?,
            Arg::Long("print-config") => choose(&mut chosen, "--print-config", Command::PrintConfig)?,
            Arg::Long("demo") => choose(&mut chosen, "--demo", Command::Demo)?,
            Arg::Long("discover") => choose(&mut chosen, "--discover", Command::Discover)?,
            Arg::Long("healthcheck") => choose(&mut chosen, "--healthcheck", Command::HealthCheck)?,
            Arg::Short('c') | Arg::Long("config") => options.config = Some(value(&mut parser)?.into()),
            Arg::Long("host") => overrides.host = Some(value(&mut parser)?.string().map_err(text)?),
            Arg::Long("port") => overrides.port = Some(port(&value(&mut parser)?)?),
            Arg::Long("log-level") => overrides.log_level = Some(word("--log-level", &value(&mut parser)?)?),
            Arg::Short('d') | Arg::Long("debug") => overrides.log_level = Some(LevelFilter::Debug),
            Arg::Long("shutdown-timeout") => overrides.drain_timeout = Some(seconds(&value(&mut parser)?)?),
            Arg::Long("log-format") => overrides.log_format = Some(word("--log-format", &value(&mut parser)?)?),
            Arg::Value(value) => return Err(format!("{value:?} is not an option; a file is named by --config")),
            other => return Err(other.unexpected().to_string()),
        }
    }
    match chosen {
        Some((name @ ("--demo" | "--discover"), _)) if options.config.is_some() => {
            Err(format!("{name} needs no configuration; leave --config out"))
        }
        chosen => Ok((chosen.map_or(Command::Serve, |(_, command)| command), options)),
    }
}

fn choose(chosen: &mut Option<(&'static str, Command)>, name: &'static str, command: Command) -> Result<(), String> {
    match chosen.replace((name, command)) {
        Some((earlier, _)) if earlier != name => Err(format!("{earlier} and {name} cannot be combined")),
        _ => Ok(()),
    }
}

/// The value of the option just read; an empty one comes from a broken script.
fn value(parser: &mut Parser) -> Result<OsString, String> {
    let value = parser.value().map_err(|error| error.to_string())?;
    if value.is_empty() { Err("an option has an empty value".into()) } else { Ok(value) }
}

fn port(value: &OsString) -> Result<u16, String> {
    let port = value.to_str().and_then(|text| text.parse().ok());
    port.ok_or_else(|| format!("--port: {value:?} is not a port (0 to 65535)"))
}

fn seconds(value: &OsString) -> Result<Duration, String> {
    let seconds = value.to_str().and_then(|text| text.parse().ok()).filter(|seconds| (1..=120).contains(seconds));
    let seconds = seconds.ok_or_else(|| format!("--shutdown-timeout: {value:?} is not a number of seconds (1 to 120)"));
    seconds.map(Duration::from_secs)
}

fn word<T: Words>(option: &str, value: &OsString) -> Result<T, String> {
    let text = value.to_str().unwrap_or_default();
    meaning(text, T::WORDS).map_err(|error| format!("{option}: {value:?} {error}"))
}

#[cfg(test)]
mod tests;
