//! The crate's error type.

use std::io;

use crate::addr::{PhysAddr, VirtAddr};

/// What can be wrong with a dump or with a question asked of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source begins like no format this crate knows.
    #[error("not a FreeBSD kernel dump: {found} at offset 0x0")]
    UnknownFormat {
        /// What it looks like instead.
        found: String,
    },

    /// A field holds a value that its format doesn't allow.
    #[error("offset {off:#x}: {field} is {found}, expected {expected}")]
    Field {
        /// File offset of the field.
        off: u64,
        /// The C name of the field.
        field: &'static str,
        /// Its value, as the file has it.
        found: String,
        /// What would have been accepted.
        expected: String,
    },

    /// A part of the dump that reading can't do without runs past the end.
    #[error(
        "the {part} ends at offset {end:#x}, but the file ends at {len:#x}: \
         the dump is cut off before its first page"
    )]
    TooShort {
        /// The part, named as in the header.
        part: &'static str,
        /// File offset at which it should end.
        end: u64,
        /// Length of the file in bytes.
        len: u64,
    },

    /// No page table entry maps the address.
    #[error("virtual address {va} is not mapped: {reason}")]
    NotMapped {
        /// The address asked for.
        va: VirtAddr,
        /// Where the translation stopped.
        reason: &'static str,
    },

    /// The kernel didn't dump the page.
    #[error("physical address {pa} is not in the dump")]
    Absent {
        /// The address asked for.
        pa: PhysAddr,
    },

    /// The kernel dumped the page, but the file ends before it.
    #[error(
        "physical address {pa} is lost: its page belongs at offset {off:#x}, \
         but the file ends at {len:#x}"
    )]
    Truncated {
        /// The address asked for.
        pa: PhysAddr,
        /// File offset where its page would be.
        off: u64,
        /// Length of the file in bytes.
        len: u64,
    },

    /// A kernel image that can't be used.
    #[error("not a usable kernel image: {what}")]
    Kernel {
        /// What is wrong or missing.
        what: String,
    },

    /// An encrypted dump (`dumpon -k`).
    #[error(
        "the dump is encrypted: save it with savecore, then decrypt it with \
         `decryptcore -p PRIVATE_KEY -k key.N -e vmcore_encrypted.N -c vmcore.N`"
    )]
    Encrypted,

    /// A thing this version doesn't do.
    #[error("{0}")]
    Unsupported(String),

    /// The source failed.
    #[error("reading {len} bytes at offset {off:#x}")]
    Io {
        /// File offset of the read.
        off: u64,
        /// Its length in bytes.
        len: usize,
        /// The cause.
        source: io::Error,
    },
}

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A dump is readable, but something about it is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// The file ends before the last page its bitmap promises.
    #[error(
        "truncated: {present} of {promised} pages are in the file \
         (it ends at {len}, the dump at {end}); the rest is absent"
    )]
    Truncated {
        /// Whole pages in the file.
        present: u64,
        /// Pages that the bitmap names.
        promised: u64,
        /// Length of the file in bytes.
        len: u64,
        /// Length that the dump should have, in bytes.
        end: u64,
    },

    /// The file ends before the last segment does.
    #[error(
        "truncated: {bytes} bytes of memory are lost (the file ends at {len}); they are absent"
    )]
    Lost {
        /// How many.
        bytes: u64,
        /// Length of the file in bytes.
        len: u64,
    },

    /// The header before the dump isn't that behind it.
    #[error(
        "the headers before and behind the dump on the device differ: part of it may have been \
         overwritten"
    )]
    LeadingHeader,

    /// savecore has been here.
    #[error("savecore has already saved and cleared this dump; parts may be overwritten since")]
    Cleared,

    /// A core without a single PT_LOAD.
    #[error("the core holds no memory at all: it has no PT_LOAD segment")]
    NoSegments,

    /// Bits past the last page are set; no page belongs to them.
    #[error("{count} spare bits at the end of the bitmap are set; they are ignored")]
    SpareBits {
        /// How many.
        count: u64,
    },

    /// The file goes on after the last page.
    #[error("{bytes} bytes follow the last page")]
    Trailing {
        /// How many.
        bytes: u64,
    },

    /// dump_avail entries were read in a width that isn't the usual one.
    #[error("dump_avail was read as {bits}-bit entries")]
    DumpAvailWidth {
        /// Bits an entry.
        bits: u32,
    },
}
