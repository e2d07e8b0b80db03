//! What an archive is told about its original: extents, page map, metadata.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// How to archive a source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Ranges of the source that may hold data, ascending, disjoint, not
    /// empty. Everything outside them must be zeros. Cells are counted from
    /// each extent's start.
    pub extents: Vec<Range<u64>>,
    /// The source is a stream whose length isn't known for sure: the last
    /// extent goes on until it ends, and where it ends sooner, the extents are
    /// cut there. There must be no holes before the last extent.
    pub open_end: bool,
    /// Where physical pages lie in the source.
    pub page_map: Option<PageMap>,
    /// What the source is.
    pub metadata: Metadata,
}

impl Plan {
    /// A plan for a file of which nothing is known: one extent.
    pub fn whole(len: u64) -> Self {
        let extents = if len == 0 { vec![] } else { std::iter::once(0..len).collect() };
        Self { extents, ..Self::default() }
    }
}

/// What the original was: FORMAT.md 9. Readers keep nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Format, e.g. `minidump`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Architecture, FreeBSD's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Version of the format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Program and version that wrote the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<String>,
}

/// Where a physical page lies in the original: FORMAT.md 10.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageMap {
    /// A minidump's bitmap with its counts.
    Minidump(MinidumpPages),
    /// The PT_LOADs of an ELF core, in file order.
    Segments(Vec<PtLoad>),
}

/// A minidump's bitmap: the parts of a `vmcask_rank::RankIndex`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MinidumpPages {
    /// log2 of the page size in bytes.
    pub page_shift: u32,
    /// Offset of the first dumped page in the original, in bytes.
    pub first_page: u64,
    /// Bits that mean a page.
    pub pages: u64,
    /// Pairs of `dump_avail`; none where bit n is page n.
    pub dump_avail: Vec<(u64, u64)>,
    /// The bitmap, a multiple of 4 words.
    pub words: Vec<u64>,
    /// Counts of blocks.
    pub blocks: Vec<u16>,
    /// Counts of superblocks.
    pub supers: Vec<u64>,
}

/// A PT_LOAD; the C names of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PtLoad {
    pub p_paddr: u64,
    pub p_vaddr: u64,
    pub p_offset: u64,
    pub p_filesz: u64,
    pub p_memsz: u64,
}
