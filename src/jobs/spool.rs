//! The folder of jobs: a file each, written whole or not at all.

use super::record::Name;
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The prefix of files that are being written; after a crash they are removed.
const UNFINISHED: &str = "tmp-";
const LOCK: &str = "lock";
/// By how much an answer about a job is usually longer than its file, at most.
pub(crate) const ROOM: usize = 4 << 10;

/// The folder, held by this process alone.
pub(crate) struct Spool {
    dir: PathBuf,
    folder: File,
    /// Locked while it is open.
    _lock: File,
}

/// A file that was found at the start.
pub(crate) struct Stored {
    pub(crate) name: Name,
    pub(crate) bytes: u64,
}

impl Spool {
    /// Opens or creates the folder; returns the files in it.
    ///
    /// # Errors
    /// It cannot be made or read, or another process holds it.
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, Vec<Stored>)> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(dir)?;
        let lock = private().write(true).create(true).truncate(false).open(dir.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => {
                io::Error::new(ErrorKind::ResourceBusy, "another llmproxy uses this folder")
            }
            fs::TryLockError::Error(error) => error,
        })?;
        let (mut stored, mut owners) = (Vec::new(), HashSet::<Arc<str>>::new());
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let file = entry.file_name();
            let Some(text) = file.to_str() else { continue };
            if text.starts_with(UNFINISHED) {
                fs::remove_file(entry.path())?;
            } else if let Some(mut name) = Name::parse(text) {
                // All jobs of an owner share one copy of the name.
                match owners.get(&name.owner) {
                    Some(known) => name.owner = Arc::clone(known),
                    None => drop(owners.insert(Arc::clone(&name.owner))),
                }
                stored.push(Stored { name, bytes: entry.metadata()?.len() });
            }
        }
        let folder = File::open(dir)?;
        Ok((Self { dir: dir.to_owned(), folder, _lock: lock }, stored))
    }

    /// Writes a file. When this returns it survives a power cut.
    pub(crate) fn write(&self, name: &Name, pieces: &[&[u8]]) -> io::Result<()> {
        let unfinished = self.dir.join(format!("{UNFINISHED}{}", name.id));
        let written = private().write(true).create(true).truncate(true).open(&unfinished).and_then(|mut file| {
            pieces.iter().try_for_each(|piece| file.write_all(piece))?;
            file.sync_all()
        });
        let placed = written.and_then(|()| fs::rename(&unfinished, self.path(name)));
        placed.inspect_err(|_| {
            let _ = fs::remove_file(&unfinished);
        })?;
        match self.folder.sync_all() {
            // The file has its name already, but it might not survive a power cut: it is removed.
            Err(error) if fs::remove_file(self.path(name)).is_ok() => Err(error),
            Err(error) => {
                log::warn!("jobs: {} is there, but a power cut may undo it: {error}", self.path(name).display());
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Renames a file. A power cut may undo it.
    pub(crate) fn rename(&self, from: &Name, to: &Name) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    /// The content of a file, with capacity for a little more.
    pub(super) fn read(&self, name: &Name) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.path(name))?;
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length.saturating_add(ROOM)).map_err(|_| ErrorKind::OutOfMemory)?;
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Removes a file; a missing one is no error.
    pub(crate) fn remove(&self, name: &Name) {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log::warn!("jobs: {} cannot be removed: {error}", self.path(name).display());
            }
            _ => {}
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.dir.join(name.to_string())
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
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
        let name = Name::parse("01932f0a1b2c0003.abc.00000000.pending.0").expect("a name");
        let files = || fs::read_dir(&dir).expect("a folder").count();
        // A device that cannot be synced stands for a folder whose disk is failing.
        let folder = std::mem::replace(&mut spool.folder, File::open("/dev/null").expect("a device"));
        assert!(spool.write(&name, &[b"{", b"}"]).is_err());
        assert_eq!(files(), 1, "the lock");
        spool.folder = folder;
        spool.write(&name, &[b"{", b"}"]).expect("a good folder");
        assert_eq!((spool.read(&name).expect("it is there"), files()), (b"{}".to_vec(), 2));
        drop(spool);
        let _ = fs::remove_dir_all(&dir);
    }
}
