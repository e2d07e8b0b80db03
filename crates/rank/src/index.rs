//! [`RankIndex`]: two small arrays of counts beside an untouched bitmap.
//!
//! A 64-bit count for every 2^16 bits (a superblock), and for every 256 bits
//! (a block) a 16-bit count from the superblock's start to the block's
//! *middle*: from there a lookup counts up or down at most 128 bits, two
//! words. 6.35 % beside the bitmap.

use crate::avail::{AvailRanges, Range};
use crate::batch::Tables;
use crate::bitmap::{self, PageBitmap};
use crate::lookup::PageLookup;
use crate::simd::{self, Popcnt, count_ones_portable};
use crate::{Error, Pfn};

/// log2 of a block's bits.
pub(crate) const BLOCK_SHIFT: u32 = 8;
/// log2 of a superblock's bits. 16-bit counts reach: the last middle of a
/// superblock has at most 2^16 - 128 bits before it.
pub(crate) const SUPER_SHIFT: u32 = 16;
pub(crate) const BLOCK_WORDS: usize = 1 << (BLOCK_SHIFT - 6);
pub(crate) const SUPER_WORDS: usize = 1 << (SUPER_SHIFT - 6);

/// What [`RankIndex::find_batch`] answers for an absent page.
pub const ABSENT: u64 = u64::MAX;

/// A rank index that owns its parts.
pub type OwnedRankIndex = RankIndex<Vec<u64>, Vec<u16>, Vec<u64>>;

/// Rank and select over a page bitmap. `W`, `B` and `S` hold its three
/// arrays: vectors, or slices of a memory map.
#[derive(Clone, Debug)]
pub struct RankIndex<W, B, S> {
    words: W,
    blocks: B,
    supers: S,
    avail: AvailRanges,
    popcnt: Option<Popcnt>,
}

impl OwnedRankIndex {
    /// Counts the bitmap. Its bits are those of `avail`, one after the other;
    /// any behind the last page are ignored.
    pub fn build(mut bitmap: PageBitmap, avail: AvailRanges) -> Self {
        if bitmap.bits() > avail.total_pages() {
            bitmap = PageBitmap::from_words(bitmap.into_words(), avail.total_pages());
        }
        let words = bitmap.into_words();
        let (blocks, supers) = simd::count(&words);
        Self { words, blocks, supers, avail, popcnt: Popcnt::detect() }
    }

    /// The index as a processor without POPCNT has it.
    #[cfg(test)]
    pub(crate) fn without_popcnt(self) -> Self {
        Self { popcnt: None, ..self }
    }
}

impl<W, B, S> RankIndex<W, B, S>
where
    W: AsRef<[u64]> + Send + Sync,
    B: AsRef<[u16]> + Send + Sync,
    S: AsRef<[u64]> + Send + Sync,
{
    /// Takes arrays that [`RankIndex::words`], [`RankIndex::blocks`] and
    /// [`RankIndex::supers`] once gave out.
    ///
    /// Checks their lengths and the total, nothing else: that takes no time
    /// whatever their size. Counts that don't belong to the bitmap make wrong
    /// answers, never a panic.
    ///
    /// ```
    /// # use vmcask_rank::{AvailRanges, PageBitmap, PageLookup, Pfn, RankIndex};
    /// let pages = AvailRanges::identity(256);
    /// let built = RankIndex::build(PageBitmap::from_words(vec![0b110], 256), pages.clone());
    /// // As slices of a memory map would be.
    /// let index = RankIndex::from_parts(built.words(), built.blocks(), built.supers(), pages)?;
    /// assert_eq!(index.find(Pfn(2)), Some(1));
    /// # Ok::<(), vmcask_rank::Error>(())
    /// ```
    pub fn from_parts(words: W, blocks: B, supers: S, avail: AvailRanges) -> Result<Self, Error> {
        let (w, b, s) = (words.as_ref().len(), blocks.as_ref().len(), supers.as_ref().len());
        let most = (avail.total_pages().div_ceil(64) as usize).next_multiple_of(BLOCK_WORDS);
        let length = |table, found, expected| Error::Length { table, found, expected };
        // Fewer words are a bitmap whose end is missing: pages not dumped.
        if w > most || !w.is_multiple_of(BLOCK_WORDS) {
            return Err(length("bitmap words", w, most));
        }
        if b != w / BLOCK_WORDS {
            return Err(length("block counts", b, w / BLOCK_WORDS));
        }
        if s != w.div_ceil(SUPER_WORDS) + 1 {
            return Err(length("superblock counts", s, w.div_ceil(SUPER_WORDS) + 1));
        }
        let total = supers.as_ref().last().copied().unwrap_or(0);
        if total > avail.total_pages() {
            return Err(Error::Total { found: total, pages: avail.total_pages() });
        }
        Ok(Self { words, blocks, supers, avail, popcnt: Popcnt::detect() })
    }

    /// The bitmap, a multiple of 4 words, zeros behind the last bit.
    pub fn words(&self) -> &[u64] {
        self.words.as_ref()
    }

    /// The 16-bit counts, one for every 4 words.
    pub fn blocks(&self) -> &[u16] {
        self.blocks.as_ref()
    }

    /// The 64-bit counts, one for every 1024 words and the total behind them.
    pub fn supers(&self) -> &[u64] {
        self.supers.as_ref()
    }

    /// The ranges of memory that the bits stand for.
    pub fn avail(&self) -> &AvailRanges {
        &self.avail
    }

    /// Set bits in all.
    pub fn total(&self) -> u64 {
        self.supers().last().copied().unwrap_or(0)
    }

    /// Set bits before bit `bit`; all of them past the end.
    pub fn rank(&self, bit: u64) -> u64 {
        let (words, blocks, supers) = (self.words(), self.blocks(), self.supers());
        if bit >= words.len() as u64 * 64 {
            return self.total();
        }
        match self.popcnt {
            Some(popcnt) => rank_in(words, blocks, supers, bit, |a, b| popcnt.count_ones(a, b)),
            None => rank_in(words, blocks, supers, bit, count_ones_portable),
        }
    }

    /// Where counting is slow, or a search takes the place of a scan: the whole
    /// lookup by itself. A call in the midst of [`PageLookup::find`] would cost
    /// every lookup the registers it saves around it.
    #[cold]
    #[inline(never)]
    fn find_slowly(&self, pfn: Pfn) -> Option<u64> {
        let bit = self.avail.bit_of(pfn)?;
        let word = self.words().get((bit / 64) as usize)?;
        (word >> (bit % 64) & 1 != 0).then(|| self.rank(bit))
    }

    /// The page at `ordinal` among the dumped ones; `None` past the last.
    pub fn select(&self, ordinal: u64) -> Option<Pfn> {
        self.avail.pfn_of(self.select_bit(ordinal)?)
    }

    /// The bit that has `ordinal` set bits before it.
    pub fn select_bit(&self, ordinal: u64) -> Option<u64> {
        if ordinal >= self.total() {
            return None;
        }
        let (words, supers) = (self.words(), self.supers());
        let superblock = supers.partition_point(|&s| s <= ordinal).checked_sub(1)?;
        let first = superblock << (SUPER_SHIFT - BLOCK_SHIFT);
        let blocks = self.blocks();
        let last = (first + (1 << (SUPER_SHIFT - BLOCK_SHIFT))).min(blocks.len());
        let mut left = ordinal.wrapping_sub(supers[superblock]);
        // From the last middle at or before it: at most 256 bits to go.
        let middles = blocks.get(first..last)?;
        let before = middles.partition_point(|&m| u64::from(m) <= left);
        let mut word = first * BLOCK_WORDS;
        if let Some(block) = before.checked_sub(1) {
            left -= u64::from(middles[block]);
            word += block * BLOCK_WORDS + BLOCK_WORDS / 2;
        }
        for (i, &w) in words.get(word..)?.iter().enumerate().take(BLOCK_WORDS + 1) {
            let ones = u64::from(w.count_ones());
            if left < ones {
                return Some((word + i) as u64 * 64 + u64::from(select_in_word(w, left)));
            }
            left -= ones;
        }
        None
    }

    /// The first run of set bits at or after bit `from`, its start cut there.
    pub fn next_run(&self, from: u64) -> Option<std::ops::Range<u64>> {
        bitmap::next_run(self.words(), from)
    }

    /// Looks up a slice of pages at once, their cache misses overlapped:
    /// `out[i]` becomes the ordinal of `pfns[i]`, or [`ABSENT`]. Looks up as
    /// many as the shorter slice has.
    ///
    /// ```
    /// # use vmcask_rank::{ABSENT, AvailRanges, PageBitmap, Pfn, RankIndex};
    /// let bitmap = PageBitmap::from_words(vec![0b1010], 64);
    /// let index = RankIndex::build(bitmap, AvailRanges::identity(64));
    /// let mut ordinals = [0; 3];
    /// index.find_batch(&[Pfn(1), Pfn(2), Pfn(3)], &mut ordinals);
    /// assert_eq!(ordinals, [0, ABSENT, 1]);
    /// ```
    pub fn find_batch(&self, pfns: &[Pfn], out: &mut [u64]) {
        self.in_batches(simd::find_batch, pfns, out);
    }

    /// [`RankIndex::find_batch`] as processors without AVX-512 do it: for
    /// measuring.
    pub fn find_batch_scalar(&self, pfns: &[Pfn], out: &mut [u64]) {
        self.in_batches(simd::find_batch_scalar, pfns, out);
    }

    pub(crate) fn in_batches(
        &self,
        find: fn(&Tables, &[Pfn], &mut [u64]),
        pfns: &[Pfn],
        out: &mut [u64],
    ) {
        let (words, blocks, supers) = (self.words(), self.blocks(), self.supers());
        if let Some(ranges) = self.avail.few() {
            return find(&Tables { words, blocks, supers, ranges }, pfns, out);
        }
        // Many ranges are searched, and bits then looked up as if they were
        // pages.
        let all = [Range { first: 0, pages: self.avail.total_pages(), bit: 0 }];
        let tables = Tables { words, blocks, supers, ranges: &all };
        let mut bits = [Pfn(0); 512];
        for (pfns, out) in pfns.chunks(bits.len()).zip(out.chunks_mut(bits.len())) {
            for (bit, &pfn) in bits.iter_mut().zip(pfns) {
                *bit = Pfn(self.avail.bit_or_max(pfn));
            }
            find(&tables, &bits[..pfns.len()], out);
        }
    }

    /// Runs of dumped pages in ascending order: first page, number of pages,
    /// ordinal of the first. A run ends where its range of memory ends.
    pub fn page_runs(&self) -> impl Iterator<Item = (Pfn, u64, u64)> + '_ {
        let mut ordinal = 0;
        bitmap::runs(self.words()).flat_map(|bits| self.avail.pages_of(bits)).map(
            move |(pfn, pages)| {
                let at = ordinal;
                ordinal += pages;
                (pfn, pages, at)
            },
        )
    }
}

impl<W, B, S> PageLookup for RankIndex<W, B, S>
where
    W: AsRef<[u64]> + Send + Sync,
    B: AsRef<[u16]> + Send + Sync,
    S: AsRef<[u64]> + Send + Sync,
{
    /// Inlined by force: its callers are loops, and what a call takes from them
    /// is a third of a lookup in L3 where absent pages can be foretold.
    #[inline(always)]
    fn find(&self, pfn: Pfn) -> Option<u64> {
        let (Some(popcnt), Some(bit)) = (self.popcnt, self.avail.scan(pfn)) else {
            return self.find_slowly(pfn);
        };
        // A branch, here rather than behind a call: where absent pages can be
        // foretold, the lookup after them needn't wait for their word.
        let word = self.words().get((bit / 64) as usize)?;
        if word >> (bit % 64) & 1 == 0 {
            return None;
        }
        let count_ones = |a, b| popcnt.count_ones(a, b);
        Some(rank_in(self.words(), self.blocks(), self.supers(), bit, count_ones))
    }

    fn memory(&self) -> usize {
        size_of_val(self.words()) + size_of_val(self.blocks()) + size_of_val(self.supers())
    }
}

/// The position of set bit number `n` of a word that has more than `n`.
fn select_in_word(mut word: u64, n: u64) -> u32 {
    for _ in 0..n {
        word &= word - 1;
    }
    word.trailing_zeros()
}

/// Set bits before `bit`, which must lie in `words`.
#[inline(always)]
fn rank_in(
    words: &[u64],
    blocks: &[u16],
    supers: &[u64],
    bit: u64,
    count_ones: impl Fn(u64, u64) -> u64,
) -> u64 {
    let at = (bit / 64) as usize;
    let (own, other, down) = to_count(bit, words[at], words[at ^ 1]);
    let middle = supers[(bit >> SUPER_SHIFT) as usize]
        .wrapping_add(blocks[(bit >> BLOCK_SHIFT) as usize].into());
    middle.wrapping_add((count_ones(own, other) ^ down).wrapping_sub(down))
}

/// Of the half block that holds `bit`, its own word and the other, the set bits
/// between it and the block's middle; and whether their number is to be taken
/// off the middle's count: all ones, or 0.
#[inline(always)]
pub(crate) fn to_count(bit: u64, own: u64, other: u64) -> (u64, u64, u64) {
    let below = (1u64 << (bit & 63)) - 1;
    // In the upper half count up from the middle, in the lower one down to
    // it: all ones turn the count's sign and the mask around.
    let down = ((bit >> (BLOCK_SHIFT - 1)) & 1).wrapping_sub(1);
    // The other word lies between where its own is the farther one: the upper
    // half's high word, the lower half's low one.
    let between = 0u64.wrapping_sub(((bit >> 6) ^ down) & 1);
    (own & (below ^ down), other & between, down)
}

/// Block and superblock counts of a bitmap of whole blocks.
#[inline(always)]
pub(crate) fn count_portable(words: &[u64]) -> (Vec<u16>, Vec<u64>) {
    const FOUR: usize = 4 * BLOCK_WORDS;
    // Filled, not pushed to: asking for room block by block costs a third.
    let mut blocks = vec![0; words.len() / BLOCK_WORDS];
    let mut supers = Vec::with_capacity(words.len().div_ceil(SUPER_WORDS) + 1);
    let mut total = 0;
    let of_super = SUPER_WORDS / BLOCK_WORDS;
    for (words, middles) in words.chunks(SUPER_WORDS).zip(blocks.chunks_mut(of_super)) {
        supers.push(total);
        let mut within = 0;
        let (fours, rest) = words.as_chunks::<FOUR>();
        let (middles, last) = middles.as_chunks_mut::<4>();
        for (words, middles) in fours.iter().zip(middles) {
            within = count_blocks(words, middles, within);
        }
        total += count_blocks(rest, last, within);
    }
    supers.push(total);
    (blocks, supers)
}

/// Counts whole blocks with `within` set bits before them in their
/// superblock; the number behind them.
#[inline(always)]
pub(crate) fn count_blocks(words: &[u64], middles: &mut [u16], mut within: u64) -> u64 {
    for (&[a, b, c, d], middle) in words.as_chunks::<BLOCK_WORDS>().0.iter().zip(middles) {
        let lower = count_ones_portable(a, b);
        let upper = count_ones_portable(c, d);
        *middle = (within + lower) as u16;
        // One addition from block to block: the next needn't wait for two.
        within += lower + upper;
    }
    within
}
