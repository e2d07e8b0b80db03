//! libkvm's population counts, as fast as they go: what is gained over libkvm
//! without another layout.

use vmcask_rank::{AvailRanges, PageBitmap, PageLookup, Pfn};

const WORDS: usize = 16;

/// A 32-bit count for every 1024 bits, as libkvm has, but whole slices counted,
/// of which compilers make vectors; and pages found in `dump_avail` as the rank
/// index finds them.
pub struct Lean {
    words: Vec<u64>,
    counts: Vec<u32>,
    avail: AvailRanges,
}

impl Lean {
    /// Of fewer than 2^32 dumped pages.
    pub fn new(bitmap: &PageBitmap, avail: &AvailRanges) -> Self {
        let mut words = bitmap.words().to_vec();
        words.resize(words.len().next_multiple_of(WORDS), 0);
        let mut total = 0;
        let mut counts = vec![0];
        counts.extend(words.chunks(WORDS).map(|words| {
            total += ones(words);
            total
        }));
        Self { words, counts, avail: avail.clone() }
    }
}

fn ones(words: &[u64]) -> u32 {
    words.iter().map(|w| w.count_ones()).sum()
}

impl PageLookup for Lean {
    fn find(&self, pfn: Pfn) -> Option<u64> {
        let bit = self.avail.bit_of(pfn)?;
        let at = (bit / 64) as usize;
        let below = (1u64 << (bit % 64)) - 1;
        let word = *self.words.get(at)?;
        if word >> (bit % 64) & 1 == 0 {
            return None;
        }
        let id = at / WORDS;
        let count = if at % WORDS < WORDS / 2 {
            self.counts[id] + ones(&self.words[id * WORDS..at]) + (word & below).count_ones()
        } else {
            let after = ones(&self.words[at + 1..(id + 1) * WORDS]);
            self.counts[id + 1] - after - (word & !below).count_ones()
        };
        Some(count.into())
    }

    fn memory(&self) -> usize {
        size_of_val(&*self.words) + size_of_val(&*self.counts)
    }
}
