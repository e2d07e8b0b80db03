//! Eight pages at a time as two vectors of four, their words loaded in pairs.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi8, _mm256_add_epi64, _mm256_and_si256, _mm256_blendv_epi8,
    _mm256_cmpeq_epi64, _mm256_cmpgt_epi64, _mm256_loadu_si256, _mm256_or_si256, _mm256_sad_epu8,
    _mm256_set_m128i, _mm256_set1_epi8, _mm256_set1_epi64x, _mm256_setr_epi8, _mm256_shuffle_epi8,
    _mm256_slli_epi64, _mm256_sllv_epi64, _mm256_srli_epi16, _mm256_srli_epi64,
    _mm256_storeu_si256, _mm256_sub_epi64, _mm256_unpackhi_epi64, _mm256_unpacklo_epi64,
    _mm256_xor_si256,
};

use super::Fitting;
use crate::Pfn;
use crate::batch::{self, GROUP, Group, Ranks, Tables};

const LANES: usize = 4;

/// [`batch::find_portable`], of which the compiler makes a third more
/// instructions: it takes words apart before it puts them into vectors.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) fn find_batch(tables: &Fitting, pfns: &[Pfn], out: &mut [u64]) {
    batch::find(&tables.0, &Pairs(tables), pfns, out);
}

unchecked_ranks!(Pairs);

#[inline]
#[target_feature(enable = "avx2")]
fn place(tables: &Fitting, pfns: &[Pfn; GROUP], group: &mut Group) {
    let Tables { words, ranges, .. } = tables.0;
    let end = words.len() as u64 * 64;
    // SAFETY: 8 pages are 8 u64, 64 bytes.
    let (a, b) = unsafe {
        let pfns = pfns.as_ptr().cast::<__m256i>();
        (_mm256_loadu_si256(pfns), _mm256_loadu_si256(pfns.add(1)))
    };
    let (mut of_a, mut of_b) = (splat(end), splat(end));
    for r in ranges.iter().rev() {
        let (first, pages, bit) = (splat(r.first), splat(r.pages ^ SIGN), splat(r.bit));
        let (in_a, in_b) = (_mm256_sub_epi64(a, first), _mm256_sub_epi64(b, first));
        let bit_of = |within| _mm256_add_epi64(within, bit);
        of_a = _mm256_blendv_epi8(of_a, bit_of(in_a), before(in_a, pages));
        of_b = _mm256_blendv_epi8(of_b, bit_of(in_b), before(in_b, pages));
    }
    let bits = group.bits.as_chunks_mut().0.iter_mut();
    let places = bits.zip(group.halves.as_chunks_mut().0);
    for ((bits, halves), bit) in places.zip([of_a, of_b]) {
        store(bits, bit);
        let at = _mm256_and_si256(bit, before(bit, splat(end ^ SIGN)));
        store(halves, _mm256_slli_epi64::<1>(_mm256_srli_epi64::<7>(at)));
    }
}

/// # Safety
/// The group's `halves` have been placed by [`place`], with these tables.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
unsafe fn ranks(tables: &Fitting, group: &Group, out: &mut [u64; GROUP]) {
    let end = splat((tables.0.words.len() as u64 * 64) ^ SIGN);
    let places = group.bits.as_chunks().0.iter().zip(group.halves.as_chunks::<LANES>().0);
    let results = group.middles.as_chunks().0.iter().zip(out.as_chunks_mut().0);
    for ((bits, halves), (middle, out)) in places.zip(results) {
        // SAFETY: as the caller promises.
        let half = |i: usize| unsafe { tables.half(halves[i]) };
        // Unpacking interleaves within 128 bits: so the order is 0, 1, 2, 3.
        let even = _mm256_set_m128i(half(2), half(0));
        let odd = _mm256_set_m128i(half(3), half(1));
        let (low, high) = (_mm256_unpacklo_epi64(even, odd), _mm256_unpackhi_epi64(even, odd));

        let bit = load(bits);
        // All ones where bit 6, and bit 7, is set.
        let in_high = _mm256_cmpgt_epi64(splat(0), _mm256_slli_epi64::<57>(bit));
        let up = _mm256_cmpgt_epi64(splat(0), _mm256_slli_epi64::<56>(bit));
        let own = _mm256_sllv_epi64(splat(1), _mm256_and_si256(bit, splat(63)));
        let word = _mm256_blendv_epi8(low, high, in_high);
        let own_word = _mm256_and_si256(_mm256_and_si256(word, own), before(bit, end));
        let absent = _mm256_cmpeq_epi64(own_word, splat(0));

        // As `to_count`, with masks for both words: choosing the other one, too,
        // takes longer here.
        let below = _mm256_sub_epi64(own, splat(1));
        let below_low = _mm256_or_si256(below, in_high);
        let below_high = _mm256_and_si256(below, in_high);
        let down = _mm256_xor_si256(up, splat(u64::MAX));
        let ones = _mm256_add_epi8(
            ones_of_bytes(_mm256_and_si256(low, _mm256_xor_si256(below_low, down))),
            ones_of_bytes(_mm256_and_si256(high, _mm256_xor_si256(below_high, down))),
        );
        let count = _mm256_sad_epu8(ones, splat(0));
        let count = _mm256_sub_epi64(_mm256_xor_si256(count, down), down);
        let ordinal = _mm256_add_epi64(load(middle), count);
        // All ones are `ABSENT`.
        store(out, _mm256_or_si256(ordinal, absent));
    }
}

/// Of an unsigned comparison, which this processor has for signed numbers only.
const SIGN: u64 = 1 << 63;

/// All ones where `bit` is less than what `end` is with [`SIGN`] turned.
#[inline]
#[target_feature(enable = "avx2")]
fn before(bit: __m256i, end: __m256i) -> __m256i {
    _mm256_cmpgt_epi64(end, _mm256_xor_si256(bit, splat(SIGN)))
}

/// Set bits of each byte: a table's, for each of its halves.
#[inline]
#[target_feature(enable = "avx2")]
fn ones_of_bytes(v: __m256i) -> __m256i {
    let ones = _mm256_setr_epi8(
        0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, //
        0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
    );
    let low = _mm256_and_si256(v, _mm256_set1_epi8(15));
    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(v), _mm256_set1_epi8(15));
    _mm256_add_epi8(_mm256_shuffle_epi8(ones, low), _mm256_shuffle_epi8(ones, high))
}

#[inline]
#[target_feature(enable = "avx2")]
fn splat(v: u64) -> __m256i {
    _mm256_set1_epi64x(v as i64)
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(from: &[u64; LANES]) -> __m256i {
    // SAFETY: 4 u64 are 32 bytes.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(to: &mut [u64; LANES], v: __m256i) {
    // SAFETY: 4 u64 are 32 bytes.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), v) }
}
