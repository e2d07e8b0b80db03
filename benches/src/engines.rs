//! The tables that are timed against each other.

use std::hint::black_box;
use std::time::Instant;

use vmcask_measure::lookup::{Queries, batched, dependent, independent, ordinal};
use vmcask_rank::{ABSENT, ChainedHash, OwnedRankIndex, PageLookup, Pfn, Popcount1024};

use crate::{Dump, PAGE_SHIFT};

#[cfg(feature = "peers")]
pub mod peers;

/// A loop over pages that returns the sum of their ordinals.
pub type Loop = Box<dyn Fn(&[Pfn]) -> u64>;

/// A table, with its loops compiled for it alone.
pub struct Engine {
    /// What reports call it.
    pub name: &'static str,
    /// Bytes, its bitmap included; `None` where its library doesn't tell.
    pub bytes: Option<usize>,
    /// Each lookup waits for the one before.
    pub dependent: Loop,
    /// One after the other.
    pub independent: Loop,
    /// In slices, where it can.
    pub batched: Option<Loop>,
    /// Whether its answers are ordinals: a bare load's aren't.
    pub answers: bool,
}

impl Engine {
    /// From what finds one page: its ordinal, or [`ABSENT`].
    pub fn new(
        name: &'static str,
        bytes: Option<usize>,
        find: impl Fn(Pfn) -> u64 + Clone + 'static,
    ) -> Self {
        let other = find.clone();
        Self {
            name,
            bytes,
            dependent: Box::new(move |pfns| dependent(pfns, &find)),
            independent: Box::new(move |pfns| independent(pfns, &other)),
            batched: None,
            answers: true,
        }
    }

    /// Panics where its loops' checksums over the first `n` aren't the right
    /// ones.
    pub fn check(&self, queries: &Queries, n: usize) {
        if !self.answers {
            return;
        }
        let (pfns, want) = (&queries.pfns[..n], queries.checksum(n));
        assert_eq!((self.dependent)(pfns), want, "{}, dependent", self.name);
        assert_eq!((self.independent)(pfns), want, "{}, independent", self.name);
        if let Some(batched) = &self.batched {
            assert_eq!(batched(pfns), want, "{}, batched", self.name);
        }
    }
}

/// Nanoseconds for each page.
pub fn nanoseconds(run: &Loop, pfns: &[Pfn]) -> f64 {
    let start = Instant::now();
    black_box(run(black_box(pfns)));
    start.elapsed().as_secs_f64() * 1e9 / pfns.len() as f64
}

fn of<T: PageLookup + 'static>(name: &'static str, table: T) -> Engine {
    let bytes = table.memory();
    let table = std::rc::Rc::new(table);
    Engine::new(name, Some(bytes), move |pfn| ordinal(&*table, pfn))
}

/// libkvm's hash table, until 2016.
pub fn hash(dump: &Dump) -> Engine {
    of("libkvm's hash", ChainedHash::build(&dump.bitmap, &dump.avail, PAGE_SHIFT))
}

/// libkvm's population counts, since.
pub fn popcount(dump: &Dump) -> Engine {
    let table = Popcount1024::build(dump.bitmap.clone(), dump.avail.clone());
    of("libkvm's popcount", table.expect("fits 32 bits"))
}

/// Both.
pub fn libkvm(dump: &Dump) -> Vec<Engine> {
    vec![hash(dump), popcount(dump)]
}

/// The rank index, and the same in batches as a processor without AVX-512
/// looks them up.
pub fn ours(dump: &Dump) -> [Engine; 2] {
    let table = || OwnedRankIndex::build(dump.bitmap.clone(), dump.avail.clone());
    let (one, two) = (std::rc::Rc::new(table()), std::rc::Rc::new(table()));
    let mut best = of("RankIndex", table());
    best.batched = Some(Box::new(move |p| batched(p, |p, out| one.find_batch(p, out))));
    let mut scalar = of("RankIndex, no AVX-512", table());
    scalar.batched = Some(Box::new(move |p| batched(p, |p, out| two.find_batch_scalar(p, out))));
    [best, scalar]
}

/// What no table with a bitmap can beat: to load the page's own word of it
/// and see whether it is there. As every table's, an absent page's answer is
/// guessed before the word comes: the lookup behind it needn't wait.
pub fn floor(dump: &Dump) -> Engine {
    let (bitmap, avail) = (dump.bitmap.clone(), dump.avail.clone());
    let shared = std::rc::Rc::new((bitmap, avail));
    let find = move |pfn| {
        let (bitmap, avail) = &*shared;
        let Some(bit) = avail.bit_of(pfn) else { return ABSENT };
        match bitmap.words().get((bit / 64) as usize) {
            Some(word) if word >> (bit % 64) & 1 != 0 => *word,
            _ => ABSENT,
        }
    };
    Engine { answers: false, ..Engine::new("(the bitmap's word alone)", None, find) }
}

/// Whether this processor has what the rank index's fastest batches need.
pub fn has_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512vpopcntdq")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}
