//! Format 001: `backends` with static models, one mode for all.

use super::{UniqueNames, any_name, endpoint, key, open, url, weight};
use crate::config::reader::Field;
use crate::config::table::{Kind, SOME_TIME, items, list, number, optional, read_section, section, time};
use crate::config::{Base, Config, Strategy, UnknownModel};
use crate::util::secret::Secret;
use std::time::Duration;

table! {
    struct File {
        server: Server = Server::default(), key("server", section());
        /// S001-03: documented default.
        timeout: Duration = Duration::from_secs(180), key("timeout", go_duration());
        /// S001-04: the total number of attempts, and 0 means the default.
        retry: u32 = 0, key("retry", number("a number of attempts", 0..=100));
        mode: Strategy = Strategy::Random, key("mode", mode());
        backends: Vec<Backend> = Vec::new(), required("backends", items(Backend::default()));
    }
}

table! {
    struct Server {
        port: u16 = 8080, key("port", number("a port", 1..=65_535));
    }
}

table! {
    struct Backend {
        name: String = String::new(), key("name", any_name());
        url: Base = Base::plain("", 1), required("url", url());
        api_key: Option<Secret> = None, key("api_key", optional(key()));
        weight: u16 = 1, key("weight", weight());
        models: Vec<String> = Vec::new(), key("models", list(any_name()));
        default_model: String = String::new(), key("default_model", any_name());
    }
}

/// A bare number is an error there, and would mean milliseconds here.
fn go_duration() -> Kind<Duration> {
    let Kind { read, print } = time(SOME_TIME);
    let read = move |field: &Field| match field.value().and_then(|value| value.numeric()) {
        Some(_) => {
            field.problem("has no unit; write 180s");
            None
        }
        None => read(field, None),
    };
    Kind::new(read, print)
}

/// S001-05: any other text means random.
fn mode() -> Kind<Strategy> {
    let read = |field: &Field| {
        field.parse(|text| match text {
            "round-robin" | "round\u{2011}robin" => Ok(Strategy::RoundRobin),
            "random" => Ok(Strategy::Random),
            _ => {
                field.diagnostics().warn("mode is neither random nor round-robin; random is used");
                Ok(Strategy::Random)
            }
        })
    };
    Kind::new(read, |mode| mode.as_str().into())
}

pub(super) fn read(root: &Field) -> Config {
    let file = read_section(root, File::default());
    let mut config = open(file.server.port);
    config.retry.attempts = Some(if file.retry > 0 { file.retry } else { 3 });
    config.routing.strategy = file.mode;
    config.routing.unknown_model = UnknownModel::Default;
    let mut names = UniqueNames::default();
    for (index, backend) in file.backends.into_iter().enumerate() {
        let Backend { name, url, api_key, weight, mut models, default_model } = backend;
        let name = if name.is_empty() { format!("backend{}", index + 1) } else { name };
        let mut one = endpoint(names.unique(name), url, api_key.into_iter().collect());
        one.weight = weight;
        one.timeouts.first_byte = Some(file.timeout);
        one.timeouts.total = Some(file.timeout);
        // A default that is not on the list is served all the same.
        if !default_model.is_empty() && !models.is_empty() && !models.contains(&default_model) {
            models.push(default_model.clone());
        }
        one.models = models;
        one.default_model = Some(default_model).filter(|model| !model.is_empty());
        config.endpoints.push(one);
    }
    config
}
