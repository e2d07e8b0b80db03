//! The crate's error type.

/// Why a dump can't be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is out of its range.
    #[error("{argument} is {found}, expected {expected}")]
    Argument {
        /// The field of [`crate::Spec`].
        argument: &'static str,
        /// Its value.
        found: String,
        /// What would have been accepted.
        expected: String,
    },

    /// The file can't be written.
    #[error("writing {len} bytes at offset {off:#x}")]
    Write {
        /// Offset in the dump.
        off: u64,
        /// Bytes.
        len: usize,
        /// The cause.
        source: std::io::Error,
    },

    /// The file can't be as long as the dump.
    #[error("making the file {len} bytes long")]
    Resize {
        /// Bytes of the file.
        len: u64,
        /// The cause.
        source: std::io::Error,
    },

    /// Somebody asked for an end.
    #[error("interrupted")]
    Cancelled,
}
