//! The crate's error type.

use std::io;
use std::path::PathBuf;

use vmcask_dump::device::{DeviceHeader, TextFile};

/// Why a conversion didn't happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The input can't be opened.
    #[error("{path}: can't be opened", path = path.display())]
    Open {
        /// The input.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },

    /// The input is no dump, or one of a kind not read here.
    #[error("{path}: not a dump: it is {what}", path = path.display())]
    NotADump {
        /// The input.
        path: PathBuf,
        /// What it is.
        what: String,
    },

    /// A compressed input is damaged, or isn't what it looks like.
    #[error("{path}: damaged {what}", path = path.display())]
    Container {
        /// The input.
        path: PathBuf,
        /// What it is wrapped in.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },

    /// The input can be read from front to back only.
    #[error(
        "{path}: {what} can't be read here and there: convert it first, \
         `vmcask convert {path} vmcore.cask`",
        path = path.display()
    )]
    OnlyForward {
        /// The input.
        path: PathBuf,
        /// What it is.
        what: String,
    },

    /// The input is a text dump: what a debugger printed, and no memory.
    #[error(
        "{path}: a text dump has no memory to read: it is a tar archive of {names}",
        path = .0.path.display(),
        names = names(&.0.files)
    )]
    TextDump(Box<TextDump>),

    /// The input is a damaged dump.
    #[error("{path}", path = path.display())]
    Dump {
        /// The input.
        path: PathBuf,
        /// The cause.
        source: vmcask_dump::Error,
    },

    /// The input is a damaged archive.
    #[error("{path}", path = path.display())]
    Archive {
        /// The input.
        path: PathBuf,
        /// The cause.
        source: vmcask_archive::Error,
    },

    /// The input was written to while it was read.
    #[error("{path}", path = path.display())]
    Changed {
        /// The input.
        path: PathBuf,
        /// How that shows.
        source: io::Error,
    },

    /// The output is there already.
    #[error("{path} exists; --force replaces it", path = path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },

    /// The output would replace its own input.
    #[error("{path} is the input itself", path = path.display())]
    SameFile {
        /// The output.
        path: PathBuf,
    },

    /// The output can't be written.
    #[error("{path}: can't be written", path = path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },

    /// Standard output can't be written.
    #[error("standard output")]
    Pipe(#[source] io::Error),

    /// An object in a store, which the cause names, can't be read or written.
    #[error(transparent)]
    Remote(Box<dyn std::error::Error + Send + Sync>),

    /// A conversion that isn't possible.
    #[error("{0}")]
    Unsupported(String),

    /// The dump's bitmap can't be read.
    #[error("reading the bitmap")]
    Bitmap(#[source] vmcask_dump::Error),

    /// The dump's page tables can't be followed.
    #[error("following the page tables")]
    Mappings(#[source] vmcask_dump::Error),

    /// Reading failed half-way.
    #[error("reading {len} bytes at offset {off:#x}")]
    Read {
        /// Offset in the dump.
        off: u64,
        /// Bytes asked for.
        len: usize,
        /// The cause.
        source: io::Error,
    },

    /// Somebody asked for an end.
    #[error("interrupted")]
    Cancelled,
}

/// A text dump.
#[derive(Clone, Debug)]
pub struct TextDump {
    /// The file.
    pub path: PathBuf,
    /// The header of the dump device, where it is on one.
    pub device: Option<DeviceHeader>,
    /// Its files.
    pub files: Vec<TextFile>,
}

fn names(files: &[TextFile]) -> String {
    let names: Vec<_> = files.iter().map(|f| f.name.escape_default().to_string()).collect();
    names.join(", ")
}

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;
