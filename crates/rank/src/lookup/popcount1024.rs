//! libkvm's cached population counts since 2016 (`lib/libkvm/kvm_private.c`:
//! `_kvm_pt_find` since r302976, `_kvm_pa_bit_id` since minidumps have a
//! `dump_avail`): the second baseline, with all that it costs.

use std::num::NonZeroU64;

use super::{PageLookup, address};
use crate::{AvailRanges, Error, PageBitmap, Pfn};

/// `POPCOUNT_BITS`: one cached count for this many bits.
const POPCOUNT_BITS: u64 = 1024;
/// `BITS_IN(*bitmap)`.
const WORD_BITS: u64 = 64;
/// `POPCOUNTS_IN(*bitmap)`.
const WORDS: usize = (POPCOUNT_BITS / WORD_BITS) as usize;

/// A 32-bit count for every 1024 bits, then population counts of words from
/// the nearer end.
///
/// Three things cost libkvm as much as the memory does, and are here for that.
/// Words are counted one by one and masked: of sums over slices compilers make
/// vectors, which take two thirds of the time. The page size is a variable, so
/// that an address becomes a bit by divisions, two for each range it lies behind
/// and two in its own; another sees to it that a truncated dump has the page.
/// And bits are counted with what the target's baseline offers, as in FreeBSD's
/// own build: on x86-64 that is arithmetic, not the POPCNT instruction.
pub struct Popcount1024 {
    pt_map: Vec<u64>,
    pt_popcounts: Vec<u32>,
    /// Bytes of dumped pages.
    pt_sparse_size: u64,
    /// Physical addresses `[start, end)`.
    dump_avail: Vec<[u64; 2]>,
    page_size: NonZeroU64,
    page_shift: u32,
}

impl Popcount1024 {
    /// Takes the bitmap as libkvm keeps what it has read. Fails where the
    /// pages don't fit into its 32-bit counts, or a page's size into the 32
    /// bits that it has for that.
    pub fn build(bitmap: PageBitmap, avail: &AvailRanges, page_shift: u32) -> Result<Self, Error> {
        let page_size = 1u32
            .checked_shl(page_shift)
            .and_then(|size| NonZeroU64::new(size.into()))
            .ok_or(Error::PageShift { found: page_shift, most: u32::BITS - 1 })?;
        let pt_map = bitmap.into_words();
        let mut pt_popcounts = vec![0u32; 1 + pt_map.len().div_ceil(WORDS)];
        // Word by word into the count behind its 1024 bits, and each as if it
        // could be the part of one, as libkvm adds up: of words that are known to
        // be whole compilers make what takes two thirds of the time.
        let mut left = pt_map.len() as u64 * WORD_BITS;
        for (i, word) in pt_map.iter().enumerate() {
            let bin = i / WORDS + 1;
            if i % WORDS == 0 {
                pt_popcounts[bin] = pt_popcounts[bin - 1];
            }
            let bits = left.min(WORD_BITS);
            left -= bits;
            let ones = popcount_bytes(std::slice::from_ref(word), 0, bits);
            let Some(count) = pt_popcounts[bin].checked_add(ones) else {
                let found = pt_map.iter().map(|w| u64::from(w.count_ones())).sum();
                return Err(Error::TooManyPages { found });
            };
            pt_popcounts[bin] = count;
        }
        let total = pt_popcounts.last().copied().unwrap_or(0);
        // No page begins where a range would have to end past 2^64.
        let bytes = |pages: u64| pages.saturating_mul(page_size.get());
        let range = |(first, n): (Pfn, u64)| [bytes(first.0), bytes(first.0 + n)];
        let dump_avail = avail.iter().filter(|&(_, n)| n > 0).map(range).collect();
        let pt_sparse_size = u64::from(total) * page_size.get();
        Ok(Self { pt_map, pt_popcounts, pt_sparse_size, dump_avail, page_size, page_shift })
    }

    /// `_kvm_pa_bit_id`. libkvm doesn't look whether the address lies before
    /// the range's start, and takes one in a hole for another page: this does.
    #[inline]
    fn bit_id(&self, pa: u64) -> Option<u64> {
        let page_size = self.page_size;
        let mut adj = 0;
        for &[start, end] in &self.dump_avail {
            if pa < end {
                return (pa >= start).then(|| pa / page_size - start / page_size + adj);
            }
            // howmany(), of an end that isn't 0.
            adj += (end - 1) / page_size + 1 - start / page_size;
        }
        None
    }
}

/// The set bits from `bit0` of the first word to `bit_n`, counted from the
/// same place, each word masked and counted by itself. Both at most 1024.
#[inline]
fn popcount_bytes(words: &[u64], bit0: u64, bit_n: u64) -> u32 {
    let mut left = bit_n - bit0;
    let mut count = 0;
    let mut words = words.iter();
    if bit0 != 0 {
        let bound = bit_n.min(WORD_BITS);
        count += words.next().map_or(0, |w| bitmask_range(*w, bit0, bound).count_ones());
        left -= bound - bit0;
    }
    for &word in words {
        if left == 0 {
            break;
        }
        let bound = left.min(WORD_BITS);
        count += bitmask_range(word, 0, bound).count_ones();
        left -= bound;
    }
    count
}

/// The bits of `word` from `bit0` to `bit_n`, of which there is one at least.
#[inline]
fn bitmask_range(word: u64, bit0: u64, bit_n: u64) -> u64 {
    if bit0 == 0 && bit_n == WORD_BITS {
        return word;
    }
    word & (((1 << (bit_n - bit0)) - 1) << bit0)
}

impl PageLookup for Popcount1024 {
    fn find(&self, pfn: Pfn) -> Option<u64> {
        let bit = self.bit_id(address(pfn, self.page_shift)?)?;
        let word = (bit / WORD_BITS) as usize;
        if self.pt_map.get(word)? >> (bit % WORD_BITS) & 1 == 0 {
            return None;
        }
        let id = (bit / POPCOUNT_BITS) as usize;
        let first = id as u64 * POPCOUNT_BITS;
        let count = if bit % POPCOUNT_BITS < POPCOUNT_BITS / 2 {
            let words = &self.pt_map[id * WORDS..];
            self.pt_popcounts[id] + popcount_bytes(words, 0, bit - first)
        } else {
            let end = (first + POPCOUNT_BITS).min(self.pt_map.len() as u64 * WORD_BITS);
            let before = word as u64 * WORD_BITS;
            let after = popcount_bytes(&self.pt_map[word..], bit - before, end - before);
            self.pt_popcounts[id + 1] - after
        };
        let count = u64::from(count);
        (count < self.pt_sparse_size / self.page_size).then_some(count)
    }

    fn memory(&self) -> usize {
        size_of_val(&*self.pt_map) + size_of_val(&*self.pt_popcounts)
    }
}
