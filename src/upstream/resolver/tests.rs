//! Unit tests of `resolver`.

use super::*;

fn resolve(url: &str) -> Result<Vec<SocketAddr>, Error> {
    let uri: Uri = url.parse().expect("a URI");
    let config = ureq::config::Config::default();
    CachedResolver::default().resolve(&uri, &config, NextTimeout::default()).map(|found| found.to_vec())
}

#[test]
fn an_address_needs_no_look_up() {
    assert_eq!(resolve("http://127.0.0.1:8001/v1").expect("resolves"), ["127.0.0.1:8001".parse().expect("addr")]);
    assert_eq!(resolve("https://[::1]/v1").expect("resolves"), ["[::1]:443".parse().expect("addr")]);
}

#[test]
fn a_name_that_stands_for_a_forbidden_address_leads_nowhere() {
    // F10: what passes is what is connected to, so a name cannot change its mind in between.
    let uri: Uri = "http://localhost:1/".parse().expect("a URI");
    let config = ureq::config::Config::default();
    let (asked, passed) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(false)));
    let (seen, pass) = (Arc::clone(&asked), Arc::clone(&passed));
    let names = CachedResolver::guarded(Arc::new(move |ip| {
        lock(&seen).push(ip);
        *lock(&pass)
    }));
    let refused = names.resolve(&uri, &config, NextTimeout::default());
    assert!(matches!(refused, Err(Error::Io(error)) if error.kind() == io::ErrorKind::PermissionDenied));
    *lock(&passed) = true;
    lock(&asked).clear();
    let found = names.resolve(&uri, &config, NextTimeout::default()).expect("it passes now");
    let found: Vec<_> = found.iter().map(SocketAddr::ip).collect();
    assert_eq!(*lock(&asked), found);
}

#[test]
fn localhost_is_looked_up_once_and_kept() {
    let names = CachedResolver::default();
    let first = names.look_up("localhost");
    assert!(first.iter().all(IpAddr::is_loopback) && !first.is_empty());
    assert_eq!(names.look_up("localhost"), first);
}
