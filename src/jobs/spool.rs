//! The folder of jobs: a file each, written whole or not at all. Knows names and bytes, no more.

use super::record::Name;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Files that are being written start so; what is left of them after a crash is removed.
const UNFINISHED: &str = "tmp-";
const LOCK: &str = "lock";

/// The folder, held by this process alone.
pub struct Spool {
    dir: PathBuf,
    folder: File,
    /// Locked for as long as it is open.
    _lock: File,
}

/// A file that was found at the start.
pub struct Stored {
    /// Its name.
    pub name: Name,
    /// Its size.
    pub bytes: u64,
}

impl Spool {
    /// Opens the folder, makes it if there is none, and tells what lies there.
    ///
    /// # Errors
    /// It cannot be made or read, or another process holds it.
    pub fn open(dir: &Path) -> io::Result<(Self, Vec<Stored>)> {
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
        let mut stored = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let file = entry.file_name();
            let Some(text) = file.to_str() else { continue };
            if text.starts_with(UNFINISHED) {
                fs::remove_file(entry.path())?;
            } else if let Some(name) = Name::parse(text) {
                stored.push(Stored { name, bytes: entry.metadata()?.len() });
            }
        }
        let folder = File::open(dir)?;
        Ok((Self { dir: dir.to_owned(), folder, _lock: lock }, stored))
    }

    /// Puts a file there. It is there for good when this returns.
    ///
    /// # Errors
    /// Nothing of it is there.
    pub fn write(&self, name: &Name, bytes: &[u8]) -> io::Result<()> {
        let unfinished = self.dir.join(format!("{UNFINISHED}{}", name.id));
        let written = private().write(true).create(true).truncate(true).open(&unfinished).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        let placed =
            written.and_then(|()| fs::rename(&unfinished, self.path(name))).and_then(|()| self.folder.sync_all());
        placed.inspect_err(|_| {
            let _ = fs::remove_file(&unfinished);
        })
    }

    /// Gives a file another name. A power cut may undo it.
    ///
    /// # Errors
    /// It still has the old name.
    pub fn rename(&self, from: &Name, to: &Name) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    /// What a file holds.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, name: &Name) -> io::Result<Vec<u8>> {
        fs::read(self.path(name))
    }

    /// Takes a file away; one that is not there is no error.
    pub fn remove(&self, name: &Name) {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log::warn!("jobs: {} cannot be removed: {error}", self.path(name).display());
            }
            _ => {}
        }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.dir.join(name.to_string())
    }
}

/// Prompts are nobody else's business.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}
