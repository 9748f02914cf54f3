//! Unit tests of `time`.

use super::*;

// C18: a clock set back or forth by ten years fires no timer, because none asks it.
#[test]
fn wall_time_is_shown_and_decides_nothing() {
    let deciding = [
        include_str!("../../http/server.rs"),
        include_str!("../../http/connection.rs"),
        include_str!("../../http/response.rs"),
        include_str!("../../routing/snapshot.rs"),
        include_str!("../../routing/endpoint.rs"),
        include_str!("../../upstream/call.rs"),
        include_str!("../../upstream/resolver.rs"),
        include_str!("../../proxy/forward.rs"),
        include_str!("../../proxy/downstream.rs"),
    ];
    assert!(deciding.iter().all(|text| text.contains("time::now()") || text.contains("Instant")));
    assert!(deciding.iter().all(|text| !text.contains("wall()")));
    // `lastCheck` of `/health`.
    assert_eq!(include_str!("../../health.rs").matches("time::wall()").count(), 1);
}

// D5
#[test]
fn wall_time_prints_as_the_date_of_an_answer() {
    let at = |second| String::from_utf8(imf(second).to_vec()).expect("ASCII");
    assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    assert_eq!(at(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
    assert_eq!(at(u64::MAX / 1_000_000), "Fri, 31 Dec 9999 23:59:59 GMT");
}

#[test]
fn wall_time_prints_as_iso_8601_with_milliseconds() {
    let at = |secs, ms: u32| iso(SystemTime::UNIX_EPOCH + Duration::new(secs, ms * 1_000_000));
    assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
    assert_eq!(at(1_706_738_400, 0), "2024-01-31T22:00:00.000Z");
    assert_eq!(at(951_782_399, 999), "2000-02-28T23:59:59.999Z");
    assert_eq!(at(951_782_400, 1), "2000-02-29T00:00:00.001Z");
}

#[test]
fn dates_of_http_are_read_in_all_their_forms() {
    let read = |text: &str| parse_http_date(text).map(iso);
    for text in ["Thu, 29 Feb 2024 23:59:59 GMT", "Thursday, 29-Feb-24 23:59:59 GMT", "Thu Feb 29 23:59:59 2024"] {
        assert_eq!(read(text).as_deref(), Some("2024-02-29T23:59:59.000Z"), "{text}");
    }
    assert_eq!(read("Thu, 01 Jan 1970 00:00:00 GMT").as_deref(), Some("1970-01-01T00:00:00.000Z"));
    for text in ["", "tomorrow", "Thu, 32 Feb 2024 23:59:59 GMT", "Thu, 29 Feb 2024 23:59:59 CET", "a b c d e f"] {
        assert_eq!(read(text), None, "{text}");
    }
}
