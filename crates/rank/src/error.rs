//! The crate's error type, by hand: this crate has no dependencies.

use std::fmt;

/// Why a table can't be built.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A `dump_avail` range ends before it begins, or is empty.
    EmptyRange {
        /// Index of the pair.
        index: usize,
        /// Its first physical address.
        start: u64,
        /// The address behind its last.
        end: u64,
    },
    /// A `dump_avail` range begins before the previous one ends.
    Unsorted {
        /// Index of the pair.
        index: usize,
        /// Its first physical address.
        start: u64,
        /// Where the previous one ends.
        previous_end: u64,
    },
    /// Pages larger than their size has bits for.
    PageShift {
        /// log2 of the page size.
        found: u32,
        /// What it may be.
        most: u32,
    },
    /// The superblock counts promise more pages than there are.
    Total {
        /// The last count.
        found: u64,
        /// Pages of all ranges.
        pages: u64,
    },
    /// The table's length doesn't fit its bitmap.
    Length {
        /// Which table.
        table: &'static str,
        /// Entries it has.
        found: usize,
        /// Entries it needs.
        expected: usize,
    },
    /// More pages than libkvm's 32-bit counts can count.
    TooManyPages {
        /// Pages in the bitmap.
        found: u64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyRange { index, start, end } => {
                write!(f, "range {index} from {start:#x} to {end:#x} holds nothing")
            }
            Self::Unsorted { index, start, previous_end } => write!(
                f,
                "range {index} starts at {start:#x}, before the previous one ends ({previous_end:#x})"
            ),
            Self::PageShift { found, most } => {
                write!(f, "page shift is {found}, expected at most {most}")
            }
            Self::Total { found, pages } => {
                write!(f, "last superblock count is {found}, expected at most {pages}, the pages")
            }
            Self::Length { table, found, expected } => {
                write!(f, "{table} has {found} entries, expected {expected}")
            }
            Self::TooManyPages { found } => {
                write!(f, "{found} pages are more than 32-bit counts can count")
            }
        }
    }
}

impl std::error::Error for Error {}
