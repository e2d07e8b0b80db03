//! Output files that appear whole or not at all: a temporary file beside
//! the target, fsync, rename.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use crate::error::{Error, Result};

/// Permissions of outputs unless asked otherwise.
const OWNER_ONLY: u32 = 0o600;

/// A file on its way to `path`. Dropped without [`OutputFile::commit`], it is
/// removed; so is, by the next run, what a killed process left. Like
/// savecore's, it is readable by its owner only: a dump holds whatever the
/// machine held.
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
        Self::with_mode(path, force, OWNER_ONLY)
    }

    /// [`Self::create`], with other permissions than savecore's.
    pub fn with_mode(path: &Path, force: bool, mode: u32) -> Result<Self> {
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
        let mut prefix = OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        remove_left_over(folder(path), prefix.as_bytes());
        // Not with the temporary file's name, which means nothing to anybody.
        let (file, temp) =
            locked_temporary(folder(path), &prefix).map_err(|e| failed(why(&e, folder(path))))?;
        if mode != OWNER_ONLY {
            file.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
        }
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

/// What temporary names end with, behind the output's name and letters that
/// nobody can guess.
const SUFFIX: &str = ".vmcask-tmp";
/// How many letters.
const RANDOM: usize = 12;

/// A new temporary file, locked as long as this process has it open.
fn locked_temporary(folder: &Path, prefix: &OsStr) -> io::Result<(File, TempPath)> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).suffix(SUFFIX).rand_bytes(RANDOM);
    loop {
        let (file, temp) = builder.tempfile_in(folder)?.into_parts();
        match file.try_lock() {
            // Another process may have taken it for a left-over before.
            Ok(()) if file.metadata()?.nlink() == 0 => {}
            Err(TryLockError::WouldBlock) => {}
            // A file system without locks: nobody will take it for one.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok((file, temp)),
        }
    }
}

/// Why there is no temporary file.
fn why(e: &io::Error, folder: &Path) -> io::Error {
    let what = match e.get_ref().and_then(std::error::Error::source) {
        _ if e.kind() == io::ErrorKind::NotFound => {
            format!("there is no folder {}", folder.display())
        }
        Some(cause) => cause.to_string(),
        None => e.to_string(),
    };
    io::Error::new(e.kind(), what)
}

/// Removes what killed processes have left of the same output: temporary files
/// that nobody holds locked. Where that fails they stay; nothing depends on it.
fn remove_left_over(folder: &Path, prefix: &[u8]) {
    let is_left_over = |name: &OsStr| {
        name.as_bytes()
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()))
            .is_some_and(|rest| rest.len() == RANDOM && rest.iter().all(u8::is_ascii_alphanumeric))
    };
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        // Opening a FIFO would wait, and a link may lead anywhere.
        if !is_left_over(&entry.file_name()) || !entry.file_type().is_ok_and(|t| t.is_file()) {
            continue;
        }
        if let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = std::fs::remove_file(entry.path());
        }
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

    #[test]
    fn a_missing_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("missing");
        match OutputFile::create(&folder.join("out"), false) {
            Err(Error::Write { source, .. }) => {
                let expected = format!("there is no folder {}", folder.display());
                assert_eq!(source.to_string(), expected);
            }
            other => panic!("{other:?}"),
        }
    }

    /// Whoever put a link there doesn't get to name another file; nor does a
    /// link that leads nowhere make one.
    #[test]
    fn links_are_replaced_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("out"), dir.path().join("other"));
        for leads_somewhere in [true, false] {
            if leads_somewhere {
                std::fs::write(&other, b"precious").unwrap();
            }
            std::os::unix::fs::symlink(&other, &path).unwrap();
            assert!(matches!(OutputFile::create(&path, false), Err(Error::Exists { .. })));
            let out = OutputFile::create(&path, true).unwrap();
            out.file().write_all(b"new").unwrap();
            out.commit().unwrap();
            assert!(!path.is_symlink());
            assert_eq!(std::fs::read(&path).unwrap(), b"new");
            if leads_somewhere {
                assert_eq!(std::fs::read(&other).unwrap(), b"precious");
                std::fs::remove_file(&other).unwrap();
            }
            assert!(!other.exists());
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_killed_processes_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let running = OutputFile::create(&path, false).unwrap();
        // Nobody holds these.
        let left = dir.path().join(".out.0123456789ab.vmcask-tmp");
        std::fs::write(&left, b"half").unwrap();
        let others = ["out", ".out.0123456789ab.tmp", ".other.0123456789ab.vmcask-tmp", ".out.x"]
            .map(|name| dir.path().join(name));
        for other in &others[1..] {
            std::fs::write(other, b"mine").unwrap();
        }
        let link = dir.path().join(".out.0123456789cd.vmcask-tmp");
        std::os::unix::fs::symlink(&others[1], &link).unwrap();
        let out = OutputFile::create(&path, false).unwrap();
        assert!(!left.exists());
        assert!(others[1..].iter().all(|p| p.exists()) && link.is_symlink());
        running.file().write_all(b"first").unwrap();
        running.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert!(matches!(out.commit(), Err(Error::Exists { .. })));
    }

    #[test]
    fn other_permissions_when_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        OutputFile::with_mode(&path, false, 0o640).unwrap().commit().unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    }

    /// Nobody can put something at the name that will be written to.
    #[test]
    fn temporary_names_differ_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let name = || {
            let out = OutputFile::create(&path, false).unwrap();
            let name = dir.path().read_dir().unwrap().next().unwrap().unwrap().file_name();
            drop(out);
            name
        };
        let names: std::collections::HashSet<_> = (0..20).map(|_| name()).collect();
        assert_eq!(names.len(), 20, "{names:?}");
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
