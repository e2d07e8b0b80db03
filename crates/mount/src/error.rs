//! The crate's error type.

use std::io;
use std::path::PathBuf;

/// Why nothing is mounted, or is no longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no folder to mount on.
    #[error("{dir}: no folder to mount on", dir = dir.display())]
    Folder {
        /// Where.
        dir: PathBuf,
        /// The cause.
        source: io::Error,
    },

    /// The kernel has no FUSE.
    #[error("there is no {device}, so nothing can be mounted: {hint}")]
    NoFuse {
        /// FUSE's device.
        device: &'static str,
        /// What may help.
        hint: &'static str,
    },

    /// Only root mounts without a helper.
    #[error("mounting needs {helper}, which can't be run: {hint}")]
    NoHelper {
        /// The program.
        helper: &'static str,
        /// What may help.
        hint: &'static str,
    },

    /// The kernel, or the helper, says no.
    #[error("{dir}: can't be mounted", dir = dir.display())]
    Mount {
        /// Where.
        dir: PathBuf,
        /// The cause.
        source: io::Error,
    },

    /// It can't be unmounted.
    #[error("{dir}: can't be unmounted", dir = dir.display())]
    Unmount {
        /// Where.
        dir: PathBuf,
        /// The cause.
        source: io::Error,
    },

    /// The connection to the kernel broke.
    #[error("{dir}: the mount ended", dir = dir.display())]
    Serve {
        /// Where.
        dir: PathBuf,
        /// The cause.
        source: io::Error,
    },

    /// Built for a system that this crate can't mount on.
    #[error(
        "mounting isn't supported on this system; `vmcask convert` writes the same files to disk"
    )]
    Unsupported,
}

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;
