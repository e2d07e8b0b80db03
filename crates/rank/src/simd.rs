//! Faster paths chosen at run time: the one module with `unsafe` code.
#![allow(unsafe_code)]

use crate::Pfn;
use crate::avail::AvailRanges;
use crate::index;

/// Calls `$portable` compiled with `$features` where the processor has them
/// all, as `$detected` says, and `$otherwise` where it doesn't: default x86-64
/// builds may assume neither POPCNT, without which they count bits in a dozen
/// instructions, nor AVX2.
macro_rules! with_features {
    ($name:ident, $detected:ident, $features:literal, $portable:path, $otherwise:path,
     ($($arg:ident: $ty:ty),*) -> $ret:ty) => {
        #[inline]
        pub(crate) fn $name($($arg: $ty),*) -> $ret {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = $features)]
                fn fast($($arg: $ty),*) -> $ret {
                    $portable($($arg),*)
                }
                if $detected() {
                    // SAFETY: the processor has the features `fast` asks for.
                    return unsafe { fast($($arg),*) };
                }
            }
            $otherwise($($arg),*)
        }
    };
    ($name:ident, $portable:path, ($($arg:ident: $ty:ty),*) -> $ret:ty) => {
        with_features!(
            $name, has_popcnt, "popcnt", $portable, $portable, ($($arg: $ty),*) -> $ret
        );
    };
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn has_popcnt() -> bool {
    std::arch::is_x86_feature_detected!("popcnt")
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx2") && has!("bmi1") && has!("bmi2") && has_popcnt()
}

/// Set bits of two words, with the instructions that the function around it may
/// use.
#[inline(always)]
pub(crate) fn count_ones_portable(a: u64, b: u64) -> u64 {
    u64::from(a.count_ones()) + u64::from(b.count_ones())
}

/// That counting set bits is quick here: on x86-64, that the processor has
/// POPCNT. An index holds it, as asking anew took a lookup longer than its
/// counting does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Popcnt(());

impl Popcnt {
    pub(crate) fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if cfg!(miri) || !has_popcnt() {
            return None;
        }
        Some(Self(()))
    }

    /// [`count_ones_portable`].
    ///
    /// The instruction is written out, as the compiler takes it only in
    /// functions with that feature, and those it doesn't inline into a lookup:
    /// their call was a tenth of a lookup in L3.
    #[inline(always)]
    #[allow(clippy::unused_self)] // It is what makes the call sound.
    pub(crate) fn count_ones(self, a: u64, b: u64) -> u64 {
        #[cfg(target_arch = "x86_64")]
        {
            let (of_a, of_b): (u64, u64);
            // SAFETY: the processor has the instruction, or there would be no
            // `self`. It reads one register and writes another (and the flags,
            // which are taken to be lost).
            unsafe {
                std::arch::asm!(
                    "popcnt {of_a}, {a}",
                    "popcnt {of_b}, {b}",
                    a = in(reg) a,
                    b = in(reg) b,
                    of_a = out(reg) of_a,
                    of_b = lateout(reg) of_b,
                    options(pure, nomem, nostack),
                );
            }
            of_a + of_b
        }
        #[cfg(not(target_arch = "x86_64"))]
        count_ones_portable(a, b)
    }
}

with_features!(
    find_batch_popcnt,
    index::find_batch_portable,
    (words: &[u64], blocks: &[u16], supers: &[u64], avail: &AvailRanges, pfns: &[Pfn], out: &mut [u64]) -> ()
);
with_features!(
    count_popcnt,
    index::count_portable,
    (words: &[u64]) -> (Vec<u16>, Vec<u64>)
);

// The widest integers short of AVX-512's.
with_features!(
    find_batch_scalar,
    has_avx2,
    "avx2,bmi1,bmi2,popcnt",
    index::find_batch_portable,
    find_batch_popcnt,
    (words: &[u64], blocks: &[u16], supers: &[u64], avail: &AvailRanges, pfns: &[Pfn], out: &mut [u64]) -> ()
);

/// Asks for the cache line of word `at`: a hint, which takes any address.
#[inline(always)]
pub(crate) fn prefetch(words: &[u64], at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction never faults, whatever the address, and
        // `wrapping_add` makes no claim about it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(words.as_ptr().wrapping_add(at).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (words, at);
}

/// Block and superblock counts, the fastest way this processor has.
pub(crate) fn count(words: &[u64]) -> (Vec<u16>, Vec<u64>) {
    #[cfg(target_arch = "x86_64")]
    if avx512::detected() {
        // SAFETY: `detected` has found the features it asks for.
        return unsafe { avx512::count(words) };
    }
    count_popcnt(words)
}

/// The fastest batch path that this processor and these tables allow.
pub(crate) fn find_batch(
    words: &[u64],
    blocks: &[u16],
    supers: &[u64],
    avail: &AvailRanges,
    pfns: &[Pfn],
    out: &mut [u64],
) {
    #[cfg(target_arch = "x86_64")]
    if avx512::detected()
        && let Some(tables) = avx512::Tables::new(words, blocks, supers, avail)
    {
        // SAFETY: `detected` has found the features it asks for.
        return unsafe { avx512::find_batch(&tables, pfns, out) };
    }
    find_batch_scalar(words, blocks, supers, avail, pfns, out);
}

/// The path that [`crate::RankIndex::find_batch`] takes on this processor, as
/// people name it.
pub fn batch_path() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if avx512::detected() {
            return "AVX-512 VPOPCNTDQ";
        }
        if has_avx2() {
            return "AVX2";
        }
        if has_popcnt() {
            return "POPCNT";
        }
    }
    "portable"
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_cmplt_epu64_mask,
        _mm512_cvtepu32_epi64, _mm512_i64gather_epi32, _mm512_i64gather_epi64, _mm512_loadu_si512,
        _mm512_mask_add_epi64, _mm512_mask_blend_epi64, _mm512_mask_mov_epi64,
        _mm512_maskz_mov_epi64, _mm512_min_epu64, _mm512_permutex_epi64, _mm512_popcnt_epi64,
        _mm512_set1_epi64, _mm512_slli_epi64, _mm512_sllv_epi64, _mm512_srli_epi64,
        _mm512_srlv_epi64, _mm512_storeu_si512, _mm512_sub_epi64, _mm512_test_epi64_mask,
        _mm512_xor_si512,
    };

    use super::{AvailRanges, Pfn};
    use crate::index::{ABSENT, Ahead, BLOCK_SHIFT, BLOCK_WORDS, CHUNK, SUPER_SHIFT, SUPER_WORDS};

    const LANES: usize = 8;

    pub(super) fn detected() -> bool {
        super::has_avx2()
            && std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512vpopcntdq")
    }

    /// Slices whose lengths have been checked against each other: what the
    /// gathers rely on.
    pub(super) struct Tables<'a> {
        words: &'a [u64],
        blocks: &'a [u16],
        supers: &'a [u64],
        avail: &'a AvailRanges,
    }

    impl<'a> Tables<'a> {
        /// `None` where the lengths don't fit, and where there is a single
        /// block: counts are gathered in pairs.
        pub(super) fn new(
            words: &'a [u64],
            blocks: &'a [u16],
            supers: &'a [u64],
            avail: &'a AvailRanges,
        ) -> Option<Self> {
            let fit = words.len() == blocks.len().checked_mul(BLOCK_WORDS)?
                && supers.len() >= words.len().div_ceil(SUPER_WORDS);
            (fit && blocks.len() >= 2).then_some(Self { words, blocks, supers, avail })
        }
    }

    /// [`index::find_batch_portable`], eight pages at a time.
    #[target_feature(enable = "avx512f,avx512vpopcntdq,bmi1,bmi2,popcnt")]
    pub(super) fn find_batch(t: &Tables, pfns: &[Pfn], out: &mut [u64]) {
        let n = pfns.len().min(out.len());
        let mut ahead = Ahead::new(t.words, t.avail, &pfns[..n]);
        let mut ordinals = [0; CHUNK];
        for out in out[..n].chunks_mut(CHUNK) {
            let (eights, _) = ahead.bits().as_chunks::<LANES>();
            for (bits, ordinals) in eights.iter().zip(ordinals.as_chunks_mut::<LANES>().0) {
                // SAFETY: 8 u64 are 64 bytes, there and here.
                unsafe {
                    let ordinal = rank(t, _mm512_loadu_si512(bits.as_ptr().cast()));
                    _mm512_storeu_si512(ordinals.as_mut_ptr().cast(), ordinal);
                }
            }
            out.copy_from_slice(&ordinals[..out.len()]);
        }
    }

    /// [`index::count_portable`](crate::index::count_portable), two blocks at
    /// a time.
    #[target_feature(enable = "avx512f,avx512vpopcntdq,popcnt")]
    pub(super) fn count(words: &[u64]) -> (Vec<u16>, Vec<u64>) {
        let mut blocks = vec![0; words.len() / BLOCK_WORDS];
        let mut supers = Vec::with_capacity(words.len().div_ceil(SUPER_WORDS) + 1);
        let mut total = 0;
        let of_super = SUPER_WORDS / BLOCK_WORDS;
        for (words, blocks) in words.chunks(SUPER_WORDS).zip(blocks.chunks_mut(of_super)) {
            supers.push(total);
            let mut within = 0;
            let (pairs, rest) = words.as_chunks::<LANES>();
            let (middles, last) = blocks.as_chunks_mut::<2>();
            for (words, middles) in pairs.iter().zip(middles) {
                let mut halves = [0u64; LANES];
                // SAFETY: 8 u64 are 64 bytes, there and here.
                unsafe {
                    let ones = _mm512_popcnt_epi64(_mm512_loadu_si512(words.as_ptr().cast()));
                    // Each lane and its neighbour: half a block.
                    let swapped = _mm512_permutex_epi64::<0b10_11_00_01>(ones);
                    let sums = _mm512_add_epi64(ones, swapped);
                    _mm512_storeu_si512(halves.as_mut_ptr().cast(), sums);
                }
                let to_second = halves[0] + halves[2] + halves[4];
                *middles = [(within + halves[0]) as u16, (within + to_second) as u16];
                within += to_second + halves[6];
            }
            // Four words, or none.
            if let ([a, b, c, d], [middle]) = (rest, last) {
                let first = u64::from(a.count_ones() + b.count_ones());
                *middle = (within + first) as u16;
                within += first + u64::from(c.count_ones() + d.count_ones());
            }
            total += within;
        }
        supers.push(total);
        (blocks, supers)
    }

    /// The ordinals of 8 bits, [`ABSENT`] where not set or past the end.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vpopcntdq")]
    fn rank(t: &Tables, bit: __m512i) -> __m512i {
        let within = _mm512_cmplt_epu64_mask(bit, splat(t.words.len() as u64 * 64));
        let bit = _mm512_maskz_mov_epi64(within, bit);
        // The two words on this side of the block's middle.
        let half = _mm512_slli_epi64::<1>(_mm512_srli_epi64::<7>(bit));
        let block = _mm512_srli_epi64::<BLOCK_SHIFT>(bit);
        // A gather takes 32 bits: the last count is taken with the one before
        // it, so as not to read past the end.
        let pair = _mm512_min_epu64(block, splat(t.blocks.len() as u64 - 2));
        let second = _mm512_slli_epi64::<4>(_mm512_sub_epi64(block, pair));
        let superblock = _mm512_srli_epi64::<SUPER_SHIFT>(bit);
        // SAFETY: bit < words.len() * 64 and `Tables::new` has checked the
        // lengths, so: half <= words.len() - 2, words being a multiple of 4;
        // block < blocks.len(), and pair <= blocks.len() - 2, which doesn't
        // wrap; superblock < supers.len().
        let (low, high, pair, superblock) = unsafe {
            let words = t.words.as_ptr().cast();
            (
                _mm512_i64gather_epi64::<8>(half, words),
                _mm512_i64gather_epi64::<8>(half, words.add(1)),
                _mm512_i64gather_epi32::<2>(pair, t.blocks.as_ptr().cast()),
                _mm512_i64gather_epi64::<8>(superblock, t.supers.as_ptr().cast()),
            )
        };
        let pair = _mm512_srlv_epi64(_mm512_cvtepu32_epi64(pair), second);
        let middle = _mm512_and_si512(pair, splat(0xffff));

        let in_high = _mm512_test_epi64_mask(bit, splat(64));
        let own = _mm512_sllv_epi64(splat(1), _mm512_and_si512(bit, splat(63)));
        let word = _mm512_mask_blend_epi64(in_high, low, high);
        let present = within & _mm512_test_epi64_mask(word, own);

        // As `to_count`: up from the middle what lies below the bit,
        // down to it what doesn't.
        let below = _mm512_sub_epi64(own, splat(1));
        let below_low = _mm512_mask_mov_epi64(below, in_high, splat(u64::MAX));
        let below_high = _mm512_maskz_mov_epi64(in_high, below);
        let up = _mm512_test_epi64_mask(bit, splat(128));
        let flip = _mm512_mask_mov_epi64(splat(u64::MAX), up, splat(0));
        let count = _mm512_add_epi64(
            _mm512_popcnt_epi64(_mm512_and_si512(low, _mm512_xor_si512(below_low, flip))),
            _mm512_popcnt_epi64(_mm512_and_si512(high, _mm512_xor_si512(below_high, flip))),
        );
        let from = _mm512_add_epi64(superblock, middle);
        let down = _mm512_sub_epi64(from, count);
        let ordinal = _mm512_mask_add_epi64(down, up, from, count);
        _mm512_mask_mov_epi64(splat(ABSENT), present, ordinal)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn splat(v: u64) -> __m512i {
        _mm512_set1_epi64(v as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ABSENT, OwnedRankIndex, PageBitmap, PageLookup as _};

    /// splitmix64: this crate has no dependencies, and a fixed sequence will
    /// do.
    fn noise(seed: u64) -> impl Iterator<Item = u64> {
        (1..).map(move |i: u64| {
            let mut z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
    }

    #[test]
    fn all_paths_answer_alike() {
        for words in [0usize, 1, 4, 5, 8, 9, 12, 1020, 1024, 1025, 2100, 4096] {
            for ranges in [1, 2, 5, 16, 17] {
                let bits = words as u64 * 64;
                let step = bits / ranges + 1;
                // Ranges with holes of a third of their length between them.
                let pairs: Vec<_> = (0..ranges)
                    .map(|i| {
                        let start = 3 + i * (step + step / 3);
                        (start << 12, (start + step) << 12)
                    })
                    .collect();
                let avail = AvailRanges::new(&pairs, 12).unwrap();
                let bitmap = PageBitmap::from_words(noise(bits).take(words).collect(), bits);
                let index = OwnedRankIndex::build(bitmap.clone(), avail.clone());
                let (w, b, s) = (index.words(), index.blocks(), index.supers());

                let last = pairs[pairs.len() - 1].1 >> 12;
                let pfns: Vec<_> = (0..last + 77)
                    .chain([u64::MAX, u64::MAX >> 12, 1 << 63])
                    .chain(noise(1).take(100))
                    .map(Pfn)
                    .collect();
                let want: Vec<_> = pfns
                    .iter()
                    .map(|&pfn| match avail.bit_of(pfn) {
                        Some(bit) if bitmap.get(bit) => index.rank(bit),
                        _ => ABSENT,
                    })
                    .collect();
                let check = |path: &str, found: &[u64]| {
                    assert_eq!(found, want, "{path}, {words} words, {ranges} ranges");
                };
                let mut out: Vec<_> =
                    pfns.iter().map(|&pfn| index.find(pfn).unwrap_or(ABSENT)).collect();
                check("one by one", &out);
                let slow = index.clone().without_popcnt();
                for (out, &pfn) in out.iter_mut().zip(&pfns) {
                    *out = slow.find(pfn).unwrap_or(ABSENT);
                }
                check("one by one, no POPCNT", &out);
                out.fill(7);
                index::find_batch_portable(w, b, s, &avail, &pfns, &mut out);
                check("portable", &out);
                out.fill(7);
                find_batch_popcnt(w, b, s, &avail, &pfns, &mut out);
                check("popcnt", &out);
                out.fill(7);
                find_batch_scalar(w, b, s, &avail, &pfns, &mut out);
                check("no AVX-512", &out);
                out.fill(7);
                find_batch(w, b, s, &avail, &pfns, &mut out);
                check("best", &out);
                // The two slices cut to different lengths.
                for cut in [0, 1, 7, 8, 9, 16] {
                    out.fill(7);
                    find_batch(w, b, s, &avail, &pfns[..cut], &mut out);
                    assert_eq!(out[..cut], want[..cut]);
                    assert!(out[cut..].iter().all(|&o| o == 7));
                    find_batch(w, b, s, &avail, &pfns, &mut out[..cut]);
                    assert_eq!(out[..cut], want[..cut]);
                }
            }
        }
    }

    #[test]
    fn set_bits_of_two_words() {
        let Some(popcnt) = Popcnt::detect() else { return };
        for (a, b) in noise(5).take(1000).zip(noise(6)) {
            for (a, b) in [(a, b), (a & b, a | b), (0, a), (a, u64::MAX)] {
                assert_eq!(popcnt.count_ones(a, b), count_ones_portable(a, b), "{a:#x} {b:#x}");
            }
        }
    }

    #[test]
    fn all_ways_count_alike() {
        for len in [0, 4, 8, 12, 1020, 1024, 1028, 2048, 2052, 5000] {
            let words: Vec<_> = noise(3).take(len).collect();
            let want = index::count_portable(&words);
            assert_eq!(count(&words), want, "{len} words");
            assert_eq!(count_popcnt(&words), want, "{len} words");
            let full = vec![u64::MAX; len];
            assert_eq!(count(&full), index::count_portable(&full), "{len} words");
        }
    }

    /// Tables whose lengths don't belong together never reach the gathers.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn unfit_tables_are_refused() {
        let avail = AvailRanges::identity(8192);
        let fits = |w: usize, b: usize, s: usize| {
            avx512::Tables::new(&vec![0; w], &vec![0; b], &vec![0; s], &avail).is_some()
        };
        assert!(fits(8, 2, 1) && fits(1028, 257, 2));
        assert!(!fits(0, 0, 1) && !fits(4, 1, 1) && !fits(7, 2, 1) && !fits(12, 2, 1));
        assert!(!fits(8, 3, 1) && !fits(8, 2, 0) && !fits(1028, 257, 1));
    }
}
