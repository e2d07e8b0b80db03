//! The crate's error type.

use std::io;
use std::path::PathBuf;

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

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;
