//! Faster paths chosen at run time: with its own modules the one place with
//! `unsafe` code.
#![allow(unsafe_code)]
#![allow(clippy::cast_ptr_alignment)] // Loads and stores are those for any address.

/// Ranks by the `place` and `ranks` of the module that calls it.
#[cfg(target_arch = "x86_64")]
macro_rules! unchecked_ranks {
    ($name:ident) => {
        /// Tables that fit, where the processor has the features.
        struct $name<'a>(&'a Fitting<'a>);

        impl Ranks for $name<'_> {
            #[inline(always)]
            fn place(&self, pfns: &[Pfn; GROUP], group: &mut Group) {
                // SAFETY: `find_batch` alone makes this type, which has the
                // features.
                unsafe { place(self.0, pfns, group) }
            }

            #[inline(always)]
            fn middles(&self, group: &mut Group) {
                // SAFETY: `halves` is of `place`, or 0.
                unsafe { self.0.middles(group) }
            }

            #[inline(always)]
            fn ranks(&self, group: &Group, out: &mut [u64; GROUP]) {
                // SAFETY: as both above.
                unsafe { ranks(self.0, group, out) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m128i, _mm_loadu_si128};

#[cfg(target_arch = "x86_64")]
use crate::batch::Group;
use crate::batch::{self, Tables};
#[cfg(target_arch = "x86_64")]
use crate::index::{BLOCK_SHIFT, BLOCK_WORDS, SUPER_SHIFT, SUPER_WORDS};
use crate::{Pfn, index};

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
pub struct Popcnt(());

impl Popcnt {
    /// `None` where it isn't.
    pub fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if cfg!(miri) || !has_popcnt() {
            return None;
        }
        Some(Self(()))
    }

    /// The set bits of two words.
    ///
    /// The instruction is written out, as the compiler takes it only in
    /// functions with that feature, and those it doesn't inline into a lookup:
    /// their call was a tenth of a lookup in L3.
    #[inline(always)]
    #[allow(clippy::unused_self)] // It is what makes the call sound.
    pub fn count_ones(self, a: u64, b: u64) -> u64 {
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
    batch::find_portable,
    (tables: &Tables, pfns: &[Pfn], out: &mut [u64]) -> ()
);
with_features!(
    count_popcnt,
    index::count_portable,
    (words: &[u64]) -> (Vec<u16>, Vec<u64>)
);

/// Asks for the cache line of item `at`: a hint, which takes any address.
#[inline(always)]
pub(crate) fn prefetch<T>(items: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction never faults, whatever the address, and
        // `wrapping_add` makes no claim about it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(items.as_ptr().wrapping_add(at).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (items, at);
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
pub(crate) fn find_batch(tables: &Tables, pfns: &[Pfn], out: &mut [u64]) {
    #[cfg(target_arch = "x86_64")]
    if avx512::detected()
        && let Some(tables) = Fitting::new(*tables)
    {
        // SAFETY: `detected` has found the features it asks for.
        return unsafe { avx512::find_batch(&tables, pfns, out) };
    }
    find_batch_scalar(tables, pfns, out);
}

/// The fastest short of AVX-512.
pub(crate) fn find_batch_scalar(tables: &Tables, pfns: &[Pfn], out: &mut [u64]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx2()
        && let Some(tables) = Fitting::new(*tables)
    {
        // SAFETY: `has_avx2` has found the features it asks for.
        return unsafe { avx2::find_batch(&tables, pfns, out) };
    }
    find_batch_popcnt(tables, pfns, out);
}

/// Slices whose lengths have been checked against each other: what loads
/// without bounds checks rely on.
#[cfg(target_arch = "x86_64")]
struct Fitting<'a>(Tables<'a>);

#[cfg(target_arch = "x86_64")]
impl<'a> Fitting<'a> {
    /// `None` where the lengths don't fit, and where there are none.
    fn new(tables: Tables<'a>) -> Option<Self> {
        let Tables { words, blocks, supers, .. } = tables;
        let fit = words.len() == blocks.len().checked_mul(BLOCK_WORDS)?
            && supers.len() >= words.len().div_ceil(SUPER_WORDS);
        (fit && !words.is_empty()).then_some(Self(tables))
    }

    /// [`batch::Ranks::middles`].
    ///
    /// # Safety
    /// All of the group's `halves` are less than `words.len()`.
    #[inline(always)]
    unsafe fn middles(&self, group: &mut Group) {
        let Tables { words, blocks, supers, .. } = self.0;
        for (middle, &half) in group.middles.iter_mut().zip(&group.halves) {
            prefetch(words, half as usize);
            let block = batch::block_of(half);
            // SAFETY: half < words.len(), and `new` has checked the lengths:
            // block < blocks.len(), superblock < supers.len().
            *middle = unsafe {
                let superblock = supers.get_unchecked(block >> (SUPER_SHIFT - BLOCK_SHIFT));
                superblock.wrapping_add((*blocks.get_unchecked(block)).into())
            };
        }
    }

    /// The two words from `half` on.
    ///
    /// # Safety
    /// `half` is even and less than `words.len()`.
    #[inline(always)]
    unsafe fn half(&self, half: u64) -> __m128i {
        // SAFETY: words.len() is a multiple of 4: there is another word.
        unsafe { _mm_loadu_si128(self.0.words.as_ptr().add(half as usize).cast()) }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ABSENT, AvailRanges, OwnedRankIndex, PageBitmap, PageLookup as _};

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
                index.in_batches(batch::find_portable, &pfns, &mut out);
                check("portable", &out);
                out.fill(7);
                index.in_batches(find_batch_popcnt, &pfns, &mut out);
                check("popcnt", &out);
                out.fill(7);
                index.in_batches(find_batch_scalar, &pfns, &mut out);
                check("no AVX-512", &out);
                out.fill(7);
                index.in_batches(find_batch, &pfns, &mut out);
                check("best", &out);
                // The two slices cut to different lengths.
                for cut in [0, 1, 7, 8, 9, 16] {
                    out.fill(7);
                    index.in_batches(find_batch, &pfns[..cut], &mut out);
                    assert_eq!(out[..cut], want[..cut]);
                    assert!(out[cut..].iter().all(|&o| o == 7));
                    index.in_batches(find_batch, &pfns, &mut out[..cut]);
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

    /// Tables whose lengths don't belong together are never loaded from
    /// unchecked.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn unfit_tables_are_refused() {
        let fits = |w: usize, b: usize, s: usize| {
            let (words, blocks, supers) = (&vec![0; w][..], &vec![0; b][..], &vec![0; s][..]);
            Fitting::new(Tables { words, blocks, supers, ranges: &[] }).is_some()
        };
        assert!(fits(4, 1, 1) && fits(8, 2, 1) && fits(1028, 257, 2));
        assert!(!fits(0, 0, 1) && !fits(7, 2, 1) && !fits(12, 2, 1));
        assert!(!fits(8, 3, 1) && !fits(8, 2, 0) && !fits(1028, 257, 1));
    }
}
