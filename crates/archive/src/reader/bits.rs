//! Rank over a bitmap that lies in the index: the arrays of
//! `vmcask_rank::RankIndex`, used chunk by chunk, so that nothing is read but
//! what a lookup needs. A test holds it against `RankIndex` itself.

use std::ops::Range;
use std::sync::Arc;

use vmcask_dump::ReadAt;

use super::section::Section;
use super::sections::{Layout, field, name};
use crate::error::Result;
use crate::layout::{CHUNK_LEN, kind};

/// Words of a block.
const BLOCK_WORDS: u64 = 4;
/// Words of a superblock.
const SUPER_WORDS: u64 = 1024;

/// A bitmap with its counts.
pub(super) struct Bits {
    words: Arc<Section>,
    blocks: Arc<Section>,
    supers: Arc<Section>,
    total: u64,
}

impl Bits {
    /// The bitmap of `bits` bits whose three sections begin with kind
    /// `first`. Reads the last superblock's count.
    pub(super) fn open(layout: &Layout, src: &dyn ReadAt, first: u32, bits: u64) -> Result<Self> {
        let words = layout.section(first)?;
        let blocks = layout.section(first + 1)?;
        let supers = layout.section(first + 2)?;
        // At most 2^32 bytes of words lie in an index.
        let n = bits.div_ceil(64).next_multiple_of(BLOCK_WORDS);
        words.expect_len(n * 8)?;
        blocks.expect_len(n / BLOCK_WORDS * 2)?;
        supers.expect_len((n.div_ceil(SUPER_WORDS) + 1) * 8)?;
        let total = supers.u64(src, n.div_ceil(SUPER_WORDS))?;
        if total > bits {
            let expected = format!("a total of at most {bits}");
            return Err(field(supers.offset, name(supers.kind), total, expected));
        }
        Ok(Self { words, blocks, supers, total })
    }

    /// Set bits in all.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Set bits before bit `bit`, if it is set.
    #[inline]
    pub(super) fn find(&self, src: &dyn ReadAt, bit: u64) -> Result<Option<u64>> {
        Ok(self.find_run(src, bit)?.map(|(ordinal, _)| ordinal))
    }

    /// Set bits before bit `bit`, if it is set, and how many bits from it on are
    /// for sure, 64 at most, and no more than there are in all.
    #[inline]
    pub(super) fn find_run(&self, src: &dyn ReadAt, bit: u64) -> Result<Option<(u64, u64)>> {
        if bit / 64 >= self.words.length / 8 {
            return Ok(None);
        }
        let block = bit / 256;
        let bytes = self.words.bytes(src, block * 32, 32)?;
        let (words, _) = bytes.as_chunks::<8>();
        let within = (bit % 256) as usize;
        let word = u64::from_le_bytes(words[within / 64]);
        if word >> (within % 64) & 1 == 0 {
            return Ok(None);
        }
        let ones = |w: &[u8; 8]| u64::from(u64::from_le_bytes(*w).count_ones());
        let lower = word & ((1 << (within % 64)) - 1);
        let before =
            words[..within / 64].iter().map(ones).sum::<u64>() + u64::from(lower.count_ones());
        // The block's count reaches its middle.
        let half = ones(&words[0]) + ones(&words[1]);
        let middle = u64::from(self.blocks.u16(src, block)?);
        let ordinal = self
            .supers
            .u64(src, bit >> 16)?
            .wrapping_add(middle)
            .wrapping_add(before)
            .wrapping_sub(half);
        if ordinal >= self.total {
            let expected = format!("below {}, the bits set", self.total);
            return Err(field(self.blocks.offset, name(self.blocks.kind), ordinal, expected));
        }
        let run = u64::from((word >> (within % 64)).trailing_ones());
        Ok(Some((ordinal, run.min(self.total - ordinal))))
    }

    /// The first run of set bits at or after `from`.
    pub(super) fn next_run(&self, src: &dyn ReadAt, from: u64) -> Result<Option<Range<u64>>> {
        let Some(start) = self.next(src, from, 0)? else { return Ok(None) };
        let end = self.next(src, start, u64::MAX)?.unwrap_or(self.words.length * 8);
        Ok(Some(start..end))
    }

    /// The first bit at or after `from` that differs from those of `flip`.
    fn next(&self, src: &dyn ReadAt, from: u64, flip: u64) -> Result<Option<u64>> {
        let mut at = from / 64 * 8;
        let mut mask = u64::MAX << (from % 64);
        while at < self.words.length {
            let chunk_end = (at / CHUNK_LEN as u64 + 1) * CHUNK_LEN as u64;
            let n = chunk_end.min(self.words.length) - at;
            let (words, _) = self.words.bytes(src, at, n as usize)?.as_chunks::<8>();
            for (i, word) in words.iter().enumerate() {
                let word = (u64::from_le_bytes(*word) ^ flip) & mask;
                mask = u64::MAX;
                if word != 0 {
                    let bit = at * 8 + i as u64 * 64 + u64::from(word.trailing_zeros());
                    return Ok(Some(bit));
                }
            }
            at += n;
        }
        Ok(None)
    }

    /// The words, in order.
    pub(super) fn for_each_chunk(&self, src: &dyn ReadAt, f: impl FnMut(&[u8])) -> Result<()> {
        self.words.for_each_chunk(src, f)
    }

    /// Counts every bit: what a lookup believes.
    pub(super) fn verify(&self, src: &dyn ReadAt) -> Result<()> {
        let (mut total, mut block) = (0u64, 0u64);
        let mut wrong = None;
        self.words.for_each_chunk(src, |chunk| {
            for words in chunk.chunks(32) {
                let ones = |b: &[u8]| b.iter().map(|b| u64::from(b.count_ones())).sum::<u64>();
                let (first, second) = words.split_at(words.len() / 2);
                let middle = total + ones(first);
                let base = self.supers.u64(src, block / 256);
                let counted = self.blocks.u16(src, block);
                match (base, counted) {
                    (Ok(base), Ok(n))
                        if base.wrapping_add(n.into()) == middle
                            && (block % 256 != 0 || base == total) => {}
                    _ => wrong = wrong.or(Some(block)),
                }
                total = middle + ones(second);
                block += 1;
            }
        })?;
        if let Some(block) = wrong {
            let found = format!("another count in block {block}");
            return Err(field(self.blocks.offset, name(self.blocks.kind), found, "the bits set"));
        }
        if total != self.total {
            let kind = name(self.supers.kind);
            return Err(field(self.supers.offset, kind, self.total, format!("{total} bits")));
        }
        Ok(())
    }

    /// Of the cells.
    pub(super) fn of_cells(layout: &Layout, src: &dyn ReadAt, cells: u64) -> Result<Self> {
        Self::open(layout, src, kind::CELL_WORDS, cells)
    }
}
