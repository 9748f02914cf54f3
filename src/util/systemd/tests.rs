//! Unit tests of `systemd`.

use super::*;
use crate::util::random;

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
    let before = monotonic_micros();
    notifier.ready();
    notifier.watchdog();
    notifier.reloading();
    notifier.stopping();
    assert_eq!(heard(&socket), "READY=1");
    assert_eq!(heard(&socket), "WATCHDOG=1");
    let reloading = heard(&socket);
    let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|micros| micros.parse().ok());
    assert!(micros.is_some_and(|micros: i64| (before..=monotonic_micros()).contains(&micros)), "{reloading}");
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
