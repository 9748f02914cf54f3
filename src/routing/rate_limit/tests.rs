//! Unit tests of `rate_limit`.

use super::*;
use crate::util::time;

#[test]
fn a_burst_passes_and_then_the_rate_counts() {
    // S002-02
    let limit = RateLimit { per_second: 100.0, burst: 200 };
    let start = time::now();
    let mut bucket = Bucket::full(&limit, start);
    let burst = (0..300).filter(|_| bucket.take(&limit, start).granted).count();
    assert_eq!(burst, 200);
    let mut granted = 0;
    for millisecond in 1..=10_000 {
        granted += u32::from(bucket.take(&limit, start + Duration::from_millis(millisecond)).granted);
    }
    assert!((999..=1000).contains(&granted), "{granted}");
}

#[test]
fn it_says_what_is_left_and_when_more_comes() {
    let limit = RateLimit { per_second: 0.5, burst: 2 };
    let start = time::now();
    let mut bucket = Bucket::full(&limit, start);
    let first = bucket.take(&limit, start);
    assert_eq!((first.granted, first.limit, first.remaining, first.reset), (true, 2, 1, Duration::from_secs(2)));
    bucket.take(&limit, start);
    let refused = bucket.take(&limit, start);
    assert_eq!((refused.granted, refused.remaining), (false, 0));
    assert_eq!((refused.retry_after, refused.reset), (Duration::from_secs(2), Duration::from_secs(4)));
    assert!(!bucket.take(&limit, start + Duration::from_millis(1999)).granted);
    assert!(bucket.take(&limit, start + Duration::from_millis(2000)).granted);
}

#[test]
fn time_that_goes_back_gives_nothing_and_takes_nothing() {
    let limit = RateLimit { per_second: 1.0, burst: 1 };
    let later = time::now() + Duration::from_secs(100);
    let mut bucket = Bucket::full(&limit, later);
    assert!(bucket.take(&limit, later).granted);
    assert!(!bucket.take(&limit, later - Duration::from_secs(50)).granted);
    assert!(bucket.take(&limit, later + Duration::from_secs(1)).granted);
}

#[test]
fn each_address_has_its_own_and_a_household_shares_one() {
    let limit = RateLimit { per_second: 1.0, burst: 1 };
    let (buckets, now) = (Buckets::default(), time::now());
    let granted = |text: &str| buckets.take(text.parse().expect("an address"), &limit, now).granted;
    assert!(granted("10.0.0.1") && granted("10.0.0.2") && !granted("10.0.0.1") && !granted("::ffff:10.0.0.1"));
    assert!(granted("2001:db8::1") && !granted("2001:db8::2") && granted("2001:db8:0:1::1"));
    for n in 0..20_000u32 {
        buckets.take(IpAddr::V4(n.into()), &limit, now);
    }
    assert!(lock(&buckets.0).len() <= 2 * ADDRESSES);
}
