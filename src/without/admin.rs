//! In place of `admin` in a build without it. A configuration that asks for the page has been refused before.

use crate::config::features::ADMIN;
use crate::config::{Config, Problem};
use crate::proxy::state::Proxy;
use crate::routing::snapshot::SnapshotStore;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

pub(crate) trait ConfigControl: Send + Sync {
    fn apply_routes(&self) -> Result<Vec<&'static str>, String>;
    fn reload_file(&self) -> Result<Vec<&'static str>, String>;
    fn base(&self) -> Config;
}

pub(crate) enum Admin {}

#[derive(Debug)]
pub enum Unusable {
    File(PathBuf, std::io::Error),
    Routes(Vec<Problem>),
}

impl Admin {
    pub(crate) fn new(_: &Config, _: &Arc<Proxy>, _: &Arc<SnapshotStore>) -> Result<Arc<Self>, Unusable> {
        Err(Unusable::Routes(vec![Problem::at("admin", ADMIN.absent)]))
    }

    pub(crate) fn set_config_control(&self, _: Weak<dyn ConfigControl>) {
        match *self {}
    }

    pub(crate) fn merged(&self, _: &Config) -> Result<Config, Vec<Problem>> {
        match *self {}
    }

    pub(crate) fn read_again(&self, _: &Config) -> Result<(), String> {
        match *self {}
    }

    pub(crate) fn close(&self) {
        match *self {}
    }
}
