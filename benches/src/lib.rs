//! What the benches share: a machine and its dump's bitmap, the tables that
//! are timed on it, records for the report.

#![forbid(unsafe_code)]

pub mod engines;
pub mod program;
pub mod quick;
pub mod record;
pub mod reference;
pub mod scratch;
pub mod text;

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use vmcask_rank::{AvailRanges, PageBitmap};

/// log2 of amd64's page size.
pub const PAGE_SHIFT: u32 = 12;
const GIB: u64 = 1 << 30;

/// A dump without its pages.
pub struct Dump {
    /// Physical memory: what a PC has below 640 KiB, to 3 GiB, from 4 GiB.
    pub avail: AvailRanges,
    /// The dumped pages.
    pub bitmap: PageBitmap,
}

/// How dumped pages lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// In runs of up to 512 pages with a quarter of each run missing, as
    /// kernel memory in superpages is.
    Runs,
    /// Each by itself, as page tables and slabs are.
    Scattered,
    /// Half in runs, half scattered.
    Mixed,
}

impl Shape {
    /// For a table's row.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Scattered => "scattered",
            Self::Mixed => "runs and scattered",
        }
    }
}

/// A dump of `dumped_mib` MiB of a machine with `ram_mib` MiB (at least 4
/// GiB or, below that, in one range): the same for the same arguments.
pub fn dump(ram_mib: u64, dumped_mib: u64, shape: Shape) -> Dump {
    const MIB: u64 = 1 << 20;
    let ram = ram_mib * MIB;
    let pairs = if ram >= 4 * GIB {
        vec![(0x1000, 0xa_0000), (0x10_0000, 3 * GIB), (4 * GIB, 4 * GIB + ram - 3 * GIB)]
    } else {
        vec![(0x1000, 0xa_0000), (0x10_0000, ram)]
    };
    let avail = AvailRanges::new(&pairs, PAGE_SHIFT).expect("ascending ranges");
    let bits = avail.total_pages();
    let wanted = (dumped_mib * MIB) >> PAGE_SHIFT;
    assert!(wanted <= bits / 2, "random choice would take long");
    let in_runs = match shape {
        Shape::Runs => wanted,
        Shape::Scattered => 0,
        Shape::Mixed => wanted / 2,
    };

    let mut rng = Xoshiro256PlusPlus::seed_from_u64(302_976);
    let mut words = vec![0u64; bits.div_ceil(64) as usize];
    let mut set = 0;
    while set < wanted {
        let start = rng.next_u64() % bits;
        let run = if set < in_runs { 1 + rng.next_u64() % 512 } else { 1 };
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

#[cfg(test)]
mod tests {
    use vmcask_measure::lookup::{Asked, Queries};

    use super::*;

    #[test]
    fn every_engine_gives_the_naive_answers() {
        for shape in [Shape::Runs, Shape::Scattered, Shape::Mixed] {
            let dump = dump(4096, 1024, shape);
            assert_eq!(dump.bitmap.count_ones(), GIB >> PAGE_SHIFT);
            for asked in [Asked::Present, Asked::HalfAbsent] {
                let q = Queries::new(&dump.bitmap, &dump.avail, asked, 2000).unwrap();
                let mut engines = engines::libkvm(&dump);
                engines.extend(engines::ours(&dump));
                engines.push(engines::lean(&dump));
                #[cfg(feature = "peers")]
                engines.extend(engines::peers::all(&dump));
                for engine in engines {
                    engine.check(&q, 2000);
                }
            }
        }
    }
}
