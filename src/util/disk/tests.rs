//! Unit tests of `disk`.

use super::*;
use crossbeam_channel::{bounded, unbounded};
use std::sync::Arc;
use std::thread;

// U31
#[test]
fn two_threads_wait_for_a_slow_disk_and_the_others_are_free() {
    let queue = Arc::new(DiskQueue::default());
    let ((started, starts), (done, ends)) = (unbounded(), unbounded());
    let (open, gate) = bounded::<()>(0);
    let slow = || {
        let (queue, started, done, gate) = (Arc::clone(&queue), started.clone(), done.clone(), gate.clone());
        thread::spawn(move || {
            queue.run(Box::new(move |_| {
                let _ = started.send(());
                let _ = gate.recv();
                let _ = done.send(true);
            }));
        })
    };
    let threads = [slow(), slow()];
    starts.iter().take(2).for_each(drop);
    for _ in 0..=WAITING {
        let done = done.clone();
        // This thread comes back at once, whether it is left to the others or refused.
        queue.run(Box::new(move |has_room| done.send(has_room).expect("it is read")));
    }
    assert_eq!(ends.try_iter().collect::<Vec<_>>(), [false], "one is too many");
    drop(open);
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(ends.try_iter().filter(|has_room| *has_room).count(), 2 + WAITING);
}

// S8
#[test]
fn a_panic_gives_its_turn_to_the_next() {
    let queue = DiskQueue::default();
    for _ in 0..=AT_ONCE {
        queue.run(Box::new(|_| panic!("on purpose")));
    }
    let (done, ends) = bounded(1);
    queue.run(Box::new(move |has_room| done.send(has_room).expect("it is read")));
    assert_eq!(ends.try_recv(), Ok(true));
}
