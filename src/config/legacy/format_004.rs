//! Format 004: no file, the environment alone, with a `.env` beside it.

use super::{endpoint, open};
use crate::config::check::address::base;
use crate::config::check::header::can_be_sent;
use crate::config::{ClientKey, Config, KeyText, Problem, UnknownModel};
use crate::util::secret::Secret;
use crate::util::units::unquoted;
use std::collections::HashMap;

/// What an environment means, if it names a server; the variables at fault otherwise.
pub(crate) fn read(variable: &dyn Fn(&str) -> Option<String>) -> Option<Result<Config, Vec<Problem>>> {
    let given =
        |name: &str| variable(name).map(|text| unquoted(text.trim()).to_owned()).filter(|text| !text.is_empty());
    let url = given("OPENAI_API_BASE_URL")?;
    let mut problems = Vec::new();
    let mut problem = |key: &str, text: String| {
        problems.push(Problem { place: "environment".into(), key: key.into(), text });
    };
    let base = base(&url).map_err(|text| problem("OPENAI_API_BASE_URL", text)).ok();
    let mut secret = |key: &str| {
        let value = given(key)?;
        if !can_be_sent(&value) {
            problem(key, "has a character that cannot be sent in a header (ASCII only)".into());
        }
        Some(Secret::new(value))
    };
    let (theirs, ours) = (secret("OPENAI_API_KEY"), secret("API_KEY"));
    let mut config = open(3000);
    config.jobs.enabled = true;
    config.jobs.always = true;
    // There is one server, and it knows best what it serves.
    config.routing.unknown_model = UnknownModel::Passthrough;
    if let Some(text) = given("PORT") {
        match text.parse() {
            Ok(port) => config.server.port = port,
            Err(_) => problem("PORT", "is not a port (0 to 65535)".into()),
        }
    }
    if let Some(text) = given("MAX_CONCURRENT") {
        match text.parse() {
            Ok(number @ 1..=256) => config.jobs.max_concurrent = number,
            _ => problem("MAX_CONCURRENT", "is not a number of jobs (1 to 256)".into()),
        }
    }
    config.keys = ours.into_iter().map(|key| ClientKey::plain("api", KeyText::Plain(key))).collect();
    config.endpoints =
        base.map(|base| endpoint("openai".into(), base, theirs.into_iter().collect())).into_iter().collect();
    Some(if problems.is_empty() { Ok(config) } else { Err(problems) })
}

/// The variables of a `.env` file: `NAME=value` lines, quotes and comments as dotenv takes them.
pub fn dotenv(text: &str) -> HashMap<String, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let pair = |line: &str| {
        let line = line.trim();
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        if name.is_empty() || name.starts_with('#') {
            return None;
        }
        let quoted = ['"', '\'', '`'].into_iter().find(|quote| value.starts_with(*quote));
        let value = match quoted.and_then(|quote| value[1..].split_once(quote)) {
            Some((inside, _)) => inside,
            None => value.split(" #").next().and_then(|value| value.split("\t#").next()).unwrap_or_default().trim_end(),
        };
        Some((name.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests;
