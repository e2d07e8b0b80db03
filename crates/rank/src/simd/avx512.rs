//! Eight pages at a time with gathers and VPOPCNTDQ.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_cmplt_epu64_mask, _mm512_cvtepu32_epi64,
    _mm512_i64gather_epi32, _mm512_i64gather_epi64, _mm512_loadu_si512, _mm512_mask_add_epi64,
    _mm512_mask_blend_epi64, _mm512_mask_mov_epi64, _mm512_maskz_mov_epi64, _mm512_min_epu64,
    _mm512_permutex_epi64, _mm512_popcnt_epi64, _mm512_set1_epi64, _mm512_slli_epi64,
    _mm512_sllv_epi64, _mm512_srli_epi64, _mm512_srlv_epi64, _mm512_storeu_si512, _mm512_sub_epi64,
    _mm512_test_epi64_mask, _mm512_xor_si512,
};

use super::Fitting;
use crate::Pfn;
use crate::batch::{self, GROUP, Ranks};
use crate::index::{ABSENT, BLOCK_SHIFT, BLOCK_WORDS, SUPER_SHIFT, SUPER_WORDS};

const LANES: usize = GROUP;

pub(super) fn detected() -> bool {
    super::has_avx2()
        && std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512vpopcntdq")
}

/// [`batch::find_portable`], eight pages at a time.
#[target_feature(enable = "avx512f,avx512vpopcntdq,bmi1,bmi2,popcnt")]
pub(super) fn find_batch(tables: &Fitting, pfns: &[Pfn], out: &mut [u64]) {
    batch::find(&tables.0, &Gathers(tables), pfns, out);
}

/// Tables that fit, where the processor has the features.
struct Gathers<'a>(&'a Fitting<'a>);

impl Ranks for Gathers<'_> {
    #[inline(always)]
    fn ranks(&self, bits: &[u64; GROUP], out: &mut [u64; GROUP]) {
        // SAFETY: 8 u64 are 64 bytes, there and here. `find_batch` alone makes
        // this type, which has the features.
        unsafe {
            let ordinals = rank(self.0, _mm512_loadu_si512(bits.as_ptr().cast()));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), ordinals);
        }
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
fn rank(t: &Fitting, bit: __m512i) -> __m512i {
    let t = &t.0;
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
    // SAFETY: bit < words.len() * 64 and `Fitting::new` has checked the
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
