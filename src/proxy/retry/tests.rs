//! Unit tests of `retry`.

use super::*;

const ALL: Remaining = Remaining { keys: true, candidates: true, attempts: true, larger: false };
const LAST: Remaining = Remaining { keys: false, candidates: false, attempts: false, larger: false };

fn judge(status: u16, left: Remaining) -> RetryDecision {
    answer(StatusCode::from_u16(status).expect("a status"), &Retry::default(), left)
}

fn fault(kind: UpstreamErrorKind) -> UpstreamError {
    UpstreamError { kind, cause: String::new() }
}

#[test]
fn statuses_that_another_endpoint_may_better_are_retried_and_others_pass() {
    let elsewhere = Remaining { keys: false, ..ALL };
    // R26
    let passing = [408, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 529, 530];
    for status in passing.into_iter().chain([401, 402, 403, 404]) {
        assert_eq!(judge(status, elsewhere), RetryDecision::Next, "{status}");
        assert_eq!(judge(status, LAST), RetryDecision::Forward, "{status}");
    }
    for status in passing {
        assert_eq!(judge(status, Remaining { candidates: false, ..elsewhere }), RetryDecision::Next, "{status}");
    }
    for status in [200, 204, 301, 400, 405, 409, 413, 415, 422, 501, 505] {
        assert_eq!(judge(status, ALL), RetryDecision::Forward, "{status}");
    }
}

#[test]
fn a_key_is_changed_before_the_endpoint() {
    for status in [401, 402, 403, 429] {
        assert_eq!(judge(status, Remaining { candidates: false, ..ALL }), RetryDecision::NextKey);
    }
    assert_eq!(judge(500, ALL), RetryDecision::Next);
}

#[test]
fn in_a_second_round_of_one_candidate_a_401_is_final() {
    let again = Remaining { keys: false, candidates: false, attempts: true, larger: false };
    assert_eq!(judge(401, again), RetryDecision::Forward);
    assert_eq!(judge(503, again), RetryDecision::Next);
}

#[test]
fn a_400_is_looked_into_only_when_a_larger_context_is_left() {
    let larger = Remaining { larger: true, ..ALL };
    assert_eq!((judge(400, larger), judge(413, larger)), (RetryDecision::InspectBody, RetryDecision::Forward));
    assert_eq!(judge(400, ALL), RetryDecision::Forward);
    // A machine that sleeps is no candidate yet.
    assert_eq!(judge(400, Remaining { attempts: false, ..larger }), RetryDecision::InspectBody);
}

#[test]
fn the_last_failure_says_what_kind_it_was() {
    let kind = |list: &[(&str, UpstreamErrorKind)]| {
        all_failed(&list.iter().map(|(name, t)| ((*name).to_owned(), fault(*t))).collect::<Vec<_>>()).kind
    };
    assert_eq!(kind(&[("a", UpstreamErrorKind::Refused)]), Kind::Upstream);
    assert_eq!(kind(&[("a", UpstreamErrorKind::Timeout(Stage::FirstByte))]), Kind::UpstreamTimeout);
    assert_eq!(kind(&[("a", UpstreamErrorKind::Refused), ("b", UpstreamErrorKind::Refused)]), Kind::Upstream);
    assert_eq!(kind(&[("a", UpstreamErrorKind::Refused), ("b", UpstreamErrorKind::Reset)]), Kind::NoEndpoint);
    assert_eq!(
        kind(&[("a", UpstreamErrorKind::Refused), ("b", UpstreamErrorKind::Timeout(Stage::Connect))]),
        Kind::NoEndpoint
    );
    assert_eq!(kind(&[("a", UpstreamErrorKind::Refused), ("a", UpstreamErrorKind::Reset)]), Kind::Upstream);
}

#[test]
fn pauses_double_with_jitter_and_obey_retry_after_up_to_the_bound() {
    let retry = Retry::default();
    let ms = Duration::from_millis;
    assert_eq!([pause(&retry, 1, None, 1.0), pause(&retry, 2, None, 1.0)], [ms(500), ms(1000)]);
    assert_eq!([pause(&retry, 1, None, 0.0), pause(&retry, 40, None, 1.0)], [ms(250), ms(10_000)]);
    assert_eq!(pause(&retry, 1, Some(ms(3000)), 1.0), ms(3000));
    assert_eq!(pause(&retry, 1, Some(ms(60_000)), 1.0), ms(10_000));
}

#[test]
fn an_endpoint_asks_for_rest_in_seconds_milliseconds_or_until_a_date() {
    // R11
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    let retry_after = |pairs: &[(&'static str, &str)]| {
        let pairs = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a value")));
        retry_after(&pairs.collect(), || wall)
    };
    let ms = Duration::from_millis;
    assert_eq!(retry_after(&[("retry-after", "3")]), Some(ms(3000)));
    assert_eq!(retry_after(&[("retry-after", "0.5")]), Some(ms(500)));
    assert_eq!(retry_after(&[("retry-after-ms", "250"), ("retry-after", "3")]), Some(ms(250)));
    assert_eq!(retry_after(&[("retry-after-ms", "soon"), ("retry-after", "3")]), Some(ms(3000)));
    for date in ["Sun, 06 Nov 1994 08:49:57 GMT", "Sunday, 06-Nov-94 08:49:57 GMT", "Sun Nov  6 08:49:57 1994"] {
        assert_eq!(retry_after(&[("retry-after", date)]), Some(ms(20_000)), "{date}");
    }
    assert_eq!(retry_after(&[("retry-after", "Sun, 06 Nov 1994 08:49:17 GMT")]), Some(ms(0)), "a date in the past");
    let dated = [("date", "Mon, 01 Jan 2024 00:00:00 GMT"), ("retry-after", "Mon, 01 Jan 2024 00:00:09 GMT")];
    assert_eq!(retry_after(&dated), Some(ms(9000)), "by the endpoint's clock");
    for other in ["", "-1", "soon", "NaN", "Sun, 06 Nov 1994", "Sun, 06 Foo 1994 08:49:57 GMT"] {
        assert_eq!(retry_after(&[("retry-after", other)]), None, "{other}");
    }
    assert_eq!(retry_after(&[]), None);
}

#[test]
fn a_client_of_a_server_that_is_away_is_told_to_come_back() {
    let wait = |kind: UpstreamErrorKind| all_failed(&[("a".to_owned(), fault(kind))]).retry_after;
    assert_eq!([wait(UpstreamErrorKind::Refused), wait(UpstreamErrorKind::Connect)], [Some(BACK_SOON); 2]);
    assert_eq!(wait(UpstreamErrorKind::Garbled), None);
}
