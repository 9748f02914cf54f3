//! SPEC 7: a disk that does not answer loses no job.

use crate::jobs::{Folder, ended, look, start, submit, until};
use crate::support::fact::Latch;
use crate::support::proxy::{CHAT, chat};
use crate::support::script::Script;
use crate::support::upstream::Upstream;

#[test]
fn a_job_that_cannot_be_read_for_a_while_is_not_forgotten() {
    let (folder, upstream, latch) = (Folder::new(), Upstream::serving(&["m"]), Latch::new());
    upstream.on(CHAT, Script::new().latch(&latch).then(Script::json("{}")));
    upstream.on(CHAT, Script::json("{}"));
    let proxy = start(&folder, &upstream, |config| config.jobs.max_concurrent = 1);
    submit(&proxy, chat("m"));
    upstream.take(CHAT);
    let id = submit(&proxy, chat("m"));
    let place = || folder.files().into_iter().find(|name| name.contains(&id)).map(|name| folder.0.join(name));
    // What cannot be read as a file stands in its place.
    let (file, aside) = (place().expect("its file"), folder.0.join("aside"));
    std::fs::rename(&file, &aside).and_then(|()| std::fs::create_dir(&file)).expect("our own folder");
    latch.open();
    proxy.until(|_| place().is_some_and(|place| place.display().to_string().contains(".processing.")));
    let answer = look(&proxy, &id);
    assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")), "{}", answer.text());
    proxy.stop();
    let file = place().expect("what stands for it");
    std::fs::remove_dir(&file).and_then(|()| std::fs::rename(&aside, &file)).expect("our own folder");
    let proxy = start(&folder, &upstream, |_| ());
    assert_eq!(until(&proxy, &id, ended)["status"], "completed");
}
