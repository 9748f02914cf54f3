//! Tells systemd how the process is, by datagrams (sd_notify(3)). Silent where there is no systemd.

use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::time::{Duration, Instant};

/// Longest wait for a service manager that does not read its socket.
const PATIENCE: Duration = Duration::from_secs(1);

/// The sending end.
#[derive(Debug)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// A notifier for the value of `$NOTIFY_SOCKET`: a path, or `@` and an abstract name.
    pub fn new(socket: Option<String>) -> Self {
        let Some(name) = socket.filter(|name| !name.is_empty()) else { return Self(None) };
        match open(&name) {
            Ok(open) => Self(Some(open)),
            Err(error) => {
                log::warn!("NOTIFY_SOCKET={name} cannot be used, systemd will hear nothing: {error}");
                Self(None)
            }
        }
    }

    /// Serving; also ends a reload.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// A reload begins; [`Notifier::ready`] ends it.
    pub fn reloading(&self, now: Instant) {
        match monotonic_micros(now) {
            Some(micros) => self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}")),
            None => self.send("RELOADING=1"),
        }
    }

    /// Draining.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Alive; wanted once per [`watchdog_interval`].
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        // A line feed would begin another variable.
        self.send(&format!("STATUS={}", text.replace(char::is_control, " ")));
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.0 else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            log::warn!("systemd was not told {message:?}: {error}");
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

/// An instant as microseconds of CLOCK_MONOTONIC, as systemd wants them. `Instant` is that clock on Linux, but gives
/// its value only to `Debug`; reading it there needs no unsafe code, and a test notices if the format changes.
fn monotonic_micros(now: Instant) -> Option<u64> {
    let text = format!("{now:?}");
    let field = |name: &str| -> Option<u64> {
        let digits = text.split_once(name)?.1.trim_start_matches([':', ' ']);
        digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    Some(field("tv_sec")? * 1_000_000 + field("tv_nsec")? / 1_000)
}

/// How often to call [`Notifier::watchdog`], from `$WATCHDOG_USEC` and `$WATCHDOG_PID`: half of the limit, and
/// never when the limit is meant for another process.
pub fn watchdog_interval(usec: Option<String>, pid: Option<String>) -> Option<Duration> {
    let limit = Duration::from_micros(usec?.parse().ok()?);
    let ours = pid.is_none_or(|pid| pid.parse() == Ok(process::id()));
    (ours && !limit.is_zero()).then_some(limit / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::{random, time};

    /// A service manager's socket under an abstract name, and a notifier that was told of it.
    #[cfg(target_os = "linux")]
    fn systemd() -> (UnixDatagram, Notifier) {
        let name = format!("@llmproxy-test-{}", random::request_id());
        let socket = UnixDatagram::bind_addr(&address(&name).unwrap()).unwrap();
        (socket, Notifier::new(Some(name)))
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn systemd_hears_each_step_of_a_life() {
        let (socket, notifier) = systemd();
        let now = time::now();
        notifier.ready();
        notifier.status("serving 2 of 3\nREADY=0");
        notifier.watchdog();
        notifier.reloading(now);
        notifier.stopping();
        assert_eq!(heard(&socket), "READY=1");
        assert_eq!(heard(&socket), "STATUS=serving 2 of 3 READY=0");
        assert_eq!(heard(&socket), "WATCHDOG=1");
        assert_eq!(heard(&socket), format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_micros(now).unwrap()));
        assert_eq!(heard(&socket), "STOPPING=1");
    }

    #[test]
    fn a_socket_may_be_given_as_a_path() {
        let path = std::env::temp_dir().join(format!("llmproxy-{}.sock", random::request_id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        Notifier::new(Some(path.to_str().unwrap().into())).ready();
        std::fs::remove_file(path).unwrap();
        assert_eq!(heard(&socket), "READY=1");
    }

    #[test]
    fn nothing_is_sent_and_nothing_fails_where_nobody_listens() {
        for socket in [None, Some(""), Some("vsock:2:1234"), Some("/nonexistent/notify"), Some("@nobody-is-here")] {
            let notifier = Notifier::new(socket.map(str::to_owned));
            notifier.ready();
            notifier.stopping();
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn monotonic_time_counts_microseconds() {
        let now = time::now();
        let later = monotonic_micros(now + Duration::from_micros(5_000_001)).unwrap();
        assert_eq!(later - monotonic_micros(now).unwrap(), 5_000_001);
    }

    #[test]
    fn the_watchdog_is_fed_twice_per_limit_and_only_when_it_is_ours() {
        let interval =
            |usec: Option<&str>, pid: Option<&str>| watchdog_interval(usec.map(str::to_owned), pid.map(str::to_owned));
        let own = process::id().to_string();
        assert_eq!(interval(Some("30000000"), Some(&own)), Some(Duration::from_secs(15)));
        assert_eq!(interval(Some("30000000"), None), Some(Duration::from_secs(15)));
        assert_eq!(interval(Some("30000000"), Some("1")), None);
        assert_eq!(interval(Some("30000000"), Some("x")), None);
        assert_eq!(interval(Some("0"), None), None);
        assert_eq!(interval(Some("soon"), None), None);
        assert_eq!(interval(None, Some(&own)), None);
    }
}
