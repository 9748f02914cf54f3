//! In place of `jobs` in a build without it. A configuration that asks for jobs has been refused before.

use crate::config::Jobs as Settings;
use crate::config::features::JOBS;
use crate::proxy::state::Proxy;
use crate::routing::snapshot::SnapshotStore;
use std::io;
use std::sync::Arc;
use std::time::Instant;

pub enum Jobs {}

pub fn start(_: &Settings, _: &Arc<Proxy>, _: &Arc<SnapshotStore>) -> io::Result<Jobs> {
    Err(io::Error::other(JOBS.absent))
}

impl Jobs {
    pub(crate) fn close(&self) {
        match *self {}
    }

    pub(crate) fn stop(&mut self, _: Instant) {
        match *self {}
    }
}
