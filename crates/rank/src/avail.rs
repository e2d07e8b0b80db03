//! `dump_avail`: which physical page each bit of the bitmap stands for.

use std::hint::select_unpredictable;

use crate::{Error, Pfn};

/// Up to this many ranges are scanned without a branch; above it, binary
/// search. Machines have a handful.
pub(crate) const SCAN_LIMIT: usize = 16;

/// A range of pages and the bit of its first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u64,
    pub(crate) pages: u64,
    pub(crate) bit: u64,
}

/// The range that nearly all pages lie in, where there is one; else no page.
///
/// PCs have 3 GiB below the 4 GiB line and the rest above: from 48 GiB on, that
/// rest is 15 pages out of 16. Processors foretell a branch that goes one way so
/// often, and a lookup then waits for one subtraction instead of going through
/// all ranges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Home {
    first: u64,
    pages: u64,
    /// What a page's number is above its bit's.
    above: u64,
}

impl Home {
    fn of(ranges: &[Range], total: u64) -> Self {
        let largest = (0..ranges.len()).max_by_key(|&i| ranges[i].pages);
        let Some(i) = largest.filter(|&i| ranges[i].pages >= total - total / 16) else {
            return Self::default();
        };
        let Range { first, pages, bit } = ranges[i];
        // A page shared with the range before is that one's.
        let shared = i > 0 && ranges[i - 1].first + ranges[i - 1].pages > first;
        let skip = u64::from(shared);
        Self { first: first + skip, pages: pages - skip, above: first.wrapping_sub(bit) }
    }
}

/// The ranges of physical memory that a bitmap's bits count, one after the
/// other (`sys/vm/vm_dumpset.h`). A page in a hole between them has no bit.
///
/// libkvm forgets to check a page against the start of the range it takes
/// and finds pages of an earlier range in holes. This one doesn't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AvailRanges {
    ranges: Vec<Range>,
    total: u64,
    home: Home,
}

impl AvailRanges {
    /// From pairs of physical addresses `[start, end)` in bytes, without the
    /// terminating pair, for pages of `1 << page_shift` bytes.
    ///
    /// A range counts every page it touches. Ranges that meet within a page
    /// both count it, as the kernel does; but `dump_add_page` is given the
    /// page's first address and sets the bit of the first range that holds
    /// it, never the second bit. [`AvailRanges::bit_of`] takes the first too.
    ///
    /// Fails where a range is empty or starts before the previous one's end,
    /// and where `page_shift` is 64 or more.
    pub fn new(pairs: &[(u64, u64)], page_shift: u32) -> Result<Self, Error> {
        if page_shift >= u64::BITS {
            return Err(Error::PageShift { found: page_shift, most: u64::BITS - 1 });
        }
        let mut ranges = Vec::with_capacity(pairs.len());
        let mut total = 0;
        let mut previous_end = 0;
        for (index, &(start, end)) in pairs.iter().enumerate() {
            if start < previous_end {
                return Err(Error::Unsorted { index, start, previous_end });
            }
            if end <= start {
                return Err(Error::EmptyRange { index, start, end });
            }
            previous_end = end;
            let first = start >> page_shift;
            // Disjoint ranges within 2^64 bytes: single bytes can't sum to
            // 2^64 pages, and of larger pages each range rounds out by less
            // than two.
            let pages = end.div_ceil(1 << page_shift) - first;
            ranges.push(Range { first, pages, bit: total });
            total += pages;
        }
        Ok(Self { home: Home::of(&ranges, total), ranges, total })
    }

    /// Bit n is page n, for `bits` bits: minidumps without `dump_avail`.
    pub fn identity(bits: u64) -> Self {
        let ranges = vec![Range { first: 0, pages: bits, bit: 0 }];
        Self { home: Home::of(&ranges, bits), ranges, total: bits }
    }

    /// Pages of all ranges: the bits that mean something.
    pub fn total_pages(&self) -> u64 {
        self.total
    }

    /// First page and number of pages of each range, ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Pfn, u64)> + '_ {
        self.ranges.iter().map(|r| (Pfn(r.first), r.pages))
    }

    /// The bit of page `pfn`; `None` in a hole.
    #[inline]
    pub fn bit_of(&self, pfn: Pfn) -> Option<u64> {
        let bit = self.bit_or_max(pfn);
        (bit != u64::MAX).then_some(bit)
    }

    /// The same with `u64::MAX` for `None`, for branchless callers.
    #[inline]
    pub(crate) fn bit_or_max(&self, pfn: Pfn) -> u64 {
        self.scan(pfn).unwrap_or_else(|| self.bit_by_search(pfn))
    }

    /// [`AvailRanges::bit_or_max`] where the page is in the range of nearly all,
    /// or the ranges are few enough to go through them all.
    #[inline(always)]
    pub(crate) fn scan(&self, pfn: Pfn) -> Option<u64> {
        if pfn.0.wrapping_sub(self.home.first) < self.home.pages {
            return Some(pfn.0.wrapping_sub(self.home.above));
        }
        let mut bit = u64::MAX;
        // Backwards, so that the first range wins a page that two share.
        for r in self.few()?.iter().rev() {
            let within = pfn.0.wrapping_sub(r.first);
            bit = select_unpredictable(within < r.pages, r.bit.wrapping_add(within), bit);
        }
        Some(bit)
    }

    /// The ranges; `None` where they are too many to be gone through for every
    /// page.
    pub(crate) fn few(&self) -> Option<&[Range]> {
        (self.ranges.len() <= SCAN_LIMIT).then_some(&self.ranges)
    }

    #[cold]
    fn bit_by_search(&self, pfn: Pfn) -> u64 {
        // A shared page ends the first of its two ranges, and that is the
        // one partition_point stops at.
        let i = self.ranges.partition_point(|r| r.first + r.pages <= pfn.0);
        let Some(r) = self.ranges.get(i) else { return u64::MAX };
        let within = pfn.0.wrapping_sub(r.first);
        if within < r.pages { r.bit + within } else { u64::MAX }
    }

    /// The page of bit `bit`; `None` past the last.
    pub fn pfn_of(&self, bit: u64) -> Option<Pfn> {
        let i = self.ranges.partition_point(|r| r.bit + r.pages <= bit);
        let r = self.ranges.get(i)?;
        Some(Pfn(r.first + (bit - r.bit)))
    }

    /// Cuts a run of bits where ranges meet: first page and number of pages
    /// of each piece.
    pub fn pages_of(&self, bits: std::ops::Range<u64>) -> impl Iterator<Item = (Pfn, u64)> + '_ {
        let mut at = bits.start;
        let end = bits.end.min(self.total);
        let mut i = self.ranges.partition_point(|r| r.bit + r.pages <= at);
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let r = self.ranges.get(i)?;
            i += 1;
            let first = Pfn(r.first + (at - r.bit));
            let n = (r.bit + r.pages).min(end) - at;
            at += n;
            Some((first, n))
        })
    }
}

/// The bits of some pages, which stay in registers while all ranges are gone
/// through; `hole` in a hole.
#[inline(always)]
pub(crate) fn scan_group<const N: usize>(ranges: &[Range], hole: u64, pfns: [Pfn; N]) -> [u64; N] {
    let mut bits = [hole; N];
    for &Range { first, pages, bit } in ranges.iter().rev() {
        for (bits, pfn) in bits.iter_mut().zip(&pfns) {
            let within = pfn.0.wrapping_sub(first);
            // Masks: of a choice the compiler makes branches here.
            let inside = 0u64.wrapping_sub(u64::from(within < pages));
            *bits = (*bits & !inside) | (bit.wrapping_add(within) & inside);
        }
    }
    bits
}
