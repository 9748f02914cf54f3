//! The folder of jobs: a file each, written whole or not at all.

use super::record::Job;
use crate::util::disk::{private, write_whole};
use std::borrow::Cow;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// The prefix of files that are being written; after a crash they are removed.
const UNFINISHED: &str = "tmp-";
/// By how much an answer about a job is usually longer than its file, at most.
pub(crate) const ROOM: u64 = 4 << 10;

/// The folder, held by this process alone.
pub(crate) struct Spool {
    dir: PathBuf,
    folder: File,
    /// Locked while it is open.
    _lock: File,
}

impl Spool {
    /// Opens or creates the folder; returns the jobs in it.
    ///
    /// # Errors
    /// It cannot be made or read, or another process holds it.
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, Vec<Job>)> {
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(dir)?;
        let lock = private().write(true).create(true).truncate(false).open(dir.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => {
                io::Error::new(ErrorKind::ResourceBusy, "another llmproxy uses this folder")
            }
            fs::TryLockError::Error(error) => error,
        })?;
        let mut jobs = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let file = entry.file_name();
            let Some(text) = file.to_str() else { continue };
            if text.starts_with(UNFINISHED) {
                fs::remove_file(entry.path())?;
            } else {
                jobs.extend(Job::parse(text, entry.metadata()?.len()));
            }
        }
        Ok((Self { dir: dir.to_owned(), folder: File::open(dir)?, _lock: lock }, jobs))
    }

    /// Writes the file of a job. When this returns it survives a power cut.
    pub(crate) fn write(&self, job: &Job, pieces: &[Cow<'_, [u8]>]) -> io::Result<()> {
        let path = self.path(job);
        write_whole(&path, &self.dir.join(format!("{UNFINISHED}{}", job.id)), pieces)?;
        match self.folder.sync_all() {
            // The file has its name already, but it might not survive a power cut: it is removed.
            Err(error) if fs::remove_file(&path).is_ok() => return Err(error),
            Err(error) => log::warn!("jobs: {} is there, but a power cut may undo it: {error}", path.display()),
            Ok(()) => {}
        }
        Ok(())
    }

    /// Renames a file. A power cut may undo it.
    pub(crate) fn rename(&self, from: &Job, to: &Job) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    /// The content of a file, with capacity for a little more.
    pub(super) fn read(&self, job: &Job) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.path(job))?;
        let length = file.metadata()?.len().saturating_add(ROOM);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length.try_into().unwrap_or(usize::MAX)).map_err(|_| ErrorKind::OutOfMemory)?;
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Removes a file; a missing one is no error.
    pub(crate) fn remove(&self, job: &Job) {
        if let Err(error) = fs::remove_file(self.path(job))
            && error.kind() != ErrorKind::NotFound
        {
            log::warn!("jobs: {} cannot be removed: {error}", self.path(job).display());
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, job: &Job) -> PathBuf {
        self.dir.join(job.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("llmproxy-spool-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    // S11
    #[test]
    fn what_is_said_not_to_be_there_is_not_there() {
        let dir = folder("sync");
        let (mut spool, _) = Spool::open(&dir).expect("a folder");
        let name = Job::parse("01932f0a1b2c0003.abc.00000000.pending.0", 2).expect("a name");
        let content = [Cow::Borrowed(&b"{"[..]), Cow::Borrowed(b"}")];
        let files = || fs::read_dir(&dir).expect("a folder").count();
        // A device that cannot be synced stands for a folder whose disk is failing.
        let folder = std::mem::replace(&mut spool.folder, File::open("/dev/null").expect("a device"));
        assert!(spool.write(&name, &content).is_err());
        assert_eq!(files(), 1, "the lock");
        spool.folder = folder;
        spool.write(&name, &content).expect("a good folder");
        assert_eq!((spool.read(&name).expect("it is there"), files()), (b"{}".to_vec(), 2));
        drop(spool);
        let _ = fs::remove_dir_all(&dir);
    }
}
