//! Loops over random pages.

use std::hint::black_box;

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;
use vmcask_rank::{
    ABSENT, AvailRanges, ChainedHash, OwnedRankIndex, PageBitmap, PageLookup, Pfn, Popcount1024,
};

/// Pages looked up in one call of [`batched`]: their answers stay in L1.
pub const BATCH: usize = 512;

/// The tables that find pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// libkvm's hash table, until 2016.
    Hash,
    /// libkvm's population counts, since.
    Popcount,
    /// vmcask's rank index.
    Rank,
}

impl Lookup {
    /// All of them, the oldest first.
    pub const ALL: [Self; 3] = [Self::Hash, Self::Popcount, Self::Rank];

    /// What it is called on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Popcount => "popcount",
            Self::Rank => "rank",
        }
    }

    /// Builds the table. What keeps the bitmap takes it as it is; the hash
    /// table doesn't need it any more.
    pub fn build(
        self,
        bitmap: PageBitmap,
        avail: AvailRanges,
        page_shift: u32,
    ) -> Result<Box<dyn PageLookup>, vmcask_rank::Error> {
        Ok(match self {
            Self::Hash => Box::new(ChainedHash::build(&bitmap, &avail, page_shift)),
            Self::Popcount => Box::new(Popcount1024::build(bitmap, &avail, page_shift)?),
            Self::Rank => Box::new(OwnedRankIndex::build(bitmap, avail)),
        })
    }
}

/// Which pages are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Dumped pages alone.
    Present,
    /// Half of them drawn from all of memory, mostly absent, in no order: where
    /// they were every other one, processors learned which.
    HalfAbsent,
}

/// Random pages, and what a correct table answers.
pub struct Queries {
    /// The pages.
    pub pfns: Vec<Pfn>,
    /// Their ordinals, [`ABSENT`] where not dumped.
    pub ordinals: Vec<u64>,
}

impl Queries {
    /// `n` random pages, the same for the same arguments, and their ordinals
    /// as counting page by page gives them. `None` where no page is dumped.
    pub fn new(bitmap: &PageBitmap, avail: &AvailRanges, asked: Asked, n: usize) -> Option<Self> {
        let pages: Vec<u64> = bitmap
            .runs()
            .flat_map(|bits| avail.pages_of(bits))
            .flat_map(|(first, n)| first.0..first.0 + n)
            .collect();
        let last = avail.iter().last().map_or(0, |(first, n)| first.0 + n);
        if pages.is_empty() {
            return None;
        }
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let (pfns, ordinals) = (0..n)
            .map(|_| {
                let random = rng.next_u64();
                let page = if asked == Asked::HalfAbsent && rng.random() {
                    random % last
                } else {
                    pages[(random % pages.len() as u64) as usize]
                };
                let ordinal = pages.binary_search(&page).map_or(ABSENT, |n| n as u64);
                (Pfn(page), ordinal)
            })
            .unzip();
        Some(Self { pfns, ordinals })
    }

    /// What every timed loop over the first `n` has to return.
    pub fn checksum(&self, n: usize) -> u64 {
        checksum(&self.ordinals[..n])
    }

    /// Panics where a table's answers to the first `n` aren't the right ones.
    pub fn check(&self, name: &str, table: &(impl PageLookup + ?Sized), n: usize) {
        for (&pfn, &ordinal) in self.pfns.iter().zip(&self.ordinals).take(n) {
            assert_eq!(table.find(pfn).unwrap_or(ABSENT), ordinal, "{name} for {pfn:?}");
        }
    }
}

/// The sum of ordinals, modulo 2^64.
pub fn checksum(ordinals: &[u64]) -> u64 {
    ordinals.iter().fold(0, |sum, &o| sum.wrapping_add(o))
}

/// Looks up each page once the one before is found, as a walk through page
/// tables and lists does.
#[inline]
pub fn dependent(pfns: &[Pfn], find: impl Fn(Pfn) -> u64) -> u64 {
    // A zero the compiler doesn't know: the next address waits for the answer.
    let zero = black_box(0);
    let mut sum = 0u64;
    let mut last = 0;
    for pfn in pfns {
        last = find(Pfn(pfn.0 ^ (last & zero)));
        sum = sum.wrapping_add(last);
    }
    sum
}

/// Looks up page after page; the processor may overlap them.
#[inline]
pub fn independent(pfns: &[Pfn], find: impl Fn(Pfn) -> u64) -> u64 {
    pfns.iter().fold(0, |sum, &pfn| sum.wrapping_add(find(pfn)))
}

/// Looks up slices of pages at once.
#[inline]
pub fn batched(pfns: &[Pfn], find: impl Fn(&[Pfn], &mut [u64])) -> u64 {
    let mut out = [0; BATCH];
    pfns.chunks(BATCH).fold(0, |sum, pfns| {
        let out = &mut out[..pfns.len()];
        find(pfns, out);
        sum.wrapping_add(checksum(out))
    })
}

/// A table's answer, [`ABSENT`] for none.
#[inline]
pub fn ordinal(table: &impl PageLookup, pfn: Pfn) -> u64 {
    table.find(pfn).unwrap_or(ABSENT)
}
