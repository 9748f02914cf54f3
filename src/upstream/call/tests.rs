//! Unit tests of `call`.

use super::*;
use crate::util::time;

const SECOND: Duration = Duration::from_secs(1);

fn limits() -> Timeouts {
    Timeouts {
        connect: Some(3 * SECOND),
        first_byte: Some(10 * SECOND),
        idle: Some(2 * SECOND),
        total: Some(30 * SECOND),
    }
}

#[test]
fn each_stage_has_its_own_limit_and_the_record_names_it() {
    let start = time::now();
    for (stage, limit) in [(Stage::Connect, 3), (Stage::FirstByte, 10), (Stage::Body, 2)] {
        let call = Call::new(limits(), false, None, None, start);
        call.enter_stage(stage, start);
        assert!(call.patience(start + limit * SECOND - Duration::from_millis(1)).is_some());
        assert_eq!(call.patience(start + limit * SECOND), None);
        assert_eq!(call.expired.get(), Some(stage));
    }
}

#[test]
fn the_total_bounds_an_answer_that_keeps_moving() {
    let start = time::now();
    let call = Call::new(limits(), false, None, None, start);
    call.enter_stage(Stage::Body, start);
    for second in 0..30 {
        call.progress();
        assert!(call.patience(start + second * SECOND).is_some());
    }
    call.progress();
    assert_eq!(call.patience(start + 30 * SECOND), None);
    assert_eq!(call.expired.get(), Some(Stage::Total));
}

#[test]
fn a_watch_is_asked_in_every_silence_and_shortens_the_wait() {
    struct Soon(Cell<u32>);
    impl Watch for Soon {
        fn silent(&self, now: Instant) -> Option<Instant> {
            self.0.set(self.0.get() + 1);
            Some(now + Duration::from_millis(20))
        }
    }
    let watch = Rc::new(Soon(Cell::new(0)));
    let start = time::now();
    let call = Call::new(Timeouts::default(), false, None, Some(watch.clone()), start);
    assert_eq!(call.patience(start), Some(Duration::from_millis(20)));
    assert_eq!(watch.0.get(), 1);
}
