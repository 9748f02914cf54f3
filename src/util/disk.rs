//! Files that are written whole, what errors of a disk mean, and threads that wait for one.

use crate::util::random;
use crate::util::units::print_size;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

/// Threads that work with the disk.
const THREADS: usize = 2;
/// What waits for one of them at most.
const WAITING: usize = 64;

/// Called with `true` it does its work, with `false` it refuses it.
type Work = Box<dyn FnOnce(bool) + Send>;

/// Works with the disk for requests, on threads of its own: a slow disk holds up no thread that answers `/health`. They
/// are started when they are first needed.
pub(crate) struct DiskQueue {
    sender: Sender<Work>,
    receiver: Receiver<Work>,
    threads: AtomicUsize,
}

impl Default for DiskQueue {
    fn default() -> Self {
        let (sender, receiver) = bounded(WAITING);
        Self { sender, receiver, threads: AtomicUsize::new(0) }
    }
}

impl DiskQueue {
    /// Queues it, or refuses it.
    pub(crate) fn run(&self, work: Work) {
        let number = self.threads.fetch_add(1, Ordering::SeqCst);
        if number >= THREADS || self.start(number).is_err() {
            self.threads.fetch_sub(1, Ordering::SeqCst);
        }
        match self.threads.load(Ordering::SeqCst) {
            // The system gives no thread.
            0 => work(false),
            _ => self.sender.try_send(work).unwrap_or_else(|full| full.into_inner()(false)),
        }
    }

    fn start(&self, number: usize) -> io::Result<JoinHandle<()>> {
        let receiver = self.receiver.clone();
        thread::Builder::new().name(format!("disk-{number}")).spawn(move || {
            for work in receiver {
                // A panic is one request's 500; the hook has logged.
                let _ = catch_unwind(AssertUnwindSafe(|| work(true)));
            }
        })
    }
}

/// Puts a file in its place, whole or not at all: it is written under another name, synced, and renamed. Only its owner
/// may read it.
pub(crate) fn write_whole(path: &Path, unfinished: &Path, pieces: &[impl AsRef<[u8]>]) -> io::Result<()> {
    let written = private().write(true).create(true).truncate(true).open(unfinished).and_then(|mut file| {
        pieces.iter().try_for_each(|piece| file.write_all(piece.as_ref()))?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(unfinished, path)).inspect_err(|_| drop(fs::remove_file(unfinished)))
}

/// Puts bytes in the place of a file, which its owner alone may read. The file that a symbolic link points to is replaced.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_by(path, bytes, |folder| File::open(folder)?.sync_all())
}

fn replace_by(path: &Path, bytes: &[u8], sync: fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = folder(path);
    fs::create_dir_all(&folder)?;
    write_whole(path, &folder.join(unfinished(path) + &random::request_id()), &[bytes])?;
    // The new file is in place even if this fails; only a power cut could bring the old one back.
    if let Err(error) = sync(&folder) {
        log::warn!("{} was written, but its folder was not synced: {error}", path.display());
    }
    Ok(())
}

/// Removes what a crash left of [`replace`].
pub(crate) fn tidy(path: &Path) {
    let start = unfinished(path);
    for entry in fs::read_dir(folder(path)).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&start)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn folder(path: &Path) -> PathBuf {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_owned)
}

fn unfinished(path: &Path) -> String {
    format!(".{}.tmp-", path.file_name().and_then(|name| name.to_str()).unwrap_or_default())
}

/// A text of at most `most` bytes; empty if there is no such file.
pub(crate) fn read_text(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(text),
        file => file?.take(most + 1).read_to_string(&mut text)?,
    };
    if text.len() as u64 > most {
        return Err(io::Error::other(format!("it is larger than {}", print_size(most))));
    }
    Ok(text)
}

/// Files that are made can be read by their owner only.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

#[cfg(test)]
mod tests;
