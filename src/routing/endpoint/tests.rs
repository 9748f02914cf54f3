//! Unit tests of `endpoint`.

use super::*;
use crate::util::time;

#[test]
fn an_endpoint_works_while_a_request_may_wait_or_bytes_come() {
    let start = time::now();
    let live = Arc::new(Live::new());
    let second = Duration::from_secs(1);
    live.sent(start, Some(60 * second));
    assert!(!live.is_working(start), "nothing of ours is there");
    live.enter();
    assert!(live.is_working(start + 59 * second));
    assert!(!live.is_working(start + 61 * second));
    live.moved(start + 100 * second);
    assert!(live.is_working(start + 109 * second));
    assert!(!live.is_working(start + 111 * second));
}

#[test]
fn a_cool_down_lasts_as_told_and_a_minute_at_most() {
    let start = time::now();
    let live = Live::new();
    let second = Duration::from_secs(1);
    assert!(!live.is_cooling(start));
    live.cool_down(start, 5 * second);
    assert!(live.is_cooling(start + 4 * second) && !live.is_cooling(start + 5 * second));
    live.cool_down(start, 3600 * second);
    assert!(live.is_cooling(start + 59 * second) && !live.is_cooling(start + 60 * second));
}

#[test]
fn a_refusal_counts_for_what_was_sent_before_it() {
    // L5
    let start = time::now();
    let live = Live::new();
    let at = |ms| start + Duration::from_millis(ms);
    assert!(!live.refused_since(start));
    live.note_refused(at(20));
    assert!(live.refused_since(at(10)) && !live.refused_since(at(20)) && !live.refused_since(at(30)));
}

#[test]
fn what_does_not_stream_is_known_by_path_and_model_within_bounds() {
    // R02
    let live = Live::new();
    live.note_streamless("/v1/messages", Some("m"));
    assert!(live.is_streamless("/v1/messages", Some("m")));
    assert!(!live.is_streamless("/v1/messages", Some("n")) && !live.is_streamless("/v1/responses", Some("m")));
    for n in 0..1000 {
        live.note_streamless("/v1/messages", Some(&n.to_string()));
    }
    assert!(!live.is_streamless("/v1/messages", Some("m")));
    live.restarted();
    assert!(!live.is_streamless("/v1/messages", Some("999")), "another program may listen there now");
}

#[test]
fn several_keys_are_used_in_turn() {
    let live = Live::new();
    assert_eq!([live.next_key(1), live.next_key(1)], [0, 0]);
    assert_eq!([live.next_key(3), live.next_key(3), live.next_key(3), live.next_key(3)], [0, 1, 2, 0]);
}

// Issue 14, section 3
#[test]
fn a_magic_packet_is_due_every_5_s_for_whoever_asks_first() {
    let live = Live::new();
    let start = time::now() + Duration::from_secs(1);
    let sent: Vec<u64> =
        (0..100).filter(|tenths| live.takes_packet(start + Duration::from_millis(tenths * 100))).collect();
    assert_eq!(sent, [0, 50]);
    let many = (0..8).map(|_| live.takes_packet(start + Duration::from_secs(20)));
    assert_eq!(many.filter(|takes| *takes).count(), 1);
}

#[test]
fn an_endpoint_that_can_be_woken_is_asleep_or_waking_and_one_that_answers_is_not() {
    use crate::routing::health_status::Observation;
    let mut endpoint = Endpoint::new(config::Endpoint::plain("a", "h", 1));
    let of = |endpoint: &Endpoint| (endpoint.is_available(), endpoint.is_asleep(), endpoint.state().as_str());
    endpoint.health = endpoint.health.observe(Observation::Down("x".into()), 1, time::wall());
    assert_eq!(of(&endpoint), (false, false, "unhealthy"));
    let mut with_wake = config::Endpoint::clone(&endpoint.config);
    with_wake.wake = Some(config::Wake::default());
    endpoint.config = Arc::new(with_wake);
    assert_eq!(of(&endpoint), (false, false, "unhealthy"), "its server answers, if badly");
    let waking = endpoint.live.waking();
    assert_eq!(of(&endpoint), (false, true, "waking"));
    let also = endpoint.live.waking();
    drop(waking);
    assert_eq!(of(&endpoint), (false, true, "waking"));
    drop(also);
    endpoint.health = endpoint.health.asleep();
    assert_eq!(of(&endpoint), (false, true, "asleep"));
    endpoint.health = endpoint.health.observe(Observation::Loading, 3, time::wall());
    assert_eq!(of(&endpoint), (false, true, "loading"));
    endpoint.health = endpoint.health.observe(Observation::Up, 3, time::wall());
    let _waking = endpoint.live.waking();
    assert_eq!(of(&endpoint), (true, false, "healthy"));
}
