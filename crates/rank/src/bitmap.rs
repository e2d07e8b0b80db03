//! The page bitmap: a set bit says that its page was dumped.

use std::ops::Range;

/// A bitmap of pages in 64-bit words, least significant bit first.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PageBitmap {
    /// A multiple of 4, so that a block of the rank index is whole.
    words: Vec<u64>,
    bits: u64,
    spare: u64,
}

/// Words of a rank block.
const GROUP: usize = 4;

impl PageBitmap {
    /// From 64-bit words. Bits from `bits` on belong to no page: they are
    /// cleared, and [`PageBitmap::spare_bits`] counts those that were set.
    /// Missing words read as zeros, and take no memory, whatever `bits` is.
    ///
    /// ```
    /// # use vmcask_rank::PageBitmap;
    /// let bitmap = PageBitmap::from_words(vec![0b1101, 0xff], 66);
    /// assert_eq!(bitmap.runs().collect::<Vec<_>>(), [0..1, 2..4, 64..66]);
    /// assert_eq!((bitmap.count_ones(), bitmap.spare_bits()), (5, 6));
    /// ```
    pub fn from_words(mut words: Vec<u64>, bits: u64) -> Self {
        let used = usize::try_from(bits.div_ceil(64)).unwrap_or(usize::MAX);
        let mut spare = words.iter().skip(used).map(|w| u64::from(w.count_ones())).sum();
        words.truncate(used);
        if words.len() == used
            && let Some(last) = words.last_mut()
            && !bits.is_multiple_of(64)
        {
            let keep = (1u64 << (bits % 64)) - 1;
            spare += u64::from((*last & !keep).count_ones());
            *last &= keep;
        }
        words.resize(words.len().next_multiple_of(GROUP), 0);
        Self { words, bits, spare }
    }

    /// From the bytes of a little-endian target: words of any width are the
    /// same bytes.
    pub fn from_le_bytes(bytes: &[u8], bits: u64) -> Self {
        Self::from_words(words(bytes, u64::from_le_bytes), bits)
    }

    /// From the big-endian 64-bit words of powerpc64.
    pub fn from_be_words(bytes: &[u8], bits: u64) -> Self {
        Self::from_words(words(bytes, u64::from_be_bytes), bits)
    }

    /// The words, a multiple of 4 of them; bits behind the last are zero, and
    /// so are words missing at the end.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    pub(crate) fn into_words(self) -> Vec<u64> {
        self.words
    }

    /// How many bits mean a page.
    pub fn bits(&self) -> u64 {
        self.bits
    }

    /// How many bits past the last page were set.
    pub fn spare_bits(&self) -> u64 {
        self.spare
    }

    /// Bit `bit`; false past the end.
    #[inline]
    pub fn get(&self, bit: u64) -> bool {
        let word = self.words.get((bit / 64) as usize).copied().unwrap_or(0);
        word >> (bit % 64) & 1 != 0
    }

    /// Set bits.
    pub fn count_ones(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// Runs of set bits, ascending.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        runs(&self.words)
    }
}

/// A last piece of fewer than 8 bytes is filled up with zeros.
fn words(bytes: &[u8], word: fn([u8; 8]) -> u64) -> Vec<u64> {
    bytes
        .chunks(8)
        .map(|chunk| {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            word(bytes)
        })
        .collect()
}

/// Runs of set bits in `words`, ascending; a word at a time over runs of
/// equal ones.
pub(crate) fn runs(words: &[u64]) -> impl Iterator<Item = Range<u64>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let run = next_run(words, at)?;
        at = run.end;
        Some(run)
    })
}

/// The first run of set bits at or after `from`.
pub(crate) fn next_run(words: &[u64], from: u64) -> Option<Range<u64>> {
    let start = next_bit(words, from, 0)?;
    let end = next_bit(words, start, u64::MAX).unwrap_or(words.len() as u64 * 64);
    Some(start..end)
}

/// The first bit at or after `from` that differs from those of `flip`.
fn next_bit(words: &[u64], from: u64, flip: u64) -> Option<u64> {
    let mut i = (from / 64) as usize;
    let mut word = (words.get(i)? ^ flip) & (u64::MAX << (from % 64));
    while word == 0 {
        i += 1;
        word = words.get(i)? ^ flip;
    }
    Some(i as u64 * 64 + u64::from(word.trailing_zeros()))
}
