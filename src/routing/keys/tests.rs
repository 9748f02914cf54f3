//! Unit tests of `keys`.

use super::*;
use crate::util::secret::Secret;
use crate::util::time;

fn key(name: &str, text: KeyText) -> config::ClientKey {
    config::ClientKey {
        name: name.into(),
        key: text,
        models: vec![],
        endpoints: vec![],
        max_parallel: None,
        rate_limit: None,
        background: false,
        admin: false,
    }
}

fn plain(name: &str, text: &str) -> config::ClientKey {
    key(name, KeyText::Plain(Secret::new(text)))
}

#[test]
fn a_key_is_known_by_its_text_or_its_hash() {
    let digest = ring::digest::digest(&ring::digest::SHA256, b"hashed");
    let hash = KeyText::Sha256(digest.as_ref().try_into().expect("32 bytes"));
    let key_ring = KeyRing::new(&[plain("a", "text"), key("b", hash)], None);
    let name =
        |shown: &str| key_ring.identify(shown).and_then(|client_key| client_key.name).map(|name| name.to_string());
    assert_eq!((name("text").as_deref(), name("hashed").as_deref()), (Some("a"), Some("b")));
    for wrong in ["", "Text", "text ", "tex", "sha256:", "***"] {
        assert_eq!(name(wrong), None, "{wrong}");
    }
    assert!(KeyRing::default().is_open() && !key_ring.is_open());
}

#[test]
fn only_so_many_at_once_also_across_a_reload() {
    let mut limited = plain("a", "x");
    limited.max_parallel = Some(2);
    let before = KeyRing::new(&[limited.clone()], None);
    let client_key = before.identify("x").expect("known");
    let passes = [client_key.enter(), client_key.enter()];
    assert!(passes.iter().all(Option::is_some) && client_key.enter().is_none());
    let after = KeyRing::new(&[limited], Some(&before));
    let again = after.identify("x").expect("known");
    assert!(again.enter().is_none());
    drop(passes);
    assert!(again.enter().is_some());
}

#[test]
fn after_twenty_wrong_keys_an_address_must_wait() {
    // F1
    let (key_ring, now) = (KeyRing::new(&[plain("a", "x")], None), time::now());
    let peer = "10.0.0.1".parse().expect("an address");
    assert!((0..20).all(|_| key_ring.guessed(peer, now).is_none()));
    assert_eq!(key_ring.guessed(peer, now), Some(Duration::from_secs(3)));
    assert_eq!(key_ring.guessed("10.0.0.2".parse().expect("an address"), now), None);
    assert_eq!(key_ring.guessed(peer, now + Duration::from_secs(3)), None);
}
