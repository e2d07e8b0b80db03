//! Who answers where a page lies: the dump's bitmap, counted, or the store
//! that the dump is in.

use std::io;
use std::sync::{Arc, OnceLock};

use vmcask_rank::{AvailRanges, OwnedRankIndex, PageLookup};

use crate::Result;
use crate::addr::Pfn;

/// A store that knows where the pages of the minidump in it lie, as archives
/// do: their index has the counted bitmap, ready to use.
pub trait PageMap: Send + Sync {
    /// What dump it is the map of.
    fn shape(&self) -> MapShape;

    /// How many dumped pages come before page `pfn`; `None` where it isn't
    /// dumped. An error where the map can't be read or is damaged.
    fn ordinal(&self, pfn: Pfn) -> io::Result<Option<u64>>;
}

/// What a [`PageMap`] is the map of. One that doesn't fit the dump's headers
/// isn't used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    /// Where the first page starts in the dump, in bytes.
    pub first_page: u64,
    /// log2 of a page's bytes.
    pub page_shift: u32,
    /// Pages that have a bit.
    pub pages: u64,
    /// Those that are dumped.
    pub dumped: u64,
}

pub(super) enum Pages {
    Counted(OwnedRankIndex),
    Mapped { map: Arc<dyn PageMap>, avail: AvailRanges, counted: OnceLock<OwnedRankIndex> },
}

impl Pages {
    pub(super) fn mapped(map: Arc<dyn PageMap>, avail: AvailRanges) -> Self {
        Self::Mapped { map, avail, counted: OnceLock::new() }
    }

    pub(super) fn ordinal(&self, pfn: Pfn) -> io::Result<Option<u64>> {
        match self {
            Self::Counted(index) => Ok(index.find(pfn)),
            Self::Mapped { map, counted, .. } => match counted.get() {
                Some(index) => Ok(index.find(pfn)),
                None => map.ordinal(pfn),
            },
        }
    }

    pub(super) fn avail(&self) -> &AvailRanges {
        match self {
            Self::Counted(index) => index.avail(),
            Self::Mapped { avail, .. } => avail,
        }
    }

    /// The counted bitmap; `count` makes it where nobody has asked before.
    pub(super) fn index(
        &self,
        count: impl FnOnce(AvailRanges) -> Result<OwnedRankIndex>,
    ) -> Result<&OwnedRankIndex> {
        match self {
            Self::Counted(index) => Ok(index),
            Self::Mapped { avail, counted, .. } => {
                if let Some(index) = counted.get() {
                    return Ok(index);
                }
                let index = count(avail.clone())?;
                Ok(counted.get_or_init(|| index))
            }
        }
    }
}
