//! Unit tests of `cancel`.

use super::*;
use crate::util::time;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

#[derive(Default)]
struct Line(AtomicUsize);

impl OnCancel for Line {
    fn on_cancel(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn weak(line: &Arc<Line>) -> Weak<dyn OnCancel> {
    let line: Arc<dyn OnCancel> = Arc::clone(line) as _;
    Arc::downgrade(&line)
}

#[test]
fn a_leaving_client_hangs_up_what_is_attached_once() {
    let (cancel, line) = (CancelToken::default(), Arc::new(Line::default()));
    cancel.attach(weak(&line));
    cancel.cancel();
    cancel.cancel();
    assert_eq!(line.0.load(Ordering::SeqCst), 1);
}

#[test]
fn a_line_attached_too_late_is_hung_up_at_once() {
    let (cancel, line) = (CancelToken::default(), Arc::new(Line::default()));
    cancel.cancel();
    cancel.attach(weak(&line));
    assert_eq!(line.0.load(Ordering::SeqCst), 1);
}

#[test]
fn a_detached_line_is_left_alone() {
    let (cancel, line) = (CancelToken::default(), Arc::new(Line::default()));
    cancel.attach(weak(&line));
    cancel.detach();
    cancel.cancel();
    assert_eq!(line.0.load(Ordering::SeqCst), 0);
}

#[test]
fn a_wait_ends_when_the_client_leaves() {
    let cancel = Arc::new(CancelToken::default());
    let other = Arc::clone(&cancel);
    let leaver = std::thread::spawn(move || other.cancel());
    assert!(cancel.wait_until(time::now() + Duration::from_secs(60), time::now));
    leaver.join().expect("the leaver does not panic");
}
