//! Rank and select over page bitmaps: where a physical page lies in a
//! FreeBSD minidump.
//!
//! A minidump stores the pages whose bits are set, in ascending order of
//! their bits. So the place of a page among them is the number of set bits
//! before its own: its *rank*. [`RankIndex`] answers that in a few
//! nanoseconds; [`ChainedHash`] and [`Popcount1024`] are the two ways libkvm
//! has done it, kept here to be measured against.
//!
//! ```
//! use vmcask_rank::{AvailRanges, PageBitmap, PageLookup, Pfn, RankIndex};
//!
//! // Memory from 0 to 1 MiB and from 4 GiB to 4 GiB + 1 MiB: 512 pages.
//! let avail = AvailRanges::new(&[(0, 1 << 20), (1 << 32, (1 << 32) + (1 << 20))], 12)?;
//! let mut words = vec![0u64; 8];
//! words[0] = 0b1010; // pages 1 and 3
//! words[4] = 0b1; // the first page at 4 GiB
//! let bitmap = PageBitmap::from_words(words, avail.total_pages());
//!
//! let index = RankIndex::build(bitmap, avail);
//! assert_eq!(index.find(Pfn(1)), Some(0));
//! assert_eq!(index.find(Pfn(2)), None); // not dumped
//! assert_eq!(index.find(Pfn(1 << 20)), Some(2));
//! assert_eq!(index.find(Pfn(1000)), None); // in the hole between the ranges
//! assert_eq!(index.select(2), Some(Pfn(1 << 20)));
//! # Ok::<(), vmcask_rank::Error>(())
//! ```

#![deny(unsafe_code)]

mod avail;
mod batch;
mod bitmap;
mod error;
mod index;
mod lookup;
mod simd;

pub use avail::AvailRanges;
pub use bitmap::PageBitmap;
pub use error::Error;
pub use index::{ABSENT, OwnedRankIndex, RankIndex};
pub use lookup::{ChainedHash, PageLookup, Popcount1024};
#[doc(hidden)] // for what the index is measured against
pub use simd::Popcnt;
pub use simd::batch_path;

/// A physical page number: a physical address divided by the page size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Pfn(pub u64);
