//! Eight pages at a time with VPOPCNTDQ.

use std::arch::x86_64::{
    __m512i, _mm_cvtsi128_si32, _mm256_set_m128i, _mm256_storeu_si256, _mm512_add_epi32,
    _mm512_add_epi64, _mm512_alignr_epi32, _mm512_castsi256_si512, _mm512_castsi512_si128,
    _mm512_cmplt_epu64_mask, _mm512_cvtepi32_epi16, _mm512_inserti64x4, _mm512_loadu_si512,
    _mm512_mask_add_epi64, _mm512_mask_and_epi64, _mm512_mask_blend_epi64, _mm512_mask_sub_epi64,
    _mm512_mask_test_epi64_mask, _mm512_mask_xor_epi64, _mm512_maskz_and_epi64,
    _mm512_maskz_mov_epi64, _mm512_or_si512, _mm512_permutex2var_epi32, _mm512_permutexvar_epi32,
    _mm512_popcnt_epi64, _mm512_rolv_epi64, _mm512_set1_epi32, _mm512_set1_epi64,
    _mm512_setzero_si512, _mm512_slli_epi64, _mm512_srli_epi64, _mm512_storeu_si512,
    _mm512_sub_epi32, _mm512_sub_epi64, _mm512_testn_epi64_mask, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi64,
};

use super::Fitting;
use crate::Pfn;
use crate::batch::{self, GROUP, Group, Ranks, Tables};
use crate::index::{self, ABSENT, BLOCK_WORDS, SUPER_WORDS};

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

// No gathers: they take as long as loads one by one, longer on some processors,
// and can't be had for single counts of 16 bits.
unchecked_ranks!(Inserts);

/// Blocks counted at once.
const BLOCKS: usize = 16;

/// [`index::count_portable`], sixteen blocks at a time.
#[target_feature(enable = "avx512f,avx512vpopcntdq,popcnt")]
pub(super) fn count(words: &[u64]) -> (Vec<u16>, Vec<u64>) {
    let mut blocks = vec![0; words.len() / BLOCK_WORDS];
    let mut supers = Vec::with_capacity(words.len().div_ceil(SUPER_WORDS) + 1);
    let mut total = 0;
    let of_super = SUPER_WORDS / BLOCK_WORDS;
    for (words, blocks) in words.chunks(SUPER_WORDS).zip(blocks.chunks_mut(of_super)) {
        supers.push(total);
        let mut within = _mm512_setzero_si512();
        let (groups, rest) = words.as_chunks();
        let (middles, last) = blocks.as_chunks_mut();
        for (words, middles) in groups.iter().zip(middles) {
            within = count_group(words, middles, within);
        }
        let within = _mm_cvtsi128_si32(_mm512_castsi512_si128(within)) as u64;
        total += index::count_blocks(rest, last, within);
    }
    supers.push(total);
    (blocks, supers)
}

/// Where [`count_group`] has its blocks' lower halves, and the upper.
const LOWER: [i32; BLOCKS] = [0, 8, 2, 10, 1, 9, 3, 11, 16, 24, 18, 26, 17, 25, 19, 27];
const UPPER: [i32; BLOCKS] = [4, 12, 6, 14, 5, 13, 7, 15, 20, 28, 22, 30, 21, 29, 23, 31];

/// Counts blocks with `within` set bits before them, in each of 16 numbers; the
/// number behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512vpopcntdq")]
fn count_group(
    words: &[u64; BLOCKS * BLOCK_WORDS],
    middles: &mut [u16; BLOCKS],
    within: __m512i,
) -> __m512i {
    // Each vector has two blocks. Of two vectors, sums of half a block's words:
    // of all four blocks, which come in the order 0, 2, 1, 3.
    let (vectors, _) = words.as_chunks();
    let sums = |i: usize| {
        let ones = |i| _mm512_popcnt_epi64(load(&vectors[i]));
        let (a, b) = (ones(2 * i), ones(2 * i + 1));
        _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
    };
    let pair = |i| _mm512_or_si512(sums(i), _mm512_slli_epi64::<32>(sums(i + 1)));
    let (a, b) = (pair(0), pair(2));
    // SAFETY: 16 i32 are 64 bytes.
    let places = |p: &[i32; BLOCKS]| unsafe { _mm512_loadu_si512(p.as_ptr().cast()) };
    let lower = _mm512_permutex2var_epi32(a, places(&LOWER), b);
    let upper = _mm512_permutex2var_epi32(a, places(&UPPER), b);

    // To each block's sum come those of the 1, 2, 4 and 8 before it.
    let zero = _mm512_setzero_si512();
    let sum = _mm512_add_epi32(lower, upper);
    let sum = _mm512_add_epi32(sum, _mm512_alignr_epi32::<15>(sum, zero));
    let sum = _mm512_add_epi32(sum, _mm512_alignr_epi32::<14>(sum, zero));
    let sum = _mm512_add_epi32(sum, _mm512_alignr_epi32::<12>(sum, zero));
    let sum = _mm512_add_epi32(sum, _mm512_alignr_epi32::<8>(sum, zero));
    let middle = _mm512_add_epi32(within, _mm512_sub_epi32(sum, upper));
    // SAFETY: 16 u16 are 32 bytes.
    unsafe {
        _mm256_storeu_si256(middles.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(middle));
    }
    _mm512_add_epi32(within, _mm512_permutexvar_epi32(_mm512_set1_epi32(15), sum))
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
