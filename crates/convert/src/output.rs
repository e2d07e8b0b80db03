//! Output files that appear whole or not at all: a temporary file beside
//! the target, fsync, rename.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempPath};

use crate::error::{Error, Result};

/// A file on its way to `path`. Dropped without [`OutputFile::commit`], it is
/// removed. Like savecore's, it is readable by its owner only: a dump holds
/// whatever the machine held.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    file: File,
    temp: TempPath,
    force: bool,
}

impl OutputFile {
    /// Prepares an output at `path`. Fails with [`Error::Exists`] where it is
    /// there already and `force` isn't given.
    pub fn create(path: &Path, force: bool) -> Result<Self> {
        let failed = |source| Error::Write { path: path.to_owned(), source };
        match path.symlink_metadata() {
            Ok(meta) if meta.is_dir() => {
                return Err(failed(io::Error::new(io::ErrorKind::IsADirectory, "is a directory")));
            }
            Ok(_) if !force => return Err(Error::Exists { path: path.to_owned() }),
            // The rename would replace a device or a FIFO by a file.
            Ok(meta) if !meta.is_file() && !meta.is_symlink() => {
                return Err(failed(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "not a regular file",
                )));
            }
            _ => {}
        }
        let name = path.file_name().ok_or_else(|| {
            failed(io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))
        })?;
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        let temp: NamedTempFile = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".tmp")
            .tempfile_in(folder(path))
            .map_err(failed)?;
        let (file, temp) = temp.into_parts();
        Ok(Self { path: path.to_owned(), file, temp, force })
    }

    /// The file to write to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it will appear.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the output appear, once all of it is on the disk.
    pub fn commit(self) -> Result<()> {
        let Self { path, file, temp, force } = self;
        let failed = |source| Error::Write { path: path.clone(), source };
        file.sync_all().map_err(failed)?;
        if force {
            temp.persist(&path).map_err(|e| failed(e.error))?;
        } else {
            temp.persist_noclobber(&path).map_err(|e| match e.error.kind() {
                io::ErrorKind::AlreadyExists => Error::Exists { path: path.clone() },
                _ => failed(e.error),
            })?;
        }
        // The name is durable only when its folder is. Some file systems
        // can't sync a folder; the file's own bytes are safe by now.
        if let Ok(dir) = File::open(folder(&path)) {
            let _ = dir.sync_all();
        }
        Ok(())
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let out = OutputFile::create(&path, false).unwrap();
        out.file().write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(out);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);

        let out = OutputFile::create(&path, false).unwrap();
        out.file().write_all(b"whole").unwrap();
        out.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(dir.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn existing_files_need_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(&path, b"old").unwrap();
        assert!(matches!(OutputFile::create(&path, false), Err(Error::Exists { .. })));
        let out = OutputFile::create(&path, true).unwrap();
        out.file().write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        out.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    // Somebody else made the file while we were writing.
    #[test]
    fn a_race_is_lost_not_won() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let out = OutputFile::create(&path, false).unwrap();
        std::fs::write(&path, b"theirs").unwrap();
        assert!(matches!(out.commit(), Err(Error::Exists { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
        assert_eq!(dir.path().read_dir().unwrap().count(), 1);
    }
}
