//! Unit tests of `record`.

use super::*;

#[test]
fn a_name_reads_back_and_others_are_none() {
    let name = Job {
        sequence: 0x0193_2f0a_1b2c_0003,
        id: "abc".into(),
        owner: parse_owner("00000007").expect("an owner"),
        state: State::Error,
        number: 99,
        webhook_pending: true,
        bytes: 0,
    };
    assert_eq!(name.to_string(), "01932f0a1b2c0003.abc.00000007.error.99.owed");
    assert_eq!(Job::parse(&name.to_string(), 0), Some(name.clone()));
    let plain = Job { webhook_pending: false, ..name };
    assert_eq!(Job::parse(&plain.to_string(), 0), Some(plain));
    for text in [
        "",
        "lock",
        "x.tmp",
        "01932f0a1b2c0003.abc.00000007.lost.99",
        "01932f0a1b2c0003..00000007.error.9",
        "1.abc.7.error.9",
        "01932f0a1b2c0003.abc.0000007.error.99",
        "01932f0a1b2c0003.abc.0000000x.error.99",
    ] {
        assert_eq!(Job::parse(text, 0), None, "{text}");
    }
    assert_eq!(Job::parse("01932f0a1b2c0003.abc.00000007.error.99.owed.x", 0), None);
}

// S21: these two names share the first 4 bytes of their SHA-256, which the first release compared.
#[test]
fn no_two_owners_are_the_same() {
    let (one, other) = (owner_id(Some("key-8337")), owner_id(Some("key-15029")));
    assert_eq!(&one[..SHORT], &other[..SHORT]);
    assert_ne!(one, other);
    assert_eq!(owner_id(None), NOBODY);
}

#[test]
fn a_record_reads_back_with_its_bodies_as_they_were() {
    let record = Record {
        version: 1,
        id: "a".into(),
        owner: None,
        group: Some("g".into()),
        path: "/v1/completions".into(),
        webhook: None,
        error: None,
        delivery: Some(Delivery { status: "delivered".into(), attempts: 1, error: None }),
    };
    let response = RawValue::from_string("[ 1.0 ]".into()).expect("JSON");
    let file = record.file(&[b"{ \"n\" :", b" 1e400}"], Some(&response)).concat();
    let (read, bodies) = Record::read(&file).expect("a job");
    assert_eq!((read.group, read.delivery), (record.group, record.delivery));
    assert_eq!(bodies.request.get(), "{ \"n\" : 1e400}");
    assert_eq!(bodies.response.map(RawValue::get), Some("[ 1.0 ]"));
}
