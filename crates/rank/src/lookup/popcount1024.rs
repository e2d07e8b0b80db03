//! libkvm's cached population counts since 2016 (r302976,
//! `lib/libkvm/kvm_private.c`, `_kvm_pt_find`).

use super::PageLookup;
use crate::{AvailRanges, Error, PageBitmap, Pfn};

/// `POPCOUNT_BITS`: one cached count for this many bits.
const POPCOUNT_BITS: u64 = 1024;
const WORD_BITS: u64 = 64;

/// A 32-bit count for every 1024 bits, then population counts of words from
/// the nearer end. Counts of words compile to what the target's baseline
/// offers, as `__builtin_popcountll` does in FreeBSD's own build: on x86-64
/// that is arithmetic, not the POPCNT instruction.
pub struct Popcount1024 {
    bitmap: Vec<u64>,
    popcounts: Vec<u32>,
    avail: AvailRanges,
}

impl Popcount1024 {
    /// Takes the bitmap as libkvm keeps what it has read. Fails where the
    /// pages don't fit into its 32-bit counts.
    pub fn build(bitmap: PageBitmap, avail: AvailRanges) -> Result<Self, Error> {
        let words = bitmap.words();
        let mut popcounts = Vec::with_capacity(words.len() / 16 + 2);
        let mut total = 0u64;
        for chunk in words.chunks((POPCOUNT_BITS / WORD_BITS) as usize) {
            popcounts.push(total as u32);
            total += u64::from(popcount_bytes(chunk, chunk.len() as u64 * WORD_BITS));
        }
        // The count behind the last bits, for those nearer to it.
        popcounts.push(total as u32);
        if total > u64::from(u32::MAX) {
            return Err(Error::TooManyPages { found: total });
        }
        let whole = words.len().next_multiple_of(16);
        let mut bitmap = bitmap.into_words();
        bitmap.resize(whole, 0);
        Ok(Self { bitmap, popcounts, avail })
    }
}

/// libkvm's `popcount_bytes` from bit 0 on: word after word, the last one cut
/// to `bits`. Counting whole slices is twice as fast, as compilers make vectors
/// of it; then a table would be built faster than libkvm builds its own.
fn popcount_bytes(words: &[u64], bits: u64) -> u32 {
    let mut left = bits;
    let mut count = 0;
    for word in words {
        let n = left.min(WORD_BITS);
        count += (if n == WORD_BITS { *word } else { word & ((1 << n) - 1) }).count_ones();
        left -= n;
    }
    count
}

impl PageLookup for Popcount1024 {
    fn find(&self, pfn: Pfn) -> Option<u64> {
        let bit = self.avail.bit_of(pfn)?;
        let word = (bit / WORD_BITS) as usize;
        let mask = 1u64 << (bit % WORD_BITS);
        let current = *self.bitmap.get(word)?;
        if current & mask == 0 {
            return None;
        }
        let id = (bit / POPCOUNT_BITS) as usize;
        let first = id * (POPCOUNT_BITS / WORD_BITS) as usize;
        let ones = |w: &u64| w.count_ones();
        let count = if bit % POPCOUNT_BITS < POPCOUNT_BITS / 2 {
            self.popcounts[id]
                + self.bitmap[first..word].iter().map(ones).sum::<u32>()
                + (current & (mask - 1)).count_ones()
        } else {
            let next = first + (POPCOUNT_BITS / WORD_BITS) as usize;
            self.popcounts[id + 1]
                - self.bitmap[word + 1..next].iter().map(ones).sum::<u32>()
                - (current & !(mask - 1)).count_ones()
        };
        Some(count.into())
    }

    fn memory(&self) -> usize {
        size_of_val(&*self.bitmap) + size_of_val(&*self.popcounts)
    }
}
