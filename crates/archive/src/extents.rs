//! Cells: numbered through all extents.

use std::ops::Range;

use crate::layout::CELL_SIZE;

const CELL: u64 = CELL_SIZE as u64;

/// Extents with the number of the first cell of each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extents {
    ranges: Vec<Range<u64>>,
    /// One more than there are ranges: the total ends it.
    first_cells: Vec<u64>,
}

/// Why a list of extents is none.
pub(crate) struct BadExtent {
    pub(crate) index: usize,
    pub(crate) found: String,
}

impl Extents {
    /// Checks that they are ascending, disjoint, not empty, and end by `len`.
    pub(crate) fn new(ranges: Vec<Range<u64>>, len: u64) -> Result<Self, BadExtent> {
        let mut first_cells = Vec::with_capacity(ranges.len() + 1);
        let mut cells = 0;
        let mut end = 0;
        for (index, r) in ranges.iter().enumerate() {
            if r.start < end || r.end <= r.start || r.end > len {
                let found = format!("{:#x} to {:#x}", r.start, r.end);
                return Err(BadExtent { index, found });
            }
            end = r.end;
            first_cells.push(cells);
            cells += (r.end - r.start).div_ceil(CELL);
        }
        first_cells.push(cells);
        Ok(Self { ranges, first_cells })
    }

    pub(crate) fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Cells in all.
    pub(crate) fn cells(&self) -> u64 {
        self.first_cells.last().copied().unwrap_or(0)
    }

    /// Whether an extent begins at `off`.
    pub(crate) fn starts_at(&self, off: u64) -> bool {
        self.ranges.binary_search_by_key(&off, |r| r.start).is_ok()
    }

    /// Number of the first cell of extent `index`, which must be one.
    pub(crate) fn first_cell(&self, index: usize) -> u64 {
        self.first_cells[index]
    }
}
