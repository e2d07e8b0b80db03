//! Batches of lookups, their cache misses overlapped.

use crate::Pfn;
use crate::avail::{self, Range};
use crate::index::{ABSENT, BLOCK_SHIFT, SUPER_SHIFT, to_count};
use crate::simd::{self, count_ones_portable};

/// Pages in a group.
pub(crate) const GROUP: usize = 8;
/// Groups from placing one to counting up to its middles. Its places are stored
/// as vectors and loaded one by one: from the store queue that takes three times
/// as long as from L1, which they reach meanwhile.
const PLACED: usize = 3;
/// Groups from asking for one's words to counting in them: with [`PLACED`]'s the
/// pages are more than the misses a core has under way at once. Both measured,
/// with bitmaps in L1, in L3 and in memory.
const AHEAD: usize = 3;
/// Groups under way, and a power of two.
const RING: usize = 8;
const _: () = assert!(PLACED + AHEAD < RING);

/// An index's arrays and `dump_avail`'s ranges, borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Tables<'a> {
    pub(crate) words: &'a [u64],
    pub(crate) blocks: &'a [u16],
    pub(crate) supers: &'a [u64],
    pub(crate) ranges: &'a [Range],
}

/// A group of pages under way.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
pub(crate) struct Group {
    /// Their bits, past the end of the bitmap for pages that have none.
    pub(crate) bits: [u64; GROUP],
    /// The first word of each bit's half of a block; 0 for bits past the end.
    pub(crate) halves: [u64; GROUP],
    /// The counts up to the middles of the blocks.
    pub(crate) middles: [u64; GROUP],
}

/// The block of a half that begins at word `half`.
#[inline(always)]
pub(crate) fn block_of(half: u64) -> usize {
    (half >> (BLOCK_SHIFT - 6)) as usize
}

/// A way to look up a group at once, in a bitmap that isn't empty.
///
/// No closures, here and below: they'd be compiled without the instructions
/// that the function around them may use. Implementations are inlined by force
/// for the same reason.
pub(crate) trait Ranks {
    /// `bits` and `halves` become those of the pages.
    fn place(&self, pfns: &[Pfn; GROUP], group: &mut Group);

    /// `middles` becomes what the blocks of `halves` have, and the halves'
    /// cache lines are asked for.
    fn middles(&self, group: &mut Group);

    /// `out[i]` becomes the ordinal of the group's page `i`, [`ABSENT`] where
    /// its bit isn't set or is past the end.
    fn ranks(&self, group: &Group, out: &mut [u64; GROUP]);
}

/// Looks up pages in groups, in three steps: where they are, their blocks'
/// counts, their words.
///
/// Nothing in a batch depends on the lookup before, but a processor looks only
/// some hundred instructions ahead, and stops where it has asked for more
/// lines than it can wait for at once: groups are small, so that it counts
/// meanwhile. Beside 64 pages at a time this takes a fifth less where the
/// bitmap lies in L3. The counts are a sixteenth of the bitmap, in L2 or L3
/// for all but the largest machines: they are loaded without having been asked
/// for.
#[inline(always)]
pub(crate) fn find(tables: &Tables, how: &impl Ranks, pfns: &[Pfn], out: &mut [u64]) {
    let n = pfns.len().min(out.len());
    if tables.words.is_empty() {
        out[..n].fill(ABSENT);
        return;
    }
    let (groups, rest) = pfns[..n].as_chunks();
    let mut last = [Pfn(u64::MAX); GROUP];
    last[..rest.len()].copy_from_slice(rest);
    let (outs, rest) = out[..n].as_chunks_mut();
    let mut spare = [0; GROUP];

    let count = n.div_ceil(GROUP);
    let mut ring = [Group::default(); RING];
    for i in 0..count + PLACED + AHEAD {
        if i < count {
            how.place(groups.get(i).unwrap_or(&last), &mut ring[i % RING]);
        }
        let Some(i) = i.checked_sub(PLACED) else { continue };
        if i < count {
            how.middles(&mut ring[i % RING]);
        }
        let Some(i) = i.checked_sub(AHEAD) else { continue };
        how.ranks(&ring[i % RING], outs.get_mut(i).unwrap_or(&mut spare));
    }
    rest.copy_from_slice(&spare[..rest.len()]);
}

/// With what every processor has, and what the compiler makes of it for more.
struct Portable<'a>(&'a Tables<'a>);

impl Ranks for Portable<'_> {
    #[inline(always)]
    fn place(&self, pfns: &[Pfn; GROUP], group: &mut Group) {
        let end = self.0.words.len() as u64 * 64;
        group.bits = avail::scan_group(self.0.ranges, end, *pfns);
        for (half, &bit) in group.halves.iter_mut().zip(&group.bits) {
            let at = if bit < end { bit } else { 0 };
            *half = at >> (BLOCK_SHIFT - 1) << 1;
        }
    }

    #[inline(always)]
    fn middles(&self, group: &mut Group) {
        let Tables { words, blocks, supers, .. } = *self.0;
        for (middle, &half) in group.middles.iter_mut().zip(&group.halves) {
            simd::prefetch(words, half as usize);
            let block = block_of(half);
            let superblock = supers[block >> (SUPER_SHIFT - BLOCK_SHIFT)];
            *middle = superblock.wrapping_add(blocks[block].into());
        }
    }

    /// In two loops over as many as it always is: loads close together, and
    /// arithmetic that the compiler makes vectors of.
    #[inline(always)]
    fn ranks(&self, group: &Group, out: &mut [u64; GROUP]) {
        let words = self.0.words;
        let end = words.len() as u64 * 64;
        let (mut own, mut other) = ([0; GROUP], [0; GROUP]);
        for i in 0..GROUP {
            let word = group.halves[i] as usize + (group.bits[i] >> 6 & 1) as usize;
            (own[i], other[i]) = (words[word], words[word ^ 1]);
        }
        for i in 0..GROUP {
            // A branch on presence would be mispredicted for every other page
            // of a half-present batch: count for any bit, then choose.
            let bit = group.bits[i];
            let present = u64::from(bit < end) & (own[i] >> (bit & 63));
            let (own, other, down) = to_count(bit, own[i], other[i]);
            let count = count_ones_portable(own, other);
            let ordinal = group.middles[i].wrapping_add((count ^ down).wrapping_sub(down));
            out[i] = if present & 1 != 0 { ordinal } else { ABSENT };
        }
    }
}

#[inline(always)]
pub(crate) fn find_portable(tables: &Tables, pfns: &[Pfn], out: &mut [u64]) {
    find(tables, &Portable(tables), pfns, out);
}
