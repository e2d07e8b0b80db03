//! Byte sources ([`vmcask_dump::ReadAt`]) as read-only files of one folder,
//! through FUSE. Nothing is unpacked: what a program reads of a file is read
//! from its source, by several threads at once.
//!
//! ```no_run
//! use std::{path::Path, sync::Arc};
//! use vmcask_mount::{Entry, Options, mount};
//!
//! let hello = Entry { name: "hello.txt".into(), source: Arc::new(b"hello\n".to_vec()) };
//! let mounted = mount(Path::new("/mnt"), vec![hello], Options::default())?;
//! let unmounter = mounted.unmounter();
//! std::thread::spawn(move || {
//!     assert_eq!(std::fs::read("/mnt/hello.txt").unwrap(), b"hello\n");
//!     unmounter.unmount().unwrap();
//! });
//! mounted.serve()?; // until it is unmounted
//! # Ok::<(), vmcask_mount::Error>(())
//! ```

#![forbid(unsafe_code)]

mod error;
#[cfg(any(target_os = "linux", target_os = "freebsd"))]
mod folder;
mod platform;
#[cfg(any(target_os = "linux", target_os = "freebsd"))]
mod readahead;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use vmcask_dump::ReadAt;

pub use error::{Error, Result};
pub use platform::{Mounted, SUPPORTED, Unmounter, mount};

/// A file of the mounted folder.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name, without a slash.
    pub name: String,
    /// Its bytes.
    pub source: Arc<dyn ReadAt>,
}

/// Told the name of a file, an offset in it and why it can't be read there.
pub type OnError = dyn Fn(&str, u64, &io::Error) + Send + Sync;

/// How to mount.
#[derive(Clone)]
pub struct Options {
    /// What `mount` and `df` show as the source.
    pub source: String,
    /// When the files were last modified.
    pub modified: SystemTime,
    /// Threads that decompress ahead of whoever reads from front to back.
    pub threads: usize,
    /// Who reads a byte that can't be read gets EIO; this is told why.
    pub on_error: Arc<OnError>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            source: "vmcask".into(),
            modified: SystemTime::UNIX_EPOCH,
            threads: 1,
            on_error: Arc::new(|_, _, _| {}),
        }
    }
}

/// Fails where `dir` is no folder to mount on.
#[cfg_attr(not(any(target_os = "linux", target_os = "freebsd")), allow(dead_code))]
fn check_folder(dir: &Path) -> Result<()> {
    let unusable = |source| Error::Folder { dir: dir.to_owned(), source };
    if dir.metadata().map_err(unusable)?.is_dir() {
        return Ok(());
    }
    Err(unusable(io::ErrorKind::NotADirectory.into()))
}
