//! Format 004: no file, the environment alone, with a `.env` beside it.

use super::{endpoint, give_keys, open};
use crate::config::address::base;
use crate::config::features::JOBS;
use crate::config::text::{NOT_SENDABLE, can_be_sent};
use crate::config::{ClientKey, Config, Endpoint, KeyText, Problem, UnknownModel};
use crate::util::secret::Secret;
use crate::util::units::unquoted;

/// The configuration of an environment that names a server, or the problems of its variables.
pub(crate) fn read(variable: &dyn Fn(&str) -> Option<String>) -> Option<Result<Config, Vec<Problem>>> {
    let given =
        |name: &str| variable(name).map(|text| unquoted(text.trim()).to_owned()).filter(|text| !text.is_empty());
    let url = given("OPENAI_API_BASE_URL")?;
    let mut problems = Vec::new();
    let mut problem = |key: &str, text: String| {
        problems.push(Problem { place: "environment".into(), key: key.into(), text });
    };
    if let Err(absent) = JOBS.require() {
        problem("OPENAI_API_BASE_URL", absent.into());
    }
    let base = base(&url).map_err(|text| problem("OPENAI_API_BASE_URL", text)).ok();
    let mut secret = |key: &str| {
        let value = given(key)?;
        if !can_be_sent(&value) {
            problem(key, NOT_SENDABLE.into());
        }
        Some(Secret::new(value))
    };
    let (theirs, ours) = (secret("OPENAI_API_KEY"), secret("API_KEY"));
    let mut config = open(3000);
    config.jobs.enabled = true;
    config.jobs.always = true;
    // The one server decides which models exist.
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
    if let Some(base) = base {
        let mut one = Endpoint { name: "openai".into(), base, ..endpoint() };
        give_keys(&mut one, theirs);
        config.endpoints.push(one);
    }
    Some(if problems.is_empty() { Ok(config) } else { Err(problems) })
}

#[cfg(test)]
mod tests;
