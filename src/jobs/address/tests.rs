//! Unit tests of `address`.

use super::*;

fn allowing(hosts: &[&str]) -> Webhooks {
    Webhooks { allow: hosts.iter().map(|&host| host.to_owned()).collect(), ..Webhooks::default() }
}

#[test]
fn sixty_spellings_of_inside_are_refused() {
    // F10
    let hosts = "localhost LOCALHOST localhost. a.localhost printer.local router.lan nas.home.arpa metadata.google.internal intranet \
            127.0.0.1 127.1 127.0.1 0177.0.0.1 0x7f.1 0x7f.0.0.1 0x7F.0x0.0x0.0x1 2130706433 0x7f000001 017700000001 127.0.0.1. \
            0 0.0.0.0 0.0.0.1 10.0.0.1 10.255.255.255 167772161 0xa.1 172.16.0.1 172.31.255.255 192.168.0.1 192.168.1 0300.0250.1.1 3232235777 \
            169.254.169.254 169.254.43518 0xa9fea9fe 2852039166 100.64.0.1 100.127.255.255 192.0.0.1 192.0.2.1 198.18.0.1 198.51.100.7 203.0.113.9 \
            224.0.0.1 240.0.0.1 255.255.255.255 [::] [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:10.0.0.1] [::127.0.0.1] [fe80::1] [fc00::1] [fd12:3456::1] \
            [ff02::1] [64:ff9b::127.0.0.1] [64:ff9b::a9fe:a9fe] [2002:7f00:1::] [2002:c0a8:101::1] [2001::1] [2001:db8::1] [fec0::1] [0:0:0:0:0:ffff:a9fe:a9fe]";
    let hosts: Vec<_> = hosts.split_whitespace().collect();
    assert!(hosts.len() >= 60, "{}", hosts.len());
    for host in &hosts {
        for url in [format!("http://{host}/x"), format!("https://{host}:8443")] {
            assert!(check(&url, &Webhooks::default()).is_err(), "{url}");
        }
    }
    let others = "ftp://example.com file:///etc/passwd //example.com example.com http:// http://user@example.com http://a:b@127.0.0.1 \
            http://example.com:0 http://example.com:99999 http://1.2.3.256 http://1.2.3.4.5 http://0x http://[fe80::1%25eth0] http://exam%70le.com gopher://x";
    for url in others.split_whitespace().chain([
        "http://exa mple.com",
        "http://\u{ff11}27.0.0.1",
        "http://\u{24db}ocalhost",
        "http://a\\@b.com",
        "",
    ]) {
        assert!(check(url, &Webhooks::default()).is_err(), "{url}");
    }
}

#[test]
fn the_open_internet_and_what_is_allowed_pass() {
    for url in [
        "https://example.com/done?x=1",
        "http://8.8.8.8",
        "http://[2606:4700::1111]:8080/",
        "HTTPS://Example.com#x",
        "http://[64:ff9b::8.8.8.8]/",
    ] {
        let target = check(url, &Webhooks::default()).unwrap_or_else(|why| panic!("{url} {why}"));
        assert!(!target.allowed && target.path.starts_with('/'), "{url}");
    }
    let target = check("https://example.com:8443/v1/done?x=1#y", &Webhooks::default()).expect("right");
    assert_eq!((target.base.tls, target.base.host.as_str(), target.base.port), (true, "example.com", 8443));
    assert_eq!(target.path, "/v1/done?x=1");
    let some = allowing(&["nas.lan", "127.0.0.1", "::1"]);
    for url in ["http://nas.lan/x", "http://NAS.LAN.:80/x", "http://127.0.0.1:9/x", "http://[::1]/"] {
        assert!(check(url, &some).expect("allowed").allowed, "{url}");
    }
    assert!(check("http://127.0.0.2/", &some).is_err());
}

#[test]
fn addresses_are_public_or_not() {
    for ip in ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "::ffff:8.8.8.8", "2002:808:808::1"] {
        assert!(is_public(ip.parse().expect("an address")), "{ip}");
    }
    for ip in ["127.0.0.53", "::ffff:169.254.169.254", "fe80::1", "4000::1"] {
        assert!(!is_public(ip.parse().expect("an address")), "{ip}");
    }
}
