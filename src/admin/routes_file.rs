//! The file of routes on disk: read whole, written whole or not at all.

use crate::util::random;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// More than any file of routes.
pub(crate) const MOST: u64 = 1 << 20;

/// The content of the file; empty if there is none.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(bytes),
        file => file?.take(MOST + 1).read_to_end(&mut bytes)?,
    };
    if bytes.len() as u64 > MOST {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(bytes)
}

/// Puts these bytes in the place of the file; only its owner may read them, they hold keys.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_by(path, bytes, sync)
}

fn write_by(path: &Path, bytes: &[u8], sync_folder: fn(&Path) -> io::Result<()>) -> io::Result<()> {
    // A symbolic link is kept.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = folder(path);
    fs::create_dir_all(&folder)?;
    let unfinished = folder.join(format!("{}{}", unfinished(path), random::request_id()));
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.write(true).create_new(true).open(&unfinished).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let placed = written.and_then(|()| fs::rename(&unfinished, path));
    placed.inspect_err(|_| drop(fs::remove_file(&unfinished)))?;
    // The new file is in place even if this fails; only a power cut could bring the old one back.
    if let Err(error) = sync_folder(&folder) {
        log::warn!("admin: {} was written, but its folder was not synced: {error}", path.display());
    }
    Ok(())
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Where the last text that was written by hand is kept.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".bak");
    name.into()
}

/// Removes what a crash left of a write.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_and_what_a_crash_left_is_removed() {
        let folder = std::env::temp_dir().join(format!("llmproxy-routes-{}", std::process::id()));
        let path = folder.join("deep").join("r.json");
        assert_eq!(read(&path).expect("nothing there"), b"");
        write(&path, b"one").expect("a folder of our own");
        fs::write(path.with_file_name(".r.json.tmp-left"), b"half").expect("the same folder");
        write(&path, b"two").expect("a folder of our own");
        tidy(&path);
        assert_eq!(read(&path).expect("a file"), b"two");
        let names: Vec<_> =
            fs::read_dir(folder.join("deep")).expect("a folder").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["r.json"]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        }
        assert!(write(&path.join("x"), b"three").is_err());
        // S11: a file that is in place is reported as written.
        write_by(&path, b"five", |_| Err(io::Error::other("no sync"))).expect("it is in its place");
        assert_eq!(read(&path).expect("a file"), b"five");
        #[cfg(unix)]
        {
            let link = folder.join("link.json");
            std::os::unix::fs::symlink(&path, &link).expect("a folder of our own");
            write(&link, b"four").expect("a folder of our own");
            assert!(link.is_symlink() && read(&path).expect("a file") == b"four");
        }
        fs::remove_dir_all(&folder).expect("ours");
    }
}
