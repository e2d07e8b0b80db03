//! The tables that are timed against each other.

use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use vmcask_measure::lookup::{Queries, batched, ordinal};
use vmcask_rank::{ABSENT, ChainedHash, OwnedRankIndex, PageLookup, Pfn, Popcnt, Popcount1024};

use crate::{Dump, PAGE_SHIFT};

pub mod lean;
#[cfg(feature = "peers")]
pub mod peers;

/// An engine from an expression that makes what finds one page: its ordinal,
/// or [`ABSENT`].
///
/// The expression stands in both loops, so that each has a function of its own
/// and takes it in, as a caller's own loop would: of one function with two
/// callers the compiler makes a call, which costs a lookup in L3 a tenth of its
/// time and more.
macro_rules! engine {
    ($name:expr, $bytes:expr, $find:expr) => {{
        let (once, again) = ($find, $find);
        $crate::engines::Engine {
            name: $name,
            bytes: $bytes,
            dependent: Box::new(move |pfns| vmcask_measure::lookup::dependent(pfns, &once)),
            independent: Box::new(move |pfns| vmcask_measure::lookup::independent(pfns, &again)),
            batched: None,
            answers: true,
        }
    }};
}
#[cfg(feature = "peers")]
use engine;

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
    /// Fills the caches with what the first `n` need of its table, which the one
    /// before has driven out. Panics where the checksum isn't the right one.
    pub fn warm(&self, queries: &Queries, n: usize) {
        let found = (self.independent)(&queries.pfns[..n]);
        let want = queries.checksum(n);
        assert!(!self.answers || found == want, "{}: {found} instead of {want}", self.name);
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
    shared(name, &Rc::new(table))
}

fn shared<T: PageLookup + 'static>(name: &'static str, table: &Rc<T>) -> Engine {
    engine!(name, Some(table.memory()), {
        let table = Rc::clone(table);
        move |pfn| ordinal(&*table, pfn)
    })
}

/// libkvm's hash table, until 2016.
pub fn hash(dump: &Dump) -> Engine {
    of("libkvm's hash", ChainedHash::build(&dump.bitmap, &dump.avail, PAGE_SHIFT))
}

/// libkvm's population counts, since.
pub fn popcount(dump: &Dump) -> Engine {
    let table = Popcount1024::build(dump.bitmap.clone(), &dump.avail, PAGE_SHIFT);
    of("libkvm's popcount", table.expect("fits 32 bits"))
}

/// The same counts, without what else libkvm does.
pub fn lean(dump: &Dump) -> Engine {
    of("(libkvm's counts, lean)", lean::Lean::new(&dump.bitmap, &dump.avail))
}

/// Both that libkvm has had.
pub fn libkvm(dump: &Dump) -> Vec<Engine> {
    vec![hash(dump), popcount(dump)]
}

/// The rank index, and the same in batches as a processor without AVX-512
/// looks them up. Both have one table in all their loops: a batch must find in
/// the caches what a lookup by itself does.
pub fn ours(dump: &Dump) -> [Engine; 2] {
    let table = Rc::new(OwnedRankIndex::build(dump.bitmap.clone(), dump.avail.clone()));
    let mut best = shared("RankIndex", &table);
    let mut scalar = shared("RankIndex, no AVX-512", &table);
    let of_scalar = Rc::clone(&table);
    best.batched = Some(Box::new(move |p| batched(p, |p, out| table.find_batch(p, out))));
    scalar.batched =
        Some(Box::new(move |p| batched(p, |p, out| of_scalar.find_batch_scalar(p, out))));
    [best, scalar]
}

/// What no table with a bitmap can beat: to load the page's own word of it
/// and see whether it is there; and the same with a count of 16 bits loaded for
/// every 256 pages, which is what an index of this size has room for, and added
/// up without any counting of bits; and the same with the bits counted that such
/// counts leave, half a block of two words.
///
/// As of every table, an absent page's answer is guessed before its word comes:
/// the lookup behind it needn't wait. The answer is the word's neighbour, in
/// the same cache line: of the word itself the compiler makes a choice without
/// a branch, which waits.
pub fn floors(dump: &Dump) -> [Engine; 3] {
    let words = dump.bitmap.words();
    let counts: Vec<u16> = words.chunks(4).map(|w| w[0] as u16).collect();
    let shared = Rc::new((words.to_vec(), counts, dump.avail.clone()));
    let floor = |engine| Engine { answers: false, ..engine };
    [
        floor(engine!("(the bitmap's word alone)", None, {
            let shared = Rc::clone(&shared);
            move |pfn| {
                let (words, _, avail) = &*shared;
                let Some(bit) = avail.bit_of(pfn) else { return ABSENT };
                neighbour(words, bit).unwrap_or(ABSENT)
            }
        })),
        floor(engine!("(the word and a count)", None, {
            let shared = Rc::clone(&shared);
            move |pfn| {
                let (words, counts, avail) = &*shared;
                let Some(bit) = avail.bit_of(pfn) else { return ABSENT };
                let Some(word) = neighbour(words, bit) else { return ABSENT };
                word.wrapping_add(counts[(bit / 256) as usize].into())
            }
        })),
        floor(engine!("(those and bits counted)", None, {
            let (shared, popcnt) = (Rc::clone(&shared), Popcnt::detect());
            move |pfn| {
                let (words, counts, avail) = &*shared;
                let Some(bit) = avail.bit_of(pfn) else { return ABSENT };
                let Some(other) = neighbour(words, bit) else { return ABSENT };
                let own = words[(bit / 64) as usize] & ((1 << (bit % 64)) - 1);
                let other = other & 0u64.wrapping_sub((bit / 64) & 1);
                let ones = match popcnt {
                    Some(popcnt) => popcnt.count_ones(own, other),
                    None => u64::from(own.count_ones() + other.count_ones()),
                };
                ones + u64::from(counts[(bit / 256) as usize])
            }
        })),
    ]
}

/// The word beside the one that `bit`, if set, lies in.
#[inline]
fn neighbour(words: &[u64], bit: u64) -> Option<u64> {
    let at = (bit / 64) as usize;
    if words.get(at)? >> (bit % 64) & 1 == 0 {
        return None;
    }
    words.get(at ^ 1).copied()
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
