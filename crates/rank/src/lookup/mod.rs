//! The lookup trait, and the two tables that libkvm has used.

mod chained_hash;
mod popcount1024;

pub use chained_hash::ChainedHash;
pub use popcount1024::Popcount1024;

use crate::Pfn;

/// A table that finds a page among the dumped ones.
pub trait PageLookup: Send + Sync {
    /// Ordinal of page `pfn` among the dumped pages, from 0; `None` where it
    /// wasn't dumped.
    fn find(&self, pfn: Pfn) -> Option<u64>;

    /// Bytes of memory that the table takes, its bitmap included where it
    /// needs one to answer.
    fn memory(&self) -> usize;
}
