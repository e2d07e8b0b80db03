//! The crate's error type.

use std::io;
use std::path::PathBuf;

/// Why something can't be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file can't be opened or read.
    #[error("{path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },

    /// An archive that can't be read.
    #[error("{path}")]
    Archive {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: vmcask_archive::Error,
    },

    /// A dump or kernel image that can't be read.
    #[error("{path}")]
    Dump {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: vmcask_dump::Error,
    },

    /// Something that has no page bitmap.
    #[error(
        "{path}: only minidumps, and archives of them, have a page bitmap to look pages up in; \
         `vmcask convert --to minidump` makes one of a core"
    )]
    NoBitmap {
        /// The file.
        path: PathBuf,
    },

    /// A dump that can be read from front to back only.
    #[error(
        "{path}: {what} can't be read here and there: convert it first, \
         `vmcask convert {path} vmcore.cask`"
    )]
    OnlyForward {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },

    /// A bitmap without a set bit.
    #[error("the dump has no pages to look up")]
    NoPages,

    /// The kernel's structures can't be followed.
    #[error(transparent)]
    Inspect(#[from] vmcask_inspect::Error),

    /// The dump's memory can't be read.
    #[error(transparent)]
    Memory(#[from] vmcask_dump::Error),

    /// Output can't be written.
    #[error("writing output")]
    Output(#[from] io::Error),
}

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;
