//! The crate's error type.

use std::io;

/// What can be wrong with an archive, or go wrong in writing one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field holds what the format doesn't allow.
    #[error("damaged archive: offset {off:#x}: {field} is {found}, expected {expected}")]
    Field {
        /// Offset in the archive.
        off: u64,
        /// The field, named as in FORMAT.md.
        field: &'static str,
        /// Its value.
        found: String,
        /// What would have been accepted.
        expected: String,
    },

    /// A part runs past the end of the file.
    #[error("archive cut short: {part} ends at offset {end:#x}, but the file ends at {len:#x}")]
    TooShort {
        /// The part, named as in FORMAT.md.
        part: &'static str,
        /// Where it should end.
        end: u64,
        /// Length of the file in bytes.
        len: u64,
    },

    /// A checksum is wrong.
    #[error("damaged archive: {part} at offset {off:#x} ({len} bytes) doesn't match its checksum")]
    Checksum {
        /// The part, named as in FORMAT.md.
        part: &'static str,
        /// Offset in the archive.
        off: u64,
        /// Its length in bytes.
        len: u64,
    },

    /// A data frame can't be decompressed.
    #[error("damaged archive: data frame {frame} at offset {off:#x} ({len} bytes): {what}")]
    Frame {
        /// Number of the frame.
        frame: u64,
        /// Offset in the archive.
        off: u64,
        /// Compressed length in bytes.
        len: u64,
        /// What zstd says.
        what: String,
    },

    /// The content isn't what was archived, though every frame is intact.
    #[error("damaged archive: the content's digest is {found}, expected {expected}")]
    Digest {
        /// Of what the archive holds.
        found: String,
        /// What it should be.
        expected: String,
    },

    /// Written by a newer version.
    #[error("this archive needs a newer reader: {0}")]
    TooNew(String),

    /// The plan doesn't fit its source.
    #[error("can't be archived: {0}")]
    Plan(String),

    /// The source failed.
    #[error("reading {len} bytes at offset {off:#x}")]
    Read {
        /// Offset in the source.
        off: u64,
        /// Bytes asked for.
        len: usize,
        /// The cause.
        source: io::Error,
    },

    /// The source isn't what it was when it was read first.
    #[error(
        "offset {off:#x}: the file has changed while it was read; try again when it is complete"
    )]
    Changed {
        /// Offset in the source.
        off: u64,
    },

    /// The output failed.
    #[error("writing the archive")]
    Write(#[source] io::Error),

    /// zstd failed to compress.
    #[error("compressing: {0}")]
    Compress(String),

    /// Somebody asked for an end.
    #[error("interrupted")]
    Cancelled,
}

impl Error {
    /// The threads that compress are gone.
    pub(crate) fn ended() -> Self {
        Self::Compress("a worker thread has ended".into())
    }
}

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;
