//! The extents, used where they lie in the index.

use std::ops::Range;
use std::sync::Arc;

use vmcask_dump::ReadAt;
use zerocopy::FromBytes;

use super::section::Section;
use super::sections::{Layout, field, name};
use crate::error::Result;
use crate::layout::{CELL_SIZE, CHUNK_LEN, Extent, kind};

const CELL: u64 = CELL_SIZE as u64;
const ENTRY: u64 = size_of::<Extent>() as u64;

/// Section 2.
pub(super) struct ExtentTable {
    section: Arc<Section>,
    entries: u64,
    original_len: u64,
    cells: u64,
    /// Extents of a plain archive begin and end at multiples of this.
    align: u64,
}

/// An extent that has been checked by itself.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) range: Range<u64>,
    pub(super) first_cell: u64,
}

impl Entry {
    /// The cell that holds `off`, which must lie in the extent.
    pub(super) fn cell_of(&self, off: u64) -> u64 {
        self.first_cell + (off - self.range.start) / CELL
    }

    /// Cells it has.
    pub(super) fn cells(&self) -> u64 {
        (self.range.end - self.range.start).div_ceil(CELL)
    }
}

impl ExtentTable {
    pub(super) fn open(
        layout: &Layout,
        src: &dyn ReadAt,
        original_len: u64,
        cells: u64,
        align: u64,
    ) -> Result<Self> {
        let section = layout.section(kind::EXTENTS)?;
        if !section.length.is_multiple_of(ENTRY) {
            let expected = format!("a multiple of {ENTRY} bytes");
            return Err(field(section.offset, name(kind::EXTENTS), section.length, expected));
        }
        let entries = section.length / ENTRY;
        let table = Self { section, entries, original_len, cells, align };
        // The last one tells whether the number of cells is right.
        let found = table.last(src)?.map_or(0, |last| last.first_cell + last.cells());
        if found != cells {
            let expected = format!("{cells} cells, as the summary says");
            return Err(field(table.section.offset, name(kind::EXTENTS), found, expected));
        }
        Ok(table)
    }

    /// Entry `index`, which must be one.
    pub(super) fn get(&self, src: &dyn ReadAt, index: u64) -> Result<Entry> {
        let at = index * ENTRY;
        let mut bytes = [0; ENTRY as usize];
        // 24 doesn't divide a chunk: an entry may lie in two.
        let first = (CHUNK_LEN as u64 - at % CHUNK_LEN as u64).min(ENTRY) as usize;
        bytes[..first].copy_from_slice(self.section.bytes(src, at, first)?);
        if first < bytes.len() {
            let n = bytes.len() - first;
            bytes[first..].copy_from_slice(self.section.bytes(src, at + first as u64, n)?);
        }
        let bad = || {
            let off = self.section.offset + at;
            let expected = "a range of whole cells inside the original, in its place";
            field(off, name(kind::EXTENTS), format!("{bytes:02x?}"), expected)
        };
        let e = Extent::read_from_bytes(&bytes).map_err(|_| bad())?;
        let range = e.start.get()..e.end.get();
        let first_cell = e.first_cell.get();
        if range.start >= range.end || range.end > self.original_len || first_cell >= self.cells {
            return Err(bad());
        }
        let aligned = |off: u64| off.is_multiple_of(self.align);
        if !aligned(range.start) || !(aligned(range.end) || range.end == self.original_len) {
            return Err(bad());
        }
        let entry = Entry { range, first_cell };
        if entry.cells() > self.cells - first_cell {
            return Err(bad());
        }
        Ok(entry)
    }

    pub(super) fn last(&self, src: &dyn ReadAt) -> Result<Option<Entry>> {
        self.entries.checked_sub(1).map(|last| self.get(src, last)).transpose()
    }

    /// The extent that holds original offset `off` or, failing that, the next.
    pub(super) fn at_or_after(&self, src: &dyn ReadAt, off: u64) -> Result<Option<Entry>> {
        let i = self.partition(src, |e| e.range.end <= off)?;
        if i == self.entries { Ok(None) } else { self.get(src, i).map(Some) }
    }

    /// Range of the original that cell `cell` covers; `None` past the last.
    pub(super) fn range_of(&self, src: &dyn ReadAt, cell: u64) -> Result<Option<Range<u64>>> {
        let Some(i) = self.partition(src, |e| e.first_cell <= cell)?.checked_sub(1) else {
            return Ok(None);
        };
        let e = self.get(src, i)?;
        // Only a hostile table leaves cells between two extents.
        if cell < e.first_cell || cell - e.first_cell >= e.cells() {
            return Ok(None);
        }
        let start = e.range.start + (cell - e.first_cell) * CELL;
        Ok(Some(start..(start + CELL).min(e.range.end)))
    }

    /// How many entries at the beginning are as `before` says.
    fn partition(&self, src: &dyn ReadAt, before: impl Fn(&Entry) -> bool) -> Result<u64> {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            if before(&self.get(src, middle)?) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// All of them, in order, each checked against the one before.
    pub(super) fn for_each(&self, src: &dyn ReadAt, mut f: impl FnMut(&Entry)) -> Result<()> {
        let (mut end, mut cells) = (0, 0);
        for index in 0..self.entries {
            let e = self.get(src, index)?;
            if e.range.start < end || e.first_cell != cells {
                let found = format!("{:#x} to {:#x}", e.range.start, e.range.end);
                let off = self.section.offset + index * ENTRY;
                return Err(field(off, name(kind::EXTENTS), found, "ascending, disjoint ranges"));
            }
            end = e.range.end;
            cells += e.cells();
            f(&e);
        }
        Ok(())
    }
}
