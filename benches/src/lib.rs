//! What the lookup benches share: a machine, its dump's bitmap, the pages
//! asked for, and the naive answers.

pub mod record;
pub mod reference;
pub mod text;

use std::collections::HashMap;
use std::hint::black_box;

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use vmcask_rank::{ABSENT, AvailRanges, OwnedRankIndex, PageBitmap, PageLookup, Pfn};

/// log2 of amd64's page size.
pub const PAGE_SHIFT: u32 = 12;
const GIB: u64 = 1 << 30;

/// Pages looked up in one call of [`batched`]: their answers stay in L1.
const BATCH: usize = 512;

/// A dump without its pages.
pub struct Dump {
    /// Physical memory: what a PC has below 640 KiB, to 3 GiB, from 4 GiB.
    pub avail: AvailRanges,
    /// The dumped pages.
    pub bitmap: PageBitmap,
}

/// A dump of `dumped_gib` GiB of a machine with `ram_gib` GiB (at least 4):
/// the same for the same arguments.
///
/// Half of the dumped pages lie in runs of up to 512 pages with a quarter of
/// each run missing, as kernel memory in superpages does; the others are
/// scattered over the machine, as page tables and slabs are.
pub fn dump(ram_gib: u64, dumped_gib: u64) -> Dump {
    let above = 4 * GIB + (ram_gib - 3) * GIB;
    let pairs = [(0x1000, 0xa_0000), (0x10_0000, 3 * GIB), (4 * GIB, above)];
    let avail = AvailRanges::new(&pairs, PAGE_SHIFT).expect("ascending ranges");
    let bits = avail.total_pages();
    let wanted = (dumped_gib * GIB) >> PAGE_SHIFT;
    assert!(wanted <= bits / 2, "random choice would take long");

    let mut rng = Xoshiro256PlusPlus::seed_from_u64(302_976);
    let mut words = vec![0u64; bits.div_ceil(64) as usize];
    let mut set = 0;
    while set < wanted {
        let start = rng.next_u64() % bits;
        let run = if set < wanted / 2 { 1 + rng.next_u64() % 512 } else { 1 };
        for bit in start..(start + run).min(bits) {
            let word = &mut words[(bit / 64) as usize];
            let hole = run > 1 && rng.next_u64().is_multiple_of(4);
            if !hole && *word >> (bit % 64) & 1 == 0 && set < wanted {
                *word |= 1 << (bit % 64);
                set += 1;
            }
        }
    }
    Dump { bitmap: PageBitmap::from_words(words, bits), avail }
}

/// Which pages are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Dumped pages alone.
    Present,
    /// Every other one drawn from all of memory, mostly absent.
    HalfAbsent,
}

/// `n` random pages and their ordinals ([`ABSENT`] where not dumped), counted
/// bit by bit.
pub fn queries(dump: &Dump, asked: Asked, n: usize) -> (Vec<Pfn>, Vec<u64>) {
    let mut ordinals = HashMap::new();
    let mut pages = Vec::new();
    let all = dump.avail.iter().flat_map(|(first, n)| first.0..first.0 + n);
    for (bit, page) in all.enumerate() {
        if dump.bitmap.get(bit as u64) {
            ordinals.insert(page, pages.len() as u64);
            pages.push(page);
        }
    }
    let last = dump.avail.iter().last().map_or(0, |(first, n)| first.0 + n);
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    (0..n)
        .map(|i| {
            let random = rng.next_u64();
            let page = if asked == Asked::HalfAbsent && i % 2 == 1 {
                random % last
            } else {
                pages[(random % pages.len() as u64) as usize]
            };
            (Pfn(page), ordinals.get(&page).copied().unwrap_or(ABSENT))
        })
        .unzip()
}

/// The sum of ordinals, modulo 2^64: what every timed loop has to return.
pub fn checksum(ordinals: &[u64]) -> u64 {
    ordinals.iter().fold(0, |sum, &o| sum.wrapping_add(o))
}

/// Looks up each page once the one before is found, as a walk through page
/// tables and lists does.
pub fn dependent(table: &impl PageLookup, pfns: &[Pfn]) -> u64 {
    // A zero the compiler doesn't know: the next address waits for the answer.
    let zero = black_box(0);
    let mut sum = 0u64;
    let mut last = 0;
    for pfn in pfns {
        last = table.find(Pfn(pfn.0 ^ (last & zero))).unwrap_or(ABSENT);
        sum = sum.wrapping_add(last);
    }
    sum
}

/// Looks up page after page; the processor may overlap them.
pub fn independent(table: &impl PageLookup, pfns: &[Pfn]) -> u64 {
    pfns.iter().fold(0, |sum, &pfn| sum.wrapping_add(table.find(pfn).unwrap_or(ABSENT)))
}

/// Looks up slices of pages at once.
pub fn batched(index: &OwnedRankIndex, pfns: &[Pfn]) -> u64 {
    let mut out = [0; BATCH];
    pfns.chunks(BATCH).fold(0, |sum, pfns| {
        let out = &mut out[..pfns.len()];
        index.find_batch(pfns, out);
        sum.wrapping_add(checksum(out))
    })
}

/// Panics where a table's answers aren't the naive ones.
pub fn assert_answers(name: &str, table: &impl PageLookup, pfns: &[Pfn], ordinals: &[u64]) {
    for (&pfn, &ordinal) in pfns.iter().zip(ordinals) {
        assert_eq!(table.find(pfn).unwrap_or(ABSENT), ordinal, "{name} for {pfn:?}");
    }
}

#[cfg(test)]
mod tests {
    use vmcask_rank::{ChainedHash, Popcount1024};

    use super::*;

    #[test]
    fn every_lookup_gives_the_naive_answers() {
        let dump = dump(4, 1);
        assert_eq!(dump.bitmap.count_ones(), GIB >> PAGE_SHIFT);
        let hash = ChainedHash::build(&dump.bitmap, &dump.avail, PAGE_SHIFT);
        let popcount = Popcount1024::build(&dump.bitmap, &dump.avail).unwrap();
        let rank = OwnedRankIndex::build(dump.bitmap.clone(), dump.avail.clone());
        for asked in [Asked::Present, Asked::HalfAbsent] {
            let (pfns, ordinals) = queries(&dump, asked, 2000);
            let absent = ordinals.iter().filter(|&&o| o == ABSENT).count();
            assert_eq!(absent > 0, asked == Asked::HalfAbsent);
            assert_answers("hash", &hash, &pfns, &ordinals);
            assert_answers("popcount", &popcount, &pfns, &ordinals);
            assert_answers("rank", &rank, &pfns, &ordinals);
            let want = checksum(&ordinals);
            assert_eq!(dependent(&rank, &pfns), want);
            assert_eq!(independent(&popcount, &pfns), want);
            assert_eq!(batched(&rank, &pfns), want);
        }
    }
}
