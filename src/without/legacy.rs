//! In place of `config::legacy` in a build without it: what is in an older format is refused.

use crate::config::format::Format;
use crate::config::node::{Entry, Node};
use crate::config::problem::Diagnostics;
use crate::config::table::Keys;
use crate::config::{Config, Problem};
use crate::util::units::unquoted;

const ABSENT: &str = "this build reads no formats of older proxies; build with --features legacy";

pub(super) fn read<'d>(_: Format, mark: &Entry, _: &Node, diagnostics: Diagnostics<'d>) -> (Config, Diagnostics<'d>) {
    diagnostics.problem(mark.at, &mark.key, ABSENT);
    (Config::default(), diagnostics)
}

pub(super) fn add_routes(_: &mut Config, keys: &mut Keys) {
    keys.read(|root| root.problem(ABSENT));
}

pub(super) fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Option<Result<Config, Vec<Problem>>> {
    let name = "OPENAI_API_BASE_URL";
    variable(name).filter(|url| !unquoted(url.trim()).is_empty())?;
    Some(Err(vec![Problem { place: "environment".into(), key: name.into(), text: ABSENT.into() }]))
}
