//! `admin`

use super::keys::SHORTEST;
use super::{address, can_be_sent};
use crate::config::Admin;
use crate::config::features::ADMIN;
use crate::config::reader::Section;

/// What `admin.open` means.
pub(crate) const OPEN: &str = "admin.open: every program and every user of this machine can use the admin page without a token, and so \
     can the clients of a local reverse proxy that leaves no trace in the headers";

pub(super) fn admin(s: &mut Section) -> Admin {
    let default = Admin::default();
    let token = s.secret("token");
    if token.as_ref().is_some_and(|token| !can_be_sent(token.reveal())) {
        s.problem("`token` has a character that cannot be sent in a header (ASCII only)");
    }
    if token.as_ref().is_some_and(|token| token.reveal().len() < SHORTEST) {
        s.warn(format!("admin.token has fewer than {SHORTEST} characters and can be guessed"));
    }
    let port = s.field("port");
    let open = s.field("open").flag().unwrap_or(default.open);
    if open {
        s.warn(OPEN);
    }
    Admin {
        enabled: s.field("enabled").switch(&ADMIN).unwrap_or(default.enabled),
        host: s.field("host").parse(address::listen_host).unwrap_or(default.host),
        port: port.number("a port, or 0 for any free one", 0..=65_535),
        token,
        open,
        routes_file: s.field("routesFile").parse(file).map_or(default.routes_file, Into::into),
        allowed_hosts: s.field("allowedHosts").list(|item| item.parse(address::host)).unwrap_or_default(),
        probe: default.probe,
    }
}

fn file(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("is empty; name a file".into()),
        _ if text.contains('\0') => Err("is no name of a file".into()),
        _ => Ok(text.to_owned()),
    }
}
