//! Eight pages at a time with VPOPCNTDQ.

use std::arch::x86_64::{
    __m512i, _mm256_set_m128i, _mm512_add_epi64, _mm512_castsi256_si512, _mm512_cmplt_epu64_mask,
    _mm512_inserti64x4, _mm512_loadu_si512, _mm512_mask_add_epi64, _mm512_mask_and_epi64,
    _mm512_mask_blend_epi64, _mm512_mask_sub_epi64, _mm512_mask_test_epi64_mask,
    _mm512_mask_xor_epi64, _mm512_maskz_and_epi64, _mm512_maskz_mov_epi64, _mm512_permutex_epi64,
    _mm512_popcnt_epi64, _mm512_rolv_epi64, _mm512_set1_epi64, _mm512_slli_epi64,
    _mm512_srli_epi64, _mm512_storeu_si512, _mm512_sub_epi64, _mm512_testn_epi64_mask,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

use super::Fitting;
use crate::Pfn;
use crate::batch::{self, GROUP, Group, Ranks, Tables};
use crate::index::{ABSENT, BLOCK_WORDS, SUPER_WORDS};

const LANES: usize = GROUP;

pub(super) fn detected() -> bool {
    super::has_avx2()
        && std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512vpopcntdq")
}

/// [`batch::find_portable`], eight pages at a time.
#[target_feature(enable = "avx512f,avx512vpopcntdq,bmi1,bmi2,popcnt")]
pub(super) fn find_batch(tables: &Fitting, pfns: &[Pfn], out: &mut [u64]) {
    batch::find(&tables.0, &Inserts(tables), pfns, out);
}

/// Tables that fit, where the processor has the features.
///
/// No gathers: they take as long as loads one by one, longer on some
/// processors, and can't be had for single counts of 16 bits.
struct Inserts<'a>(&'a Fitting<'a>);

impl Ranks for Inserts<'_> {
    #[inline(always)]
    fn place(&self, pfns: &[Pfn; GROUP], group: &mut Group) {
        // SAFETY: `find_batch` alone makes this type, which has the features.
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
            let ones = _mm512_popcnt_epi64(load(words));
            // Each lane and its neighbour: half a block.
            let swapped = _mm512_permutex_epi64::<0b10_11_00_01>(ones);
            store(&mut halves, _mm512_add_epi64(ones, swapped));
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

#[inline]
#[target_feature(enable = "avx512f")]
fn place(tables: &Fitting, pfns: &[Pfn; GROUP], group: &mut Group) {
    let Tables { words, ranges, .. } = tables.0;
    let end = splat(words.len() as u64 * 64);
    // SAFETY: 8 pages are 8 u64, 64 bytes.
    let pfn = unsafe { _mm512_loadu_si512(pfns.as_ptr().cast()) };
    let mut bit = end;
    for r in ranges.iter().rev() {
        let within = _mm512_sub_epi64(pfn, splat(r.first));
        let inside = _mm512_cmplt_epu64_mask(within, splat(r.pages));
        bit = _mm512_mask_add_epi64(bit, inside, within, splat(r.bit));
    }
    store(&mut group.bits, bit);
    let at = _mm512_maskz_mov_epi64(_mm512_cmplt_epu64_mask(bit, end), bit);
    store(&mut group.halves, _mm512_slli_epi64::<1>(_mm512_srli_epi64::<7>(at)));
}

/// # Safety
/// The group's `halves` have been placed by [`place`], with these tables.
#[inline]
#[target_feature(enable = "avx512f,avx512vpopcntdq")]
unsafe fn ranks(tables: &Fitting, group: &Group, out: &mut [u64; GROUP]) {
    // SAFETY: as the caller promises.
    let half = |i: usize| unsafe { tables.half(group.halves[i]) };
    let two = |i| _mm256_set_m128i(half(i + 2), half(i));
    let four = |i| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(two(i)), two(i + 4));
    // Unpacking interleaves within 128 bits: so the order is 0, 1, 2 and on.
    let (even, odd) = (four(0), four(1));
    let (low, high) = (_mm512_unpacklo_epi64(even, odd), _mm512_unpackhi_epi64(even, odd));

    let bit = load(&group.bits);
    let within = _mm512_cmplt_epu64_mask(bit, splat(tables.0.words.len() as u64 * 64));
    let in_low = _mm512_testn_epi64_mask(bit, splat(64));
    let own = _mm512_rolv_epi64(splat(1), bit);
    let word = _mm512_mask_blend_epi64(in_low, high, low);
    let present = _mm512_mask_test_epi64_mask(within, word, own);

    // As `to_count`: the half's bits below the bit, or all but those where the
    // middle is above.
    let below = _mm512_sub_epi64(own, splat(1));
    let of_low = _mm512_mask_and_epi64(low, in_low, low, below);
    let of_high = _mm512_maskz_and_epi64(!in_low, high, below);
    let down = _mm512_testn_epi64_mask(bit, splat(128));
    let of_low = _mm512_mask_xor_epi64(of_low, down, of_low, low);
    let of_high = _mm512_mask_xor_epi64(of_high, down, of_high, high);
    let count = _mm512_add_epi64(_mm512_popcnt_epi64(of_low), _mm512_popcnt_epi64(of_high));
    let count = _mm512_mask_sub_epi64(count, down, splat(0), count);
    let middle = load(&group.middles);
    store(out, _mm512_mask_add_epi64(splat(ABSENT), present, middle, count));
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(from: &[u64; LANES]) -> __m512i {
    // SAFETY: 8 u64 are 64 bytes.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(to: &mut [u64; LANES], v: __m512i) {
    // SAFETY: 8 u64 are 64 bytes.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn splat(v: u64) -> __m512i {
    _mm512_set1_epi64(v as i64)
}
