//! Reports the state of the process to systemd, by datagrams (sd_notify(3)). Silent where there is no systemd.

use crate::util::time::monotonic_micros;
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::time::Duration;

/// Longest wait for a service manager that does not read its socket.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// A notifier for the value of `$NOTIFY_SOCKET`: a path, or `@` and an abstract name.
    pub(crate) fn new(socket: Option<String>) -> Self {
        let warn = |name: &str, error: &io::Error| {
            log::warn!("NOTIFY_SOCKET={name} cannot be used, systemd will not be notified: {error}");
        };
        let name = socket.filter(|name| !name.is_empty());
        Self(name.and_then(|name| open(&name).inspect_err(|error| warn(&name, error)).ok()))
    }

    pub(crate) fn ready(&self) {
        self.send("READY=1");
    }

    /// A reload begins; [`Notifier::ready`] ends it.
    pub(crate) fn reloading(&self) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_micros()));
    }

    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Alive; due once per [`watchdog_interval`].
    pub(crate) fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.0 else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            log::warn!("systemd was not sent {message:?}: {error}");
        }
    }
}

fn open(name: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = address(name)?;
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok((socket, address))
}

fn address(name: &str) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = name.strip_prefix('@') {
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name);
    }
    if name.starts_with('/') {
        return SocketAddr::from_pathname(name);
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name"))
}

/// How often to call [`Notifier::watchdog`], from `$WATCHDOG_USEC` and `$WATCHDOG_PID`: half of the limit, and
/// never when the limit is meant for another process.
pub(crate) fn watchdog_interval(usec: Option<String>, pid: Option<String>) -> Option<Duration> {
    let limit = Duration::from_micros(usec?.parse().ok()?);
    let ours = pid.is_none_or(|pid| pid.parse() == Ok(process::id()));
    (ours && !limit.is_zero()).then_some(limit / 2)
}

#[cfg(test)]
mod tests;
