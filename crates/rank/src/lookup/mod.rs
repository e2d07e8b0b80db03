//! The lookup trait, and the two tables that libkvm has used.

mod chained_hash;
mod popcount1024;

pub use chained_hash::ChainedHash;
pub use popcount1024::Popcount1024;

use crate::Pfn;

/// First address of a page; `None` past 2^64.
fn address(pfn: Pfn, page_shift: u32) -> Option<u64> {
    pfn.0.checked_shl(page_shift).filter(|pa| pa >> page_shift == pfn.0)
}

/// A table that finds a page among the dumped ones.
pub trait PageLookup: Send + Sync {
    /// Ordinal of page `pfn` among the dumped pages, from 0; `None` where it
    /// wasn't dumped.
    fn find(&self, pfn: Pfn) -> Option<u64>;

    /// Bytes of memory that the table takes, its bitmap included where it
    /// needs one to answer.
    fn memory(&self) -> usize;
}
