//! Unit tests of `disk`.

use super::*;
use crossbeam_channel::unbounded;

// U31
#[test]
fn a_slow_disk_holds_up_nobody_who_hands_work_over() {
    let (queue, (started, starts), (done, ends)) = (DiskQueue::default(), unbounded(), unbounded());
    let (open, gate) = bounded::<()>(0);
    let run = |gate: Option<Receiver<()>>| {
        let (started, done) = (started.clone(), done.clone());
        queue.run(Box::new(move |has_room| {
            let _ = started.send(());
            let _ = gate.map(|gate| gate.recv());
            done.send(has_room).expect("it is read");
        }));
    };
    for _ in 0..THREADS {
        run(Some(gate.clone()));
    }
    starts.iter().take(THREADS).for_each(drop);
    for _ in 0..=WAITING {
        run(None);
    }
    assert_eq!(ends.try_iter().collect::<Vec<_>>(), [false], "one is too many");
    drop(open);
    assert!(ends.iter().take(THREADS + WAITING).all(|has_room| has_room));
}

// S8
#[test]
fn a_panic_gives_its_turn_to_the_next() {
    let queue = DiskQueue::default();
    for _ in 0..=THREADS {
        queue.run(Box::new(|_| panic!("on purpose")));
    }
    let (done, ends) = bounded(1);
    queue.run(Box::new(move |has_room| done.send(has_room).expect("it is read")));
    assert_eq!(ends.recv(), Ok(true));
}

#[test]
fn a_file_is_written_whole_and_what_a_crash_left_is_removed() {
    let folder = std::env::temp_dir().join(format!("llmproxy-routes-{}", std::process::id()));
    let path = folder.join("deep").join("r.json");
    assert_eq!(read_text(&path, 9).expect("nothing there"), "");
    replace(&path, b"one").expect("a folder of our own");
    fs::write(path.with_file_name(".r.json.tmp-left"), b"half").expect("the same folder");
    replace(&path, b"two").expect("a folder of our own");
    tidy(&path);
    assert_eq!(read_text(&path, 9).expect("a file"), "two");
    let names: Vec<_> = fs::read_dir(folder.join("deep")).expect("a folder").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names, ["r.json"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    }
    assert!(replace(&path.join("x"), b"three").is_err());
    // S11: a file that is in place is reported as written.
    replace_by(&path, b"five", |_| Err(io::Error::other("no sync"))).expect("it is in its place");
    assert_eq!(read_text(&path, 9).expect("a file"), "five");
    #[cfg(unix)]
    {
        let link = folder.join("link.json");
        std::os::unix::fs::symlink(&path, &link).expect("a folder of our own");
        replace(&link, b"four").expect("a folder of our own");
        assert!(link.is_symlink() && read_text(&path, 9).expect("a file") == "four");
    }
    fs::remove_dir_all(&folder).expect("ours");
}
