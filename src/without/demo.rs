//! In place of `demo` in a build without it.

use crate::config::Config;
use crate::config::features::DEMO;
use std::io;
use std::net::SocketAddr;

pub(crate) enum Demo {}

pub(crate) fn start() -> io::Result<Demo> {
    Err(io::Error::other(DEMO.absent))
}

pub(crate) fn config(demo: &Demo) -> Config {
    match *demo {}
}

pub(crate) fn banner(_: SocketAddr, _: &str, demo: &Demo) -> String {
    match *demo {}
}
