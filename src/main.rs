//! Parses the command line, runs it, and turns the end into an exit code.

use llmproxy::{cli, process};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1)) {
        Ok((command, options)) => ExitCode::from(process::run(command, &options)),
        Err(wrong) => {
            let _ = writeln!(std::io::stderr(), "llmproxy: {wrong}\nTry `llmproxy --help`.");
            ExitCode::from(process::USAGE)
        }
    }
}
