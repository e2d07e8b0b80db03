//! The profile `real`: fitted to a sample of a 2 GiB machine's memory that
//! ran compilers, databases and scripts (`examples/fit.rs` shows the table).
//!
//! Most pages are arrays of structures: a template that 16 neighbouring pages
//! share, with a few fields that differ from one structure to the next. How
//! long the structure is decides how far the page compresses.

use super::{Frame, Kind, Page, mix, rng};
use rand_xoshiro::rand_core::Rng;

/// Frames that share a template.
pub(super) const CLUSTER: u64 = 16;
/// Frames that are duplicates together.
pub(super) const GROUP: u64 = 4;

/// One in so many groups of 8 frames is zero.
const ZERO_GROUPS: u64 = 107;
/// One in so many groups is a duplicate,
const DUPLICATE_GROUPS: u64 = 37;
/// of one of so many contents.
const CONTENTS: u64 = 8;

/// Kinds of unique pages with their share in 1024ths.
const SHARES: [(Kind, u64); 8] = [
    (Kind::Records(64), 138),
    (Kind::Records(32), 100),
    (Kind::Records(16), 180),
    (Kind::Records(8), 390),
    (Kind::Records(5), 55),
    (Kind::Text, 66),
    (Kind::Records(3), 49),
    (Kind::Noise, 46),
];

pub(super) fn kind(seed: u64, frame: Frame) -> Kind {
    if chosen(seed ^ 0x7a65_726f, frame.0 / 8, ZERO_GROUPS).is_some() {
        return Kind::Zero;
    }
    match chosen(seed ^ 0x6475_7065, frame.0 / GROUP, DUPLICATE_GROUPS) {
        Some(random) => Kind::Duplicate(random % CONTENTS),
        None => unique_kind(seed, frame),
    }
}

/// Whether `n` is the one chosen among each `of`, and a random number then.
/// The share is exact in any stretch of memory, not only on average.
fn chosen(seed: u64, n: u64, of: u64) -> Option<u64> {
    let random = mix(seed, n / of);
    (random % of == n % of).then_some(random / of)
}

pub(super) fn unique_kind(seed: u64, frame: Frame) -> Kind {
    let mut at = mix(seed ^ 0x6b69_6e64, frame.0) & 1023;
    for (kind, share) in SHARES {
        if at < share {
            return kind;
        }
        at -= share;
    }
    Kind::Noise
}

/// Bytes of a page that its neighbours hold too and that are random
/// otherwise.
const SHARED: usize = 176;

/// A field of a structure: `base + step * row + (random >> shift & mask)`.
#[derive(Clone, Copy, Default)]
struct Field {
    base: u64,
    step: u64,
    shift: u32,
    mask: u64,
}

/// An array of structures of `words` words, at most 64.
pub(super) fn records(template: u64, own: u64, words: u64, page: &mut Page) {
    let words = words.clamp(1, 64) as usize;
    let mut fields = [Field::default(); 64];
    let mut rng_template = rng(mix(template, words as u64));
    for (i, field) in fields[..words].iter_mut().enumerate() {
        let bits = rng_template.next_u64();
        // At most 48 random bits a row.
        let shift = (bits >> 8) as u32 % 40;
        *field = match bits & 15 {
            // A pointer to a neighbour, into a slab, to the same thing.
            0 => Field { base: heap(bits), step: words as u64 * 8, ..Field::default() },
            1 | 2 => Field { base: heap(bits), shift, mask: 0x3ff_ff00, ..Field::default() },
            3 => Field { base: heap(bits), ..Field::default() },
            // Counters, flags, a tag.
            4 => Field { shift, mask: 0xff, ..Field::default() },
            5 => Field { shift, mask: 0x0001_0003, ..Field::default() },
            6 => Field { base: bits >> 32, ..Field::default() },
            _ if i == 0 => Field { shift, mask: 0xffff, ..Field::default() },
            _ => Field::default(),
        };
    }
    let mut rng = rng(own);
    for (row, bytes) in page.chunks_mut(words * 8).enumerate() {
        let random = rng.next_u64();
        for (word, f) in bytes.chunks_exact_mut(8).zip(&fields) {
            let n = f.base + f.step * row as u64 + (random >> f.shift & f.mask);
            word.copy_from_slice(&n.to_le_bytes());
        }
    }
    // Strings, keys, code: what the neighbours hold too.
    let at = (own >> 8) as usize % (page.len() - SHARED) / 8 * 8;
    for word in page[at..at + SHARED].chunks_exact_mut(8) {
        word.copy_from_slice(&rng_template.next_u64().to_le_bytes());
    }
    // No two pages are the same by chance.
    page[..8].copy_from_slice(&(own >> 16).to_le_bytes());
}

/// An address in a few GiB of the direct map.
fn heap(bits: u64) -> u64 {
    0xffff_f800_0000_0000 | (bits >> 20 & 0x1_ffff_ff00)
}
