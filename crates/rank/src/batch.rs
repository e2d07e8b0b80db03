//! Batches of lookups, their cache misses overlapped.

use crate::Pfn;
use crate::avail::{self, Range};
use crate::index::{ABSENT, BLOCK_SHIFT, SUPER_SHIFT, to_count};
use crate::simd::{self, count_ones_portable};

/// Pages in a group.
pub(crate) const GROUP: usize = 8;
/// Groups whose lines are asked for ahead: more pages than the misses a core
/// has under way at once. Both measured, with bitmaps in L2, in L3 and in
/// memory.
const AHEAD: usize = 4;

/// An index's arrays and `dump_avail`'s ranges, borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Tables<'a> {
    pub(crate) words: &'a [u64],
    pub(crate) blocks: &'a [u16],
    pub(crate) supers: &'a [u64],
    pub(crate) ranges: &'a [Range],
}

/// A way to rank a group's bits at once.
///
/// No closures, here and below: they'd be compiled without the instructions
/// that the function around them may use. Implementations are inlined by force
/// for the same reason.
pub(crate) trait Ranks {
    /// The pages' bits, `hole` where there is none.
    #[inline(always)]
    fn bits(&self, ranges: &[Range], hole: u64, pfns: &[Pfn; GROUP]) -> [u64; GROUP] {
        avail::scan_group(ranges, hole, *pfns)
    }

    /// `out[i]` becomes the ordinal of `bits[i]`, [`ABSENT`] where not set or
    /// past the end.
    fn ranks(&self, bits: &[u64; GROUP], out: &mut [u64; GROUP]);
}

/// Looks up pages in groups, some time after asking for their cache lines.
///
/// Nothing in a batch depends on the lookup before, but a processor looks only
/// some hundred instructions ahead, and stops where it has asked for more
/// lines than it can wait for at once: groups are small, so that it counts
/// meanwhile. Beside 64 pages at a time this takes a fifth less where the
/// bitmap lies in L3.
#[inline(always)]
pub(crate) fn find(tables: &Tables, how: &impl Ranks, pfns: &[Pfn], out: &mut [u64]) {
    let n = pfns.len().min(out.len());
    let (groups, rest) = pfns[..n].as_chunks();
    let mut last = [Pfn(u64::MAX); GROUP];
    last[..rest.len()].copy_from_slice(rest);

    // Past the end, as a hole's bit has to be, but close: asking for lines at
    // addresses that can't be is slow.
    let hole = tables.words.len() as u64 * 64;
    let count = n.div_ceil(GROUP);
    let mut ring = [[0; GROUP]; AHEAD];
    for (i, bits) in ring.iter_mut().enumerate().take(count) {
        *bits = how.bits(tables.ranges, hole, groups.get(i).unwrap_or(&last));
        prefetch(tables, bits);
    }
    let (outs, rest) = out[..n].as_chunks_mut();
    let mut spare = [0; GROUP];
    for i in 0..count {
        let bits = ring[i % AHEAD];
        if i + AHEAD < count {
            let ahead = &mut ring[i % AHEAD];
            *ahead = how.bits(tables.ranges, hole, groups.get(i + AHEAD).unwrap_or(&last));
            prefetch(tables, ahead);
        }
        // One call, which is inlined: two wouldn't be.
        how.ranks(&bits, outs.get_mut(i).unwrap_or(&mut spare));
    }
    rest.copy_from_slice(&spare[..rest.len()]);
}

#[inline(always)]
fn prefetch(tables: &Tables, bits: &[u64; GROUP]) {
    for &bit in bits {
        simd::prefetch(tables.words, (bit / 64) as usize);
        simd::prefetch(tables.blocks, (bit >> BLOCK_SHIFT) as usize);
    }
}

/// With what every processor has, and what the compiler makes of it for more.
struct Portable<'a>(&'a Tables<'a>);

impl Ranks for Portable<'_> {
    /// In steps, each a loop of its own over as many as it always is: loads
    /// close together, and arithmetic that the compiler makes vectors of.
    #[inline(always)]
    fn ranks(&self, bits: &[u64; GROUP], out: &mut [u64; GROUP]) {
        let Tables { words, blocks, supers, .. } = *self.0;
        let end = words.len() as u64 * 64;
        if words.is_empty() {
            out.fill(ABSENT);
            return;
        }
        let (mut own, mut other, mut middle) = ([0; GROUP], [0; GROUP], [0; GROUP]);
        for i in 0..GROUP {
            // A branch on presence would be mispredicted for every other page
            // of a half-present batch: count for any bit, then choose.
            let at = if bits[i] < end { bits[i] } else { 0 };
            let word = (at / 64) as usize;
            (own[i], other[i]) = (words[word], words[word ^ 1]);
            middle[i] = supers[(at >> SUPER_SHIFT) as usize]
                .wrapping_add(blocks[(at >> BLOCK_SHIFT) as usize].into());
        }
        for i in 0..GROUP {
            let bit = bits[i];
            let present = u64::from(bit < end) & (own[i] >> (bit & 63));
            let (own, other, down) = to_count(bit, own[i], other[i]);
            let count = count_ones_portable(own, other);
            let ordinal = middle[i].wrapping_add((count ^ down).wrapping_sub(down));
            out[i] = if present & 1 != 0 { ordinal } else { ABSENT };
        }
    }
}

#[inline(always)]
pub(crate) fn find_portable(tables: &Tables, pfns: &[Pfn], out: &mut [u64]) {
    find(tables, &Portable(tables), pfns, out);
}
